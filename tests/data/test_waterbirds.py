"""Waterbirds: metadata, groups, the 256 x 256 resize."""

import csv
import json
from collections import Counter

import numpy as np
import pytest
from PIL import Image

from advspur._checks import InputError
from advspur.data import waterbirds
from tests.data.fake_layouts import read, write_waterbirds


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    return write_waterbirds(tmp_path_factory.mktemp("waterbirds"))


def load(root):
    return read("waterbirds", root)


def rows_of(root):
    with (root / "metadata.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def write(root, rows):
    with (root / "metadata.csv").open("w", newline="") as file:
        table = csv.DictWriter(file, list(rows[0]))
        table.writeheader()
        table.writerows(rows)


def test_the_real_metadata_has_the_published_groups(shared):
    facts = json.loads((shared / "facts" / "waterbirds_groups.json").read_text())
    rows = waterbirds.read_metadata(shared / "data" / "waterbirds")
    counts = Counter((row["split"], 2 * int(row["y"]) + int(row["place"])) for row in rows)
    for number, split in enumerate(("train", "val", "test")):
        expected = tuple(group[split] for group in facts["groups"])
        assert tuple(counts[str(number), g] for g in range(4)) == expected
        assert waterbirds.GROUP_COUNTS[split] == expected
        assert waterbirds.SIZES[split] == facts["totals"][split]
    kinds = [group["kind"] == "majority" for group in facts["groups"]]
    assert [g in waterbirds.MAJORITY for g in range(4)] == kinds
    assert list(waterbirds.NAMES["group"]) == [group["name"] for group in facts["groups"]]


def test_rows_are_found_by_their_file_and_not_by_their_id(root):
    """The rows reversed, ids left as they are: 1-based, and now descending."""
    rows = rows_of(root)[::-1]
    write(root, rows)
    parts = load(root)
    assert list(parts) == ["train", "val", "test"]
    for number, table in enumerate(parts.values()):
        expected = [row for row in rows if row["split"] == str(number)]
        assert len(table) == 8
        for i, row in enumerate(expected):
            assert table.columns["path"][i] == root / row["img_filename"]
            assert table.columns["label"][i] == int(row["y"])
            assert table.columns["group"][i] == 2 * int(row["y"]) + int(row["place"])
            assert table.columns["place"][i] == int(row["place"])
            assert table.columns["is_majority"][i] == (row["y"] == row["place"])
            assert table[i]["group"] == table.columns["group"][i]
        assert table.names == waterbirds.NAMES


def test_images_are_squeezed_to_256_and_cropped(written):
    table = load(written)["test"]
    for i in (0, 5):
        with Image.open(table.columns["path"][i]) as image:
            assert image.size[0] != image.size[1]
            square = image.convert("RGB").resize((256, 256), Image.Resampling.BILINEAR)
        np.testing.assert_array_equal(table[i]["image"], np.asarray(square)[16:240, 16:240])


@pytest.mark.parametrize(
    "column, value",
    (
        *(("y", "2"), ("y", ""), ("y", "1.0"), ("place", "-1"), ("split", "3")),
        *(("img_filename", ""), ("split", "12"), ("split", "012"), ("y", "01")),
    ),
)
def test_damaged_rows_are_named_by_their_line(root, column, value):
    """Of digits run together, "12" is a substring of "012": the row would belong to no split."""
    rows = rows_of(root)
    rows[4][column] = value
    write(root, rows)
    with pytest.raises(InputError, match="metadata.csv line 6 is damaged; the columns needed"):
        load(root)


def test_metadata_that_are_no_table_are_refused(root):
    file = root / "metadata.csv"
    file.write_text(file.read_text().replace("place,", "location,"))
    with pytest.raises(InputError, match="line 2 is damaged; .* place"):
        load(root)
    file.write_text("")
    with pytest.raises(InputError, match="metadata.csv is empty"):
        load(root)
    file.write_bytes(b"img_id,img_filename\n\xff\xfe\x00\x81")
    with pytest.raises(InputError, match="metadata.csv"):
        load(root)


AGAIN = {  # a change to a copy of the first row -> what is said of it
    "the same row": ({}, "lines 2 and 26 name the same file, {name}"),
    "in train and test": ({"split": "2"}, "lines 2 and 26 name the same file, {name}"),
    "with two labels": ({"y": "1"}, "lines 2 and 26 name the same file, {name}"),
    "at two places": ({"place": "1"}, "lines 2 and 26 name the same file, {name}"),
    "spelt otherwise": ({"img_filename": "./x/..//{name}"}, "lines 2 and 26 name the same file"),
    "the folder above": ({"img_filename": "../{name}"}, "line 26: ../{name} is outside the folder"),
    "far above": ({"img_filename": "a/../../../etc/x"}, "line 26: ../../etc/x is outside"),
    "absolute": ({"img_filename": "/etc/passwd"}, "line 26: /etc/passwd is outside the folder"),
}


@pytest.mark.parametrize("kind", AGAIN)
def test_rows_that_name_an_image_twice_or_leave_the_folder_are_refused(root, kind):
    change, message = AGAIN[kind]
    rows = rows_of(root)
    name = rows[0]["img_filename"]
    assert len(rows) == 24
    change = {column: value.format(name=name) for column, value in change.items()}
    write(root, [*rows, rows[0] | change])
    with pytest.raises(InputError, match=message.format(name=name)):
        load(root)


def test_a_column_twice_is_refused(root):
    file = root / "metadata.csv"
    header, *rows = file.read_text().splitlines()
    file.write_text("\n".join([f"{header},y,y", *(f"{row},0,0" for row in rows)]))
    with pytest.raises(InputError, match="metadata.csv line 1 repeats columns: y"):
        waterbirds.read_metadata(root)


def test_a_row_cut_short_is_refused(root):
    file = root / "metadata.csv"
    text = file.read_text().rstrip()
    file.write_text(text[: text.rindex(",", 0, text.rindex(","))])
    with pytest.raises(InputError, match="line 25 is damaged"):
        load(root)

"""Waterbirds: the released metadata read as own data are, its groups, the 256 x 256 resize."""

import csv
import json

import numpy as np
import pytest
from PIL import Image

from advspur._checks import InputError
from advspur.data import waterbirds
from tests.data.fake_layouts import read


@pytest.fixture
def root(copy):
    return copy("waterbirds")


def rows_of(root):
    with (root / "metadata.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def write(root, rows):
    with (root / "metadata.csv").open("w", newline="") as file:
        table = csv.DictWriter(file, list(rows[0]))
        table.writeheader()
        table.writerows(rows)


def test_the_published_groups(shared):
    facts = json.loads((shared / "facts" / "waterbirds_groups.json").read_text())
    for split, counts in waterbirds.GROUP_COUNTS.items():
        assert counts == tuple(group[split] for group in facts["groups"])
        assert waterbirds.SIZES[split] == facts["totals"][split]
    assert list(waterbirds.NAMES["group"]) == [group["name"] for group in facts["groups"]]


def test_rows_are_found_by_their_file_and_not_by_their_id(root):
    """The rows reversed, ids left as they are: 1-based, and now descending."""
    rows = rows_of(root)[::-1]
    write(root, rows)
    parts = read("waterbirds", root)
    assert list(parts) == ["train", "val", "test"]
    for number, table in enumerate(parts.values()):
        expected = [row for row in rows if row["split"] == str(number)]
        columns = table.columns
        assert columns["path"] == [root / row["img_filename"] for row in expected]
        bird, place = (np.array([int(row[c]) for row in expected]) for c in ("y", "place"))
        for name, values in (("label", bird), ("place", place), ("group", 2 * bird + place)):
            np.testing.assert_array_equal(columns[name], values)
        np.testing.assert_array_equal(columns["is_majority"], bird == place)
        assert table.names == waterbirds.NAMES
        assert table.train_groups == waterbirds.GROUP_COUNTS["train"]
    for i in (0, 5):
        with Image.open(table.columns["path"][i]) as image:
            assert image.size[0] != image.size[1]
            square = image.convert("RGB").resize((256, 256), Image.Resampling.BILINEAR)
        np.testing.assert_array_equal(table[i]["image"], np.asarray(square)[16:240, 16:240])


DAMAGED = {  # the change of a row -> what is said of it
    "y": ({"y": "2"}, "line 6: label is 2; allowed: 0 to 1"),
    "no y": ({"y": ""}, "line 6: label is empty"),
    "place": ({"place": "-1"}, "line 6: place is -1; allowed: 0 to 1"),
    "split": ({"split": "12"}, "line 6: split is '12'"),
    "no image": ({"img_filename": ""}, "line 6: no image"),
    "twice": ({"img_filename": "./x/..//{name}"}, "lines 2 and 6 name the same file, {name}"),
    "above": ({"img_filename": "../{name}"}, "line 6: ../{name} is outside"),
    "absolute": ({"img_filename": "/etc/passwd"}, "line 6: /etc/passwd is outside"),
}


@pytest.mark.parametrize("kind", DAMAGED)
def test_damaged_rows_are_named_by_their_line(root, kind):
    change, message = DAMAGED[kind]
    rows = rows_of(root)
    name = rows[0]["img_filename"]
    rows[4] |= {column: value.format(name=name) for column, value in change.items()}
    write(root, rows)
    with pytest.raises(InputError, match=f"metadata.csv {message.format(name=name)}"):
        read("waterbirds", root)


def test_a_column_that_is_missing_is_named(root):
    file = root / "metadata.csv"
    file.write_text(file.read_text().replace("place,", "location,"))
    with pytest.raises(InputError, match="line 1 has no column 'place'; it has img_id, "):
        read("waterbirds", root)

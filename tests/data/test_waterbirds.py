"""Waterbirds: metadata, groups, the 256 x 256 resize, gaps by hand and end to end."""

import csv
import json
from collections import Counter

import jax
import numpy as np
import pytest
from PIL import Image
from tests.benchmarks.layouts import Passes, coded, cut_short, paint, write_waterbirds

from advspur._checks import InputError
from advspur.benchmarks import waterbirds
from advspur.data.layouts import MissingData


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return write_waterbirds(tmp_path_factory.mktemp("waterbirds"))


@pytest.fixture
def fresh(tmp_path):
    return write_waterbirds(tmp_path)


def read(root):
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
    assert list(waterbirds.GROUPS) == [group["name"] for group in facts["groups"]]


def test_rows_are_found_by_their_file_and_not_by_their_id(fresh):
    """The rows reversed, ids left as they are: 1-based, and now descending."""
    rows = read(fresh)[::-1]
    write(fresh, rows)
    parts = waterbirds.load(fresh, allow_partial=True)
    assert list(parts) == ["train", "val", "test"]
    for number, table in enumerate(parts.values()):
        expected = [row for row in rows if row["split"] == str(number)]
        assert len(table) == 8
        for i, row in enumerate(expected):
            assert table.columns["path"][i] == fresh / row["img_filename"]
            assert table.columns["label"][i] == int(row["y"])
            assert table.columns["group"][i] == 2 * int(row["y"]) + int(row["place"])
            assert table[i]["group"] == table.columns["group"][i]


def test_images_are_squeezed_to_256_and_cropped(root):
    table = waterbirds.load(root, allow_partial=True)["test"]
    for i in (0, 5):
        with Image.open(table.columns["path"][i]) as image:
            assert image.size[0] != image.size[1]
            square = image.convert("RGB").resize((256, 256), Image.Resampling.BILINEAR)
        np.testing.assert_array_equal(table[i]["image"], np.asarray(square)[16:240, 16:240])


def test_records_by_hand():
    """Right of (4, 2, 3, 5) images of the groups: 3, 1, 0, 4."""
    groups = np.repeat([0, 1, 2, 3], (4, 2, 3, 5))
    correct = np.array([1, 1, 1, 0, 1, 0, 0, 0, 0, 1, 1, 1, 1, 0])
    order = np.random.default_rng(0).permutation(14)
    records = waterbirds._group_records(correct[order], groups[order], {"head": "x"})
    found = {(r.metric, r.options.get("group")): (r.value, r.num_examples) for r in records}
    adjusted = (3498 * 3 / 4 + 184 * 1 / 2 + 56 * 0 + 1057 * 4 / 5) / 4795
    expected = {
        ("accuracy", None): (8 / 14, 14),
        ("majority_accuracy", None): (7 / 9, 9),
        ("minority_accuracy", None): (1 / 5, 5),
        ("majority_minority_gap", None): (7 / 9 - 1 / 5, 14),
        ("worst_group_accuracy", None): (0.0, 3),
        ("adjusted_average_accuracy", None): (adjusted, 14),
        ("group_accuracy", "landbird on land"): (3 / 4, 4),
        ("group_accuracy", "landbird on water"): (1 / 2, 2),
        ("group_accuracy", "waterbird on land"): (0.0, 3),
        ("group_accuracy", "waterbird on water"): (4 / 5, 5),
    }
    assert found.keys() == expected.keys()
    for name, (value, count) in expected.items():
        assert found[name] == (pytest.approx(value, abs=1e-12), count)
    assert all(r.options["head"] == "x" and r.low <= r.value <= r.high for r in records)


def test_a_model_that_looks_at_the_place_has_a_gap_of_one(fresh):
    """Grey tells the bird in train and val, the place in test: right on the majority alone."""
    for row in read(fresh):
        told = row["place"] if row["split"] == "2" else row["y"]
        paint(fresh / row["img_filename"], 200 if told == "1" else 50)
    progress = Passes()
    records = waterbirds.evaluate(
        coded({}, 7),
        fresh,
        batch_size=8,
        key=jax.random.key(0),
        allow_partial=True,
        progress=progress,
        learning_rate=0.3,
        sensitivity_learning_rates=(0.1,),
    )
    heads = {r.options["head"] for r in records}
    assert heads == {"adam", "adam, learning rate 0.1", "lbfgs"}
    for head in ("adam", "lbfgs"):
        found = {r.metric: r.value for r in records if r.options == {"head": head}}
        assert (found["majority_accuracy"], found["minority_accuracy"]) == (1, 0)
        assert found["majority_minority_gap"] == 1 and found["accuracy"] == 0.5
    assert (
        waterbirds.num_passes(fresh, allow_partial=True, learning_rate=0.3) == progress.done == 24
    )


@pytest.mark.parametrize(
    "column, value",
    (("y", "2"), ("y", ""), ("y", "1.0"), ("place", "-1"), ("split", "3"), ("img_filename", "")),
)
def test_damaged_rows_are_named_by_their_line(fresh, column, value):
    rows = read(fresh)
    rows[4][column] = value
    write(fresh, rows)
    with pytest.raises(InputError, match="metadata.csv line 6 is damaged; the columns needed"):
        waterbirds.load(fresh, allow_partial=True)


@pytest.mark.parametrize("column, value", (("split", "12"), ("split", "012"), ("y", "01")))
def test_digits_run_together_are_no_numbers(fresh, column, value):
    """ "12" is a substring of "012": the row would silently belong to no split."""
    rows = read(fresh)
    rows[4][column] = value
    write(fresh, rows)
    with pytest.raises(InputError, match="metadata.csv line 6 is damaged"):
        waterbirds.load(fresh, allow_partial=True)


def test_metadata_that_are_no_table_are_refused(fresh, tmp_path):
    with pytest.raises(MissingData, match="no Waterbirds in .*expected metadata.csv"):
        waterbirds.load(tmp_path / "nowhere", allow_partial=True)
    file = fresh / "metadata.csv"
    file.write_text(file.read_text().replace("place,", "location,"))
    with pytest.raises(InputError, match="line 2 is damaged; .* place"):
        waterbirds.load(fresh, allow_partial=True)
    file.write_text("")
    with pytest.raises(InputError, match="metadata.csv is empty"):
        waterbirds.load(fresh, allow_partial=True)
    file.write_bytes(b"img_id,img_filename\n\xff\xfe\x00\x81")
    with pytest.raises(InputError, match="metadata.csv"):
        waterbirds.load(fresh, allow_partial=True)


AGAIN = {  # a change to a copy of the first row -> what is said of it
    "the same row": ({}, "lines 2 and 26 name the same file, {name}"),
    "in train and test": ({"split": "2"}, "lines 2 and 26 name the same file, {name}"),
    "with two labels": ({"y": "1"}, "lines 2 and 26 name the same file, {name}"),
    "at two places": ({"place": "1"}, "lines 2 and 26 name the same file, {name}"),
    "spelt otherwise": ({"img_filename": "./x/..//{name}"}, "lines 2 and 26 name the same file"),
    "the folder above": ({"img_filename": "../{name}"}, "line 26: ../{name} is outside the folder"),
    "far above": (
        {"img_filename": "a/../../../etc/x"},
        "line 26: ../../etc/x is outside",
    ),
    "absolute": ({"img_filename": "/etc/passwd"}, "line 26: /etc/passwd is outside the folder"),
}


@pytest.mark.parametrize("kind", AGAIN)
def test_rows_that_name_an_image_twice_or_leave_the_folder_are_refused(fresh, kind):
    change, message = AGAIN[kind]
    rows = read(fresh)
    name = rows[0]["img_filename"]
    assert len(rows) == 24
    change = {column: value.format(name=name) for column, value in change.items()}
    write(fresh, [*rows, rows[0] | change])
    waterbirds.load.cache_clear()
    with pytest.raises(InputError, match=message.format(name=name)):
        waterbirds.load(fresh, allow_partial=True)


def test_a_column_twice_is_refused(fresh):
    file = fresh / "metadata.csv"
    header, *rows = file.read_text().splitlines()
    file.write_text("\n".join([f"{header},y,y", *(f"{row},0,0" for row in rows)]))
    with pytest.raises(InputError, match="metadata.csv line 1 repeats columns: y"):
        waterbirds.read_metadata(fresh)


def test_a_row_cut_short_is_refused(fresh):
    file = fresh / "metadata.csv"
    text = file.read_text().rstrip()
    file.write_text(text[: text.rindex(",", 0, text.rindex(","))])
    with pytest.raises(InputError, match="line 25 is damaged"):
        waterbirds.load(fresh, allow_partial=True)


def test_wrong_group_counts_are_refused(fresh):
    match = r"groups of train have \(2, 2, 2, 2\) images, \(3498, 184, 56, 1057\) are published"
    with pytest.raises(InputError, match=match):
        waterbirds.load(fresh)


def test_missing_and_unreadable_images_are_named_or_left_out(fresh):
    rows = read(fresh)
    lost, cut = rows[3], rows[20]
    (fresh / lost["img_filename"]).unlink()
    with pytest.raises(InputError, match=f"1 of 24 images are missing, .*{lost['img_filename']}"):
        waterbirds.load(fresh)
    cut_short(fresh / cut["img_filename"])
    parts = waterbirds.load(fresh, allow_partial=True)
    assert [len(table) for table in parts.values()] == [7, 8, 8]
    with pytest.warns(UserWarning, match="test: 1 of 8 images are unreadable"):
        parts = waterbirds.load(fresh, allow_partial=True, skip_unreadable=True)
    assert [len(table) for table in parts.values()] == [7, 8, 7]
    expected = [2 * int(r["y"]) + int(r["place"]) for r in rows if r["split"] == "2" and r != cut]
    assert parts["test"].columns["group"].tolist() == expected


def test_a_split_without_images_is_refused(fresh):
    write(fresh, [row for row in read(fresh) if row["split"] != "1"])
    with pytest.raises(MissingData, match="no val images"):
        waterbirds.load(fresh, allow_partial=True)

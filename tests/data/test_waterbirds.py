"""Waterbirds: its metadata read as own data are (see there), its groups, the 256 x 256 resize."""

import csv
import json

import numpy as np
from PIL import Image

from advspur.data import waterbirds
from tests.data.fake_layouts import read


def test_the_published_groups(shared):
    facts = json.loads((shared / "facts" / "waterbirds_groups.json").read_text())
    for split, counts in waterbirds.GROUP_COUNTS.items():
        assert counts == tuple(group[split] for group in facts["groups"])
        assert waterbirds.SIZES[split] == facts["totals"][split]
    assert list(waterbirds.NAMES["group"]) == [group["name"] for group in facts["groups"]]


def test_rows_are_found_by_their_file_and_not_by_their_id(copy):
    """The rows reversed, ids left as they are: 1-based, and now descending."""
    root = copy("waterbirds")
    header, *lines = (root / "metadata.csv").read_text().splitlines()
    (root / "metadata.csv").write_text("\n".join([header, *lines[::-1]]))
    rows = list(csv.DictReader([header, *lines[::-1]]))
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

"""Waterbirds (Sagawa et al., ICLR 2020): birds of two kinds on backgrounds of two kinds.

The released labels are kept, also those of the three species that a substring match mislabelled.
"""

import functools
from pathlib import Path

import numpy as np

from advspur._checks import require
from advspur.data.layouts import (
    file_table,
    missing_text,
    names_outside,
    read_rows,
    require_data,
    require_whole,
    squared_transform,
    without_unreadable,
)

DIRECTORIES = ("waterbird_complete95_forest2water2", "waterbirds")
LAYOUT = "metadata.csv and <nnn.Species>/*.jpg, as the release unpacks"
SPLITS = ("train", "val", "test")
NAMES = {
    "label": ("landbird", "waterbird"),
    "place": ("land", "water"),
    "group": ("landbird on land", "landbird on water", "waterbird on land", "waterbird on water"),
}
MAJORITY = (0, 3)  # groups whose background goes with the bird
GROUP_BITS = ("0", "1")  # values of y and place
GROUP_COUNTS = {  # by 2 y + place
    "train": (3498, 184, 56, 1057),
    "val": (467, 466, 133, 133),
    "test": (2255, 2255, 642, 642),
}
SIZES = {split: sum(counts) for split, counts in GROUP_COUNTS.items()}
COLUMNS = ("img_filename", "y", "split", "place")


@functools.lru_cache(maxsize=1)
def read(data_dir, *, allow_partial=False, skip_unreadable=False):
    """{split: Table} with label, place, group and is_majority; 256 x 256, then the central 224."""
    root = Path(data_dir).expanduser()
    rows = read_metadata(root)
    missing = [row["img_filename"] for row in rows if not (root / row["img_filename"]).is_file()]
    fault = missing_text(missing, len(rows), "images")
    require_whole(fault, root, allow_partial=allow_partial)
    absent, parts = set(missing), {}
    for number, split in enumerate(SPLITS):
        chosen = [r for r in rows if int(r["split"]) == number and r["img_filename"] not in absent]
        labels, places = (np.array([int(r[c]) for r in chosen], int) for c in ("y", "place"))
        groups = 2 * labels + places
        counts = tuple(np.bincount(groups, minlength=4).tolist())
        fault = f"groups of {split} have {counts} images, {GROUP_COUNTS[split]} are published"
        fault = "" if counts == GROUP_COUNTS[split] else fault
        require_whole(fault, root, allow_partial=allow_partial)
        require_data(chosen, f"{split} images", root, LAYOUT)
        paths = [root / row["img_filename"] for row in chosen]
        parts[split] = file_table(
            2,
            paths,
            labels,
            squared_transform,
            names=NAMES,
            place=places,
            group=groups,
            is_majority=np.isin(groups, MAJORITY),
        )
        parts[split].train_groups = GROUP_COUNTS["train"]
    return without_unreadable(parts, skip_unreadable)


def read_metadata(root):
    """The rows of metadata.csv, checked: whole numbers where they belong."""
    file = root / "metadata.csv"
    require_data(file.is_file(), "Waterbirds", root, LAYOUT)
    rows = read_rows(file)
    for number, row in enumerate(rows, start=2):
        is_whole = all(row.get(c) for c in COLUMNS) and (
            row["y"] in GROUP_BITS
            and row["place"] in GROUP_BITS
            and row["split"] in ("0", "1", "2")
        )
        require(
            is_whole, f"{file} line {number} is damaged; the columns needed: {', '.join(COLUMNS)}"
        )
    require(rows, f"{file} is empty")
    outside = names_outside(file, [row["img_filename"] for row in rows])
    require(not outside, f"{file} {''.join(outside[:1])} is outside the folder")
    return rows

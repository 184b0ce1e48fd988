"""Waterbirds (Sagawa et al., ICLR 2020): birds of two kinds on backgrounds of two kinds.

The released labels are kept, including those of three species that a substring match mislabelled.
"""

import numpy as np

from advspur.data.layouts import reader, require_data, require_whole
from advspur.data.own import own

DIRECTORIES = ("waterbird_complete95_forest2water2", "waterbirds")
LAYOUT = "metadata.csv and <nnn.Species>/*.jpg, as the release unpacks"
NAMES = {
    "label": ("landbird", "waterbird"),
    "place": ("land", "water"),
    "group": ("landbird on land", "landbird on water", "waterbird on land", "waterbird on water"),
}
MAJORITY = ("landbird, land", "waterbird, water")  # the background goes with the bird
GROUP_COUNTS = {  # by 2 y + place
    "train": (3498, 184, 56, 1057),
    "val": (467, 466, 133, 133),
    "test": (2255, 2255, 642, 642),
}
SIZES = {split: sum(counts) for split, counts in GROUP_COUNTS.items()}


@reader
def read(root, allow_partial):
    """Return {split: Table} with label, place, group, is_majority; 256 x 256, then centre 224."""
    file = root / "metadata.csv"
    require_data(file.is_file(), "Waterbirds", root, LAYOUT)
    options = {"columns": {"attributes": "place"}, "majority": MAJORITY, "image_dir": root}
    names = {name: NAMES[name] for name in ("label", "place")}
    parts = own(file, names=names, resize="square", allow_partial=allow_partial, **options)
    for split, published in GROUP_COUNTS.items():
        groups = parts[split].columns["group"] if split in parts else np.zeros(0, int)
        counts = tuple(np.bincount(groups, minlength=4).tolist())
        fault = f"groups of {split} have {counts} images, {published} are published"
        require_whole("" if counts == published else fault, root, allow_partial)
        require_data(split in parts, f"{split} images", root, LAYOUT)
        parts[split].names["group"] = NAMES["group"]
        parts[split].train_groups = GROUP_COUNTS["train"]
    return {split: parts[split] for split in GROUP_COUNTS}

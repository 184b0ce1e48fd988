"""RIVAL10 (Moayeri et al., CVPR 2022): objects of ten classes, with their masks.

5,108 of the 5,306 test images are ImageNet training images, which the backbones have seen.
"""

import base64
import functools
import io
import warnings
from pathlib import Path

import numpy as np

from advspur._checks import InputError, check_choice, first_line, require
from advspur._inert_pickle import read_pickle
from advspur.data.label_maps import RIVAL10, rival10_labels
from advspur.data.layouts import (
    file_table,
    missing_text,
    open_file,
    require_count,
    require_data,
    require_whole,
    squared_transform,
    with_mask,
    without_unreadable,
)
from advspur.data.sources import image_files, read_bytes
from advspur.data.table import Table
from advspur.data.transforms import open_image, resize_square

DIRECTORIES = ("RIVAL10", "rival10")
LAYOUT = (
    "{train,test}/ordinary/<wnid>_<file>.JPEG and {train,test}/entire_object_masks/ with the same "
    "names, as rival10.zip unpacks"
)
SIZES = {"train": 21_178, "test": 5_306}
OBJECT = "entire-object"  # its key among the attribute masks
TRANSFORMS = ("resize", "resize_crop")


@functools.lru_cache(maxsize=1)
def read(
    data_dir, *, transform="resize", val_only=False, allow_partial=False, skip_unreadable=False
):
    """{"train": Table, "test": Table}, the latter with object masks.

    The mask is the file of entire_object_masks/, else the entry "entire-object" of the image's
    `_attr_dict.pkl`, which is read as data.

    Args:
      transform: of image and mask: "resize" to 224 x 224, or "resize_crop" to 256 x 256 and the
        central 224 (the authors' later code).
      val_only: test on the ImageNet validation images of both splits (989), which no backbone was
        trained on, and keep them out of the head's training.
    """
    check_choice("transform", transform, TRANSFORMS)
    root = Path(data_dir).expanduser()
    splits = {split: root / split / "ordinary" for split in SIZES}
    require_data(any(d.is_dir() for d in splits.values()), "RIVAL10", root, LAYOUT)
    rows = {}
    for split, folder in splits.items():
        require(folder.is_dir(), f"{folder} is missing: both splits are needed")
        images = [p for p in image_files(folder) if not p.stem.endswith("_merged_mask")]
        rows[split] = [_row(path, root / split) for path in images]
        require_count(rows[split], SIZES[split], folder, allow_partial)
    both = sorted(set.intersection(*({row["path"].name for row in r} for r in rows.values())))
    require(not both, f"{root}: {len(both)} images are in both splits, first {''.join(both[:1])}")
    if val_only:
        every = rows["train"] + rows["test"]
        rows["test"] = [row for row in every if "ILSVRC2012_val" in row["path"].name]
        rows["train"] = [row for row in rows["train"] if "ILSVRC2012_val" not in row["path"].name]
    missing = [row["path"].name for row in rows["test"] if row["mask_path"] is None]
    fault = missing_text(missing, len(rows["test"]), "masks of test images")
    require_whole(fault, root, allow_partial=allow_partial)
    rows["test"] = [row for row in rows["test"] if row["mask_path"] is not None]
    to_square = functools.partial(resize_square, size=224)
    change = to_square if transform == "resize" else squared_transform
    parts = {}
    for split, of_split in rows.items():
        require(of_split, f"{root} has no {split} images to use")
        columns = {name: [row[name] for row in of_split] for name in of_split[0]}
        labels = np.array(columns.pop("label"))
        if split == "train":  # the head's training needs no masks
            parts[split] = file_table(len(RIVAL10), columns["path"], labels, change)
        else:
            load = functools.partial(_read, change)
            parts[split] = Table(len(RIVAL10), load, has_mask=True, label=labels, **columns)
    return without_unreadable(parts, skip_unreadable)


def _row(path, split):
    """What is known of an image from its name, and where its mask is."""
    wnid = path.name.split("_")[0]
    labels = rival10_labels()
    require(wnid in labels, f"{path} is named for no RIVAL10 class: it begins with {wnid!r}")
    mask = split / "entire_object_masks" / path.name
    attributes = path.with_name(f"{path.stem}_attr_dict.pkl")
    found = next((file for file in (mask, attributes) if file.is_file()), None)
    return {"path": path, "mask_path": found, "label": labels[wnid]}


def _read(change, row):
    image, mask = open_file(row["path"]), _open_mask(row["mask_path"])
    if image.size != mask.size:
        warnings.warn(  # a text without the file's name is shown once
            f"{row['path'].parent}: masks differ in size from their images; each is resized on its "
            "own, as the official loader does",
            stacklevel=2,
        )
    return with_mask(image, mask, change, row["path"], row["mask_path"])


def _open_mask(path):
    if path.suffix != ".pkl":
        return open_file(path, "L")
    try:
        attributes, _ = read_pickle(io.BytesIO(read_bytes(path)))
        encoded = base64.b64decode(attributes[OBJECT], validate=True)
    except (InputError, KeyError, TypeError, ValueError) as error:
        raise InputError(f"{path} holds no mask {OBJECT!r}: {first_line(error)}") from error
    return open_image(encoded, path, "L")

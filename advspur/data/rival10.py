"""RIVAL10 (Moayeri et al., CVPR 2022): objects of ten classes, with masks.

5,108 of the 5,306 test images are ImageNet training images, which the backbones have seen.
"""

import base64
import io
import warnings

import numpy as np

from advspur._checks import InputError, check_choice, first_line, require
from advspur._inert_pickle import read_pickle
from advspur.data.files import file_table, image_files, open_file, read_bytes
from advspur.data.label_maps import RIVAL10, rival10_labels
from advspur.data.layouts import missing_text, reader, require_count, require_data, require_whole
from advspur.data.transforms import SQUARED, Transform, open_image

DIRECTORIES = ("RIVAL10", "rival10")
LAYOUT = (
    "{train,test}/ordinary/<wnid>_<file>.JPEG and {train,test}/entire_object_masks/ with the same "
    "names, as rival10.zip unpacks"
)
SIZES = {"train": 21_178, "test": 5_306}
OBJECT = "entire-object"  # key of the object among the attribute masks
TRANSFORMS = {"resize": Transform(side=224, resize="square"), "resize_crop": SQUARED}


@reader
def read(root, allow_partial, *, transform="resize", val_only=False):
    """Return {"train": Table, "test": Table}; test has object masks.

    A mask is a file in entire_object_masks/, or else the entry "entire-object" of the image's
    `_attr_dict.pkl`, which is parsed without executing anything.

    Args:
      transform: of image and mask: "resize" to 224 x 224, or "resize_crop" to 256 x 256 and the
        central 224 (the authors' later code).
      val_only: test on the 989 ImageNet validation images of both splits, and train on the others.
    """
    check_choice("transform", transform, tuple(TRANSFORMS))
    splits = {split: root / split / "ordinary" for split in SIZES}
    require_data(any(d.is_dir() for d in splits.values()), "RIVAL10", root, LAYOUT)
    images = {}
    for split, folder in splits.items():
        require(folder.is_dir(), f"{folder} is missing: both splits are needed")
        paths = [p for p in image_files(folder) if not p.stem.endswith("_merged_mask")]
        for path in paths:
            fault = f"{path} has no RIVAL10 class: its name begins with {_wnid(path)!r}"
            require(_wnid(path) in rival10_labels(), fault)
        require_count(paths, SIZES[split], folder, allow_partial)
        images[split] = paths
    if both := sorted({p.name for p in images["train"]} & {p.name for p in images["test"]}):
        raise InputError(f"{root}: {len(both)} images are in both splits, first {both[0]}")
    if val_only:
        paths = images["train"] + images["test"]
        images["test"] = [path for path in paths if "ILSVRC2012_val" in path.name]
        images["train"] = [path for path in images["train"] if "ILSVRC2012_val" not in path.name]
    masks = {path: _mask_file(path) for path in images["test"]}
    missing = [path.name for path, mask in masks.items() if mask is None]
    require_whole(missing_text(missing, len(masks), "masks of test images"), root, allow_partial)
    images["test"] = [path for path in images["test"] if masks[path]]
    parts = {}
    for split, paths in images.items():
        require(paths, f"{root} has no {split} images to use")
        columns = {"path": paths, "label": np.array([rival10_labels()[_wnid(p)] for p in paths])}
        if split == "test":  # the head's training needs no masks
            columns["mask_path"] = [masks[path] for path in paths]
        change = TRANSFORMS[transform]
        parts[split] = file_table(len(RIVAL10), change, read_mask=_open_mask, **columns)
    return parts


def _wnid(path):
    return path.name.split("_")[0]


def _mask_file(path):
    """Return the file with the mask of an image, or None."""
    mask = path.parents[1] / "entire_object_masks" / path.name
    attributes = path.with_name(f"{path.stem}_attr_dict.pkl")
    return next((file for file in (mask, attributes) if file.is_file()), None)


def _open_mask(path, size):
    mask = _pickled_mask(path) if path.suffix == ".pkl" else open_file(path, "L")
    if mask.size != size:  # one warning for all files: it names only the folder
        text = "masks and images differ in size; as in the official loader, each is resized alone"
        warnings.warn(f"{path.parents[1] / 'ordinary'}: {text}", stacklevel=2)
    return mask


def _pickled_mask(path):
    try:
        attributes, _ = read_pickle(io.BytesIO(read_bytes(path)))
        encoded = base64.b64decode(attributes[OBJECT], validate=True)
    except (InputError, KeyError, TypeError, ValueError) as error:
        raise InputError(f"{path} has no mask {OBJECT!r}: {first_line(error)}") from error
    return open_image(encoded, path, "L")

"""RIVAL10 (Moayeri et al., CVPR 2022): objects of ten classes, with their masks.

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
OBJECT = "entire-object"  # its key among the attribute masks
TRANSFORMS = {"resize": Transform(side=224, resize="square"), "resize_crop": SQUARED}


@reader
def read(root, allow_partial, *, transform="resize", val_only=False):
    """{"train": Table, "test": Table}, the latter with object masks.

    The mask is the file of entire_object_masks/, else the entry "entire-object" of the image's
    `_attr_dict.pkl`, which is read as data.

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
        found = [p for p in image_files(folder) if not p.stem.endswith("_merged_mask")]
        for path in found:
            fault = f"{path} is named for no RIVAL10 class: it begins with {_wnid(path)!r}"
            require(_wnid(path) in rival10_labels(), fault)
        require_count(found, SIZES[split], folder, allow_partial)
        images[split] = found
    both = sorted({p.name for p in images["train"]} & {p.name for p in images["test"]})
    require(not both, f"{root}: {len(both)} images are in both splits, first {''.join(both[:1])}")
    if val_only:
        every = images["train"] + images["test"]
        images["test"] = [path for path in every if "ILSVRC2012_val" in path.name]
        images["train"] = [path for path in images["train"] if "ILSVRC2012_val" not in path.name]
    masks = {path: _mask_file(path) for path in images["test"]}
    missing = [path.name for path, mask in masks.items() if mask is None]
    require_whole(missing_text(missing, len(masks), "masks of test images"), root, allow_partial)
    images["test"] = [path for path in images["test"] if masks[path]]
    about, parts = (len(RIVAL10), TRANSFORMS[transform]), {}
    for split, paths in images.items():
        require(paths, f"{root} has no {split} images to use")
        columns = {"label": np.array([rival10_labels()[_wnid(path)] for path in paths])}
        if split == "test":  # the head's training needs no masks
            columns["mask_path"] = [masks[path] for path in paths]
        parts[split] = file_table(*about, read_mask=_open_mask, path=paths, **columns)
    return parts


def _wnid(path):
    return path.name.split("_")[0]


def _mask_file(path):
    """The file that holds the mask of an image; None where there is none."""
    mask = path.parents[1] / "entire_object_masks" / path.name
    attributes = path.with_name(f"{path.stem}_attr_dict.pkl")
    return next((file for file in (mask, attributes) if file.is_file()), None)


def _open_mask(path, size):
    mask = _pickled_mask(path) if path.suffix == ".pkl" else open_file(path, "L")
    if mask.size != size:  # a text without the file's name is shown once
        text = "masks differ in size from their images; each is resized on its own"
        text += ", as the official loader does"
        warnings.warn(f"{path.parents[1] / 'ordinary'}: {text}", stacklevel=2)
    return mask


def _pickled_mask(path):
    try:
        attributes, _ = read_pickle(io.BytesIO(read_bytes(path)))
        encoded = base64.b64decode(attributes[OBJECT], validate=True)
    except (InputError, KeyError, TypeError, ValueError) as error:
        raise InputError(f"{path} holds no mask {OBJECT!r}: {first_line(error)}") from error
    return open_image(encoded, path, "L")

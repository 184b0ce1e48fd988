"""ImageNet-9 (Xiao et al., ICLR 2021): objects of nine superclasses on changed backgrounds.

MIXED-SAME shows an object on the background of another image of its superclass, MIXED-RAND on one
of a random superclass.
"""

import functools
import io
import threading
from pathlib import Path

import numpy as np
from PIL import Image

from advspur._checks import InputError, check_choice, require
from advspur.data.label_maps import IMAGENET9
from advspur.data.layouts import (
    file_table,
    list_classes,
    missing_text,
    open_file,
    require_count,
    require_data,
    require_whole,
    standard_transform,
    with_mask,
    without_unreadable,
)
from advspur.data.sources import read_bytes
from advspur.data.table import Table

DIRECTORIES = ("bg_challenge", "backgrounds_challenge_data", "imagenet9")
LAYOUT = "<variant>/val/<00_dog ... 08_fish>/*.JPEG and fg_mask/val/*/*.npy, as the release unpacks"
VARIANTS = (
    "original",
    "mixed_same",
    "mixed_rand",
    "mixed_next",
    "no_fg",
    "only_fg",
    "only_bg_b",
    "only_bg_t",
)
NEEDED = ("original", "mixed_same", "mixed_rand", "only_bg_t")
SIZES = dict.fromkeys(VARIANTS, 4_050)
TRANSFORMS = ("none", "standard")
# NumPy parses a file's header as Python, which CPython 3.11 before 3.11.8 cannot do in two threads.
ONE_AT_A_TIME = threading.Lock()


@functools.lru_cache(maxsize=1)
def read(data_dir, *, transform="none", allow_partial=False, skip_unreadable=False):
    """{variant: Table}; "original" has the masks of fg_mask.

    Args:
      transform: "none", as the images are stored at 224 x 224 and the official code only scales
        them; "standard" resizes to 256 and crops to 224 as for ImageNet.
    """
    check_choice("transform", transform, TRANSFORMS)
    root = Path(data_dir).expanduser()
    there = any((root / variant).is_dir() for variant in VARIANTS)
    require_data(there, "ImageNet-9", root, LAYOUT)
    labels = {folder: label for label, folder in enumerate(IMAGENET9)}
    change = standard_transform if transform == "standard" else lambda image: image
    parts = {}
    for variant in VARIANTS:
        folder = root / variant / "val"
        if not folder.is_dir():
            require_whole(f"{folder} is missing", root, allow_partial=allow_partial)
            continue
        paths, numbers = list_classes(folder, labels, allow_partial=allow_partial)
        if variant == "original":
            parts[variant] = _with_masks(root, paths, numbers, change, allow_partial)
        else:
            pair = list(map(_pair, paths))
            parts[variant] = file_table(len(IMAGENET9), paths, numbers, change, pair=pair)
        require_count(parts[variant], SIZES[variant], folder, allow_partial)
    missing = [v for v in NEEDED if v not in parts]
    require(not missing, f"{root} has no {', '.join(missing)}, which the gaps and masks need")
    return without_unreadable(parts, skip_unreadable)


def _pair(path):
    """The class folder and object of an image; mixed ones are named fg_<object>_bg_<background>."""
    return f"{path.parent.name}/{path.stem.removeprefix('fg_').split('_bg_')[0]}"


def _with_masks(root, paths, labels, change, allow_partial):
    """The Table of "original" with the object masks of fg_mask."""
    folder = root / "fg_mask" / "val"
    masks = [folder / path.parent.name / f"{path.stem}.npy" for path in paths]
    missing = [mask for mask in masks if not mask.is_file()]
    fault = missing_text(missing, len(masks), "masks")
    require_whole(fault, root, allow_partial=allow_partial)
    rows = [i for i, mask in enumerate(masks) if mask.is_file()]
    require(rows, f"{folder} has no mask of the images of original")
    return Table(
        len(IMAGENET9),
        functools.partial(_read_with_mask, change),
        has_mask=True,
        path=[paths[i] for i in rows],
        mask_path=[masks[i] for i in rows],
        label=labels[rows],
    )


def _read_with_mask(change, row):
    content = io.BytesIO(read_bytes(row["mask_path"]))
    try:
        with ONE_AT_A_TIME:
            mask = np.load(content, allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise InputError(f"{row['mask_path']} is no readable mask: {error}") from error
    is_mask = mask.ndim == 2 and mask.dtype in (bool, np.uint8)
    require(is_mask, f"{row['mask_path']} is {mask.dtype} {mask.shape}; expected bool [h, w]")
    image, mask = open_file(row["path"]), Image.fromarray(255 * (mask > 0).astype(np.uint8))
    require(
        image.size == mask.size,
        f"{row['mask_path']} is {mask.size[0]} x {mask.size[1]}, its image "
        f"{image.size[0]} x {image.size[1]}: mask and image must have the same size",
    )
    return with_mask(image, mask, change, row["path"], row["mask_path"])

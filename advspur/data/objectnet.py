"""ObjectNet (Barbu et al., NeurIPS 2019): its 113 classes that overlap ImageNet.

The licence forbids tuning anything on it.
"""

import functools
from pathlib import Path

from advspur._checks import check_choice
from advspur.data.label_maps import OBJECTNET
from advspur.data.layouts import (
    file_table,
    list_classes,
    require_data,
    require_whole,
    without_unreadable,
)
from advspur.data.transforms import center_crop, resize_short

DIRECTORIES = ("objectnet-1.0", "objectnet", "ObjectNet")
LAYOUT = "images/<folder>/*.png (and mappings/, which is not needed), as the release unpacks"
BORDER = 2  # red pixels on each side of every image
RESIZES = (256, 224)
SIZES = {"images": 18_514}  # at least: those of version 1.0-beta


@functools.lru_cache(maxsize=1)
def read(data_dir, *, resize=256, allow_partial=False, skip_unreadable=False):
    """{"images": Table} of the overlapping classes, labelled by position in OBJECTNET.

    Args:
      resize: short side after the border is cut: 256 as for ImageNet, or 224 as the official
        template has it; the central 224 x 224 follows.
    """
    check_choice("resize", resize, RESIZES)
    root = Path(data_dir).expanduser() / "images"
    require_data(root.is_dir(), "ObjectNet", data_dir, LAYOUT)
    labels = {folder: label for label, folder in enumerate(OBJECTNET)}
    paths, numbers = list_classes(root, labels, allow_partial=allow_partial, ignore_others=True)
    fault = f"{len(paths):,} images, version 1.0-beta had {SIZES['images']:,}"
    fault = fault if len(paths) < SIZES["images"] else ""
    require_whole(fault, root, allow_partial=allow_partial)
    transform = functools.partial(_transform, short=resize)
    table = file_table(len(OBJECTNET), paths, numbers, transform)
    return without_unreadable({"images": table}, skip_unreadable)


def _transform(image, short):
    width, height = image.size
    image = image.crop((BORDER, BORDER, width - BORDER, height - BORDER))
    return center_crop(resize_short(image, short), 224)

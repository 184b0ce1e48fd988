"""ImageNet-C (Hendrycks & Dietterich, ICLR 2019): 15 corruptions at 5 severities.

The released JPEGs are 224 x 224 already; they are cropped, never resized. The four extra
corruptions of the release do not count.
"""

import functools
from pathlib import Path

import numpy as np

from advspur._checks import require
from advspur._progress import Progress
from advspur.data.label_maps import NUM_IMAGENET_CLASSES, imagenet_wnids
from advspur.data.layouts import (
    file_table,
    list_classes,
    require_count,
    require_data,
    require_whole,
    unreadable,
    warn_of_unreadable,
)
from advspur.data.transforms import center_crop

DIRECTORIES = ("imagenet-c", "imagenet_c", "ImageNet-C")
LAYOUT = "<corruption>/<severity 1-5>/<wnid>/*.JPEG, the four archives unpacked side by side"
SEVERITIES = (1, 2, 3, 4, 5)
# AlexNet's error, the mean over severities, by which mCE is normalised (augmix, imagenet.py).
ALEXNET_ERRORS = {
    "gaussian_noise": 0.886428,
    "shot_noise": 0.894468,
    "impulse_noise": 0.92264,
    "defocus_blur": 0.81988,
    "glass_blur": 0.826268,
    "motion_blur": 0.785948,
    "zoom_blur": 0.79836,
    "snow": 0.866816,
    "frost": 0.826572,
    "fog": 0.819324,
    "brightness": 0.564592,
    "contrast": 0.853204,
    "elastic_transform": 0.646056,
    "pixelate": 0.71784,
    "jpeg_compression": 0.6065,
}
SIZES = {f"{c}/{s}": 50_000 for c in ALEXNET_ERRORS for s in SEVERITIES}


@functools.lru_cache(maxsize=1)
def read(data_dir, *, allow_partial=False, skip_unreadable=False):
    """{"<corruption>/<severity>": Table}, all of the same images in the same order.

    Of an incomplete copy (`allow_partial`), the images that every cell has; of images that cannot
    be read in one cell (`skip_unreadable`), those that can in all.
    """
    root = Path(data_dir).expanduser()
    found = [c for c in ALEXNET_ERRORS if (root / c).is_dir()]
    require_data(found, "ImageNet-C", root, LAYOUT)
    labels = {wnid: index for index, wnid in enumerate(imagenet_wnids())}
    first, common = None, None
    for cell in SIZES:
        require(
            (root / cell).is_dir(),
            f"{root / cell} is missing: the mean is over all {len(SIZES)} cells; unpack the "
            "archive again",
        )
        paths, numbers = list_classes(root / cell, labels, allow_partial=allow_partial)
        names = [str(path.relative_to(root / cell)) for path in paths]
        if first is None:
            first, common = dict(zip(names, numbers.tolist(), strict=True)), set(names)
        for lacking, of, other in (
            (set(first) - set(names), cell, next(iter(SIZES))),
            (set(names) - set(first), next(iter(SIZES)), cell),
        ):
            which = f"{len(lacking)} images that {other} has, first {min(lacking, default='')}"
            fault = f"{of} lacks {which}" if lacking else ""
            require_whole(fault, root, allow_partial=allow_partial)
        common &= set(names)
    require(common, f"no image is in all {len(SIZES)} cells of {root}")
    names = [name for name in first if name in common]
    numbers, paths = np.array([first[name] for name in names]), list(map(Path, names))
    parts = {
        cell: file_table(NUM_IMAGENET_CLASSES, paths, numbers, _stored, root=root / cell)
        for cell in SIZES
    }
    require_count(next(iter(parts.values())), 50_000, root, allow_partial)
    if not skip_unreadable:
        return parts
    with Progress(len(names) * len(parts), "read ImageNet-C for unreadable images") as progress:
        faults = {cell: unreadable(table, progress) for cell, table in parts.items()}
    bad = set().union(*faults.values())
    for cell, of_cell in faults.items():
        warn_of_unreadable(cell, of_cell, len(parts[cell]))
    kept = [i for i in range(len(names)) if i not in bad]
    return {cell: table.subset(kept, skipped=len(bad)) for cell, table in parts.items()}


def _stored(image):
    """The central 224 x 224; a smaller image is none of ImageNet-C's, and is refused."""
    return center_crop(image, 224) if min(image.size) >= 224 else image

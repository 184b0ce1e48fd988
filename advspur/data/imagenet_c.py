"""ImageNet-C (Hendrycks & Dietterich, ICLR 2019): 15 corruptions at 5 severities.

The released JPEGs are 224 x 224 already; they are cropped, never resized. The four extra
corruptions of the release do not count.
"""

import functools
from pathlib import Path

import numpy as np

from advspur._checks import require
from advspur.data.files import file_table
from advspur.data.label_maps import NUM_IMAGENET_CLASSES, imagenet_wnids
from advspur.data.layouts import list_classes, reader, require_count, require_data, require_whole
from advspur.data.transforms import Transform

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


@functools.partial(reader, together=True)
def read(root, allow_partial):
    """{"<corruption>/<severity>": Table}, of the images that every cell has, in the same order."""
    require_data(any((root / c).is_dir() for c in ALEXNET_ERRORS), "ImageNet-C", root, LAYOUT)
    start, first, common = next(iter(SIZES)), None, None
    for cell in SIZES:
        advice = f"the mean is over all {len(SIZES)} cells; unpack the archive again"
        require((root / cell).is_dir(), f"{root / cell} is missing: {advice}")
        paths, labels = list_classes(root / cell, imagenet_wnids(), allow_partial)
        names = [str(path.relative_to(root / cell)) for path in paths]
        held = dict(zip(names, labels.tolist(), strict=True))
        if first is None:
            first, common = held, set(held)
        for of, other, lacking in (
            (cell, start, first.keys() - held.keys()),
            (start, cell, held.keys() - first.keys()),
        ):
            text = f"{of} lacks {len(lacking)} images that {other} has, first "
            require_whole(f"{text}{min(lacking)}" if lacking else "", root, allow_partial)
        common &= held.keys()
    require(common, f"no image is in all {len(SIZES)} cells of {root}")
    names = [name for name in first if name in common]
    about = NUM_IMAGENET_CLASSES, Transform(resize="crop")
    columns = {"path": list(map(Path, names)), "label": np.array([first[name] for name in names])}
    parts = {cell: file_table(*about, root=root / cell, **columns) for cell in SIZES}
    require_count(parts[start], SIZES[start], root, allow_partial)
    return parts

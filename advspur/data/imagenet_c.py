"""ImageNet-C (Hendrycks & Dietterich, ICLR 2019): 15 corruptions at 5 severities.

The released JPEGs are 224 x 224; they are never resized. The release's four extra corruptions are
not used.
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
# AlexNet's error, averaged over severities, which normalises mCE (augmix, imagenet.py).
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
    """Return {"<corruption>/<severity>": Table}, each with the images that all have, in order."""
    require_data(any((root / c).is_dir() for c in ALEXNET_ERRORS), "ImageNet-C", root, LAYOUT)
    start, first, common = next(iter(SIZES)), None, None
    for cell in SIZES:
        advice = f"the mean is over all {len(SIZES)} cells; unpack the archive again"
        require((root / cell).is_dir(), f"{root / cell} is missing: {advice}")
        paths, labels = list_classes(root / cell, imagenet_wnids(), allow_partial)
        names = [str(path.relative_to(root / cell)) for path in paths]
        labelled = dict(zip(names, labels.tolist(), strict=True))
        if first is None:
            first, common = labelled, set(names)
        for one, other, lacking in (
            (cell, start, first.keys() - labelled.keys()),
            (start, cell, labelled.keys() - first.keys()),
        ):
            text = f"{one} lacks {len(lacking)} images that {other} has, first "
            require_whole(f"{text}{min(lacking)}" if lacking else "", root, allow_partial)
        common &= labelled.keys()
    require(common, f"no image is in all {len(SIZES)} cells of {root}")
    names = [name for name in first if name in common]
    columns = {"path": list(map(Path, names)), "label": np.array([first[name] for name in names])}
    crop = Transform(resize="crop")
    parts = {c: file_table(NUM_IMAGENET_CLASSES, crop, root=root / c, **columns) for c in SIZES}
    require_count(parts[start], SIZES[start], root, allow_partial)
    return parts

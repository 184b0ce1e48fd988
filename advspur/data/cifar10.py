"""The CIFAR-10 test images, read as training reads them."""

import functools
from pathlib import Path

import numpy as np

from advspur._checks import require
from advspur.data.layouts import require_count, require_data, without_unreadable
from advspur.data.sources import beside

NUM_CLASSES = 10
DIRECTORIES = ("cifar10",)
LAYOUT = "<version>/ of a TFDS array_record directory, as scripts/prepare_data.py writes it"
SIZES = {"test": 10_000}


@functools.lru_cache(maxsize=1)
def read(data_dir, *, allow_partial=False, skip_unreadable=False):
    """{"test": Table}, in the order of the files."""
    root = Path(data_dir).expanduser()
    source = beside(root, "cifar10", "test")
    require_data(source, "CIFAR-10", root, LAYOUT)
    require(
        source.num_classes == NUM_CLASSES,
        f"{root} has {source.num_classes} classes, CIFAR-10 has {NUM_CLASSES}",
    )
    table = source.table(np.asarray, image_size=32)
    require_count(table, SIZES["test"], root, allow_partial)
    return without_unreadable({"test": table}, skip_unreadable)

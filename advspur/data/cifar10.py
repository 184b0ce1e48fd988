"""The CIFAR-10 test images, read as training reads them."""

import functools
from pathlib import Path

import numpy as np

from advspur._checks import require
from advspur.data.layouts import require_count, require_data, without_unreadable
from advspur.data.sources import find_prepared, tfds_source
from advspur.data.table import Table
from advspur.data.transforms import open_image

NUM_CLASSES = 10
DIRECTORIES = ("cifar10",)
LAYOUT = "<version>/ of a TFDS array_record directory, as scripts/prepare_data.py writes it"
SIZES = {"test": 10_000}


@functools.lru_cache(maxsize=1)
def read(data_dir, *, allow_partial=False, skip_unreadable=False):
    """{"test": Table}, in the order of the files."""
    root = Path(data_dir).expanduser()
    prepared = [d for d in (root, root.parent) if find_prepared("cifar10", d)]
    require_data(prepared, "CIFAR-10", root, LAYOUT)
    source = tfds_source("cifar10", "test", data_dir=prepared[0])
    require(
        source.num_classes == NUM_CLASSES,
        f"{root} has {source.num_classes} classes, CIFAR-10 has {NUM_CLASSES}",
    )
    load, rows = functools.partial(_read, source), range(len(source))
    table = Table(NUM_CLASSES, load, image_size=32, files=source.files, index=rows)
    require_count(table, SIZES["test"], root, allow_partial)
    return without_unreadable({"test": table}, skip_unreadable)


def _read(source, row):
    example = source[row["index"]]
    image = open_image(example["image"], example["path"])
    return {"image": np.asarray(image), "label": example["label"]}

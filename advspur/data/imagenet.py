"""The ImageNet validation images."""

import functools
from pathlib import Path

from advspur.data.label_maps import NUM_IMAGENET_CLASSES, imagenet_wnids
from advspur.data.layouts import (
    file_table,
    list_classes,
    require_count,
    require_data,
    standard_transform,
    without_unreadable,
)
from advspur.data.sources import beside

DIRECTORIES = ("imagenet", "imagenet2012", "ILSVRC2012")
LAYOUT = "val/<wnid>/*.JPEG, or <version>/ of a TFDS array_record directory"
SIZES = {"val": 50_000}


@functools.lru_cache(maxsize=1)
def read(data_dir, *, allow_partial=False, skip_unreadable=False):
    """{"val": Table} of a class-folder or TFDS directory; short side to 256, centre 224."""
    root = Path(data_dir).expanduser()
    if not (root / "val").is_dir():
        source = beside(root, "imagenet2012", "validation")
        require_data(source, "ImageNet", root, LAYOUT)
        table = source.table(standard_transform)
        table.order = "tfds"  # not that of the files by class and name
    else:
        labels = {wnid: index for index, wnid in enumerate(imagenet_wnids())}
        paths, labels = list_classes(root / "val", labels, allow_partial=allow_partial)
        table = file_table(NUM_IMAGENET_CLASSES, paths, labels, standard_transform)
    require_count(table, SIZES["val"], root, allow_partial)
    return without_unreadable({"val": table}, skip_unreadable)

"""The ImageNet validation images."""

from advspur.data.files import file_table
from advspur.data.label_maps import NUM_IMAGENET_CLASSES, imagenet_wnids
from advspur.data.layouts import list_classes, reader, require_count, require_data
from advspur.data.tfds import beside
from advspur.data.transforms import STANDARD

DIRECTORIES = ("imagenet", "imagenet2012", "ILSVRC2012")
LAYOUT = "val/<wnid>/*.JPEG, or <version>/ of a TFDS array_record directory"
SIZES = {"val": 50_000}


@reader
def read(root, allow_partial):
    """Return {"val": Table} of a class-folder or TFDS directory; short side to 256, centre 224."""
    if (root / "val").is_dir():
        paths, labels = list_classes(root / "val", imagenet_wnids(), allow_partial)
        table = file_table(NUM_IMAGENET_CLASSES, STANDARD, path=paths, label=labels)
    else:
        table = beside(root, "imagenet2012", "validation", STANDARD)
        require_data(table, "ImageNet", root, LAYOUT)
        table.order = "tfds"  # differs from that of files sorted by class and name
    require_count(table, SIZES["val"], root, allow_partial)
    return {"val": table}

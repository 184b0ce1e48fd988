"""The CIFAR-10 test images, untransformed."""

from advspur._checks import require
from advspur.data.layouts import reader, require_count, require_data
from advspur.data.tfds import beside
from advspur.data.transforms import Transform

NUM_CLASSES = 10
DIRECTORIES = ("cifar10",)
LAYOUT = "<version>/ of a TFDS array_record directory, as scripts/prepare_data.py writes it"
SIZES = {"test": 10_000}


@reader
def read(root, allow_partial):
    """Return {"test": Table}, in the order of the files."""
    table = beside(root, "cifar10", "test", Transform(32, resize="none"))
    require_data(table, "CIFAR-10", root, LAYOUT)
    number = table.num_classes
    require(number == NUM_CLASSES, f"{root} has {number} classes, CIFAR-10 has {NUM_CLASSES}")
    require_count(table, SIZES["test"], root, allow_partial)
    return {"test": table}

"""Data sets as random-access sources, and batches of them. Host code: NumPy and Pillow."""

from advspur.data.batches import Batch, eval_batches, train_batches
from advspur.data.color_shift import inject_color_shift
from advspur.data.datasets import Dataset, open_dataset
from advspur.data.files import folder_source
from advspur.data.own import own
from advspur.data.spurious_shapes import spurious_shapes
from advspur.data.table import Table, array_source
from advspur.data.tfds import tfds_source

__all__ = [
    "Batch",
    "Dataset",
    "Table",
    "array_source",
    "eval_batches",
    "folder_source",
    "inject_color_shift",
    "open_dataset",
    "own",
    "spurious_shapes",
    "tfds_source",
    "train_batches",
]

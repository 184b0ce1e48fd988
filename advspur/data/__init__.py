"""Data sets as random-access sources, and batches of them. Host code: NumPy and Pillow."""

from advspur.data.batches import Batch, eval_batches, train_batches
from advspur.data.sources import Dataset, array_source, folder_source, open_dataset, tfds_source
from advspur.data.spurious_shapes import spurious_shapes

__all__ = [
    "Batch",
    "Dataset",
    "array_source",
    "eval_batches",
    "folder_source",
    "open_dataset",
    "spurious_shapes",
    "tfds_source",
    "train_batches",
]

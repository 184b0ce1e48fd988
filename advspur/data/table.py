"""Table: examples as rows of columns, the form of every data set."""

import copy
import functools
import hashlib
import json
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from advspur._checks import InputError, check_labels, require
from advspur._files import file_checksum, readable

SAMPLED = 8  # rows whose pixels go into the digest


class Table:
    """Examples as rows of columns; `load` adds what is read from files when an example is read.

    Args:
      num_classes: number of classes of `label`.
      load: row (a dict) -> dict with `image` and what else is read from files; None if the columns
        hold everything.
      names: {column: the names of its codes}, for `label` and attributes that have names.
      image_size: side of the loaded images; ignored if images are a column.
      root: folder of the data, and of relative paths in the columns.
      files: files that the table is read from, unless its columns name them.
      transform: description, as JSON, of how `load` transforms images.
      columns: arrays or lists [n]: `label`; `path`; `group` (int codes), `is_majority`; `pair`,
        equal in two parts for the same object; `mask` or `mask_path`.

    Attributes:
      index: [n] int, the rows' numbers in the whole data set, which seed random numbers.
      loads_mask: whether `load` returns a `mask` that no column names.
      skipped: number of examples left out because they could not be read.
      facts: {name: a share}, further facts about the data.
      order: name of the order of the rows if different orders exist, else "".
      train_groups: sizes of the groups in the training data, by code; None if unknown.
    """

    def __init__(
        self,
        num_classes,
        load=None,
        *,
        names=None,
        image_size=224,
        root="",
        files=(),
        transform=None,
        **columns,
    ):
        self.num_classes, self.load, self.columns = num_classes, load, columns
        self.names, self.root, self.files = dict(names or {}), root, tuple(files)
        self.transform = transform
        is_array = isinstance(columns.get("image"), np.ndarray)  # else encoded, or read by `load`
        self.image_size = columns["image"].shape[1] if is_array else image_size
        self.index, self.loads_mask = np.arange(len(self)), False
        self.skipped, self.facts, self.train_groups, self.order = 0, {}, None, ""

    @property
    def has_mask(self):
        """Return whether the examples have a `mask`."""
        return self.loads_mask or "mask" in self.columns or "mask_path" in self.columns

    def __len__(self):
        return len(next(iter(self.columns.values())))

    def __getitem__(self, index):
        row = {name: column[index] for name, column in self.columns.items()}
        return row | self.load(row) if self.load else row

    def __repr__(self):
        place = f" in {self.root}" if self.root else ""
        return f"Table({len(self)} examples, {self.num_classes} classes{place})"

    def subset(self, indices, *, skipped=0):
        """Return a Table of these rows; `skipped` of the others were unreadable."""
        indices = np.asarray(indices, int)
        table = copy.copy(self)
        table.__dict__.pop("digest", None)
        table.names = dict(self.names)
        table.columns = {
            name: c[indices] if isinstance(c, np.ndarray) else [c[i] for i in indices]
            for name, c in self.columns.items()
        }
        table.index, table.skipped = self.index[indices], skipped
        return table

    def unreadable(self, progress=None):
        """Load all examples, in threads; return {row: error} of those that cannot be read."""

        def error_of(row):
            try:
                self[row]
            except InputError as error:
                return str(error)

        errors = {}
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            for row, text in enumerate(pool.map(error_of, range(len(self)))):
                if text is not None:
                    errors[row] = text
                if progress is not None:
                    progress.advance()
        return errors

    @functools.cached_property
    def digest(self):
        """SHA-256 of the columns, the bytes of the files, the transform and the pixels of some
        rows."""
        digest, files = hashlib.sha256(), list(self.files)
        for name, column in sorted(self.columns.items()):
            digest.update(name.encode())
            if isinstance(column, np.ndarray):
                digest.update(f"{column.dtype} {column.shape}".encode())
                digest.update(np.ascontiguousarray(column))
            else:
                digest.update(json.dumps(list(column), default=lambda p: Path(p).name).encode())
                files += [Path(self.root, path) for path in _paths(column)]
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            digest.update("".join(pool.map(_checksum, files)).encode())
        for row in spread(len(self), SAMPLED):
            example = self[row]
            for name in ("image", "mask") if self.load else ():
                if isinstance(example.get(name), np.ndarray):
                    digest.update(np.ascontiguousarray(example[name]))
        digest.update(np.ascontiguousarray(self.index))
        fields = [self.num_classes, self.image_size, self.names, self.transform]
        digest.update(json.dumps(fields, sort_keys=True, default=str).encode())
        return digest.hexdigest()


def array_source(images, labels, *, num_classes, **columns):
    """Return a Table of arrays: images uint8 [n, h, w, 3], labels [n], more columns [n, ...].

    Batches contain the column `mask` [n, h, w, 1], if there is one.
    Raises: InputError for arrays of a different type or length, and labels out of range.
    """
    images, labels = np.asarray(images), np.asarray(labels)
    are_pictures = images.dtype == np.uint8 and images.ndim == 4 and images.shape[-1] == 3
    fault = f"images are {images.dtype} {images.shape}; expected uint8 [n, height, width, 3]"
    require(are_pictures, fault)
    count, columns = len(images), {"image": images, "label": labels, **columns}
    require(count > 0, "a source needs at least one example; images is empty")
    for name, column in columns.items():
        require(len(column) == count, f"{name} has {len(column)} entries for {count} images")
    check_classes(labels, count, num_classes)
    return Table(num_classes, **columns)


def check_classes(labels, num_examples, num_classes):
    """Raise InputError unless `labels` are [num_examples] int, in [0, num_classes)."""
    check_labels(labels, num_examples)
    low, high, most = labels.min(), labels.max(), num_classes - 1
    require(0 <= low and high <= most, f"labels are in [{low}, {high}]; expected [0, {most}]")


def spread(count, number):
    """Return `number` of the positions 0 to `count` - 1, spread evenly; all if `number` is 0."""
    return np.unique(np.linspace(0, max(count - 1, 0), min(number or count, count)).astype(int))


def _paths(column):
    """Yield the paths in a column of paths or of lists of them."""
    for entry in column:
        if isinstance(entry, Path):
            yield entry
        elif isinstance(entry, (list, tuple)):
            yield from _paths(entry)


def _checksum(path):
    with readable(path):
        return file_checksum(path)

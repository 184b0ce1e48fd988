"""Table: examples as rows of columns, the form of every source that is known in advance."""

import numpy as np


class Table:
    """Examples as rows of columns; `load` turns a row into what else the example has.

    Args:
      num_classes: number of classes of `label`.
      load: row (a dict) -> dict with `image` and whatever else is read from files when the example
        is asked for; None where the columns are all there is.
      names: {column: the names of its codes}, for `label` and attributes that have names.
      columns: arrays or lists [n]; `label` and `path` where they are known without reading.

    Attributes:
      index: [n] int, the rows' numbers in the whole data set: random numbers are drawn from them,
        so a subset has the noise of the whole.
      skipped: how many examples were left out because they could not be read.
    """

    def __init__(self, num_classes, load=None, *, names=None, **columns):
        self.num_classes, self.load, self.columns = num_classes, load, columns
        self.names = dict(names or {})
        self.index = np.arange(len(self))
        self.skipped = 0

    def __len__(self):
        return len(next(iter(self.columns.values())))

    def __getitem__(self, index):
        row = {name: column[index] for name, column in self.columns.items()}
        return row | self.load(row) if self.load else row

    def __repr__(self):
        return f"Table({len(self)} examples, {self.num_classes} classes)"

    def subset(self, indices, *, skipped=0):
        """A Table of these rows, `skipped` of the others having been unreadable."""
        indices = np.asarray(indices, int)
        columns = {
            name: c[indices] if isinstance(c, np.ndarray) else [c[i] for i in indices]
            for name, c in self.columns.items()
        }
        table = Table(self.num_classes, self.load, names=self.names, **columns)
        table.index, table.skipped = self.index[indices], skipped
        return table

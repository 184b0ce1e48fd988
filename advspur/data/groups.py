"""Groups of examples: label x attributes, the unit of group robustness.

Several attributes count as one, whose values are all their combinations (as in group DRO, Sagawa et
al., ICLR 2020), the last attribute running fastest.

>>> from advspur.data.table import Table
>>> names = {"label": ("landbird", "waterbird"), "place": ("land", "water")}
>>> birds = Table(2, names=names, label=np.array([0, 0, 0, 1]), place=np.array([0, 0, 1, 1]))
>>> group_names(birds)
('landbird, land', 'landbird, water', 'waterbird, land', 'waterbird, water')
>>> group_codes(birds).tolist(), group_counts(birds).tolist()
([0, 0, 1, 3], [2, 1, 0, 1])
>>> majority_groups(birds).tolist()
[True, False, False, True]
"""

import itertools

import numpy as np

from advspur._checks import require


def attributes(table):
    """The names of a Table's attributes: the columns with named codes but label and group."""
    return tuple(name for name in table.names if name not in ("label", "group"))


def group_codes(table):
    """[n] int, the group of each example."""
    columns = [np.asarray(table.columns[name]) for name in ("label", *attributes(table))]
    return np.ravel_multi_index(columns, _shape(table))


def group_names(table):
    """The groups' names: the values, with their column's name where they are numbers."""
    values = {"label": table.names.get("label") or range(table.num_classes)}
    values |= {name: table.names[name] for name in attributes(table)}
    texts = [
        [f"{column} {t}" if t.lstrip("-").isdigit() else t for t in map(str, of_column)]
        for column, of_column in values.items()
    ]
    return tuple(", ".join(combination) for combination in itertools.product(*texts))


def group_counts(table):
    """[groups] int, the number of examples of each."""
    return np.bincount(group_codes(table), minlength=np.prod(_shape(table)))


def majority_groups(table, chosen=()):
    """[groups] bool: those that are more frequent than if label and attributes were independent.

    In a Table of training examples: n_ya n > n_y n_a, with n_ya examples of label y and attributes
    a, n_y of y, n_a of a, n of all. Or the groups named by `chosen`.
    """
    names = group_names(table)
    unknown = ", ".join(repr(name) for name in chosen if name not in names)
    known = "; ".join([*names[:20], *["..."] * (len(names) > 20)])
    require(not unknown, f"majority names {unknown}: no group of these; the groups: {known}")
    if chosen:
        return np.isin(names, chosen)
    counts = group_counts(table).reshape(table.num_classes, -1)
    of_label, of_attribute = counts.sum(1, keepdims=True), counts.sum(0, keepdims=True)
    return (counts * counts.sum() > of_label * of_attribute).ravel()


def _shape(table):
    return table.num_classes, *(len(table.names[name]) for name in attributes(table))

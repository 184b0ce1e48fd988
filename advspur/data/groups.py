"""Groups of examples, label x attributes: the unit of group robustness.

Several attributes count as one, with all combinations of their values (as in group DRO, Sagawa et
al., ICLR 2020); the last attribute varies fastest.

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
    """Return the names of a Table's attributes: columns with named codes, except label, group."""
    return tuple(name for name in table.names if name not in ("label", "group"))


def group_codes(table):
    """Return [n] int, the group of each example."""
    columns = [np.asarray(table.columns[name]) for name in ("label", *attributes(table))]
    return np.ravel_multi_index(columns, _shape(table))


def group_names(table):
    """Return the groups' names: the values, with the column's name before a number."""
    values = {"label": table.names.get("label") or range(table.num_classes)}
    values |= {name: table.names[name] for name in attributes(table)}
    texts = [
        [f"{column} {t}" if t.lstrip("-").isdigit() else t for t in map(str, column_values)]
        for column, column_values in values.items()
    ]
    return tuple(", ".join(combination) for combination in itertools.product(*texts))


def group_counts(table):
    """Return [groups] int, the number of examples in each group."""
    return np.bincount(group_codes(table), minlength=np.prod(_shape(table)))


def majority_groups(table, chosen=()):
    """Return [groups] bool, the groups named by `chosen`; if empty, the over-represented ones.

    These are more frequent in the table (of training examples) than if label and attributes were
    independent: n_ya n > n_y n_a, with n_ya of the n examples in the group (y, a), n_y of label y
    and n_a of attributes a.
    """
    names = group_names(table)
    unknown = ", ".join(repr(name) for name in chosen if name not in names)
    known = "; ".join([*names[:20], *["..."] * (len(names) > 20)])
    require(not unknown, f"majority names {unknown}, which is not a group; the groups: {known}")
    if chosen:
        return np.isin(names, chosen)
    counts = group_counts(table).reshape(table.num_classes, -1)
    label_counts, attribute_counts = counts.sum(1, keepdims=True), counts.sum(0, keepdims=True)
    return (counts * counts.sum() > label_counts * attribute_counts).ravel()


def _shape(table):
    return table.num_classes, *(len(table.names[name]) for name in attributes(table))

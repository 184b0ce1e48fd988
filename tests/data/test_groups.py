"""Groups: against counting by hand, and against NumPy on random tables."""

import itertools

import numpy as np
import pytest

from advspur._checks import InputError
from advspur.data.groups import attributes, group_codes, group_counts, group_names, majority_groups
from advspur.data.table import Table

PUBLISHED = (3498, 184, 56, 1057)  # Waterbirds, by 2 y + place
NAMES = {"label": ("landbird", "waterbird"), "place": ("land", "water")}


def counted(counts, names):
    """A Table with these counts of each combination of codes."""
    codes = itertools.product(*(range(len(values)) for values in names.values()))
    rows = np.repeat(list(codes), np.ravel(counts), axis=0).T
    columns = dict(zip(names, rows, strict=True))
    return Table(len(names["label"]), names=names, **columns)


def test_waterbirds_majority_follows_from_its_published_counts():
    birds = counted(PUBLISHED, NAMES)
    assert attributes(birds) == ("place",)
    assert tuple(group_counts(birds)) == PUBLISHED
    assert majority_groups(birds).tolist() == [True, False, False, True]
    chosen = majority_groups(birds, ("waterbird, land", "landbird, water"))
    assert chosen.tolist() == [False, True, True, False]


def test_several_attributes_count_as_one_and_empty_groups_stay():
    names = {"label": ("a", "b"), "x": ("0", "1"), "y": ("u", "v", "w")}
    counts = np.random.default_rng(0).integers(0, 4, (2, 2, 3))
    counts[0, 1, 2] = counts[1, 0, 0] = 0
    table = counted(counts, names)
    np.testing.assert_array_equal(group_counts(table), counts.ravel())
    for group, values in enumerate(itertools.product("ab", "01", "uvw")):
        assert group_names(table)[group] == f"{values[0]}, x {values[1]}, {values[2]}"
    rows = zip(*(table.columns[name] for name in names), strict=True)
    codes = [6 * label + 3 * x + y for label, x, y in rows]
    assert group_codes(table).tolist() == codes
    share = counts / counts.sum()
    independent = share.sum((1, 2), keepdims=True) * share.sum(0, keepdims=True)
    np.testing.assert_array_equal(majority_groups(table), (share > independent + 1e-12).ravel())


def test_independent_and_absent_attributes_make_no_majority():
    assert not majority_groups(counted((2, 4, 3, 6), NAMES)).any()
    plain = Table(3, label=np.array([0, 2, 2]))
    assert attributes(plain) == () and group_names(plain) == ("label 0", "label 1", "label 2")
    assert group_counts(plain).tolist() == [1, 0, 2] and not majority_groups(plain).any()


def test_unknown_groups_are_named():
    with pytest.raises(InputError, match="'land', which is not a group; the groups: landbird, "):
        majority_groups(counted(PUBLISHED, NAMES), ("landbird, land", "land"))

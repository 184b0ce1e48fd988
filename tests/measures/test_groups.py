"""Accuracy of groups by hand: worst, majority and minority, adjusted average."""

import math

import jax
import numpy as np
import pytest

from advspur.data.waterbirds import GROUP_COUNTS, NAMES
from advspur.measures import group_records
from tests.data.fake_layouts import coded, greys

MODEL = coded({0: 0, 10: 1}, 2)
CALL = {"key": jax.random.key(0), "batch_size": 8}


def birds(counts, right):
    """A shuffled table of groups of sizes `counts`, `right` of which are right."""
    codes = np.repeat(np.arange(4), counts)
    is_right = np.concatenate([np.arange(n) < k for n, k in zip(counts, right, strict=True)])
    seen = np.where(is_right, codes // 2, 1 - codes // 2)
    order = np.random.default_rng(0).permutation(len(codes))
    majority = np.isin(codes, (0, 3))
    columns = {"group": codes, "is_majority": majority, "place": codes % 2}
    columns = {name: column[order] for name, column in columns.items()}
    return greys(10 * seen[order], codes[order] // 2, 2, **columns)


def numbers(records, part):
    of_part = [r for r in records if r.options["part"] == part]
    assert all(r.low <= r.value <= r.high for r in of_part if not math.isnan(r.value))
    return {(r.metric, r.options.get("group")): (r.value, r.num_examples) for r in of_part}


def test_numbers_by_hand():
    """3, 1, 0 and 4 of the groups' (4, 2, 3, 5) images are right; in a second part, all."""
    parts = {"test": birds((4, 2, 3, 5), (3, 1, 0, 4)), "val": birds((1, 1, 1, 1), (1, 1, 1, 1))}
    for table in parts.values():
        table.names, table.train_groups = NAMES, GROUP_COUNTS["train"]
    records = group_records(MODEL, parts, **CALL)
    adjusted = (3498 * 3 / 4 + 184 * 1 / 2 + 56 * 0 + 1057 * 4 / 5) / 4795
    expected = {
        ("majority_accuracy", None): (7 / 9, 9),
        ("minority_accuracy", None): (1 / 5, 5),
        ("majority_minority_gap", None): (7 / 9 - 1 / 5, 14),
        ("worst_group_accuracy", None): (0.0, 3),
        ("adjusted_average_accuracy", None): (adjusted, 14),
        ("group_accuracy", "landbird on land"): (3 / 4, 4),
        ("group_accuracy", "landbird on water"): (1 / 2, 2),
        ("group_accuracy", "waterbird on land"): (0.0, 3),
        ("group_accuracy", "waterbird on water"): (4 / 5, 5),
    }
    found = numbers(records, "test")
    assert found.keys() == expected.keys()
    for name, (value, count) in expected.items():
        assert found[name] == (pytest.approx(value, abs=1e-12), count)
    whole = {value for name, (value, _) in numbers(records, "val").items() if "gap" not in name[0]}
    assert whole == {1}


def test_groups_without_names_are_counted_by_their_codes():
    """Training groups are unknown; with an empty group, so is the worst."""
    records = group_records(MODEL, {"test": birds((4, 2, 3, 5), (3, 1, 2, 4))}, **CALL)
    found = numbers(records, "test")
    names = {"majority_accuracy", "minority_accuracy", "majority_minority_gap"}
    assert {metric for metric, _ in found} == names | {"worst_group_accuracy"}
    assert found["worst_group_accuracy", None] == (1 / 2, 2)
    records = group_records(MODEL, {"test": birds((4, 0, 3, 5), (3, 0, 2, 4))}, **CALL)
    found = numbers(records, "test")
    assert math.isnan(found["worst_group_accuracy", None][0])
    assert found["minority_accuracy", None] == (pytest.approx(2 / 3), 3)


def test_named_groups_without_images_are_left_out():
    """With a group of training missing in a part, its worst group is unknown.

    Without a column for them, there are no numbers of majority and minority.
    """
    table = birds((4, 0, 3, 5), (3, 0, 2, 4))
    table.names = NAMES
    del table.columns["is_majority"]
    found = numbers(group_records(MODEL, {"test": table}, **CALL), "test")
    assert found == {
        ("worst_group_accuracy", None): (pytest.approx(2 / 3), 3),
        ("group_accuracy", "landbird on land"): (3 / 4, 4),
        ("group_accuracy", "waterbird on land"): (pytest.approx(2 / 3), 3),
        ("group_accuracy", "waterbird on water"): (4 / 5, 5),
    }
    table.train_groups = (7, 1, 1, 7)
    found = numbers(group_records(MODEL, {"test": table}, **CALL), "test")
    assert math.isnan(found["worst_group_accuracy", None][0])
    assert math.isnan(found["adjusted_average_accuracy", None][0])
    assert found["group_accuracy", "landbird on water"][1] == 0


def test_without_a_minority_there_is_no_gap():
    parts = {"test": birds((4, 0, 0, 5), (3, 0, 0, 4))}
    found = numbers(group_records(MODEL, parts, **CALL), "test")
    assert found["majority_accuracy", None] == (pytest.approx(7 / 9), 9)
    for metric in ("minority_accuracy", "majority_minority_gap"):
        assert math.isnan(found[metric, None][0])

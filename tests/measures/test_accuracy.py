"""Accuracy of parts, gaps between backgrounds and corruption errors: all by hand."""

import jax
import numpy as np
import pytest

from advspur import metrics
from advspur._checks import InputError
from advspur.measures import accuracy_records, background_gap_records, corruption_records
from tests.data.fake_layouts import coded, greys

MODEL = coded({10 * k: k for k in range(9)}, 9)  # it predicts grey / 10
CALL = {"key": jax.random.key(0), "batch_size": 8}


def table(seen, labels, num_classes=9, **columns):
    return greys(10 * np.asarray(seen), np.asarray(labels), num_classes, **columns)


def numbers(records):
    """{(metric, options as text): (value, count)}."""
    return {
        (r.metric, ", ".join(f"{k} {v}" for k, v in r.options.items())): (r.value, r.num_examples)
        for r in records
    }


def test_accuracy_of_each_part_over_images_and_over_classes():
    """In part a, 1 of 3 images of class 2 is right, and the 1 of class 5."""
    parts = {"a": table([2, 3, 4, 5], [2, 2, 2, 5]), "b": table([0, 1, 2] * 5, [0, 1, 1] * 5)}
    parts["a"].facts["clipped_share"] = 0.25
    found = numbers(accuracy_records(MODEL, parts, balanced=True, **CALL))
    assert found == {
        ("accuracy", "part a"): (2 / 4, 4),
        ("balanced_accuracy", "part a"): (pytest.approx((1 / 3 + 1) / 2), 4),
        ("clipped_share", "part a"): (0.25, 4),
        ("accuracy", "part b"): (pytest.approx(10 / 15), 15),
        ("balanced_accuracy", "part b"): (pytest.approx((1 + 1 / 2) / 2), 15),
    }
    (record, *_) = accuracy_records(MODEL, parts, **CALL)
    assert record[1:5] == metrics.accuracy([1, 0, 0, 1])


def test_subsets_of_classes_are_measured_separately():
    """ObjectNet shares 409, an alarm clock (its first class), and 999, a toilet roll."""
    classes = (0, 1, 207, 409, 999)
    model = coded({10 * i: index for i, index in enumerate(classes)}, 1000)
    labels = np.repeat(classes, 2)
    shown = [0, 0, 1, 409, 207, 207, 409, 409, 0, 999]
    part = table([classes.index(index) for index in shown], labels, 1000)
    found = numbers(accuracy_records(model, {"val": part}, subsets=("objectnet",), **CALL))
    assert found == {
        ("accuracy", "part val"): (pytest.approx(8 / 10), 10),
        ("accuracy", "part val, classes objectnet"): (3 / 4, 4),
    }


LABELS = np.arange(18) // 2


@pytest.mark.parametrize("pairs", ("equal", "another", "none"))
def test_background_gaps_are_paired_if_the_objects_are_the_same(pairs):
    """15 of 18 are right on both, 2 only on MIXED-SAME, 1 only on MIXED-RAND."""
    same, rand = LABELS.copy(), LABELS.copy()
    rand[[4, 9]], same[13] = 0, 0
    names = {"equal": np.arange(18), "another": np.arange(18) + (np.arange(18) == 3)}
    columns = [{} if pairs == "none" else {"pair": names[k]} for k in ("equal", pairs)]
    parts = {"mixed_same": table(same, LABELS, **columns[0])}
    parts["mixed_rand"] = table(rand, LABELS, **columns[1])
    gap, relative = background_gap_records(MODEL, parts, **CALL)
    assert (gap.metric, relative.metric) == ("background_gap", "relative_background_gap")
    assert gap.value == pytest.approx(1 / 18) and relative.value == pytest.approx(1 / 17)
    paired = pairs == "equal"
    assert gap.options == relative.options == {"paired": paired}
    right = [np.equal(seen, LABELS) for seen in (same, rand)]
    assert gap[1:5] == metrics.background_gap(*right, paired=paired)
    assert relative[1:5] == metrics.relative_background_gap(*right, paired=paired)
    assert gap[1:5] != metrics.background_gap(*right, paired=not paired)


def test_background_gaps_of_parts_with_other_names_and_lengths():
    """A right image of the second part is missing, as if unreadable: 18 of 18, 1 of 17."""
    parts = {"own": table(LABELS, LABELS, pair=np.arange(18))}
    parts["other"] = table([0] * 17, LABELS[1:], pair=np.arange(1, 18))
    gap, relative = background_gap_records(MODEL, parts, same="own", rand="other", **CALL)
    assert gap.value == relative.value == pytest.approx(1 - 1 / 17)
    assert gap.options == {"paired": False}
    with pytest.raises(InputError, match="same = 'mixed_same' is not known; allowed: 'own'"):
        background_gap_records(MODEL, parts, **CALL)


CORRUPTIONS = ("noise", "blur", "snow")
ALEXNET = {"snow": 0.8, "noise": 0.5, "blur": 0.25}  # in a different order from the parts
RIGHT = np.array([[1, 2, 3, 4, 0], [2, 3, 4, 0, 1], [4, 4, 4, 1, 0]])  # of four images


def cells():
    """The first RIGHT[k, s] of the four images of corruption k at severity s are right."""
    labels, found = np.array([3, 3, 5, 5]), {}
    for k, name in enumerate(CORRUPTIONS):
        for s in range(5):
            seen = np.where(np.arange(4) < RIGHT[k, s], labels, 0)
            found[f"{name}/{s + 1}"] = table(seen, labels, cell=np.full(4, 5 * k + s))
    return found


def test_corruption_errors_by_hand():
    errors = dict(zip(CORRUPTIONS, np.mean(1 - RIGHT / 4, axis=1), strict=True))
    mce = np.mean([errors[name] / ALEXNET[name] for name in CORRUPTIONS])
    found = numbers(corruption_records(MODEL, cells(), baseline_errors=ALEXNET, **CALL))
    assert found == {
        ("mean_corruption_accuracy", ""): (pytest.approx(RIGHT.mean() / 4, abs=1e-12), 4),
        ("mean_corruption_error", ""): (pytest.approx(mce, abs=1e-12), 4),
    }
    found = numbers(accuracy_records(MODEL, cells(), **CALL))
    values = {about: value for (_, about), (value, _) in found.items()}
    assert list(values) == [f"part {name}" for name in cells()]
    assert list(values.values()) == (RIGHT.ravel() / 4).tolist()
    with pytest.raises(InputError, match="corruptions are noise, blur, snow"):
        corruption_records(MODEL, cells(), baseline_errors={"noise": 0.5}, **CALL)

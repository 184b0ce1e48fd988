"""Metrics against hand arithmetic, published intervals and simulated coverage."""

import math

import numpy as np
import pytest
from scipy import stats

from advspur._checks import InputError
from advspur.benchmarks import metrics

Z = stats.norm.ppf(0.975)


def outcomes(right, n):
    return np.arange(n) < right


def wilson(right, n, z=Z):
    """(2 n p + z^2 -+ z sqrt(z^2 + 4 n p (1 - p))) / (2 (n + z^2)), Wilson 1927."""
    p = right / n
    half = z * math.sqrt(z**2 + 4 * n * p * (1 - p))
    return (2 * n * p + z**2 - half) / (2 * (n + z**2)), (2 * n * p + z**2 + half) / (
        2 * (n + z**2)
    )


@pytest.mark.parametrize("right, n", ((0, 7), (3, 4), (56, 70), (48, 80), (29, 29), (999, 1000)))
def test_accuracy_has_the_wilson_interval(right, n):
    estimate = metrics.accuracy(outcomes(right, n))
    assert estimate.value == pytest.approx(right / n, abs=1e-12)
    assert (estimate.low, estimate.high) == pytest.approx(wilson(right, n), abs=1e-9)
    assert estimate.num_examples == n


def test_group_accuracies_count_each_group():
    correct = np.array([1, 0, 1, 1, 0, 0])
    groups = np.array([0, 0, 2, 2, 2, 3])
    of_groups = metrics.group_accuracy(correct, groups, num_groups=5)
    assert [e.num_examples for e in of_groups] == [2, 0, 3, 1, 0]
    values = [e.value for e in of_groups]
    np.testing.assert_allclose(values, [1 / 2, np.nan, 2 / 3, 0, np.nan], rtol=0, atol=1e-12)
    assert of_groups[0] == metrics.accuracy([1, 0])


def test_the_worst_group_has_simultaneous_intervals():
    """Right 8 of 10 and 3 of 5, group 1 empty: Bonferroni over the two that are there."""
    correct = np.concatenate([outcomes(8, 10), outcomes(3, 5)])
    groups = np.repeat([0, 2], [10, 5])
    estimate = metrics.worst_group_accuracy(correct, groups, num_groups=3)
    z = stats.norm.ppf(1 - 0.05 / 2 / 2)
    intervals = wilson(8, 10, z), wilson(3, 5, z)
    assert (estimate.value, estimate.num_examples) == (pytest.approx(0.6, abs=1e-12), 5)
    assert estimate.low == pytest.approx(min(i[0] for i in intervals), abs=1e-9)
    assert estimate.high == pytest.approx(min(i[1] for i in intervals), abs=1e-9)


def test_the_unpaired_gap_has_newcombes_published_interval():
    """56/70 - 48/80: method 10 in Table II of Newcombe, Statistics in Medicine 17 (1998) 873."""
    correct = np.concatenate([outcomes(56, 70), outcomes(48, 80)])
    estimate = metrics.majority_minority_gap(correct, np.arange(150) < 70)
    assert estimate.value == pytest.approx(0.2, abs=1e-12)
    assert (estimate.low, estimate.high) == pytest.approx((0.0524, 0.3339), abs=5e-5)
    assert estimate.num_examples == 150


def paired(both, first, second, neither):
    counts = (both, first, second, neither)
    return np.repeat([1, 1, 0, 0], counts), np.repeat([1, 0, 1, 0], counts)


@pytest.mark.parametrize(
    "counts, low, high", (((36, 12, 2, 0), 0.0569, 0.3404), ((1, 1, 7, 12), -0.507, -0.026))
)
def test_the_paired_gap_has_the_published_interval(counts, low, high):
    """Method 10 of Newcombe, Statistics in Medicine 17 (1998) 2635, and its square-and-add
    interval in Fagerland, Lydersen & Laake, Statistics in Medicine 33 (2014) 2850."""
    estimate = metrics.background_gap(*paired(*counts))
    assert estimate.value == pytest.approx((counts[1] - counts[2]) / sum(counts), abs=1e-12)
    assert estimate.num_examples == sum(counts)
    # Published with three or four decimals.
    assert (estimate.low, estimate.high) == pytest.approx((low, high), abs=5e-4)


def test_the_paired_gap_by_hand():
    """Phi = (ad - bc) / sqrt(product of margins), negative here, so that it is not corrected."""
    a, b, c, d = 10, 20, 16, 4
    n = a + b + c + d
    phi = (a * d - b * c) / math.sqrt((a + b) * (c + d) * (a + c) * (b + d))
    p1, p2 = (a + b) / n, (a + c) / n
    (l1, u1), (l2, u2) = wilson(a + b, n), wilson(a + c, n)
    down = math.sqrt((p1 - l1) ** 2 - 2 * phi * (p1 - l1) * (u2 - p2) + (u2 - p2) ** 2)
    up = math.sqrt((u1 - p1) ** 2 - 2 * phi * (u1 - p1) * (p2 - l2) + (p2 - l2) ** 2)
    estimate = metrics.background_gap(*paired(a, b, c, d))
    expected = (p1 - p2, p1 - p2 - down, p1 - p2 + up)
    assert estimate[:3] == pytest.approx(expected, abs=1e-9)


def test_the_paired_interval_covers_the_truth_19_times_in_20():
    rng = np.random.default_rng(0)
    shares = np.array([0.5, 0.25, 0.1, 0.15])  # both, same only, rand only, neither
    hits, runs = 0, 1000
    for counts in rng.multinomial(60, shares, runs):
        estimate = metrics.background_gap(*paired(*counts))
        hits += estimate.low <= 0.15 <= estimate.high
    # Standard error of a share of 0.95 in 1000 runs: 0.007.
    assert 0.925 <= hits / runs <= 0.98


@pytest.mark.parametrize("counts", ((10, 0, 0, 0), (0, 0, 0, 10), (0, 10, 0, 0)))
def test_paired_gaps_of_constant_outcomes_are_finite(counts):
    estimate = metrics.background_gap(*paired(*counts))
    assert estimate.value == (counts[1] > 0)
    assert -1 <= estimate.low <= estimate.value <= estimate.high <= 1 + 1e-12


def test_the_relative_gap_divides_by_the_accuracy_on_mixed_same():
    estimate = metrics.relative_background_gap(*paired(30, 10, 4, 6))
    assert estimate.value == pytest.approx((40 - 34) / 40, abs=1e-12)
    assert estimate.low < estimate.value < estimate.high
    # Delta method: var(1 - b/a), a and b the two counts right out of n = 50.
    p = np.array([30, 10, 4, 6]) / 50
    influence = np.array([34 - 40, 34, -40, 0]) * 50 / 40**2  # d(1 - b/a) per example
    spread = math.sqrt((p @ influence**2 - (p @ influence) ** 2) / 50)
    assert estimate.high - estimate.low == pytest.approx(2 * Z * spread, rel=0.15)


def test_the_relative_gap_is_nan_where_nothing_is_right_on_mixed_same():
    estimate = metrics.relative_background_gap([0, 0, 0], [1, 0, 1])
    assert all(map(math.isnan, estimate[:3])) and estimate.num_examples == 3


def test_relative_sensitivity_of_four_images_by_hand():
    """Class 0: core 1/2, spurious 1; class 1: core 1/2, spurious 1/2.

    a_c = 1/2, a_s = 3/4, mean 5/8, room 2 * 3/8: (1/4) / (3/4) = 1/3."""
    labels = [0, 0, 1, 1]
    estimate = metrics.relative_sensitivity([1, 0, 0, 1], [1, 1, 1, 0], labels)
    assert estimate.value == pytest.approx(1 / 3, abs=1e-12)
    assert estimate.num_examples == 4
    swapped = metrics.relative_sensitivity([1, 1, 1, 0], [1, 0, 0, 1], labels)
    assert swapped.value == pytest.approx(-1 / 3, abs=1e-12)


def test_relative_sensitivity_weighs_classes_alike_and_averages_levels_first():
    """Core: class 0 (3 images) 2/3 at both levels, class 1 (1 image) 1 then 0: mean 7/12.

    Spurious: all right at level one, class 0 alone at level two: (1 + 1/2) / 2 = 3/4."""
    labels = [0, 0, 0, 1]
    core = [[1, 1, 0, 1], [1, 0, 1, 0]]
    spurious = [[1, 1, 1, 1], [1, 1, 1, 0]]
    a_c, a_s = (2 / 3 + 1 / 2) / 2, 3 / 4
    mean = (a_c + a_s) / 2
    expected = (a_s - a_c) / (2 * min(mean, 1 - mean))
    estimate = metrics.relative_sensitivity(core, spurious, labels)
    assert estimate.value == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("right", (0, 1))
def test_relative_sensitivity_without_room_is_0(right):
    outcome = np.full((2, 6), right)
    estimate = metrics.relative_sensitivity(outcome, outcome, [0, 1, 2, 0, 1, 2])
    assert tuple(estimate) == (0, 0, 0, 6)


def test_bootstrap_intervals_are_repeatable_and_shrink_with_n():
    same, rand = paired(30, 10, 4, 6)
    one = metrics.relative_background_gap(same, rand)
    assert one == metrics.relative_background_gap(same, rand)
    assert one[1:3] != metrics.relative_background_gap(same, rand, seed=1)[1:3]
    more = metrics.relative_background_gap(np.tile(same, 9), np.tile(rand, 9))
    assert more.value == pytest.approx(one.value, abs=1e-12)
    assert (more.high - more.low) / (one.high - one.low) == pytest.approx(1 / 3, rel=0.2)


def test_empty_sets_are_nan_never_0():
    nothing = np.zeros(0)
    for estimate in (
        metrics.accuracy(nothing),
        metrics.worst_group_accuracy(nothing, nothing, num_groups=3),
        metrics.majority_minority_gap(nothing, nothing),
        metrics.background_gap(nothing, nothing),
        metrics.relative_background_gap(nothing, nothing),
        metrics.relative_sensitivity(nothing, nothing, nothing),
    ):
        assert all(map(math.isnan, estimate[:3])) and estimate.num_examples == 0
    one_sided = metrics.majority_minority_gap([1, 0, 1], [True, True, True])
    assert all(map(math.isnan, one_sided[:3]))


def test_the_order_of_examples_does_not_matter():
    rng = np.random.default_rng(0)
    one, other, labels = rng.integers(0, 2, 60), rng.integers(0, 2, 60), rng.integers(0, 3, 60)
    order = rng.permutation(60)

    def all_of(index):
        a, b, k = one[index], other[index], labels[index]
        return [
            metrics.accuracy(a),
            metrics.worst_group_accuracy(a, k, num_groups=3),
            metrics.majority_minority_gap(a, k == 0),
            metrics.background_gap(a, b),
            metrics.relative_background_gap(a, b),
            metrics.relative_sensitivity(a, b, k),
        ]

    for before, after in zip(all_of(np.arange(60)), all_of(order), strict=True):
        assert after.value == pytest.approx(before.value, abs=1e-12)
        # Bootstrap resamples differ by order: within Monte Carlo error.
        assert after[1:3] == pytest.approx(before[1:3], abs=0.06)


@pytest.mark.parametrize(
    "call, message",
    [
        (lambda: metrics.accuracy([[1, 0]]), r"correct has shape \(1, 2\); expected \[n\]"),
        (lambda: metrics.accuracy([100, 0]), "must be 0 or 1"),
        (lambda: metrics.accuracy([math.nan, 0]), "must be 0 or 1"),
        (lambda: metrics.group_accuracy([1, 0], [1], num_groups=2), "one an example"),
        (lambda: metrics.background_gap([1, 0], [1]), "one an example"),
        (lambda: metrics.relative_sensitivity([1, 0], [1, 1], [0]), "one an example"),
    ],
)
def test_bad_outcomes_are_refused(call, message):
    with pytest.raises(InputError, match=message):
        call()

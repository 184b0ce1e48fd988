"""Metrics against hand arithmetic, published intervals and simulated coverage."""

import math
import tracemalloc

import numpy as np
import pytest
from scipy import stats

from advspur import metrics
from advspur._checks import InputError
from advspur.intervals import difference, wilson

Z = stats.norm.ppf(0.975)


def outcomes(right, n):
    return np.arange(n) < right


def assert_nothing(estimate, num_examples=0):
    assert all(map(math.isnan, estimate[:3])) and estimate.num_examples == num_examples


def test_accuracies_overall_and_of_each_group():
    assert metrics.accuracy(outcomes(56, 70)) == wilson(56, 70)
    groups = np.array([0, 0, 2, 2, 2, 3])
    *found, last = metrics.group_accuracy([1, 0, 1, 1, 0, 0], groups, num_groups=5)
    assert_nothing(last)
    assert_nothing(found.pop(1))
    assert found == [wilson(1, 2), wilson(2, 3), wilson(0, 1)]


def test_the_worst_group_has_simultaneous_intervals():
    """8 of 10 and 3 of 5 are right; Bonferroni over the two groups."""
    correct = np.concatenate([outcomes(8, 10), outcomes(3, 5)])
    found = metrics.worst_group_accuracy(correct, np.repeat([0, 1], [10, 5]), num_groups=2)
    ends = [wilson(right, n, 1 - 0.05 / 2)[1:3] for right, n in ((8, 10), (3, 5))]
    assert found == pytest.approx((0.6, *map(min, zip(*ends, strict=True)), 5), abs=1e-12)


def test_the_worst_group_is_unknown_if_one_is_empty():
    """As docs/benchmarks.md promises: 3 of 5 right in one of four groups is not 0.6."""
    correct, groups = np.array([1, 1, 1, 0, 0]), np.zeros(5, int)
    assert_nothing(metrics.worst_group_accuracy([], [], num_groups=0))
    for num_groups in (2, 4):
        assert_nothing(metrics.worst_group_accuracy(correct, groups, num_groups=num_groups))
    assert metrics.worst_group_accuracy(correct, groups, num_groups=1).value == 0.6
    both = metrics.worst_group_accuracy(correct, np.array([0, 0, 0, 0, 1]), num_groups=2)
    assert both.value == 0 and both.num_examples == 1


def test_gaps_of_two_sets_have_the_interval_of_a_difference():
    right = outcomes(56, 70), outcomes(48, 80)
    expected = difference(wilson(56, 70), wilson(48, 80))
    found = metrics.majority_minority_gap(np.concatenate(right), np.arange(150) < 70)
    assert found == expected._replace(num_examples=150)
    assert metrics.background_gap(*right, paired=False) == expected


def paired(both, first, second, neither):
    counts = (both, first, second, neither)
    return np.repeat([1, 1, 0, 0], counts), np.repeat([1, 0, 1, 0], counts)


@pytest.mark.parametrize(
    "counts, low, high", (((36, 12, 2, 0), 0.0569, 0.3404), ((1, 1, 7, 12), -0.507, -0.026))
)
def test_the_paired_gap_has_the_published_interval(counts, low, high):
    """Method 10 of Newcombe, Statistics in Medicine 17 (1998) 2635, and its square-and-add
    interval in Fagerland, Lydersen & Laake, Statistics in Medicine 33 (2014) 2850."""
    found = metrics.background_gap(*paired(*counts))
    # Published with three or four decimals.
    expected = (counts[1] - counts[2]) / sum(counts), low, high, sum(counts)
    assert found == pytest.approx(expected, abs=5e-4)
    assert found.value == pytest.approx(expected[0], abs=1e-12)


def test_the_paired_gap_uses_the_correlation():
    """Phi = (ad - bc) / sqrt(product of margins), negative here, so it is not corrected."""
    a, b, c, d = 10, 20, 16, 4
    n = a + b + c + d
    phi = (a * d - b * c) / math.sqrt((a + b) * (c + d) * (a + c) * (b + d))
    expected = difference(wilson(a + b, n), wilson(a + c, n), correlation=phi)
    assert metrics.background_gap(*paired(a, b, c, d)) == pytest.approx(expected, abs=1e-9)


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


def test_the_relative_gap_is_nan_if_nothing_is_right_on_mixed_same():
    assert_nothing(metrics.relative_background_gap([0, 0, 0], [1, 0, 1]), 3)


def formula(c, s):
    """The sensitivity for accuracies under noise on the core and on the rest."""
    room = 2 * min((c + s) / 2, 1 - (c + s) / 2)
    return (s - c) / room if room else 0


# (core, spurious, labels), then both class-balanced accuracies at each level.
SENSITIVITIES = (
    (([1, 0, 0, 1], [1, 1, 1, 0], [0, 0, 1, 1]), [1 / 2], [3 / 4]),  # (1/4) / (3/4) = 1/3
    (([1, 1, 1, 0], [1, 0, 0, 1], [0, 0, 1, 1]), [3 / 4], [1 / 2]),
    # Class 0 has three images, class 1 has one.
    (
        ([[1, 1, 0, 1], [1, 0, 1, 0]], [[1, 1, 1, 1], [1, 1, 1, 0]], [0, 0, 0, 1]),
        [(2 / 3 + 1) / 2, (2 / 3 + 0) / 2],
        [1, 1 / 2],
    ),
    # Two levels, two trials, three images: trials, images, classes, then levels.
    (
        (
            [[[1, 0, 1], [1, 0, 0]], [[0, 0, 0], [0, 1, 0]]],
            [[[1, 1, 1], [1, 0, 1]], [[1, 0, 0], [1, 1, 1]]],
            [0, 0, 1],
        ),
        [(2 / 4 + 1 / 2) / 2, (1 / 4 + 0 / 2) / 2],
        [(3 / 4 + 2 / 2) / 2, (3 / 4 + 1 / 2) / 2],
    ),
    # A level without room counts 0.
    (([[1, 1], [0, 1]], [[1, 1], [1, 0]], [0, 0]), [1, 1 / 2], [1, 1 / 2]),
    (([[1, 1], [0, 1]], [[1, 1], [1, 1]], [0, 0]), [1, 1 / 2], [1, 1]),
)


@pytest.mark.parametrize("arrays, a_c, a_s", SENSITIVITIES)
def test_relative_sensitivity_by_hand(arrays, a_c, a_s):
    """The formula of means over levels, or the mean of the formula over levels."""
    once = metrics.relative_sensitivity(*arrays)
    assert once.value == pytest.approx(formula(np.mean(a_c), np.mean(a_s)), abs=1e-12)
    each = metrics.relative_sensitivity(*arrays, average="sensitivities")
    assert each.value == pytest.approx(np.mean(list(map(formula, a_c, a_s))), abs=1e-12)
    assert once.num_examples == each.num_examples == len(arrays[2])


@pytest.mark.parametrize("right", (0, 1))
def test_relative_sensitivity_without_room_is_0(right):
    outcome = np.full((2, 6), right)
    estimate = metrics.relative_sensitivity(outcome, outcome, [0, 1, 2, 0, 1, 2])
    assert tuple(estimate) == (0, -1, 1, 6)  # nothing separates the regions


def test_balanced_accuracy_by_hand():
    """Class 5 has 2 of 3 right, class 9 its only image: (2/3 + 1) / 2, with MOVER."""
    found = metrics.balanced_accuracy([1, 0, 1, 1], [5, 5, 9, 5])
    ends = [wilson(2, 3), wilson(1, 1)]
    down = math.hypot(2 / 3 - ends[0].low, 1 - ends[1].low) / 2
    up = math.hypot(ends[0].high - 2 / 3, ends[1].high - 1) / 2
    assert found == pytest.approx((5 / 6, 5 / 6 - down, 5 / 6 + up, 4), abs=1e-9)


def test_balanced_accuracy_averages_trials_and_counts_an_image_once():
    """4/3 of 2 are right, not 4 of 6: trials of one image say nothing about other images."""
    trials = np.array([[1, 0, 1, 1], [1, 0, 0, 1], [1, 1, 0, 1]])
    found = metrics.balanced_accuracy(trials, [0, 0, 1, 1])
    assert metrics.balanced_accuracy(trials[:, None], [0, 0, 1, 1]) == found
    low, high = wilson(4 / 3, 2)[1:3]
    half = math.sqrt(2) / 2
    expected = 2 / 3, 2 / 3 - half * (2 / 3 - low), 2 / 3 + half * (high - 2 / 3), 4
    assert found == pytest.approx(expected, abs=1e-9)


WEIGHTS = (3498, 184, 56, 1057)


def test_adjusted_average_accuracy_by_hand():
    correct = np.concatenate([outcomes(k, n) for k, n in ((3, 4), (1, 2), (0, 1), (4, 5))])
    groups = np.repeat([0, 1, 2, 3], [4, 2, 1, 5])
    found = metrics.adjusted_average_accuracy(correct, groups, weights=WEIGHTS)
    expected = (3498 * 0.75 + 184 * 0.5 + 56 * 0 + 1057 * 0.8) / 4795
    assert found.value == pytest.approx(expected, abs=1e-12) and found.num_examples == 12
    assert found.low < expected < found.high
    assert_nothing(metrics.adjusted_average_accuracy([1, 0, 1], [0, 1, 3], weights=WEIGHTS), 3)


def test_the_interval_of_the_adjusted_average_covers_it_19_times_in_20():
    rng, sizes, shares = np.random.default_rng(0), (120, 60, 40, 80), (0.95, 0.6, 0.4, 0.85)
    groups = np.repeat(np.arange(4), sizes)
    truth, hits, runs = np.dot(WEIGHTS, shares) / sum(WEIGHTS), 0, 1000
    for _ in range(runs):
        correct = rng.random(len(groups)) < np.asarray(shares)[groups]
        found = metrics.adjusted_average_accuracy(correct, groups, weights=WEIGHTS)
        hits += found.low <= truth <= found.high
    assert abs(hits / runs - 0.95) < 4 * math.sqrt(0.95 * 0.05 / runs)


# Two corruptions at two severities of three images.
CELLS = np.array([[[1, 0, 1], [1, 0, 0]], [[1, 1, 1], [0, 0, 1]]])


def test_corruption_means_by_hand():
    accuracy = metrics.mean_corruption_accuracy(CELLS)
    assert accuracy.value == pytest.approx(7 / 12, abs=1e-12) and accuracy.num_examples == 3
    error = metrics.mean_corruption_error(CELLS, [0.5, 0.8])
    expected = ((3 / 6) / 0.5 + (2 / 6) / 0.8) / 2
    assert error.value == pytest.approx(expected, abs=1e-12) and error.num_examples == 3
    # The baseline has 1; 0 means that all are right.
    assert metrics.mean_corruption_error(CELLS, [1 / 2, 1 / 3]).value == pytest.approx(1, abs=1e-12)
    best = metrics.mean_corruption_error(np.ones((2, 2, 3)), [0.5, 0.8])
    scale = (1 / 0.5 + 1 / 0.8) / 2  # of three images: Wilson's upper end for 0 of 3
    assert best[:3] == pytest.approx((0, 0, scale * wilson(0, 3).high), abs=1e-9)
    assert metrics.mean_corruption_accuracy(np.ones((2, 2, 3))) == wilson(3, 3)


def test_corruption_intervals_are_those_of_a_mean_over_images():
    """Cells of an image are not independent: the spread is that of its mean over the cells."""
    rng = np.random.default_rng(0)
    correct = np.broadcast_to(rng.random(400) < 0.6, (3, 5, 400))
    found = metrics.mean_corruption_accuracy(correct)
    width = 2 * Z * correct[0, 0].std() / math.sqrt(400)
    assert found.high - found.low == pytest.approx(width, rel=0.1)
    error = metrics.mean_corruption_error(correct, [0.5, 0.5, 0.5])
    assert error.high - error.low == pytest.approx(2 * width, rel=0.1)


def test_memory_of_corruption_intervals_does_not_grow_with_the_images():
    """For 5,000 images; the real set of 50,000 may take ten times the memory."""
    rng = np.random.default_rng(0)
    correct = rng.random((15, 5, 5_000)) < 0.6
    tracemalloc.start()
    try:
        found = metrics.mean_corruption_error(correct, rng.uniform(0.5, 0.9, 15))
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert found.low < found.value < found.high
    assert peak < 64e6


@pytest.mark.parametrize("of_class", (1, 2, 5, 20))
def test_sensitivity_covers_the_truth_whatever_the_size_of_the_classes(of_class):
    """The probability to be right is 0.7 under core noise and 0.8 under noise on the rest."""
    rng = np.random.default_rng(0)
    labels, hits, runs = np.repeat(np.arange(200 // of_class), of_class), 0, 200
    for _ in range(runs):
        core, rest = rng.random(len(labels)) < 0.7, rng.random(len(labels)) < 0.8
        found = metrics.relative_sensitivity(core, rest, labels)
        hits += found.low <= 0.1 / (2 * 0.25) <= found.high
    # Standard error of a share of 0.95 in 200 runs: 0.015.
    assert hits / runs >= 0.89


def test_an_unpaired_relative_gap_resamples_the_sets_independently():
    same, rand = outcomes(240, 300), outcomes(250, 500)
    found = metrics.relative_background_gap(same, rand, paired=False)
    assert found.value == pytest.approx((0.8 - 0.5) / 0.8, abs=1e-12)
    # Delta method for 1 - b/a of independent a and b.
    spread = 0.5 / 0.8 * math.sqrt(0.2 / 0.8 / 300 + 0.5 / 0.5 / 500)
    assert found.high - found.low == pytest.approx(2 * Z * spread, rel=0.1)
    # For equal sets, a paired gap is always 0; unpaired draws must be independent.
    alike = metrics.relative_background_gap(same, same, paired=False)
    # No pair of 300 differs, but the interval has a length.
    none = metrics.relative_background_gap(same, same)
    assert none.low < none.value == 0 < none.high < 0.1
    assert alike.high - alike.low == pytest.approx(2 * Z * math.sqrt(2 * 0.25 / 300), rel=0.1)


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
        *(metrics.balanced_accuracy(np.zeros(shape), []) for shape in ((0,), (3, 0), (2, 3, 0))),
        metrics.majority_minority_gap(nothing, nothing),
        metrics.background_gap(nothing, nothing),
        metrics.relative_background_gap(nothing, nothing),
        metrics.background_gap(nothing, nothing, paired=False),
        metrics.relative_background_gap(nothing, nothing, paired=False),
        metrics.relative_sensitivity(nothing, nothing, nothing),
        metrics.relative_sensitivity(np.zeros((2, 3, 0)), np.zeros((2, 3, 0)), nothing),
        metrics.adjusted_average_accuracy(nothing, nothing, weights=WEIGHTS),
        metrics.mean_corruption_accuracy(np.zeros((15, 5, 0))),
        metrics.mean_corruption_error(np.zeros((2, 5, 0)), (0.5, 0.5)),
    ):
        assert_nothing(estimate)
    assert_nothing(metrics.majority_minority_gap([1, 0, 1], [True, True, True]), 3)


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
        (lambda: metrics.group_accuracy([1, 0], [1], num_groups=2), "one per example"),
        (lambda: metrics.group_accuracy([1, 0], [0, 2], num_groups=2), r"must be in \[0, 1\]"),
        (lambda: metrics.background_gap([1, 0], [1]), "one per example"),
        (lambda: metrics.relative_sensitivity([1, 0], [1, 1], [0]), "one per example"),
        (lambda: metrics.relative_sensitivity([1, 0], [1, 1, 1], [0, 0]), "one outcome per ex"),
        (lambda: metrics.relative_sensitivity([1, 2], [1, 1], [0, 0]), "correct_core_noise must"),
        (lambda: metrics.balanced_accuracy([1, 0], [0]), "one per example"),
        (lambda: metrics.balanced_accuracy([[1, 0.5]], [0, 0]), "must be 0 or 1"),
        (lambda: metrics.adjusted_average_accuracy([1], [0, 1], weights=(1, 1)), "one per example"),
        (lambda: metrics.mean_corruption_accuracy([[1, 0]]), r"\[corruptions, severities, n\]"),
        (lambda: metrics.mean_corruption_error(CELLS, [0.5]), "2 corruptions need as many"),
        (lambda: metrics.mean_corruption_error(CELLS, [0.0, 0.5]), "baseline errors > 0"),
        (lambda: metrics.mean_corruption_accuracy(100 * CELLS), "must be 0 or 1"),
        (
            lambda: metrics.relative_sensitivity([1, 0], [1, 1], [0, 0], average="accuracy"),
            "average = 'accuracy' is not known",
        ),
        (lambda: metrics.adjusted_average_accuracy([1], [2], weights=(1, 1)), r"must be in \[0"),
        (lambda: metrics.adjusted_average_accuracy([1], [-1], weights=(1, 1)), "groups must be"),
        (lambda: metrics.adjusted_average_accuracy([1], [1], weights=(0, 0)), ">= 0, not all 0"),
    ],
)
def test_bad_arguments_are_refused(call, message):
    with pytest.raises(InputError, match=message):
        call()

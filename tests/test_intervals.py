"""Intervals against SciPy, published values and simulated coverage."""

import math

import numpy as np
import pytest
from scipy import stats

from advspur import intervals
from advspur.intervals import Estimate, difference, mean_value, percentile, ratio, wilson


@pytest.mark.parametrize("level", (0.95, 0.8, 0.9975))
@pytest.mark.parametrize("right, n", ((0, 1), (0, 7), (7, 7), (3, 8), (41_234, 50_000)))
def test_wilson_agrees_with_scipy(right, n, level):
    expected = stats.binomtest(right, n).proportion_ci(level, method="wilson")
    found = wilson(right, n, level)
    assert found[:3] == pytest.approx((right / n, *expected), abs=1e-12)
    assert found.num_examples == n


@pytest.mark.parametrize("successes, n", ((2.4, 10), (0.2, 3), (6.6, 7)))
def test_ends_of_a_fractional_share_solve_the_score_equation(successes, n):
    """The ends are the two p with (share - p)^2 = z^2 p (1 - p) / n."""
    found, share = wilson(successes, n), successes / n
    z2 = stats.norm.ppf(0.975) ** 2
    assert found.value == pytest.approx(share, abs=1e-12)
    for end in (found.low, found.high):
        assert (share - end) ** 2 == pytest.approx(z2 * end * (1 - end) / n, abs=1e-12)
    assert found.low < share < found.high


def test_the_difference_has_the_published_interval():
    """56/70 - 48/80: method 10 in Table II of Newcombe, Statistics in Medicine 17 (1998) 873."""
    found = difference(wilson(56, 70), wilson(48, 80))
    assert found.value == pytest.approx(0.2, abs=1e-12)
    assert (found.low, found.high) == pytest.approx((0.0524, 0.3339), abs=5e-5)
    assert found.num_examples == 70


@pytest.mark.parametrize("correlation", (0.0, 0.5, -0.25, 1.0))
def test_the_difference_by_hand(correlation):
    """0.5 (0.4 to 0.7) - 0.3 (0.2 to 0.6): lengths below 0.1 and 0.3, above 0.2 and 0.1."""
    numbers = Estimate(0.5, 0.4, 0.7, 9), Estimate(0.3, 0.2, 0.6, 5)
    found = difference(*numbers, correlation=correlation)
    down = math.sqrt(0.01 + 0.09 - 2 * correlation * 0.03)
    up = math.sqrt(0.04 + 0.01 - 2 * correlation * 0.02)
    assert found[:3] == pytest.approx((0.2, 0.2 - down, 0.2 + up), abs=1e-12)
    assert found.num_examples == 5


def test_a_number_differs_from_itself_by_zero():
    one = wilson(5, 10)
    assert difference(one, one, correlation=1.0)[:3] == pytest.approx((0, 0, 0), abs=1e-7)
    assert all(map(math.isnan, difference(one, wilson(0, 0))[:3]))


@pytest.mark.parametrize(("shares", "sizes"), [((0.3, 0.7), (400, 900)), ((0.05, 0.5), (300, 80))])
def test_the_interval_of_a_ratio_covers_it(shares, sizes):
    """In about 95% of the draws: like Wilson's, the intervals are of discrete numbers."""
    draws, rng = 4000, np.random.default_rng(0)
    (a, b), (n, m) = shares, sizes
    tables = [[wilson(k, size) for k in range(size + 1)] for size in sizes]
    pairs = zip(rng.binomial(n, a, draws), rng.binomial(m, b, draws), strict=True)
    found = [ratio(tables[0][x], tables[1][y]) for x, y in pairs]
    covered = np.mean([e.low <= a / b <= e.high for e in found])
    assert abs(covered - 0.95) < 4 * math.sqrt(0.95 * 0.05 / draws)
    assert {e.num_examples for e in found} == {min(sizes)}


def test_ends_of_a_ratio():
    """(0.5, 0.4 to 0.6) over (0.8, 0.7 to 0.9) combines lengths sqrt(0.1^2 + (r 0.1)^2)."""
    found = ratio(Estimate(0.5, 0.4, 0.6, 9), Estimate(0.8, 0.7, 0.9, 7))
    assert found.value == pytest.approx(0.625, abs=1e-12) and found.num_examples == 7
    for end, sign in ((found.low, 1), (found.high, -1)):
        gap = 0.5 - end * 0.8  # at the end r, this is as long as its interval
        assert gap == pytest.approx(sign * 0.1 * math.hypot(1, end), abs=1e-12)
    certain = ratio(Estimate(0.5, 0.5, 0.5, 9), Estimate(0.8, 0.8, 0.8, 9))
    assert certain[:3] == pytest.approx(3 * [0.625], abs=1e-12)
    assert ratio(Estimate(0.0, 0.0, 0.1, 9), Estimate(0.8, 0.7, 0.9, 9))[:2] == (0, 0)
    for a, b in ((0.5, 0.0), (0.5, math.nan), (math.nan, 0.5)):
        assert math.isnan(ratio(Estimate(a, a, a, 9), Estimate(b, b, b, 9)).value)


VALUES = np.array([[1, 0.2], [0, 0.2], [1, 0.2], [0, 0.9], [1, 0.2]] * 8 + [[10, 3], [11, 3.5]] * 3)
STRATA = np.array([7] * 40 + [-1] * 6)


def test_resampled_means_begin_with_the_measured_ones_and_depend_on_the_seed():
    means = intervals.resampled_means(VALUES, STRATA, 0)
    np.testing.assert_array_equal(means, intervals.resampled_means(VALUES, STRATA, 0))
    assert np.any(means != intervals.resampled_means(VALUES, STRATA, 1))
    assert means.shape == (2, 1 + intervals.NUM_RESAMPLES, 2)  # strata in sorted order
    np.testing.assert_allclose(means[:, 0], [[10.5, 3.25], [0.6, 0.34]], rtol=1e-12)


def test_strata_keep_their_sizes_and_their_rows():
    (few, many) = intervals.resampled_means(VALUES, STRATA, 0)[:, 1:, 0]
    for means, size, low, high in ((few, 6, 10, 11), (many, 40, 0, 1)):
        np.testing.assert_allclose(means * size, np.rint(means * size), atol=1e-9)
        assert low <= means.min() < means.max() <= high


def test_the_draws_spread_as_the_theory_of_the_bootstrap_says():
    """Standard deviation sqrt(var / n) and the covariance of columns, in Monte Carlo errors."""
    for which, stratum in enumerate((-1, 7)):
        rows = VALUES[STRATA == stratum]
        draws = intervals.resampled_means(VALUES, STRATA, 3)[which, 1:]
        spread = rows.std(axis=0) / math.sqrt(len(rows))
        error = 5 / math.sqrt(2 * intervals.NUM_RESAMPLES)
        np.testing.assert_allclose(draws.std(axis=0), spread, rtol=error)
        gap = np.abs(draws.mean(axis=0) - rows.mean(axis=0))
        assert np.all(gap < 5 * spread / math.sqrt(intervals.NUM_RESAMPLES))
        expected = np.corrcoef(rows.T)[0, 1]
        assert abs(np.corrcoef(draws.T)[0, 1] - expected) < 5 / math.sqrt(intervals.NUM_RESAMPLES)


def test_percentiles_by_hand():
    """The 2.5% and 97.5% points of 0, 1, ..., 1999 are 0.025 * 1999 and 0.975 * 1999."""
    draws = np.random.default_rng(0).permutation(2000).astype(float)
    inside = percentile(np.r_[700.0, draws], 12)
    assert inside == pytest.approx((700, 49.975, 1949.025, 12), abs=1e-9)
    assert percentile(np.r_[-5.0, draws], 12)[:3] == pytest.approx((-5, -5, 1949.025), abs=1e-9)
    assert percentile(np.r_[1999.0, draws], 12)[:3] == pytest.approx((1999, 49.975, 1999), abs=1e-9)


def test_percentiles_ignore_undefined_draws():
    draws = np.r_[3.0, np.full(1000, np.nan), np.arange(1001.0)]
    assert percentile(draws, 4) == pytest.approx((3, 3, 975, 4), abs=1e-9)
    undefined = percentile(np.r_[np.nan, np.arange(2000.0)], 4)
    assert all(map(math.isnan, undefined[:3])) and undefined.num_examples == 4


def test_a_mean_has_students_interval():
    values = np.random.default_rng(0).exponential(size=11)
    ends = stats.ttest_1samp(values, 0).confidence_interval(0.95)
    assert mean_value(values) == pytest.approx((values.mean(), *ends, 11), abs=1e-12)
    assert all(map(math.isnan, mean_value([*values, np.nan])[:3]))


def test_means_of_one_equal_and_no_numbers():
    assert mean_value([2.0]) == pytest.approx((2, math.nan, math.nan, 1), nan_ok=True)
    assert mean_value([0.5] * 9) == pytest.approx((0.5, 0.5, 0.5, 9), abs=1e-12)
    for found in (mean_value([]), wilson(0, 0)):
        assert all(map(math.isnan, found[:3])) and found.num_examples == 0

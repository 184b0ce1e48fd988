"""Measured numbers with their intervals.

Shares have Wilson intervals; differences, ratios and weighted means combine those of their parts
(MOVER: the method of variance estimates recovery); other statistics are bootstrapped.
"""

import math
from typing import NamedTuple

import numpy as np

CONFIDENCE = 0.95  # of every interval
NUM_RESAMPLES = 2000
FEW_ROWS = 500  # distinct rows, for which counts are drawn
FEW_OF_CLASS = 10  # images, too few to resample within a class


class Estimate(NamedTuple):
    """A measured number with its 95% interval and the number of examples behind it."""

    value: float
    low: float
    high: float
    num_examples: int


NOTHING = Estimate(math.nan, math.nan, math.nan, 0)  # for an empty set


def wilson(successes, n, level=CONFIDENCE):
    """Estimate a share, with Wilson's score interval; NaN if n = 0.

    (p + z^2 / 2n -+ z sqrt(p (1 - p) / n + z^2 / 4n^2)) / (1 + z^2 / n), p = successes / n (Wilson,
    JASA 22 (1927) 209). `successes` may be fractional, as averages over trials are.
    """
    from scipy import special

    if n == 0:
        return NOTHING
    p, z2 = float(successes / n), float(special.ndtri((1 + level) / 2)) ** 2 / n
    half = math.sqrt(z2 * (p * (1 - p) + z2 / 4))
    low, high = (p + z2 / 2 - half) / (1 + z2), (p + z2 / 2 + half) / (1 + z2)
    return Estimate(p, min(max(low, 0.0), p), max(min(high, 1.0), p), int(n))


def mean_value(values):
    """Estimate the mean of per-example numbers, with Student's interval; NaN if one of them is."""
    from scipy import stats

    values = np.asarray(values, float)
    n = len(values)
    if n == 0:
        return NOTHING
    mean = float(values.mean())
    if n == 1:
        return Estimate(mean, math.nan, math.nan, 1)
    half = stats.t.ppf((1 + CONFIDENCE) / 2, n - 1) * values.std(ddof=1) / math.sqrt(n)
    return Estimate(mean, float(mean - half), float(mean + half), n)


def difference(a, b, *, correlation=0.0):
    """Estimate a - b (Newcombe, Statistics in Medicine 17 (1998) 873 and 2635, method 10).

    `correlation` is that of the outcomes behind a and b; 0 (independence) is conservative for two
    models on the same images.
    """

    def length(x, y):
        return math.sqrt(max(x * x - 2 * correlation * x * y + y * y, 0.0))

    gap = a.value - b.value
    low = gap - length(a.value - a.low, b.high - b.value)
    high = gap + length(a.high - a.value, b.value - b.low)
    return Estimate(gap, low, high, min(a.num_examples, b.num_examples))


def ratio(a, b):
    """Estimate a / b for independent numbers >= 0; NaN if b is 0.

    The upper end is inf if the interval of b contains 0 (Donner & Zou, Statistical Methods in
    Medical Research 21 (2012) 347).
    """
    n = min(a.num_examples, b.num_examples)
    if not b.value > 0 or math.isnan(a.value):
        return NOTHING._replace(num_examples=n)
    product = a.value * b.value

    def end(of_a, of_b, sign):
        room = of_b * (2 * b.value - of_b)
        if room <= 0:
            return math.inf if sign > 0 else 0.0
        root = product**2 - of_a * (2 * a.value - of_a) * room
        return (product + sign * math.sqrt(max(root, 0.0))) / room

    return Estimate(a.value / b.value, end(a.low, b.high, -1), end(a.high, b.low, 1), n)


def weighted_mean(sums, counts, weights):
    """Estimate the weighted mean of shares sums / counts; NaN if a part is empty.

    It combines Wilson intervals (Zou, Huang & Zhang, Computational Statistics & Data Analysis 53
    (2009) 1080).
    """
    if len(counts) == 0 or counts.min() == 0:
        return NOTHING._replace(num_examples=int(counts.sum()))
    parts = np.array([wilson(s, int(n))[:3] for s, n in zip(sums, counts, strict=True)])
    weights = weights / weights.sum()
    value, low, high = parts.T
    middle = float(weights @ value)
    below, above = (np.sqrt(weights**2 @ (end - value) ** 2) for end in (low, high))
    return Estimate(middle, float(middle - below), float(middle + above), int(counts.sum()))


def resampled_means(values, strata, seed):
    """Return the mean rows of each stratum [strata, 1 + NUM_RESAMPLES, d], measured and resampled.

    If few rows are distinct, as for outcomes, only their counts are drawn: cost and memory do not
    grow with n. Else rows [n, d] are drawn in blocks. Each stratum keeps its size.
    """
    rng, means = np.random.default_rng(seed), []
    for stratum in np.unique(strata):
        rows, counts = np.unique(values[strata == stratum], axis=0, return_counts=True)
        n = counts.sum()
        if len(rows) <= FEW_ROWS:
            draws = rng.multinomial(n, counts / n, size=NUM_RESAMPLES) @ rows / n
        else:
            of_stratum = values[strata == stratum]
            blocks = (rng.integers(n, size=(20, n)) for _ in range(NUM_RESAMPLES // 20))
            draws = np.concatenate([of_stratum[block].mean(axis=1) for block in blocks])
        means.append(np.vstack([counts @ rows / n, draws]))
    return np.stack(means)


def class_means(values, labels, seed):
    """Return the mean over classes of their mean rows [1 + NUM_RESAMPLES, d], as `resampled_means`.

    Images are resampled within classes. If a class has fewer than 10, which do not show its spread,
    all images are resampled together, with weights that balance the classes.
    """
    classes, index, counts = np.unique(labels, return_inverse=True, return_counts=True)
    if counts.min() >= FEW_OF_CLASS:
        return np.mean(resampled_means(values, labels, seed), axis=0)
    weights = (len(labels) / len(classes) / counts)[index][:, None]
    rows = np.concatenate([weights * values, weights], axis=1)
    means = resampled_means(rows, np.zeros(len(labels), int), seed)[0]
    return means[:, :-1] / means[:, -1:]


def percentile(statistic, num_examples):
    """Estimate a statistic from its [1 + NUM_RESAMPLES] values, the measured one first."""
    value, tail = float(statistic[0]), (1 - CONFIDENCE) / 2
    if math.isnan(value):
        return NOTHING._replace(num_examples=num_examples)
    low, high = np.nanquantile(statistic[1:], [tail, 1 - tail])
    # A percentile interval may miss its point; this one is widened to contain it.
    return Estimate(value, float(min(low, value)), float(max(high, value)), num_examples)

"""Intervals of counts and rank correlations over the models of a suite.

Within a suite this is a parametric bootstrap: each number is drawn from a normal distribution with
the standard deviation that its interval implies, and a baseline once for all models compared with
it. Over several settings of the data, settings and seeds are resampled.
"""

import numpy as np
from scipy import special, stats

from advspur.intervals import CONFIDENCE, NUM_RESAMPLES, percentile

NUM_DRAWS = 10_000


def count_beyond(families, sign):
    """The Estimate of how many models are above (`sign` 1) or below (-1) their baseline.

    Args:
      families: [(baseline, [models])], Estimates.
    """
    drawn = _draws([e for baseline, models in families for e in (baseline, *models)])
    counts, start = np.zeros(len(drawn)), 0
    for _, models in families:
        end = start + 1 + len(models)
        beyond = sign * (drawn[:, start + 1 : end] - drawn[:, [start]]) > 0
        counts, start = counts + beyond.sum(axis=1), end
    return percentile(counts, sum(len(models) for _, models in families))


def rank_correlation(curve):
    """The Estimate of Spearman's correlation of {budget: Estimate} with the budget.

    NaN if all numbers are equal; a draw in which they are equal counts as 0.
    """
    correlation = _spearman(np.array(list(curve), float), _draws(list(curve.values())))
    correlation[1:] = np.nan_to_num(correlation[1:])
    return percentile(correlation, len(curve))


def resampled(statistic, measured, predicted):
    """The Estimate of a statistic of measures [s, m, r] and predictions [s, m].

    Settings and seeds are resampled. The statistic maps all resamples at once, [b, s, m, r] and
    [b, s, m], to [b].
    """
    rng, (s, m, r) = np.random.default_rng(0), measured.shape
    settings, seeds = (
        np.vstack([np.arange(n), rng.integers(n, size=(NUM_RESAMPLES, n))]) for n in (s, r)
    )
    of_model = np.arange(m)[:, None]
    drawn = measured[settings[:, :, None, None], of_model, seeds[:, None, None]]
    return percentile(statistic(drawn, predicted[settings]), measured.size)


def over_all(measured, predicted):
    """[b]: Spearman's correlation of measures [b, s, m, r] with predictions [b, s, m]."""
    x, y = np.broadcast_arrays(predicted[..., None], measured)
    return _spearman(*(a.reshape(len(a), -1) for a in (x, y)))


def within(measured, predicted):
    """[b]: the mean of the correlations over the m models of each setting and seed."""
    return mean_known(_spearman(predicted[:, :, None], measured.swapaxes(-1, -2)))


def across(measured, predicted):
    """[b]: the mean of the correlations over the s settings of each model and seed."""
    return mean_known(
        _spearman(predicted.swapaxes(1, 2)[:, :, None], measured.transpose(0, 2, 3, 1))
    )


def _spearman(x, y):
    """Spearman's correlation along the last axis; NaN where one side is constant.

    Pairs with a NaN, such as the NFS of a model that is 0, are left out.
    """
    x, y = np.broadcast_arrays(x, y)
    known = np.isfinite(x) & np.isfinite(y)
    count = np.maximum(np.sum(known, axis=-1, keepdims=True), 1)

    def centred(values):
        ranks = stats.rankdata(np.where(known, values, np.inf), axis=-1)  # the last places
        ranks = np.where(known, ranks, 0)
        return np.where(known, ranks - np.sum(ranks, axis=-1, keepdims=True) / count, 0)

    x, y = centred(x), centred(y)
    size = np.sqrt(np.sum(x**2, axis=-1) * np.sum(y**2, axis=-1))
    return np.where(size > 0, np.sum(x * y, axis=-1) / np.where(size > 0, size, 1), np.nan)


def mean_known(values):
    """[b]: means of the finite values [b, ...]; NaN where there are none."""
    values = values.reshape(len(values), -1)
    known = np.isfinite(values)
    total, count = np.sum(np.where(known, values, 0), axis=1), np.sum(known, axis=1)
    return np.where(count, total / np.maximum(count, 1), np.nan)


def _draws(estimates):
    """[1 + NUM_DRAWS, n]: the measured numbers, then draws of them; the same for every call."""
    value, low, high, _ = np.array(estimates, float).T
    deviation = (high - low) / (2 * special.ndtri((1 + CONFIDENCE) / 2))
    noise = np.random.default_rng(0).standard_normal((NUM_DRAWS, len(value)))
    return np.vstack([value, value + deviation * noise])

"""Intervals of counts and rank correlations over the models of a suite.

A parametric bootstrap: each number is drawn from a normal distribution with the standard
deviation its interval implies, a baseline once for all models held against it.
"""

import numpy as np
from scipy import special, stats

from advspur.intervals import CONFIDENCE, percentile

NUM_DRAWS = 10_000


def count_beyond(families, sign):
    """The Estimate of how many models lie beyond (`sign` 1: above) their baseline.

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

    NaN where all numbers are equal; a draw in which they are counts as 0.
    """
    ranks = [stats.rankdata(x, axis=-1) for x in (list(curve), _draws(list(curve.values())))]
    budgets, values = (r - r.mean(axis=-1, keepdims=True) for r in ranks)
    spread = np.sqrt(np.sum(budgets**2) * np.sum(values**2, axis=1))
    known = spread > 0
    correlation = np.divide(values @ budgets, spread, out=np.zeros(len(spread)), where=known)
    correlation[0] = correlation[0] if known[0] else np.nan
    return percentile(correlation, len(curve))


def _draws(estimates):
    """[1 + NUM_DRAWS, n]: the measured numbers, then draws of them; the same for every call."""
    value, low, high, _ = np.array(estimates, float).T
    deviation = (high - low) / (2 * special.ndtri((1 + CONFIDENCE) / 2))
    noise = np.random.default_rng(0).standard_normal((NUM_DRAWS, len(value)))
    return np.vstack([value, value + deviation * noise])

"""Metrics of accuracy and reliance as pure functions of per-example outcomes.

Every function takes arrays with one entry an example (``correct``: 1.0 or True where the
prediction is right) and returns an `Estimate`: value, 95% interval, number of examples. An empty
set gives NaN, never 0. Accuracies are fractions.

>>> accuracy(np.array([1, 1, 1, 0]))
Estimate(value=0.75, low=0.3006..., high=0.9544..., num_examples=4)
"""

import functools
import math

import numpy as np

from advspur._checks import require
from advspur.records import CONFIDENCE, Estimate, wilson

NUM_RESAMPLES = 2000

__all__ = [
    "Estimate",
    "accuracy",
    "background_gap",
    "group_accuracy",
    "majority_minority_gap",
    "relative_background_gap",
    "relative_sensitivity",
    "worst_group_accuracy",
]


def accuracy(correct):
    """Share of correct examples, with the Wilson score interval.

    Args:
      correct: [n] bool or 0/1.
    """
    correct = _outcomes("correct", correct)
    return wilson(correct.sum(), len(correct), CONFIDENCE)


def group_accuracy(correct, groups, *, num_groups):
    """[num_groups] Estimates: the accuracy within each group; NaN for an empty one.

    Args:
      correct: [n] bool or 0/1.
      groups: [n] int in [0, num_groups).
    """
    correct = _outcomes("correct", correct)
    groups = _same_length(groups, correct)
    return [accuracy(correct[groups == g]) for g in range(num_groups)]


def worst_group_accuracy(correct, groups, *, num_groups):
    """The smallest accuracy over the groups that have examples.

    The interval holds for the true minimum: it is made of the groups' simultaneous Wilson
    intervals (Bonferroni over the groups), low = min of lows, high = min of highs. `num_examples`
    is that of the worst group.
    """
    correct = _outcomes("correct", correct)
    groups = _same_length(groups, correct)
    present = [g for g in range(num_groups) if np.any(groups == g)]
    if not present:
        return Estimate(math.nan, math.nan, math.nan, 0)
    level = 1 - (1 - CONFIDENCE) / len(present)
    of_groups = [
        wilson(correct[groups == g].sum(), int(np.sum(groups == g)), level) for g in present
    ]
    worst = min(of_groups, key=lambda estimate: estimate.value)
    return worst._replace(low=min(e.low for e in of_groups), high=min(e.high for e in of_groups))


def majority_minority_gap(correct, is_majority):
    """accuracy(majority) - accuracy(minority), with Newcombe's score interval.

    The two sets share no example: the unpaired interval of Newcombe, Statistics in Medicine 17
    (1998) 873, method 10, from the two Wilson intervals.
    """
    correct = _outcomes("correct", correct)
    is_majority = _same_length(is_majority, correct).astype(bool)
    a, b = accuracy(correct[is_majority]), accuracy(correct[~is_majority])
    return _difference(a, b, correlation=0.0, num_examples=len(correct))


def background_gap(correct_same, correct_rand):
    """accuracy(MIXED-SAME) - accuracy(MIXED-RAND) on the same objects (ImageNet-9's BG-gap).

    Paired interval of Newcombe, Statistics in Medicine 17 (1998) 2635, method 10: Wilson
    intervals joined with the correlation of the outcomes, a positive one corrected for
    continuity.

    Args:
      correct_same, correct_rand: [n], entry i of both is about the same object.
    """
    same, rand = _pair(correct_same, correct_rand)
    a, b = accuracy(same), accuracy(rand)
    n = len(same)
    both, neither = np.sum(same * rand), np.sum((1 - same) * (1 - rand))
    product = both * neither - np.sum(same * (1 - rand)) * np.sum((1 - same) * rand)
    product = max(product - n / 2, 0.0) if product > 0 else product
    spread = math.sqrt(same.sum() * (n - same.sum()) * rand.sum() * (n - rand.sum()))
    correlation = product / spread if spread > 0 else 0.0
    return _difference(a, b, correlation=correlation, num_examples=n)


def relative_background_gap(correct_same, correct_rand, *, seed=0):
    """background_gap / accuracy(MIXED-SAME), with a paired percentile bootstrap.

    NaN where nothing is right on MIXED-SAME.
    """
    same, rand = _pair(correct_same, correct_rand)

    def ratio(weights):
        a, b = weights @ same, weights @ rand
        return np.divide(a - b, a, out=np.full_like(a, np.nan), where=a > 0)

    return _bootstrap(ratio, np.zeros(len(same), int), seed)


def relative_sensitivity(correct_core_noise, correct_spurious_noise, labels, *, seed=0):
    """(a_s - a_c) / (2 min(a, 1 - a)), a = (a_s + a_c) / 2: RFS and RCS are this formula.

    a_c and a_s are accuracies under noise on the core (foreground) and on the spurious
    (background) region, each the plain mean over classes; positive: the model relies more on
    the core. 0 where a is 0 or 1, as nothing is left to tell the regions apart. Noise levels
    are averaged before the formula is applied once (RFS of means; Moayeri et al., CVPR 2022,
    arXiv 2201.10766). Percentile bootstrap within classes.

    Args:
      correct_core_noise, correct_spurious_noise: [n] or [levels, n], 0/1.
      labels: [n] int; classes without an example do not take part.
    """
    core, spurious = (
        np.mean([_outcomes(name, level) for level in np.atleast_2d(outcomes)], axis=0)
        for name, outcomes in (
            ("correct_core_noise", correct_core_noise),
            ("correct_spurious_noise", correct_spurious_noise),
        )
    )
    spurious = _same_length(spurious, core)
    labels = _same_length(labels, core)
    classes = np.unique(labels)

    def sensitivity(weights):
        a_c, a_s = (
            np.mean(
                [
                    weights[:, labels == k] @ x[labels == k] / weights[:, labels == k].sum(1)
                    for k in classes
                ],
                axis=0,
            )
            for x in (core, spurious)
        )
        mean = (a_c + a_s) / 2
        room = 2 * np.minimum(mean, 1 - mean)
        zero = np.zeros_like(room)
        return np.divide(a_s - a_c, room, out=zero, where=room > 1e-12)

    return _bootstrap(sensitivity, labels, seed)


def _bootstrap(statistic, strata, seed):
    """Estimate of statistic([rows, n] weights), resampling examples within strata."""
    n = len(strata)
    if n == 0:
        return Estimate(math.nan, math.nan, math.nan, 0)
    tail = (1 - CONFIDENCE) / 2
    value = statistic(np.ones((1, n)))[0]
    if math.isnan(value):
        return Estimate(math.nan, math.nan, math.nan, n)
    weights = _resampling_weights(tuple(strata.tolist()), seed)
    low, high = np.nanquantile(statistic(weights), [tail, 1 - tail])
    # A percentile interval need not hold its point; ours is widened to do so.
    return Estimate(float(value), float(min(low, value)), float(max(high, value)), n)


@functools.lru_cache(maxsize=2)  # the many numbers of one data set share their resamples
def _resampling_weights(strata, seed):
    """[NUM_RESAMPLES, n]: how often each example is drawn, strata keeping their sizes."""
    rng, strata = np.random.default_rng(seed), np.array(strata)
    weights = np.empty((NUM_RESAMPLES, len(strata)))
    for stratum in np.unique(strata):
        members = np.flatnonzero(strata == stratum)
        share = np.full(len(members), 1 / len(members))
        weights[:, members] = rng.multinomial(len(members), share, size=NUM_RESAMPLES)
    return weights


def _difference(a, b, *, correlation, num_examples):
    """Newcombe's interval of a - b from the intervals of a and b."""
    low_a, high_a = a.value - a.low, a.high - a.value
    low_b, high_b = b.value - b.low, b.high - b.value

    def length(x, y):
        return math.sqrt(max(x * x - 2 * correlation * x * y + y * y, 0.0))

    gap = a.value - b.value
    return Estimate(gap, gap - length(low_a, high_b), gap + length(high_a, low_b), num_examples)


def _outcomes(name, correct):
    correct = np.asarray(correct, float)
    require(correct.ndim == 1, f"{name} has shape {correct.shape}; expected [n]")
    require(np.all((correct == 0) | (correct == 1)), f"{name} must be 0 or 1 for each example")
    return correct


def _same_length(array, correct):
    array = np.asarray(array)
    require(
        array.shape == correct.shape,
        f"got {array.shape} entries for {correct.shape} outcomes; one an example is needed",
    )
    return array


def _pair(a, b):
    a, b = _outcomes("the first argument", a), _outcomes("the second argument", b)
    return a, _same_length(b, a)

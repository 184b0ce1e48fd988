"""Metrics of accuracy and reliance as pure functions of per-example outcomes.

Each returns an `Estimate`: value, 95% interval, number of examples; NaN for an empty set, never 0.
Arrays have one entry per example: `correct` [n], bool or 0/1, is whether its prediction is right;
`groups` and `labels` [n] are integers from 0, and labels without examples are ignored.

>>> accuracy(np.array([1, 1, 1, 0]))
Estimate(value=0.75, low=0.3006..., high=0.9544..., num_examples=4)
"""

import math

import numpy as np

from advspur import intervals
from advspur._checks import check_choice, require
from advspur.intervals import NOTHING, Estimate, difference, percentile, weighted_mean, wilson
from advspur.intervals import ratio as accuracy_ratio

CELLS = ("[corruptions, severities, n]",)


def accuracy(correct):
    """Return the share of correct examples, with Wilson's score interval."""
    correct = _outcomes("correct", correct)
    return wilson(correct.sum(), len(correct))


def group_accuracy(correct, groups, *, num_groups, level=intervals.CONFIDENCE):
    """Return the accuracy of each group, [num_groups] Estimates at `level`; NaN if it is empty."""
    correct = _outcomes("correct", correct)
    groups = _groups(groups, correct, num_groups)
    of_groups = [correct[groups == g] for g in range(num_groups)]
    return [wilson(of_group.sum(), len(of_group), level) for of_group in of_groups]


def worst_group_accuracy(correct, groups, *, num_groups):
    """Return the smallest group accuracy, with its number of examples; NaN if a group is empty.

    The interval covers the true minimum: its ends are the smallest low and the smallest high of
    simultaneous Wilson intervals (Bonferroni over the groups).
    """
    level = 1 - (1 - intervals.CONFIDENCE) / max(num_groups, 1)
    each = group_accuracy(correct, groups, num_groups=num_groups, level=level)
    if not each or not all(e.num_examples for e in each):
        return NOTHING
    worst = min(each, key=lambda estimate: estimate.value)
    return worst._replace(low=min(e.low for e in each), high=min(e.high for e in each))


def balanced_accuracy(correct, labels):
    """Return the unweighted mean over classes of the accuracy within each class.

    Interval: see `intervals.weighted_mean`; an image counts once, however many trials it has.

    Args:
      correct: [n], [levels, n] or [levels, trials, n], averaged over levels and trials.
    """
    correct = _levels("correct", correct).mean(axis=0)
    classes, index = np.unique(_same_length(labels, correct), return_inverse=True)
    counts = np.bincount(index, minlength=len(classes))
    sums = np.bincount(index, weights=correct, minlength=len(classes))
    return weighted_mean(sums, counts, np.ones(len(classes)))


def adjusted_average_accuracy(correct, groups, *, weights):
    """Return sum_g weights_g accuracy_g / sum_g weights_g; NaN if a group is empty.

    With the group sizes of the training set as weights, it is the accuracy at the training
    proportions (Sagawa et al., ICLR 2020, arXiv 1911.08731).

    Args:
      weights: [num_groups] >= 0.
    """
    correct, weights = _outcomes("correct", correct), np.asarray(weights, float)
    is_good = np.all(weights >= 0) and weights.sum() > 0
    require(is_good, f"weights = {weights}: they must be >= 0, not all 0")
    groups = _groups(groups, correct, len(weights)).astype(int)
    counts = np.bincount(groups, minlength=len(weights))
    return weighted_mean(np.bincount(groups, correct, len(weights)), counts, weights)


def majority_minority_gap(correct, is_majority):
    """Return accuracy(majority) - accuracy(minority), with the interval of `difference`."""
    correct = _outcomes("correct", correct)
    is_majority = _same_length(is_majority, correct).astype(bool)
    gap = difference(accuracy(correct[is_majority]), accuracy(correct[~is_majority]))
    return gap._replace(num_examples=len(correct))


def background_gap(correct_same, correct_rand, *, paired=True):
    """Return accuracy(MIXED-SAME) - accuracy(MIXED-RAND), ImageNet-9's BG-gap.

    Interval: that of `difference`. If `paired`, entry i of both sets shows the same object, and the
    interval uses the correlation of the outcomes (a positive one corrected for continuity). Else
    the sets may differ in size.
    """
    if not paired:
        return difference(accuracy(correct_same), accuracy(correct_rand))
    same, rand = _pair(correct_same, correct_rand)
    n = len(same)
    both, neither = np.sum(same * rand), np.sum((1 - same) * (1 - rand))
    product = both * neither - np.sum(same * (1 - rand)) * np.sum((1 - same) * rand)
    product = max(product - n / 2, 0.0) if product > 0 else product
    spread = math.sqrt(same.sum() * (n - same.sum()) * rand.sum() * (n - rand.sum()))
    correlation = product / spread if spread > 0 else 0.0
    return difference(accuracy(same), accuracy(rand), correlation=correlation)


def relative_background_gap(correct_same, correct_rand, *, paired=True, seed=0):
    """Return background_gap / accuracy(MIXED-SAME), with a percentile bootstrap, paired or not.

    NaN if nothing is right on MIXED-SAME.
    """
    if paired:
        sets = [np.stack(_pair(correct_same, correct_rand), axis=1)]
    else:
        sets = [_outcomes("correct", x)[:, None] for x in (correct_same, correct_rand)]
    num_examples = min(map(len, sets))
    if num_examples == 0:
        return NOTHING
    means = [  # two sets are resampled independently
        intervals.resampled_means(x, np.zeros(len(x), int), seed + i)[0] for i, x in enumerate(sets)
    ]
    same, rand = np.concatenate(means, axis=1).T
    gap = np.divide(same - rand, same, out=np.full_like(same, np.nan), where=same > 0)
    if np.ptp(gap) > 0 or math.isnan(gap[0]):
        return percentile(gap, num_examples)
    # Resampling constant outcomes gives no interval: use 1 - rand / same with Wilson intervals.
    share = accuracy_ratio(accuracy(correct_rand), accuracy(correct_same))
    return Estimate(1 - share.value, 1 - share.high, 1 - share.low, num_examples)


def relative_sensitivity(
    correct_core_noise, correct_spurious_noise, labels, *, average="accuracies", seed=0
):
    """Return (a_s - a_c) / (2 min(a, 1 - a)), a = (a_s + a_c) / 2: the formula of RFS and RCS.

    a_c and a_s are accuracies under noise on the core (foreground) and on the spurious (background)
    region, each the unweighted mean over classes. A positive value means that the model relies more
    on the core. If a is 0 or 1, nothing separates the regions: the value is 0 and the interval
    [-1, 1] (Moayeri et al., CVPR 2022, arXiv 2201.10766). Interval: percentile bootstrap, see
    `intervals.class_means`.

    Args:
      correct_core_noise, correct_spurious_noise: [n], [levels, n] or [levels, trials, n].
      average: "accuracies" averages a_c and a_s over the levels and applies the formula once (as
        the authors do); "sensitivities" averages the formula over the levels.
    """
    core = _levels("correct_core_noise", correct_core_noise)
    spurious = _levels("correct_spurious_noise", correct_spurious_noise)
    require(core.shape == spurious.shape, "both regions need one outcome per example")
    check_choice("average", average, ("accuracies", "sensitivities"))
    if average == "accuracies":
        core, spurious = core.mean(0, keepdims=True), spurious.mean(0, keepdims=True)
    labels = _same_length(labels, core[0])
    if len(labels) == 0:
        return NOTHING
    values = np.concatenate([core, spurious]).T
    a_c, a_s = np.split(intervals.class_means(values, labels, seed), 2, axis=-1)
    mean = (a_c + a_s) / 2
    room = 2 * np.minimum(mean, 1 - mean)
    formula = np.divide(a_s - a_c, room, out=np.zeros_like(room), where=room > 1e-12)
    if np.all(room[0] <= 1e-12):
        return Estimate(0.0, -1.0, 1.0, len(labels))
    return percentile(formula.mean(axis=-1), len(labels))


def mean_corruption_accuracy(correct):
    """Return the accuracy averaged over severities and corruptions; bootstrap over images.

    Args:
      correct: [corruptions, severities, n]; entry i of every cell is the same image.
    """
    return _mean_over_images(_outcomes("correct", correct, CELLS).mean(axis=(0, 1)))


def mean_corruption_error(correct, baseline_errors):
    """Return mCE, the mean over corruptions of error / baseline error; 1 equals the baseline.

    Errors are means over severities; bootstrap over images (Hendrycks & Dietterich, ICLR 2019).

    Args:
      correct: as in `mean_corruption_accuracy`.
      baseline_errors: [corruptions], AlexNet's mean errors as fractions.
    """
    errors = 1 - _outcomes("correct", correct, CELLS).mean(axis=1)  # [corruptions, n]
    baseline = np.asarray(baseline_errors, float)
    require(
        baseline.shape == errors.shape[:1] and np.all(baseline > 0),
        f"{len(errors)} corruptions need as many baseline errors > 0, got {baseline}",
    )
    scores = np.mean(errors / baseline[:, None], axis=0)
    return _mean_over_images(scores, float(np.mean(1 / baseline)))


def _mean_over_images(scores, scale=1.0):
    """Estimate the mean of scores [n], which are shares times about `scale`."""
    if len(scores) == 0:
        return NOTHING
    if np.ptp(scores) > 0:
        means = intervals.resampled_means(scores[:, None], np.zeros(len(scores), int), seed=0)
        return percentile(means[0, :, 0], len(scores))
    # Resampling constant scores gives no interval: use Wilson's, of the share.
    value, low, high, n = wilson(np.clip(scores / scale, 0, 1).sum(), len(scores))
    return Estimate(float(scores[0]), low * scale, high * scale, n)


def _levels(name, correct):
    """Average the trials: [levels, n]."""
    correct = _outcomes(name, correct, ("[n]", "[levels, n]", "[levels, trials, n]"))
    return correct.mean(axis=1) if correct.ndim == 3 else np.atleast_2d(correct)


def _outcomes(name, correct, shapes=("[n]",)):
    correct = np.asarray(correct, float)
    fault = f"{name} has shape {correct.shape}; expected {' or '.join(shapes)}"
    require(correct.ndim in [shape.count(",") + 1 for shape in shapes], fault)
    require(np.all((correct == 0) | (correct == 1)), f"{name} must be 0 or 1 for each example")
    return correct


def _same_length(array, correct):
    array = np.asarray(array)
    message = f"got {array.shape} entries for {correct.shape} outcomes; give one per example"
    require(array.shape == correct.shape, message)
    return array


def _groups(groups, correct, num_groups):
    groups = _same_length(groups, correct)
    in_range = np.all((groups >= 0) & (groups < num_groups))
    require(in_range, f"groups must be in [0, {num_groups - 1}]")
    return groups


def _pair(a, b):
    a = _outcomes("the first argument", a)
    return a, _same_length(_outcomes("the second argument", b), a)

"""Metrics of accuracy and reliance as pure functions of per-example outcomes.

Each returns an `Estimate`: value, 95% interval, number of examples; an empty set gives NaN, never
0. Arrays have one entry an example: `correct` [n], bool or 0/1, is whether its prediction is right;
`groups` and `labels` [n] are int from 0, and labels without an example do not take part.

>>> accuracy(np.array([1, 1, 1, 0]))
Estimate(value=0.75, low=0.3006..., high=0.9544..., num_examples=4)
"""

import math

import numpy as np

from advspur._checks import check_choice, require
from advspur.intervals import (
    CONFIDENCE,
    NOTHING,
    Estimate,
    class_means,
    difference,
    percentile,
    resampled_means,
    weighted_mean,
    wilson,
)
from advspur.intervals import ratio as accuracy_ratio

CELLS = ("[corruptions, severities, n]",)


def accuracy(correct):
    """Share of correct examples, with the Wilson score interval."""
    correct = _outcomes("correct", correct)
    return wilson(correct.sum(), len(correct), CONFIDENCE)


def group_accuracy(correct, groups, *, num_groups, level=CONFIDENCE):
    """[num_groups] Estimates at `level`: the accuracy within each group; NaN for an empty one."""
    correct = _outcomes("correct", correct)
    groups = _same_length(groups, correct)
    is_known = np.all((groups >= 0) & (groups < num_groups))
    require(is_known, f"groups must be in [0, {num_groups - 1}]")
    of_groups = [correct[groups == g] for g in range(num_groups)]
    return [wilson(of_group.sum(), len(of_group), level) for of_group in of_groups]


def worst_group_accuracy(correct, groups, *, num_groups):
    """The smallest accuracy over the groups, with its number of examples; NaN where one is empty.

    The interval holds for the true minimum: it is made of the groups' simultaneous Wilson
    intervals (Bonferroni over the groups), low = min of lows, high = min of highs.
    """
    level = 1 - (1 - CONFIDENCE) / max(num_groups, 1)
    found = group_accuracy(correct, groups, num_groups=num_groups, level=level)
    if not found or not all(e.num_examples for e in found):
        return NOTHING
    worst = min(found, key=lambda estimate: estimate.value)
    return worst._replace(low=min(e.low for e in found), high=min(e.high for e in found))


def balanced_accuracy(correct, labels):
    """The plain mean over classes of the accuracy within each class.

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
    """sum_g weights_g accuracy_g / sum_g weights_g: the average of group-robustness papers.

    With the training set's group sizes as weights it is the accuracy on data mixed as in
    training (Sagawa et al., ICLR 2020, arXiv 1911.08731). NaN where a group is empty.

    Args:
      weights: [num_groups] >= 0.
    """
    correct = _outcomes("correct", correct)
    groups, weights = _same_length(groups, correct).astype(int), np.asarray(weights, float)
    require(np.all(weights >= 0) and weights.sum() > 0, f"weights = {weights}: >= 0, not all 0")
    in_range = np.all((groups >= 0) & (groups < len(weights)))
    require(in_range, f"groups must be in [0, {len(weights) - 1}]")
    counts = np.bincount(groups, minlength=len(weights))
    return weighted_mean(np.bincount(groups, correct, len(weights)), counts, weights)


def majority_minority_gap(correct, is_majority):
    """accuracy(majority) - accuracy(minority): two sets, with the interval of `difference`."""
    correct = _outcomes("correct", correct)
    is_majority = _same_length(is_majority, correct).astype(bool)
    gap = difference(accuracy(correct[is_majority]), accuracy(correct[~is_majority]))
    return gap._replace(num_examples=len(correct))


def background_gap(correct_same, correct_rand, *, paired=True):
    """accuracy(MIXED-SAME) - accuracy(MIXED-RAND), ImageNet-9's BG-gap.

    The interval of `difference`; where `paired`, entry i of both is about the same object, and the
    correlation of the outcomes counts, a positive one corrected for continuity. Else the two may
    differ in length.
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
    """background_gap / accuracy(MIXED-SAME), with a percentile bootstrap, paired or not.

    NaN where nothing is right on MIXED-SAME.
    """
    if paired:
        sets = [np.stack(_pair(correct_same, correct_rand), axis=1)]
    else:
        sets = [_outcomes("correct", x)[:, None] for x in (correct_same, correct_rand)]
    num_examples = min(map(len, sets))
    if num_examples == 0:
        return NOTHING
    # Of two sets each is resampled on its own, with draws of its own.
    means = [resampled_means(x, np.zeros(len(x), int), seed + i)[0] for i, x in enumerate(sets)]
    same, rand = np.concatenate(means, axis=1).T
    gap = np.divide(same - rand, same, out=np.full_like(same, np.nan), where=same > 0)
    if np.ptp(gap) > 0 or math.isnan(gap[0]):
        return percentile(gap, num_examples)
    # Resampling constant outcomes tells nothing: 1 - rand / same from the two Wilson intervals.
    share = accuracy_ratio(accuracy(correct_rand), accuracy(correct_same))
    return Estimate(1 - share.value, 1 - share.high, 1 - share.low, num_examples)


def relative_sensitivity(
    correct_core_noise, correct_spurious_noise, labels, *, average="accuracies", seed=0
):
    """(a_s - a_c) / (2 min(a, 1 - a)), a = (a_s + a_c) / 2: RFS and RCS are this formula.

    a_c and a_s are accuracies under noise on the core (foreground) and on the spurious
    (background) region, each the plain mean over classes; positive: the model relies more on
    the core. 0 where a is 0 or 1, as nothing is left to tell the regions apart, and then with the
    interval [-1, 1] (Moayeri et al., CVPR 2022, arXiv 2201.10766). Percentile bootstrap, see
    `intervals.class_means`.

    Args:
      correct_core_noise, correct_spurious_noise: [n], or [levels, n], or [levels, trials, n].
      average: of the levels: "accuracies" averages a_c and a_s over them, then applies the formula
        once (as the authors do); "sensitivities" averages the levels' values of the formula.
    """
    core = _levels("correct_core_noise", correct_core_noise)
    spurious = _levels("correct_spurious_noise", correct_spurious_noise)
    require(core.shape == spurious.shape, "one outcome an example is needed of both regions")
    check_choice("average", average, ("accuracies", "sensitivities"))
    if average == "accuracies":
        core, spurious = core.mean(0, keepdims=True), spurious.mean(0, keepdims=True)
    labels = _same_length(labels, core[0])
    if len(labels) == 0:
        return NOTHING
    values = np.concatenate([core, spurious]).T
    a_c, a_s = np.split(class_means(values, labels, seed), 2, axis=-1)
    mean = (a_c + a_s) / 2
    room = 2 * np.minimum(mean, 1 - mean)
    formula = np.divide(a_s - a_c, room, out=np.zeros_like(room), where=room > 1e-12)
    if np.all(room[0] <= 1e-12):
        return Estimate(0.0, -1.0, 1.0, len(labels))
    return percentile(formula.mean(axis=-1), len(labels))


def mean_corruption_accuracy(correct):
    """Accuracy averaged over severities, then over corruptions; bootstrap over images.

    Args:
      correct: [corruptions, severities, n], entry i of every cell about the same image.
    """
    return _mean_over_images(_outcomes("correct", correct, CELLS).mean(axis=(0, 1)))


def mean_corruption_error(correct, baseline_errors):
    """mCE: the mean over corruptions of error / baseline error (Hendrycks & Dietterich, ICLR 2019).

    Errors are means over severities; 1 is as bad as the baseline. Bootstrap over images.

    Args:
      correct: as for `mean_corruption_accuracy`.
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
    """The mean of [n] scores that are shares times about `scale`."""
    if len(scores) == 0:
        return NOTHING
    if np.ptp(scores) > 0:
        means = resampled_means(scores[:, None], np.zeros(len(scores), int), seed=0)
        return percentile(means[0, :, 0], len(scores))
    # Resampling constant scores tells nothing: Wilson's interval of the share.
    value, low, high, n = wilson(np.clip(scores / scale, 0, 1).sum(), len(scores))
    return Estimate(float(scores[0]), low * scale, high * scale, n)


def _levels(name, correct):
    """[levels, n]: trials averaged."""
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
    got = f"got {array.shape} entries for {correct.shape} outcomes"
    require(array.shape == correct.shape, f"{got}; one an example is needed")
    return array


def _pair(a, b):
    a = _outcomes("the first argument", a)
    return a, _same_length(_outcomes("the second argument", b), a)

"""Accuracy of each part of a data set, and what follows from the outcomes of several parts."""

import numpy as np

from advspur import metrics
from advspur._checks import check_choice, require
from advspur.data.label_maps import SUBSETS
from advspur.intervals import Estimate
from advspur.predict import correct_on
from advspur.records import record


def accuracy_records(model, parts, *, key=None, balanced=False, subsets=(), **running):
    """`accuracy` of each part, and the facts of the data that its Table holds.

    Args:
      balanced: whether `balanced_accuracy`, the mean over classes, is measured too.
      subsets: names of `label_maps.SUBSETS`: the accuracy on their classes alone.
    """
    records = []
    for part, table in parts.items():
        found, about = correct_on(model, table, **running), {"part": part}
        right, labels = found["correct"], found["label"]
        records.append(record("accuracy", metrics.accuracy(right), options=about))
        if balanced:
            estimate = metrics.balanced_accuracy(right, labels)
            records.append(record("balanced_accuracy", estimate, options=about))
        for name in subsets:
            estimate = metrics.accuracy(right[SUBSETS[name]()[labels]])
            records.append(record("accuracy", estimate, options=about | {"classes": name}))
        for name, value in table.facts.items():
            fact = Estimate(value, value, value, len(table))
            records.append(record(name, fact, options=about))
    return records


def background_gap_records(
    model, parts, *, key=None, same="mixed_same", rand="mixed_rand", **running
):
    """`background_gap` and `relative_background_gap` between two parts.

    Paired where the parts have equal columns `pair`: the same objects in the same order.
    """
    check_choice("same", same, tuple(parts))
    check_choice("rand", rand, tuple(parts))
    pairs = [parts[part].columns.get("pair") for part in (same, rand)]
    paired = pairs[0] is not None and np.array_equal(*pairs)
    right = [correct_on(model, parts[part], **running)["correct"] for part in (same, rand)]
    names = ("background_gap", "relative_background_gap")
    found = {name: getattr(metrics, name)(*right, paired=paired) for name in names}
    return [record(name, gap, options={"paired": paired}) for name, gap in found.items()]


def corruption_records(model, parts, *, key=None, baseline_errors=(), **running):
    """`mean_corruption_accuracy`, and `mean_corruption_error` relative to a baseline.

    Args:
      parts: {"<corruption>/<severity>": Table}, all of the same images in the same order.
      baseline_errors: {corruption: the baseline's mean error over the severities}; 1 is as bad.
    """
    cells, baseline_errors = {}, dict(baseline_errors)
    for part, table in parts.items():
        right = correct_on(model, table, **running)["correct"]
        cells.setdefault(part.split("/")[0], []).append(right)
    require(cells.keys() == baseline_errors.keys(), f"corruptions are {', '.join(cells)}")
    right = np.array([cells[name] for name in baseline_errors])
    accuracy = metrics.mean_corruption_accuracy(right)
    error = metrics.mean_corruption_error(right, list(baseline_errors.values()))
    found = {"mean_corruption_accuracy": accuracy, "mean_corruption_error": error}
    return [record(name, estimate, options={}) for name, estimate in found.items()]

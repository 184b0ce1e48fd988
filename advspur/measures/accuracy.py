"""Accuracy of the parts of a data set, gaps between backgrounds, and corruption errors."""

import numpy as np

from advspur import metrics
from advspur._checks import check_choice, require
from advspur.data.label_maps import SUBSETS
from advspur.intervals import Estimate
from advspur.predict import correct_on
from advspur.records import record


def accuracy_records(model, parts, *, key=None, balanced=False, subsets=(), **running):
    """Measure `accuracy` of each part, and record the `facts` of its Table.

    Args:
      balanced: also measure `balanced_accuracy`, the mean over classes.
      subsets: names in `label_maps.SUBSETS`; also measure the accuracy on their classes.
    """
    records = []
    for part, table in parts.items():
        outcomes, options = correct_on(model, table, **running), {"part": part}
        right, labels = outcomes["correct"], outcomes["label"]
        records.append(record("accuracy", metrics.accuracy(right), options=options))
        if balanced:
            estimate = metrics.balanced_accuracy(right, labels)
            records.append(record("balanced_accuracy", estimate, options=options))
        for name in subsets:
            estimate = metrics.accuracy(right[SUBSETS[name]()[labels]])
            records.append(record("accuracy", estimate, options=options | {"classes": name}))
        for name, value in table.facts.items():
            fact = Estimate(value, value, value, len(table))
            records.append(record(name, fact, options=options))
    return records


def background_gap_records(
    model, parts, *, key=None, same="mixed_same", rand="mixed_rand", **running
):
    """Measure `background_gap` and `relative_background_gap` between two parts.

    They are paired if the parts have equal columns `pair`: the same objects in the same order.
    """
    check_choice("same", same, tuple(parts))
    check_choice("rand", rand, tuple(parts))
    pairs = [parts[part].columns.get("pair") for part in (same, rand)]
    paired = pairs[0] is not None and np.array_equal(*pairs)
    right = [correct_on(model, parts[part], **running)["correct"] for part in (same, rand)]
    return [
        record(gap.__name__, gap(*right, paired=paired), options={"paired": paired})
        for gap in (metrics.background_gap, metrics.relative_background_gap)
    ]


def corruption_records(model, parts, *, key=None, baseline_errors=(), **running):
    """Measure `mean_corruption_accuracy`, and `mean_corruption_error` relative to a baseline.

    Args:
      parts: {"<corruption>/<severity>": Table}, all with the same images in the same order.
      baseline_errors: {corruption: mean error of the baseline over the severities}.
    """
    cells, baseline_errors = {}, dict(baseline_errors)
    for part, table in parts.items():
        right = correct_on(model, table, **running)["correct"]
        cells.setdefault(part.split("/")[0], []).append(right)
    require(cells.keys() == baseline_errors.keys(), f"corruptions are {', '.join(cells)}")
    right = np.array([cells[name] for name in baseline_errors])
    accuracy = metrics.mean_corruption_accuracy(right)
    error = metrics.mean_corruption_error(right, list(baseline_errors.values()))
    return [
        record("mean_corruption_accuracy", accuracy, options={}),
        record("mean_corruption_error", error, options={}),
    ]

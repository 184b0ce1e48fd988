"""Accuracy of groups: each, the worst, majority against minority, the adjusted average."""

import numpy as np

from advspur import metrics
from advspur.predict import correct_on
from advspur.records import record


def groups(model, parts, *, key=None, train_counts=None, **running):
    """Group accuracies of each part with the columns `group` and `is_majority`.

    `majority_accuracy`, `minority_accuracy`, `majority_minority_gap`, `worst_group_accuracy`; where
    the groups have names also `group_accuracy` of each; `adjusted_average_accuracy` where the sizes
    of the training groups are known.

    Args:
      train_counts: the sizes of the training groups, by code; None: unknown.
      running: batch_size, cache_dir and progress of `predict.outcomes`.
    """
    records = []
    for part, table in parts.items():
        codes, about = table.columns["group"], {"part": part}
        right = correct_on(model, table, **running)["correct"]
        names = table.names.get("group", ())
        number = len(names) or int(codes.max()) + 1
        estimates = group_estimates("accuracy", right, table.columns["is_majority"])
        del estimates["accuracy"]  # a measure of its own
        estimates["worst_group_accuracy"] = metrics.worst_group_accuracy(
            right, codes, num_groups=number
        )
        if train_counts is not None:
            estimates["adjusted_average_accuracy"] = metrics.adjusted_average_accuracy(
                right, codes, weights=train_counts
            )
        records += [record(name, e, options=about) for name, e in estimates.items()]
        each = metrics.group_accuracy(right, codes, num_groups=len(names))
        for name, estimate in zip(names, each, strict=True):
            records.append(record("group_accuracy", estimate, options=about | {"group": name}))
    return records


def group_estimates(metric, right, is_majority):
    """{metric: Estimate} of all outcomes, of majority and minority, and of the gap between them."""
    gap = "gap" if metric == "accuracy" else f"{metric}_gap"
    is_majority = np.asarray(is_majority, bool)
    return {
        metric: metrics.accuracy(right),
        f"majority_{metric}": metrics.accuracy(right[is_majority]),
        f"minority_{metric}": metrics.accuracy(right[~is_majority]),
        f"majority_minority_{gap}": metrics.majority_minority_gap(right, is_majority),
    }

"""Accuracy of groups: each, the worst, majority against minority, the adjusted average."""

import numpy as np

from advspur import metrics
from advspur.predict import correct_on
from advspur.records import record


def group_records(model, parts, *, key=None, **running):
    """Group accuracies of each part with the column `group`.

    `worst_group_accuracy`; with the column `is_majority` also `majority_accuracy`,
    `minority_accuracy` and `majority_minority_gap`; `group_accuracy` of each group that has a name;
    `adjusted_average_accuracy` where the sizes of the training groups are known.
    """
    records, known = [], _known_groups(parts)
    for part, table in parts.items():
        codes, about = np.searchsorted(known, table.columns["group"]), {"part": part}
        right = correct_on(model, table, **running)["correct"]
        names = [table.names["group"][code] for code in known] if "group" in table.names else []
        estimates = {}
        if "is_majority" in table.columns:
            estimates = group_estimates("accuracy", right, table.columns["is_majority"])
            del estimates["accuracy"]  # a measure of its own
        worst = metrics.worst_group_accuracy(right, codes, num_groups=len(known))
        estimates["worst_group_accuracy"] = worst
        if table.train_groups is not None:
            weights = np.asarray(table.train_groups)[known]
            average = metrics.adjusted_average_accuracy(right, codes, weights=weights)
            estimates["adjusted_average_accuracy"] = average
        records += [record(name, e, options=about) for name, e in estimates.items()]
        each = metrics.group_accuracy(right, codes, num_groups=len(known)) if names else []
        for name, estimate in zip(names, each, strict=True):
            records.append(record("group_accuracy", estimate, options=about | {"group": name}))
    return records


def _known_groups(parts):
    """The codes of the groups that there are, in training or in a part; all that have no name."""
    tables = parts.values()
    found = np.unique(np.concatenate([table.columns["group"] for table in tables]))
    if not all("group" in table.names for table in tables):
        return np.arange(found.max() + 1)
    in_train = [np.flatnonzero(table.train_groups or ()) for table in tables]
    return np.unique(np.concatenate([found, *in_train])).astype(int)


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

"""Group accuracies: each group, the worst, majority and minority, the adjusted average."""

import numpy as np

from advspur import metrics
from advspur.predict import correct_on
from advspur.records import record


def group_records(model, parts, *, key=None, **running):
    """Measure the group accuracies of each part with a column `group`.

    `worst_group_accuracy`; with a column `is_majority` also `majority_accuracy`,
    `minority_accuracy` and `majority_minority_gap`; with names of groups, `group_accuracy` of each;
    with sizes of the training groups, `adjusted_average_accuracy`.
    """
    records, known = [], _known_groups(parts)
    for part, table in parts.items():
        codes, options = np.searchsorted(known, table.columns["group"]), {"part": part}
        right = correct_on(model, table, **running)["correct"]
        estimates = {}
        if "is_majority" in table.columns:
            estimates = group_estimates("accuracy", right, table.columns["is_majority"])
            del estimates["accuracy"]  # the measure "accuracy" records it
        worst = metrics.worst_group_accuracy(right, codes, num_groups=len(known))
        estimates["worst_group_accuracy"] = worst
        if table.train_groups is not None:
            weights = np.asarray(table.train_groups)[known]
            average = metrics.adjusted_average_accuracy(right, codes, weights=weights)
            estimates["adjusted_average_accuracy"] = average
        records += [record(name, e, options=options) for name, e in estimates.items()]
        if "group" in table.names:
            each = metrics.group_accuracy(right, codes, num_groups=len(known))
            for code, estimate in zip(known, each, strict=True):
                group = options | {"group": table.names["group"][code]}
                records.append(record("group_accuracy", estimate, options=group))
    return records


def _known_groups(parts):
    """Return the codes of the groups in training or in a part; without names, of all up to them."""
    tables = parts.values()
    present = np.unique(np.concatenate([table.columns["group"] for table in tables]))
    if not all("group" in table.names for table in tables):
        return np.arange(present.max() + 1)
    in_train = [np.flatnonzero(table.train_groups or ()) for table in tables]
    return np.unique(np.concatenate([present, *in_train])).astype(int)


def group_estimates(metric, right, is_majority):
    """Return {metric: Estimate} for all images, majority and minority, and the gap of the two."""
    gap = "gap" if metric == "accuracy" else f"{metric}_gap"
    is_majority = np.asarray(is_majority, bool)
    return {
        metric: metrics.accuracy(right),
        f"majority_{metric}": metrics.accuracy(right[is_majority]),
        f"minority_{metric}": metrics.accuracy(right[~is_majority]),
        f"majority_minority_{gap}": metrics.majority_minority_gap(right, is_majority),
    }

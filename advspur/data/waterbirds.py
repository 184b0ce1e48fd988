"""Waterbirds (Sagawa et al., ICLR 2020): birds of two kinds on backgrounds of two kinds.

A linear probe on frozen features; the gap between images whose background goes with the bird
(majority) and those where it does not (minority). The released labels are kept, also
those of the three species that a substring match mislabelled.
"""

import functools
from pathlib import Path

import numpy as np

from advspur._checks import check_numbers, require
from advspur.benchmarks import metrics
from advspur.benchmarks.features import cached_features
from advspur.data.layouts import (
    file_table,
    load_options,
    missing_text,
    names_outside,
    read_rows,
    require_data,
    require_whole,
    squared_transform,
    with_defaults,
    without_unreadable,
)
from advspur.records import record
from advspur.training.probe import check_fit, fit_linear_probe, fit_logistic_regression

NUM_CLASSES = ()  # any: it uses features
DIRECTORIES = ("waterbird_complete95_forest2water2", "waterbirds")
LAYOUT = "metadata.csv and <nnn.Species>/*.jpg, as the release unpacks"
SPLITS = ("train", "val", "test")
GROUPS = ("landbird on land", "landbird on water", "waterbird on land", "waterbird on water")
MAJORITY = (0, 3)
GROUP_BITS = ("0", "1")  # values of y and place
GROUP_COUNTS = {  # by 2 y + place
    "train": (3498, 184, 56, 1057),
    "val": (467, 466, 133, 133),
    "test": (2255, 2255, 642, 642),
}
SIZES = {split: sum(counts) for split, counts in GROUP_COUNTS.items()}
COLUMNS = ("img_filename", "y", "split", "place")


@functools.lru_cache(maxsize=1)
def load(data_dir, *, allow_partial=False, skip_unreadable=False):
    """{split: Table} with the columns label and group; 256 x 256 exactly, then centre 224."""
    root = Path(data_dir).expanduser()
    rows = read_metadata(root)
    missing = [row["img_filename"] for row in rows if not (root / row["img_filename"]).is_file()]
    fault = missing_text(missing, len(rows), "images")
    require_whole(fault, root, allow_partial=allow_partial)
    absent, parts = set(missing), {}
    for number, split in enumerate(SPLITS):
        chosen = [r for r in rows if int(r["split"]) == number and r["img_filename"] not in absent]
        labels, places = (np.array([int(r[c]) for r in chosen], int) for c in ("y", "place"))
        groups = 2 * labels + places
        counts = tuple(np.bincount(groups, minlength=len(GROUPS)).tolist())
        fault = f"groups of {split} have {counts} images, {GROUP_COUNTS[split]} are published"
        fault = "" if counts == GROUP_COUNTS[split] else fault
        require_whole(fault, root, allow_partial=allow_partial)
        require_data(chosen, f"{split} images", root, LAYOUT)
        paths = [root / row["img_filename"] for row in chosen]
        parts[split] = file_table(2, paths, labels, squared_transform, group=groups)
    return without_unreadable(parts, skip_unreadable)


def read_metadata(root):
    """The rows of metadata.csv, checked: whole numbers where they belong."""
    file = root / "metadata.csv"
    require_data(file.is_file(), "Waterbirds", root, LAYOUT)
    rows = read_rows(file)
    for number, row in enumerate(rows, start=2):
        is_whole = all(row.get(c) for c in COLUMNS) and (
            row["y"] in GROUP_BITS
            and row["place"] in GROUP_BITS
            and row["split"] in ("0", "1", "2")
        )
        require(
            is_whole, f"{file} line {number} is damaged; the columns needed: {', '.join(COLUMNS)}"
        )
    require(rows, f"{file} is empty")
    outside = names_outside(file, [row["img_filename"] for row in rows])
    require(not outside, f"{file} {''.join(outside[:1])} is outside the folder")
    return rows


def num_passes(data_dir, **options):
    """Forward passes over an image that `evaluate` makes."""
    given = with_defaults(evaluate, options)
    check_numbers("sensitivity_learning_rates", given["sensitivity_learning_rates"])
    check_fit(
        learning_rates=(given["learning_rate"], *given["sensitivity_learning_rates"]),
        weight_decay=given["weight_decay"],
        num_epochs=given["num_epochs"],
        batch_size=given["probe_batch_size"],
    )
    return sum(map(len, load(data_dir, **load_options(load, options)).values()))


def evaluate(
    classifier,
    data_dir,
    *,
    batch_size,
    key,
    progress=None,
    cache_dir=None,
    learning_rate=5e-4,
    sensitivity_learning_rates=(1e-5, 1e-4, 1e-3),
    weight_decay=1e-4,
    probe_batch_size=32,
    num_epochs=10,
    **reading,
):
    """Group accuracies of a linear probe on the test split, for several heads.

    Head "adam" is the headline: `num_epochs` epochs, the one of highest accuracy on the released
    val split kept. That split balances the places, so it favours less biased heads.
    The others: "adam, learning rate ..." for each of `sensitivity_learning_rates`, and "lbfgs", the
    converged logistic regression with the same weight decay, which selects nothing.

    Args:
      classifier: any model; its features are used.
      key: of the probe's start and order.
      cache_dir: where features are kept.
    """
    parts = load(data_dir, **reading)
    features = {
        split: cached_features(
            classifier,
            table,
            "waterbirds: resize 256 x 256, crop 224",
            cache_dir=cache_dir,
            batch_size=batch_size,
            progress=progress,
        )
        for split, table in parts.items()
    }
    labels = {split: table.columns["label"] for split, table in parts.items()}
    rates = (learning_rate, *sensitivity_learning_rates)
    probes = fit_linear_probe(
        features["train"],
        labels["train"],
        (features["val"], labels["val"]),
        num_classes=2,
        learning_rates=rates,
        weight_decay=weight_decay,
        batch_size=probe_batch_size,
        num_epochs=num_epochs,
        key=key,
    )
    names = ["adam", *(f"adam, learning rate {rate:g}" for rate in sensitivity_learning_rates)]
    heads = dict(zip(names, probes, strict=True))
    heads["lbfgs"] = fit_logistic_regression(
        features["train"], labels["train"], num_classes=2, weight_decay=weight_decay
    )
    groups = parts["test"].columns["group"]
    records = []
    for name, probe in heads.items():
        correct = probe.predict(features["test"]) == labels["test"]
        records += _group_records(correct, groups, {"head": name})
    return records


def _group_records(correct, groups, options):
    is_majority = np.isin(groups, MAJORITY)
    estimates = {
        "accuracy": metrics.accuracy(correct),
        "majority_accuracy": metrics.accuracy(correct[is_majority]),
        "minority_accuracy": metrics.accuracy(correct[~is_majority]),
        "majority_minority_gap": metrics.majority_minority_gap(correct, is_majority),
        "worst_group_accuracy": metrics.worst_group_accuracy(correct, groups, num_groups=4),
        "adjusted_average_accuracy": metrics.adjusted_average_accuracy(
            correct, groups, weights=GROUP_COUNTS["train"]
        ),
    }
    records = [record(name, estimate, options=options) for name, estimate in estimates.items()]
    of_groups = metrics.group_accuracy(correct, groups, num_groups=len(GROUPS))
    for name, estimate in zip(GROUPS, of_groups, strict=True):
        records.append(record("group_accuracy", estimate, options=options | {"group": name}))
    return records

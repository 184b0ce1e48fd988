"""Group-robust heads as heads of a model, fitted to the parts `train` and `val` of its data."""

import jax
import numpy as np

from advspur._checks import require
from advspur.heads.class_maps import as_it_is
from advspur.heads.selection import WEIGHT_DECAYS, Examples, check_heads, fit_heads, require_groups
from advspur.models import with_head
from advspur.predict import features_on


def with_robust_heads(model, parts, *, key, running, heads=(), **options):
    """[(what records say of it, model with head)] of heads fitted to `train`, chosen on `val`.

    `parts`: {"train": Table, "val": Table}; `options`: of `fit_heads`.
    """
    named = f"{model.name or 'the model'} has no features for the heads {', '.join(heads)}"
    require(model.has_features, named)
    _require_parts(parts, heads)
    examples = {}
    for part in ("train", "val"):
        found, columns = features_on(model, parts[part], **running), parts[part].columns
        groups, is_majority = columns.get("group"), columns.get("is_majority")
        minority = None if is_majority is None else ~np.asarray(is_majority, bool)
        groups = None if groups is None else np.asarray(groups)
        examples[part] = Examples(found["features"], found["label"], groups, minority)
    seed = [int(number) for number in jax.random.key_data(key).ravel()]  # for NumPy
    call = {"num_classes": parts["train"].num_classes, "seed": seed}
    fitted = fit_heads(examples["train"], examples["val"], heads, **call, **options)
    return [
        (
            {"head": name, "selected_by": h.selected_by, "val_score": h.score, **h.chosen},
            with_head(model, h.kernel, h.bias),
        )
        for name, h in fitted.items()
    ]


def plan_robust(parts, *, heads, **options):
    """Forward passes over an image of `as_it_is_and_robust`; its options are checked, and whether
    the parts have what the heads need."""
    check_heads(heads, **options)
    if heads and parts:
        _require_parts(parts, heads)
        groups = {part: parts[part].columns.get("group") for part in ("train", "val")}
        require_groups(heads, options["selected_by"], groups)
    return sum(len(parts[part]) for part in ("train", "val") if heads and part in parts)


def as_it_is_and_robust(
    model,
    parts,
    *,
    key,
    running,
    heads=(),
    selected_by="worst_group",
    balancing="weights",
    weight_decays=WEIGHT_DECAYS,
):
    """The model's own classes, the headline, and `heads` with the options of `fit_heads`."""
    found, key = as_it_is(model, parts, key=key)
    if heads:
        of_heads = {"heads": heads, "selected_by": selected_by, "balancing": balancing}
        of_heads |= {"weight_decays": weight_decays, "key": key}
        found += with_robust_heads(model, parts, running=running, **of_heads)
    return found, key


def _require_parts(parts, heads):
    for part in ("train", "val"):
        text = f"the heads {', '.join(heads)} need the part {part}; there is none"
        require(part in parts, text)

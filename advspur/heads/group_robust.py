"""Group-robust heads as heads of a model, fitted to the parts `train` and `val` of its data."""

import jax
import numpy as np

from advspur._checks import require
from advspur.heads.class_maps import as_it_is
from advspur.heads.selection import WEIGHT_DECAYS, Examples, check_heads, fit_heads, require_groups
from advspur.models import with_head
from advspur.predict import features_on


def with_robust_heads(model, parts, *, key, running, heads=(), **options):
    """Return [(fields of the records, model with head)] for heads fitted to `train`.

    Args:
      parts: {"train": Table, "val": Table}.
      options: those of `fit_heads`, which chooses on `val`.
    """
    if not heads:
        return []
    name = model.name or "the model"
    require(model.has_features, f"{name} has no features for the heads {', '.join(heads)}")
    _require_parts(parts, heads)

    def examples(table):
        outcomes, columns = features_on(model, table, **running), table.columns
        groups, is_majority = columns.get("group"), columns.get("is_majority")
        return Examples(
            outcomes["features"],
            outcomes["label"],
            None if groups is None else np.asarray(groups),
            None if is_majority is None else ~np.asarray(is_majority, bool),
        )

    fitted = fit_heads(
        examples(parts["train"]),
        examples(parts["val"]),
        heads,
        num_classes=parts["train"].num_classes,
        seed=jax.random.key_data(key).ravel().tolist(),  # for NumPy
        **options,
    )
    return [
        (
            {"head": name, "selected_by": h.selected_by, "val_score": h.score, **h.chosen},
            with_head(model, h.kernel, h.bias),
        )
        for name, h in fitted.items()
    ]


def plan_robust(parts, *, heads, **options):
    """Return the forward passes of `as_it_is_and_robust`, in images.

    Raises: InputError for bad options, or parts without what the heads need.
    """
    check_heads(heads, **options)
    if not (heads and parts):
        return 0
    _require_parts(parts, heads)
    groups = {part: parts[part].columns.get("group") for part in ("train", "val")}
    require_groups(heads, options["selected_by"], groups)
    return len(parts["train"]) + len(parts["val"])


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
    """Return the model itself as the headline, and `heads` with the options of `fit_heads`."""
    options = {"selected_by": selected_by, "balancing": balancing, "weight_decays": weight_decays}
    as_is, _ = as_it_is(model, parts, key=key)
    robust = with_robust_heads(model, parts, key=key, running=running, heads=heads, **options)
    return as_is + robust, key


def _require_parts(parts, heads):
    for part in ("train", "val"):
        require(part in parts, f"the heads {', '.join(heads)} need the part {part}; there is none")

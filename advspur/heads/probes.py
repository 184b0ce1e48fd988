"""Linear probes on frozen features, as heads of a data set."""

import jax
import numpy as np

from advspur._checks import check_numbers, require
from advspur.heads.group_robust import plan_robust, with_robust_heads
from advspur.heads.linear import check_fit, fit_linear_probe, fit_logistic_regression
from advspur.heads.selection import OPTIONS, WEIGHT_DECAYS
from advspur.models import with_head
from advspur.predict import features_on


def plan_probes(parts, *, learning_rate, sensitivity_learning_rates, with_lbfgs, held_out, **fit):
    """Forward passes over an image that `probes` makes; its options are checked."""
    plan_robust(parts, **{name: fit.pop(name) for name in OPTIONS})
    check_numbers("sensitivity_learning_rates", sensitivity_learning_rates)
    check_fit(learning_rates=(learning_rate, *sensitivity_learning_rates), **fit)
    require(0 < held_out < 1, f"held_out = {held_out}: it must be between 0 and 1")
    return sum(len(parts[part]) for part in ("train", "val") if part in parts)


def probes(
    model,
    parts,
    *,
    key,
    running,
    learning_rate=1e-5,
    sensitivity_learning_rates=(),
    with_lbfgs=False,
    weight_decay=1e-4,
    batch_size=32,
    num_epochs=10,
    held_out=0.1,
    heads=(),
    selected_by="worst_group",
    balancing="weights",
    weight_decays=WEIGHT_DECAYS,
):
    """Linear probes on the features of the part `train`.

    Head "adam" is the headline: `num_epochs` epochs, the one of highest accuracy on the part `val`
    kept, or on the share `held_out` of `train` where there is no `val`. The others: "adam, learning
    rate ..." for each of `sensitivity_learning_rates`, and "lbfgs", the converged logistic
    regression with the same weight decay, which selects nothing.

    Then those of `heads`, names of `selection.HEADS`, with the options of `selection.fit_heads`:
    these need a part `val`.
    """
    found = features_on(model, parts["train"], **running)
    features, labels = found["features"], found["label"]
    if "val" in parts:
        chosen_on = features_on(model, parts["val"], **running)
        validation, head_key = (chosen_on["features"], chosen_on["label"]), key
    else:  # as RIVAL10 is measured: the noise has a key of its own
        head_key, key = jax.random.split(key)
        order = np.random.default_rng(0).permutation(len(labels))
        kept, rest = np.split(order, [len(order) - max(1, round(held_out * len(order)))])
        validation = features[rest], labels[rest]
        features, labels = features[kept], labels[kept]
    fit = {"num_classes": parts["train"].num_classes, "weight_decay": weight_decay}
    fitted = fit_linear_probe(
        features,
        labels,
        validation,
        learning_rates=(learning_rate, *sensitivity_learning_rates),
        batch_size=batch_size,
        num_epochs=num_epochs,
        key=head_key,
        **fit,
    )
    names = ["adam", *(f"adam, learning rate {rate:g}" for rate in sensitivity_learning_rates)]
    if with_lbfgs:
        names.append("lbfgs")
        fitted.append(fit_logistic_regression(features, labels, **fit))
    found = [
        ({"head": name}, with_head(model, probe.kernel, probe.bias))
        for name, probe in zip(names, fitted, strict=True)
    ]
    if heads:
        of_heads = {"heads": heads, "selected_by": selected_by, "balancing": balancing}
        of_heads |= {"weight_decays": weight_decays, "key": head_key}
        # The features were passed and counted above.
        quiet = running | {"progress": None}
        found += with_robust_heads(model, parts, running=quiet, **of_heads)
    return found, key

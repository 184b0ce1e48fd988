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
    """Return the forward passes of `probes`, in images; raise InputError for bad options."""
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
    """Fit linear probes to the features of the part `train`.

    The headline is head "adam", with the epoch of highest accuracy on the part `val` or, without
    one, on the share `held_out` of `train`. Then follow "adam, learning rate ..." for each of
    `sensitivity_learning_rates`; "lbfgs", the converged logistic regression with the same weight
    decay, which selects nothing; and `heads`, names of `selection.HEADS`, with the options of
    `selection.fit_heads`: these need a part `val`.
    """
    outcomes = features_on(model, parts["train"], **running)
    features, labels = outcomes["features"], outcomes["label"]
    if "val" in parts:
        outcomes = features_on(model, parts["val"], **running)
        validation, head_key = (outcomes["features"], outcomes["label"]), key
    else:  # the protocol of RIVAL10, where the noise has a different key
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
    robust = with_robust_heads(
        model,
        parts,
        key=head_key,
        running=running | {"progress": None},  # these passes were counted above
        heads=heads,
        selected_by=selected_by,
        balancing=balancing,
        weight_decays=weight_decays,
    )
    headed = [
        ({"head": name}, with_head(model, probe.kernel, probe.bias))
        for name, probe in zip(names, fitted, strict=True)
    ]
    return headed + robust, key

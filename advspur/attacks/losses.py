"""Losses that attacks maximise: logits [n, k] and labels [n] -> [n], larger is worse for the model.

`targets` [n], the classes to reach, select the targeted form.
"""

import jax
import jax.numpy as jnp
import optax

from advspur._checks import check_choice, require

TINY = 1e-12


def cross_entropy(logits, labels, targets=None):
    """-log softmax(logits)[label]; targeted: log softmax(logits)[target]."""
    if targets is not None:
        return -cross_entropy(logits, targets)
    return optax.softmax_cross_entropy_with_integer_labels(logits, labels)


def margin(logits, labels, targets=None):
    """max_{k != label} logits_k - logits_label, > 0 if misclassified; targeted: k is the target."""
    if targets is not None:
        return _pick(logits, targets) - _pick(logits, labels)
    is_label = jax.nn.one_hot(labels, logits.shape[-1], dtype=bool)
    return jnp.max(logits, axis=-1, where=~is_label, initial=-jnp.inf) - jnp.sum(
        logits, axis=-1, where=is_label
    )


def dlr(logits, labels, targets=None):
    """Difference of logits ratio: the margin over the spread of the largest logits.

    margin / (z_(1) - z_(3)), targeted: margin / (z_(1) - (z_(3) + z_(4)) / 2), with z_(i) the i-th
    largest logit. Unlike cross entropy, it does not vanish for large logits. Needs 3 classes, 4 if
    targeted (Croce & Hein, ICML 2020, arXiv 2003.01690).
    """
    if targets is None:
        largest = jax.lax.top_k(logits, 3)[0]
        spread = largest[:, 0] - largest[:, 2]
    else:
        largest = jax.lax.top_k(logits, 4)[0]
        spread = largest[:, 0] - (largest[:, 2] + largest[:, 3]) / 2
    return margin(logits, labels, targets) / (spread + TINY)


LOSSES = {"cross_entropy": cross_entropy, "margin": margin, "dlr": dlr}


def loss_function(name, num_classes, *, targeted=False):
    """Return the loss called `name` (a function is returned as it is); refuse too few classes."""
    if callable(name):
        return name
    check_choice("loss", name, tuple(LOSSES))
    needed = 3 + targeted if name == "dlr" else 2
    require(
        num_classes >= needed,
        f"loss = {name!r}{' with targets' if targeted else ''} needs {needed} classes, the model "
        f"has {num_classes}; use loss = 'margin'",
    )
    return LOSSES[name]


def _pick(logits, classes):
    return jnp.take_along_axis(logits, classes[:, None], axis=-1)[:, 0]

"""The strongest attack there is on a linear classifier, exactly.

For logits = <weights, x> + bias the largest margin inside ball and box is the largest over the
other classes k of max <w_k - w_label, d>, and each of those is solved exactly by `box.ascend`:
coordinate by coordinate for linf, by filling up to a level for l2, greedily for l1. The share of
what is possible that an attack finds is its calibration (scripts/calibrate.py).
"""

import jax
import jax.numpy as jnp

from advspur._checks import attack_arrays, require
from advspur.attacks.box import add, ascend, safe_radius
from advspur.attacks.parts import keep


def linear_logits(weights, bias):
    """images [n, h, w, c] -> [n, k]: the classifier with `weights` [h, w, c, k], `bias` [k]."""
    return lambda images: jnp.tensordot(images, weights, axes=3) + bias


def worst_case(weights, bias, images, labels, *, p, epsilon, bounds=(0.0, 1.0)):
    """The images of largest margin max_{k != label} logits_k - logits_label in ball and box.

    Args:
      weights: [h, w, c, num_classes].
      bias: [num_classes].
    Returns: [n, h, w, c]; an image can be attacked if and only if it is misclassified there.
    """
    images, labels, epsilon = attack_arrays(images, labels, p=p, epsilon=epsilon, bounds=bounds)
    weights, bias = jnp.asarray(weights, images.dtype), jnp.asarray(bias, images.dtype)
    require(
        weights.shape[:-1] == images.shape[1:] and bias.shape == weights.shape[-1:],
        f"weights have shape {weights.shape} and bias {bias.shape}; "
        f"expected {(*images.shape[1:], 'num_classes')} and ('num_classes',)",
    )

    def towards(best, other):
        direction = weights[..., other] - jnp.moveaxis(weights[..., labels], -1, 0)
        radius = safe_radius(epsilon, p=p)
        delta = jax.vmap(lambda w, low, high, r: ascend(w, low, high, p=p, radius=r))(
            direction, bounds[0] - images, bounds[1] - images, radius
        )
        x = add(images, delta, bounds=bounds)
        margin = jnp.sum(direction * x, axis=(1, 2, 3)) + bias[other] - bias[labels]
        return keep(best, (x, margin), (margin > best[1]) & (labels != other)), None

    start = images, jnp.full(len(images), -jnp.inf, images.dtype)
    (worst, _), _ = jax.lax.scan(towards, start, jnp.arange(len(bias)))
    return worst

"""The strongest possible attack on a linear classifier, exactly.

For logits = <weights, x> + bias, the largest margin inside ball and box is the largest over the
other classes k of max <w_k - w_label, d>, and `box.ascend` solves each of those exactly. Attacks
are calibrated by the share of the possible successes that they find (scripts/calibrate.py).
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from advspur._checks import attack_arrays, check_count, require
from advspur.attacks.apgd import apgd
from advspur.attacks.box import add, ascend, safe_radius
from advspur.attacks.fab import fab
from advspur.attacks.parts import keep
from advspur.attacks.pgd import pgd
from advspur.attacks.square import square

ATTACKS = {  # (logits_fn, images, labels, key, *, p, epsilon) -> images
    "pgd": functools.partial(pgd, loss="margin", num_steps=100),
    "apgd-ce": apgd,
    "apgd-dlr": functools.partial(apgd, loss="dlr"),
    "fab": fab,
    "square": functools.partial(square, num_queries=1000),
}


def linear_logits(weights, bias):
    """Return images [n, h, w, c] -> logits [n, k], with `weights` [h, w, c, k] and `bias` [k]."""
    return lambda images: jnp.tensordot(images, weights, axes=3) + bias


def worst_case(weights, bias, images, labels, *, p, epsilon, bounds=(0.0, 1.0)):
    """Return the images of largest margin max_{k != label} logits_k - logits_label in ball and box.

    Arguments as in `pgd`, and:

    Args:
      weights: [h, w, c, num_classes].
      bias: [num_classes].
    Returns: [n, h, w, c]; an image can be attacked if and only if its worst case is misclassified.
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


def calibrate(key, *, p, attacks=ATTACKS, num_images=256, size=16, num_classes=10):
    """Return (epsilon, number of images that can be attacked, {attack: number of its successes}).

    Images are random, with a third of the pixels 0 and a third 1; labels are the predictions of a
    random linear classifier. Epsilon is the median of the images' exact least budgets.
    """
    check_count("num_images", num_images)
    check_count("size", size)
    check_count("num_classes", num_classes, 2)
    if num_classes < 3:  # too few for DLR
        attacks = {name: attack for name, attack in attacks.items() if name != "apgd-dlr"}
    key_image, key_corner, key_weight, key_attack = jax.random.split(key, 4)
    shape = (num_images, size, size, 3)
    corner = jax.random.randint(key_corner, shape, -1, 2)  # -1: 0, 1: 1
    images = jnp.where(corner == 0, jax.random.uniform(key_image, shape), (corner > 0) * 1.0)
    weights = jax.random.normal(key_weight, (*shape[1:], num_classes))
    bias = jnp.zeros(num_classes)
    logits_fn = linear_logits(weights, bias)
    labels = jnp.argmax(logits_fn(images), axis=-1)

    @jax.jit
    def is_lost(epsilon):  # [n], at the strongest perturbation
        worst = worst_case(weights, bias, images, labels, p=p, epsilon=epsilon)
        return jnp.argmax(logits_fn(worst), axis=-1) != labels

    low, high = np.zeros(num_images), np.full(num_images, float(np.prod(shape[1:])))
    for _ in range(30):
        middle = (low + high) / 2
        lost = np.asarray(is_lost(middle.astype(np.float32)))
        low, high = np.where(lost, low, middle), np.where(lost, middle, high)
    epsilon, successes = float(np.median(high)), {}
    for name, attack in attacks.items():
        run = jax.jit(functools.partial(attack, logits_fn, p=p, epsilon=epsilon))
        x = run(images, labels, key_attack)
        successes[name] = int(jnp.sum(jnp.argmax(logits_fn(x), axis=-1) != labels))
    return epsilon, int(jnp.sum(is_lost(jnp.float32(epsilon)))), successes

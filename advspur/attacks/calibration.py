"""The share of what is possible that each attack finds, on random linear classifiers."""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from advspur._checks import check_count, require
from advspur.attacks.apgd import apgd
from advspur.attacks.fab import fab
from advspur.attacks.linear_oracle import linear_logits, worst_case
from advspur.attacks.pgd import pgd
from advspur.attacks.square import square

ATTACKS = {  # (logits_fn, images, labels, key, *, p, epsilon) -> images
    "pgd": functools.partial(pgd, loss="margin", num_steps=100),
    "apgd-ce": apgd,
    "apgd-dlr": functools.partial(apgd, loss="dlr"),
    "fab": fab,
    "square": functools.partial(square, num_queries=1000),
}


def calibrate(key, *, p, attacks=ATTACKS, num_images=256, size=16, num_classes=10):
    """(epsilon, number of images that can be attacked, {attack: number that it attacks}).

    Images are random, a third of the pixels 0 and a third 1; the labels are what a random linear
    classifier says. Epsilon is the median of the images' exact least budgets.
    """
    check_count("num_images", num_images)
    check_count("size", size)
    require(num_classes >= 2, f"num_classes = {num_classes}: a classifier has two or more")
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
    def is_lost(epsilon):  # by the strongest perturbation of budget epsilon, [n]
        worst = worst_case(weights, bias, images, labels, p=p, epsilon=epsilon)
        return jnp.argmax(logits_fn(worst), axis=-1) != labels

    low, high = np.zeros(num_images), np.full(num_images, float(np.prod(shape[1:])))
    for _ in range(30):
        middle = (low + high) / 2
        lost = np.asarray(is_lost(middle.astype(np.float32)))
        low, high = np.where(lost, low, middle), np.where(lost, middle, high)
    epsilon = float(np.median(high))
    call = {"p": p, "epsilon": epsilon}
    found = {}
    for name, attack in attacks.items():
        x = jax.jit(functools.partial(attack, logits_fn, **call))(images, labels, key_attack)
        found[name] = int(jnp.sum(jnp.argmax(logits_fn(x), axis=-1) != labels))
    return epsilon, int(jnp.sum(is_lost(jnp.float32(epsilon)))), found

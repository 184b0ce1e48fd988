"""Every gradient attack finds what there is to be found on linear models, to a percent or three."""

import functools
import math

import jax
import jax.numpy as jnp
import pytest

from advspur._checks import InputError
from advspur.attacks.calibration import ATTACKS, calibrate
from advspur.norms import project_lp_ball
from tests.attacks.oracles import NORMS

LEAST = {1: 0.97, 2: 0.99, math.inf: 0.99}  # of what is possible


def weak(logits_fn, images, labels, key, *, p, epsilon):
    """Four steps of textbook gradient ascent: project on the ball, then cut to the box."""

    def loss(x):
        log_p = jax.nn.log_softmax(logits_fn(x))
        return -jnp.sum(jnp.take_along_axis(log_p, labels[:, None], axis=1))

    def step(_, x):
        grad = jax.grad(loss)(x)
        way = jnp.sign(grad) if p == math.inf else grad / jnp.max(jnp.abs(grad))
        delta = x + epsilon / 8 * way - images
        delta = jax.vmap(lambda d: project_lp_ball(d, p=p, radius=epsilon))(delta)
        return jnp.clip(images + delta, 0, 1)

    return jax.lax.fori_loop(0, 4, step, images)


@functools.cache
def calibrated(p):
    """(epsilon, possible, found), with a weak attack in the place of Square."""
    attacks = {name: attack for name, attack in ATTACKS.items() if name != "square"}
    return calibrate(
        jax.random.key(0), p=p, attacks=attacks | {"weak": weak}, num_images=256, size=10,
        num_classes=4,
    )  # fmt: skip


@pytest.mark.parametrize("p", NORMS)
def test_attacks_find_nearly_all_that_is_possible(p):
    _, possible, found = calibrated(p)
    assert 100 < possible < 156  # about half of the images can be attacked
    strong = {name: count for name, count in found.items() if name != "weak"}
    assert len(strong) == 4 and min(strong.values()) >= LEAST[p] * possible, strong
    assert max(found.values()) <= possible  # the oracle is the best there is


def test_two_classes_are_too_few_for_dlr():
    _, possible, found = calibrate(jax.random.key(0), p=2, num_images=20, size=4, num_classes=2)
    assert possible > 0 and "apgd-dlr" not in found


@pytest.mark.parametrize("change", ({"num_images": 0}, {"size": -3}, {"num_classes": 1}))
def test_problems_without_images_or_classes_are_refused(change):
    (name,) = change
    with pytest.raises(InputError, match=f"{name} = "):
        calibrate(jax.random.key(0), p=2, **change)


@pytest.mark.parametrize("p", NORMS)
def test_a_weak_attack_fails_the_calibration(p):
    _, possible, found = calibrated(p)
    assert found["weak"] < 0.9 * possible

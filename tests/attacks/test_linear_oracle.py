"""The exact attack on linear classifiers against SciPy's solvers and random points.

There, every gradient attack finds 97 to 100% of the possible successes.
"""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from advspur.attacks import check_perturbation
from advspur.attacks.linear_oracle import ATTACKS, calibrate, linear_logits, worst_case
from advspur.norms import project_lp_ball
from tests.attacks.oracles import NORMS, images_with_corners, largest_gain
from tests.refusals import refused

N, SHAPE, SIZE = 6, (2, 2, 2), 8
BOUNDS = (-1.0, 2.0)
EPSILON = np.float32([0.0, 0.1, 0.4, 1.0, 2.0, 30.0])
IMAGES = 3 * images_with_corners((N, *SHAPE)) - 1
LABELS = np.arange(N) % 2
RNG = np.random.default_rng(1)
WEIGHTS = RNG.normal(size=(*SHAPE, 4)).astype(np.float32)
WEIGHTS[0, 0, 0], WEIGHTS[1, 1, 1] = 0, 1  # pixels that do not matter
BIAS = 4 * RNG.normal(size=4).astype(np.float32)

pytestmark = pytest.mark.filterwarnings("ignore:epsilon = ")


def attack(num_classes, p):
    model, ball = (WEIGHTS[..., :num_classes], BIAS[:num_classes]), {"p": p, "epsilon": EPSILON}
    return np.asarray(
        jax.jit(lambda x: worst_case(*model, x, LABELS, bounds=BOUNDS, **ball))(IMAGES)
    )


def margins(images, labels, num_classes):
    """Margins in float64; images [..., size]."""
    flat = np.float64(images)
    logits = flat @ WEIGHTS.reshape(SIZE, 4)[:, :num_classes] + BIAS[:num_classes]
    others = [logits[..., k] for k in range(num_classes) if k != labels]
    return np.max(others, axis=0) - logits[..., labels]


def largest_margin(image, label, num_classes, p, epsilon):
    """The largest margin over the other classes, each by a linear program (l2: SLSQP)."""
    weights, found = np.float64(WEIGHTS.reshape(SIZE, 4)), []
    for other in set(range(num_classes)) - {label}:
        w = weights[:, other] - weights[:, label]
        offset = w @ image + float(BIAS[other]) - float(BIAS[label])
        low, high = BOUNDS[0] - image, BOUNDS[1] - image
        found.append(offset + largest_gain(w, low, high, p=p, radius=epsilon))
    return max(found)


def random_points(image, p, epsilon, count=10_000):
    """Dense and sparse points of the sphere, cut to the box, which keeps them in the ball."""
    z = RNG.normal(size=(count, SIZE)) * (RNG.random((count, SIZE)) < RNG.random((count, 1)))
    z = np.sign(z) if p == math.inf else z
    length = np.linalg.norm(z, ord=p, axis=1, keepdims=True)
    return np.clip(image + epsilon * z / np.maximum(length, 1e-12), *BOUNDS)


@pytest.mark.parametrize("num_classes", (2, 4))
@pytest.mark.parametrize("p", NORMS)
def test_the_worst_case_has_the_largest_possible_margin(p, num_classes):
    worst = attack(num_classes, p)
    check_perturbation(worst, IMAGES, p=p, epsilon=EPSILON, bounds=BOUNDS)
    images, flat = np.float64(IMAGES).reshape(N, SIZE), worst.reshape(N, SIZE)
    for i in range(N):
        got = margins(flat[i], LABELS[i], num_classes)
        exact = largest_margin(images[i], LABELS[i], num_classes, p, float(EPSILON[i]))
        assert got == pytest.approx(exact, abs=2e-5)
        points = random_points(images[i], p, float(EPSILON[i]))
        assert np.max(margins(points, LABELS[i], num_classes)) <= got + 1e-5


def test_linear_logits_by_hand():
    images = np.float32([[[[1.0], [2.0]]], [[[0.0], [1.0]]]])  # [2, 1, 2, 1]
    weights = np.float32([[[[1.0, 0.0]], [[3.0, -1.0]]]])  # [1, 2, 1, 2]
    got = linear_logits(weights, np.float32([0.5, 0.0]))(images)
    np.testing.assert_array_equal(got, [[7.5, -2.0], [3.5, -1.0]])


LEAST = {1: 0.97, 2: 0.99, math.inf: 0.99}  # of what is possible


def weak(logits_fn, images, labels, key, *, p, epsilon):
    """Four steps of textbook gradient ascent: project onto the ball, then cut to the box."""

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


@pytest.mark.parametrize("p", NORMS)
def test_attacks_find_nearly_all_that_is_possible_and_a_weak_one_does_not(p):
    attacks = {name: attack for name, attack in ATTACKS.items() if name != "square"}
    options = {"num_images": 256, "size": 10, "num_classes": 4}
    attacks |= {"weak": weak}
    _, possible, found = calibrate(jax.random.key(0), p=p, attacks=attacks, **options)
    assert 100 < possible < 156  # about half of the images can be attacked
    assert max(found.values()) <= possible  # nothing beats the oracle
    assert found.pop("weak") < 0.9 * possible
    assert len(found) == 4 and min(found.values()) >= LEAST[p] * possible, found


def test_two_classes_are_too_few_for_dlr():
    attacks = {name: ATTACKS[name] for name in ("apgd-ce", "apgd-dlr")}
    options = {"attacks": attacks, "num_images": 20, "size": 4, "num_classes": 2}
    _, possible, found = calibrate(jax.random.key(0), p=2, **options)
    assert possible > 0 and list(found) == ["apgd-ce"]


@pytest.mark.parametrize("change", ({"num_images": 0}, {"size": -3}, {"num_classes": 1}))
def test_problems_without_images_or_classes_are_refused(change):
    (name,) = change
    refused(f"{name} = ", calibrate, jax.random.key(0), p=2, **change)

"""FAB: exact least distances on linear models, and its properties on others."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from advspur.attacks import check_perturbation, fab
from tests.attacks import oracles

N, SHAPE, SIZE, CLASSES = 6, (3, 2, 3), 18, 4
IMAGES = oracles.images_with_corners((N, *SHAPE))
GREY = np.full((N, *SHAPE), 0.5, np.float32)
PARAMS = oracles.random_params((N, *SHAPE), CLASSES)
LABELS = np.argmax(oracles.logits_of(PARAMS, IMAGES), axis=1)
FAR = 1e6
OUT_OF_REACH = -1e5  # a bias

pytestmark = pytest.mark.filterwarnings("ignore:epsilon = ")


@functools.partial(jax.jit, static_argnames=("p", "restarts"))
def run(params, images, labels, epsilon, targets=None, key=None, *, p, restarts):
    call = {"p": p, "epsilon": epsilon, "num_steps": 30, "targets": targets, "restarts": restarts}
    return fab(functools.partial(oracles.network, params), images, labels, key, **call)


def attack(p, params=PARAMS, images=IMAGES, labels=LABELS, epsilon=FAR, restarts=1, **options):
    """Return images; one compilation per norm."""
    epsilon = np.broadcast_to(np.float32(epsilon), N)
    return np.asarray(run(params, images, labels, epsilon, p=p, restarts=restarts, **options))


def is_lost(images, labels=LABELS, params=PARAMS):
    return np.argmax(oracles.logits_of(params, images), axis=1) != labels


def exact_distances(weights, labels, bias, p):
    """Distances of IMAGES to the boundary of the model with logits (0, <weights, x> + bias)."""
    found = []
    for image, label in zip(np.float64(IMAGES).reshape(N, -1), labels, strict=True):
        way = weights if label == 0 else -weights
        gap = (weights @ image + bias) * (-1 if label == 0 else 1)
        found.append(oracles.least_norm(way, gap, -image, 1 - image, p=p))
    return np.array(found)


@pytest.mark.parametrize("p", oracles.NORMS)
def test_distances_on_a_binary_linear_model_are_exact(p):
    """Two more classes are out of reach. The final search halves ten times."""
    weights = np.float64(PARAMS["A"][:, 0])
    bias = -np.median(IMAGES.reshape(N, -1) @ weights) + 0.07
    columns = np.stack([0 * weights, weights, 0 * weights, 0 * weights], axis=1)
    params = oracles.linear_params((N, *SHAPE), columns, [0, bias, OUT_OF_REACH, OUT_OF_REACH])
    labels = np.argmax(oracles.logits_of(params, IMAGES)[:, :2], axis=1)
    assert 0 < labels.sum() < N
    got = attack(p, params, labels=labels)
    assert np.all(is_lost(got, labels, params))
    check_perturbation(got, IMAGES, p=p, epsilon=FAR)
    exact = exact_distances(weights, labels, bias, p)
    ratio = oracles.norms(got, IMAGES, p) / exact
    assert np.all((ratio > 1 - 1e-5) & (ratio < 1.005))
    # A budget between the distances keeps only the nearer images.
    half = np.median(exact)
    limited = attack(p, params, labels=labels, epsilon=half)
    expected = np.where((exact < half)[:, None, None, None], got, IMAGES)
    np.testing.assert_array_equal(limited, expected)


def test_without_epsilon_any_distance_counts():
    logits_fn = functools.partial(oracles.network, PARAMS)
    got = jax.jit(lambda x: fab(logits_fn, x, LABELS, p=2, num_steps=30))(IMAGES)
    np.testing.assert_allclose(got, attack(2), rtol=0, atol=1e-5)
    assert np.all(is_lost(np.asarray(got)))


def test_targets_choose_the_boundary():
    """Class 1 depends on the first third of the pixels; class 2, on the second, is nearer."""
    weights = np.zeros((SIZE, CLASSES))
    weights[:6, 1], weights[6:12, 2] = 1, 2
    params = oracles.linear_params((N, *SHAPE), weights, [0, -5, -9, OUT_OF_REACH])
    labels = np.zeros(N, int)
    nearest = attack(2, params, GREY, labels).reshape(N, -1) - 0.5
    expected = np.zeros((N, SIZE))  # 2 * 6 * (0.5 + d) = 9
    expected[:, 6:12] = 0.25
    np.testing.assert_allclose(nearest, expected, rtol=0, atol=1e-3)
    targets = np.resize([1, 2], N)
    got = attack(2, params, GREY, labels, targets=targets).reshape(N, -1) - 0.5
    expected[::2] = 0  # 6 * (0.5 + d) = 5
    expected[::2, :6] = 1 / 3
    np.testing.assert_allclose(got, expected, rtol=0, atol=1e-3)


@pytest.mark.parametrize("p, nearest", ((1, 0.4), (math.inf, 1 / 6)))
def test_the_nearest_boundary_is_that_of_the_norm(p, nearest):
    """Class 1 needs 1.6 and gains 4 per unit of one pixel; class 2, 2 and 1 per unit of twelve.

    By hand: 0.4 against 2 in l1, 0.4 against 1/6 in linf.
    """
    weights = np.zeros((SIZE, CLASSES))
    weights[0, 1], weights[6:, 2] = 4, 1
    params = oracles.linear_params((N, *SHAPE), weights, [0, -3.6, -8, OUT_OF_REACH])
    got = attack(p, params, GREY, np.zeros(N, int))
    assert np.all(is_lost(got, np.zeros(N, int), params))
    np.testing.assert_allclose(oracles.norms(got, GREY, p), nearest, rtol=5e-3, atol=0)


def test_restarts_begin_half_an_epsilon_away():
    """A bowl around the images has no gradient there, so only the second start finds its rim."""
    params = oracles.linear_params(
        (N, *SHAPE), 0 * PARAMS["A"], [1.0, 0, OUT_OF_REACH, OUT_OF_REACH]
    )

    def bowl(x):
        logits = oracles.network(params, x)
        return logits.at[:, 1].add(2 * jnp.sum((x - GREY) ** 2, axis=(1, 2, 3)))

    call = {"p": 2, "epsilon": 1.0, "num_steps": 30, "restarts": 2}
    got = jax.jit(lambda x: fab(bowl, x, np.zeros(N, int), jax.random.key(0), **call))(GREY)
    check_perturbation(got, GREY, p=2, epsilon=1.0)
    np.testing.assert_allclose(oracles.norms(got, GREY, 2), math.sqrt(0.5), rtol=5e-3, atol=0)

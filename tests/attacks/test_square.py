"""Square: its schedule by hand, its moves on grey images, its properties on any model."""

import functools
import itertools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from advspur.attacks import check_perturbation
from advspur.attacks.square import _bumps, _move_budget, run_square, window_sizes
from tests.attacks import oracles

N, SHAPE, SIZE, CLASSES = 6, (6, 9, 2), 108, 4  # not square
IMAGES = oracles.images_with_corners((N, *SHAPE))
GREY = np.full((N, *SHAPE), 0.5, np.float32)
PARAMS = oracles.random_params((N, *SHAPE), CLASSES)
KEYS = jax.random.split(jax.random.key(3), N)
EPSILON = {1: 6.0, 2: 1.0, math.inf: 0.12}
QUERIES = 200

pytestmark = pytest.mark.filterwarnings("ignore:epsilon = ")


def rounded(params, x):
    """A network without a gradient."""
    return jnp.round(64 * jax.lax.stop_gradient(oracles.network(params, x))) / 64


def predict(params, x):
    return np.argmax(np.round(64 * oracles.logits_of(params, x)), axis=1)


LABELS = predict(PARAMS, IMAGES)


@functools.partial(jax.jit, static_argnames="p")
def run(params, images, labels, keys, epsilon, *, p):
    call = {"p": p, "epsilon": epsilon, "num_queries": QUERIES, "bounds": (0.0, 1.0)}
    return run_square(functools.partial(rounded, params), images, labels, keys, **call)


def attack(p, params=PARAMS, images=IMAGES, labels=LABELS, keys=KEYS, epsilon=None):
    """(images, success, queries); one compilation per norm."""
    epsilon = np.broadcast_to(np.float32(EPSILON[p] if epsilon is None else epsilon), len(images))
    x, queries = map(np.asarray, run(params, images, labels, keys, epsilon, p=p))
    return x, predict(params, x) != labels, queries


def smooth_params(bias):
    """Parameters: class 1 gains if pixels rise on the left and fall on the right."""
    weights = np.zeros((*SHAPE, CLASSES))
    weights[:, :, :, 1] = np.linspace(1, -1, SHAPE[1])[:, None]
    return oracles.linear_params((N, *SHAPE), weights.reshape(SIZE, CLASSES), [bias, 0, -99, -99])


@pytest.mark.parametrize("p", oracles.NORMS)
def test_queries_count_until_success_and_end_once_all_images_are_lost(p):
    epsilon = EPSILON[p] * np.float32([0, 0.2, 0.5, 1, 2, 3])
    got, success, queries = attack(p, epsilon=epsilon)
    assert 0 < success.sum() < N
    np.testing.assert_array_equal(got[0], IMAGES[0])
    assert np.all(queries[~success] == QUERIES) and np.all(queries[success] <= QUERIES)
    params = oracles.linear_params((N, *SHAPE), 0 * PARAMS["A"], [0, 9, 0, 0])
    got, success, queries = attack(p, params, labels=np.full(N, 3))
    assert success.all() and np.all(queries == 0)
    check_perturbation(got, IMAGES, p=p, epsilon=EPSILON[p])


@pytest.mark.parametrize("p, least", ((1, 0.5), (2, 0.5), (math.inf, 0.9)))
def test_the_whole_ball_is_used_and_most_of_the_possible_gain_found(p, least):
    """Far from the box, on a smooth linear model, the gain is epsilon times the dual norm."""
    params, epsilon = smooth_params(bias=90), EPSILON[p] / 8
    got, success, _ = attack(p, params, GREY, np.zeros(N, int), epsilon=epsilon)
    assert not success.any()
    np.testing.assert_allclose(oracles.norms(got, GREY, p), epsilon, rtol=1e-4, atol=0)
    if p == math.inf:
        np.testing.assert_allclose(np.abs(got - 0.5), epsilon, rtol=1e-5, atol=0)
    dual = np.linalg.norm(params["A"][:, 1], ord={1: math.inf, 2: 2, math.inf: 1}[p])
    share = (got - GREY).reshape(N, -1) @ params["A"][:, 1] / (epsilon * dual)
    assert np.all((share > least) & (share < 1.0001))


@pytest.mark.parametrize("p", (2, math.inf))  # l1 has the windows of l2
def test_tiny_images_of_one_channel_are_attacked(p):
    shape = 3, 3, 1
    params = oracles.random_params((N, *shape), 3)
    images = oracles.images_with_corners((N, *shape))
    labels = predict(params, images)
    epsilon = 0.9 if p == 2 else 0.5
    got, _, _ = attack(p, params, images, labels, epsilon=epsilon)
    check_perturbation(got, images, p=p, epsilon=epsilon)
    assert np.all(oracles.norms(got, images, p) > 0.01)


def test_an_l2_move_is_one_that_the_paper_allows():
    """Try all pairs of windows, turns and signs with the formulas of the paper's l2 attack.

    In each channel the first window gets bump + delta / ||delta||, with the norm that both windows
    had and a share of the unused budget; the second window gets 0.
    """
    size, radius, (height, width, channels) = 3, 2.0, SHAPE
    delta = np.random.default_rng(1).normal(size=SHAPE)
    delta *= 0.8 * radius / np.linalg.norm(delta)
    bumps, image, box = _bumps(size, 2), jnp.zeros(SHAPE), (-9.0, 9.0)  # a box far away
    move = jax.jit(functools.partial(_move_budget, bumps=bumps, p=2, bounds=box))
    got = np.float64([move(key, jnp.float32(delta), image, radius) for key in KEYS[:3]])
    corners = list(itertools.product(range(height - size + 1), range(width - size + 1)))
    turns_and_signs = list(itertools.product(bumps, itertools.product((-1, 1), repeat=channels)))
    nearest = np.full(3, np.inf)
    for (a, b), (c, d) in itertools.product(corners, corners):
        first, second = (slice(a, a + size), slice(b, b + size)), (slice(c, c + 3), slice(d, d + 3))
        union = np.zeros(SHAPE, bool)
        union[first] = union[second] = True
        rest = np.where(union, 0, delta)
        if not np.any([np.allclose(g[~union], delta[~union], atol=1e-5) for g in got]):
            continue
        had = np.sum(np.where(union, delta, 0) ** 2, axis=(0, 1))
        budget = np.sqrt(0.36 * radius**2 / channels + had)
        own = delta[first] / np.linalg.norm(delta[first], axis=(0, 1))
        for bump, signs in turns_and_signs:
            new = bump[:, :, None] * np.array(signs) + own
            expected = rest.copy()
            expected[first] = new / np.linalg.norm(new, axis=(0, 1)) * budget
            nearest = np.minimum(nearest, np.abs(got - expected).max(axis=(1, 2, 3)))
    assert np.all(nearest < 1e-5)
    np.testing.assert_allclose(np.linalg.norm(got.reshape(3, -1), axis=1), radius, rtol=1e-5)


def test_bumps_by_hand():
    """l2 and side 3: one row of the first bump, two of the second; each pair has norm 1."""
    bumps = _bumps(3, 2)
    assert bumps.shape == (2, 3, 3)
    np.testing.assert_allclose(np.linalg.norm(bumps, axis=(1, 2)), 1, rtol=1e-6)
    np.testing.assert_array_equal(bumps[0], bumps[1].T)
    small = bumps[0]
    assert np.all(small[0] > 0) and np.all(small[1:] < 0)
    near, middle = 1 / 4, 1 + 1 / 4  # distance 1: 1 / 2^2; distance 0: 1 + 1 / 2^2
    np.testing.assert_allclose(small[0] / small[0, 1], [near / middle, 1, near / middle], rtol=1e-5)


def sides(sizes):
    """[(side, number of queries)] of consecutive equal windows."""
    changes = np.flatnonzero(np.diff(sizes)) + 1
    starts = [0, *changes, len(sizes)]
    return [(sizes[a], b - a) for a, b in zip(starts, starts[1:], strict=False)]


def test_windows_shrink_as_published():
    """round(sqrt(share * 1024)); the share halves after queries 10, 50, 200, ... of 0, 1, 2, ..."""
    expected = [(29, 11), (20, 40), (14, 150), (10, 300), (7, 500), (5, 1000), (4, 2000), (3, 2000)]
    assert sides(window_sizes(6001, (32, 32), smallest=1)) == expected
    late = window_sizes(9000, (32, 32), smallest=1)
    assert (late[6000], late[6001], late[8000], late[8001]) == (3, 2, 2, 1)
    # Those of l2 and l1 are odd and at least 3.
    expected = [(29, 11), (21, 40), (15, 150), (11, 300), (7, 500), (5, 3000), (3, 999)]
    assert sides(window_sizes(5000, (32, 32), smallest=3)) == expected


@pytest.mark.parametrize("smallest", (1, 3))
@pytest.mark.parametrize("shape", ((3, 3), (2, 40), (40, 2), (1, 1), (28, 28)))
def test_windows_fit_into_the_image(shape, smallest):
    sizes = window_sizes(300, shape, smallest=smallest)
    assert min(sizes) >= 1 and max(sizes) <= min(shape)
    assert sizes == sorted(sizes, reverse=True)

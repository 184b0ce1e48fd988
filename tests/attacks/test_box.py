"""Ball, hyperplane and box against slow exact solvers, including all corner cases."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.optimize import brentq

from advspur.attacks import check_perturbation
from advspur.attacks.box import (
    add,
    ascend,
    confine,
    fill,
    kth_largest,
    nearest_on_hyperplane,
    project_ball,
)
from tests.attacks import oracles

COUNT, SIZE = 36, 6
RADII = {1: (0.2, 0.9, 2.5), 2: (0.1, 0.5, 1.2), math.inf: (0.05, 0.3, 0.8)}


class Problems:
    """`COUNT` vectors; in turn plain, with ties, with zeros, with equal sizes and both signs."""

    rng = np.random.default_rng(0)
    images = oracles.images_with_corners((COUNT, SIZE))
    low, high = 0 - images, 1 - images
    vector = rng.normal(size=(COUNT, SIZE)).astype(np.float32)
    vector[1::4] = np.round(vector[1::4])
    vector[2::4, ::2] = 0
    vector[3::4] = 0.7 * np.sign(vector[3::4])
    share = rng.uniform(0.05, 0.95, COUNT)  # of the largest gain

    @staticmethod
    def radii(p):
        return np.resize(np.float32(RADII[p]), COUNT)


def for_each(oracle, *arrays, **options):
    """oracle(row of each array), in float64."""
    return np.stack([oracle(*map(np.float64, row), **options) for row in zip(*arrays, strict=True)])


def on_batch(function, p, *arrays):
    """function(..., p=p, radius=) on the rows of the arrays; the last array is the radius."""
    batched = jax.vmap(lambda a, b, c, radius: function(a, b, c, p=p, radius=radius))
    return np.asarray(jax.jit(batched)(*arrays), np.float64)


def in_box(z):
    return np.all((z >= Problems.low) & (z <= Problems.high))


@pytest.mark.parametrize("p", oracles.NORMS)
def test_the_projection_is_the_nearest_point_of_ball_and_box(p):
    radii, low, high = Problems.radii(p), Problems.low, Problems.high
    problem = Problems.vector, low, high, radii
    got = on_batch(project_ball, p, *problem)
    expected = for_each(lambda *row: oracles.project(*row[:3], p=p, radius=row[3]), *problem)
    np.testing.assert_allclose(got, expected, rtol=0, atol=1e-6)
    assert in_box(got)
    assert np.all(np.linalg.norm(got, ord=p, axis=1) <= radii * (1 + 2e-6))


@pytest.mark.parametrize("p", oracles.NORMS)
def test_the_projection_is_exact_in_many_dimensions_and_in_float64(p, x64):
    """It agrees with bisecting the multiplier; l1 stops at 5e-7 of the radius."""
    size, count = 300, 6
    low = -oracles.images_with_corners((count, size)).astype(float)
    delta = np.random.default_rng(1).normal(size=(count, size))
    radii = np.array([0, 1e-3, 0.1, 1, 3, 1e3]) * (1 if p != 1 else 10)
    got = on_batch(project_ball, p, delta, low, 1 + low, radii)
    expected = for_each(
        lambda d, lo, r: oracles.project(d, lo, 1 + lo, p=p, radius=r), delta, low, radii
    )
    np.testing.assert_allclose(got[1:], expected[1:], rtol=0, atol=1e-6 if p == 1 else 1e-12)
    np.testing.assert_array_equal(got[0], np.zeros(size))
    np.testing.assert_array_equal(got[5], np.clip(delta[5], low[5], 1 + low[5]))


@pytest.mark.parametrize("p", oracles.NORMS)
def test_ascend_attains_the_largest_gain_in_ball_and_box(p):
    radii, low, high = Problems.radii(p), Problems.low, Problems.high
    weights = Problems.vector
    problem = weights, low, high, radii
    got = on_batch(ascend, p, *problem)
    assert in_box(got)
    assert np.all(np.linalg.norm(got, ord=p, axis=1) <= radii * (1 + 2e-6))
    expected = for_each(lambda *row: oracles.largest_gain(*row[:3], p=p, radius=row[3]), *problem)
    np.testing.assert_allclose(np.sum(weights * got, axis=1), expected, rtol=0, atol=1e-5)
    assert np.all(got[weights == 0] == 0)


@pytest.mark.parametrize("function", (project_ball, ascend))
@pytest.mark.parametrize("p", oracles.NORMS)
def test_extreme_radii_give_nothing_and_everything(function, p):
    vector, room = Problems.vector, np.where(Problems.vector > 0, Problems.high, -Problems.low)
    boxes = vector, Problems.low, Problems.high
    zero = on_batch(function, p, *boxes, np.zeros(COUNT, np.float32))
    np.testing.assert_array_equal(zero, np.zeros_like(zero))
    everything = on_batch(function, p, *boxes, np.full(COUNT, 1e4, np.float32))
    far = np.abs(vector) if function is project_ball else np.where(vector == 0, 0, np.inf)
    np.testing.assert_array_equal(everything, np.sign(vector) * np.minimum(room, far))


@pytest.mark.parametrize("p", oracles.NORMS)
def test_the_hyperplane_is_reached_by_the_least_norm(p):
    weights, low, high = Problems.vector, Problems.low, Problems.high
    sign = np.where(np.arange(COUNT) % 3 == 0, -1, 1)[:, None]  # gains of both signs
    room = np.where(sign * weights > 0, high, -low)
    largest = np.sum(np.abs(weights) * room, axis=1)
    gain = np.float32(sign[:, 0] * Problems.share * largest)
    nearest = jax.jit(jax.vmap(functools.partial(nearest_on_hyperplane, p=p)))
    got = np.asarray(nearest(weights, gain, low, high), np.float64)
    assert in_box(got) and np.all(got[weights == 0] == 0)
    np.testing.assert_allclose(np.sum(weights * got, axis=1), gain, rtol=1e-5, atol=1e-6)
    towards = weights * np.sign(gain)[:, None]
    expected = for_each(oracles.least_norm, towards, np.abs(gain), low, high, p=p)
    np.testing.assert_allclose(np.linalg.norm(got, ord=p, axis=1), expected, rtol=1e-4, atol=1e-5)
    beyond = np.asarray(nearest(weights, np.float32(sign[:, 0] * (1.5 * largest + 1)), low, high))
    np.testing.assert_array_equal(beyond, sign * np.sign(weights) * room)


@pytest.mark.parametrize("p", oracles.NORMS)
def test_a_hyperplane_through_the_point_or_without_direction_moves_nothing(p):
    box = -np.full(SIZE, 0.5, np.float32), np.full(SIZE, 0.5, np.float32)
    weights = Problems.vector[0]
    for w, gain in ((weights, 0.0), (0 * weights, 1.0), (0 * weights, 0.0)):
        got = nearest_on_hyperplane(jnp.asarray(w), jnp.float32(gain), *box, p=p)
        np.testing.assert_array_equal(got, np.zeros(SIZE))


def test_fill_finds_the_time_that_holds_the_target():
    rng = np.random.default_rng(2)
    rates = rng.exponential(size=(30, 8)).astype(np.float32)
    capacities = rng.exponential(size=(30, 8)).astype(np.float32)
    rates[::3, ::2], capacities[1::3, ::2] = 0, 0  # vessels that never fill, and full ones
    rates[2::3, 1:], capacities[2::3, 1:] = 1, 0.5  # all full at once
    held = np.sum(capacities * (rates > 0), axis=1)
    target = np.float32(held * np.linspace(0.02, 0.98, 30))
    got = jax.jit(jax.vmap(fill))(rates, capacities, target)

    def solve(r, c, t):
        return brentq(lambda s: np.minimum(s * r, c).sum() - t, 0, 1e6, xtol=1e-12)

    expected = for_each(solve, rates, capacities, target)
    np.testing.assert_allclose(got, expected, rtol=2e-5, atol=0)
    assert np.all(np.isinf(jax.jit(jax.vmap(fill))(rates, capacities, held * 1.01 + 0.01)))
    np.testing.assert_array_equal(jax.jit(jax.vmap(fill))(rates, capacities, 0 * target), 0)


def test_kth_largest_agrees_with_sorting():
    rng = np.random.default_rng(3)
    values = np.abs(rng.normal(size=(4, 9))).astype(np.float32)
    values[1] = np.round(values[1])  # ties
    values[2, 3:] = 0
    values[3] = 1e-40 * np.arange(9)  # subnormal
    pick = jax.jit(jax.vmap(jax.vmap(kth_largest, in_axes=(None, 0)), in_axes=(0, None)))
    got = pick(values, np.arange(1.0, 10, dtype=np.float32))
    np.testing.assert_array_equal(got, -np.sort(-values, axis=1))


@pytest.mark.parametrize("p", oracles.NORMS)
def test_confined_images_keep_the_post_condition_despite_rounding(p):
    """In flat images with equal changes all rounding goes one way; others are random.

    A dense l1 change once left the ball by 3e-6.
    """
    shape = 32, 32, 3
    rng = np.random.default_rng(4)
    flat = np.linspace(0, 0.95, 7, dtype=np.float32)
    images = np.broadcast_to(flat[:, None, None, None], (7, *shape))
    images = np.concatenate([images, oracles.images_with_corners((3, *shape), seed=5)])
    moved = images + np.where(np.arange(10) % 2, -0.04, 0.04)[:, None, None, None]
    moved[8:] = images[8:] + rng.normal(size=(2, *shape))
    epsilon = np.float32({1: 30.0, 2: 1.2, math.inf: 0.031}[p] * np.linspace(0.3, 1, 10))
    inside = jax.jit(lambda a, b, e: confine(a, b, p=p, epsilon=e, bounds=(0.0, 1.0)))
    got = inside(np.float32(moved), images, epsilon)
    check_perturbation(got, images, p=p, epsilon=epsilon)
    rounding = 1e-7 if p == math.inf else 0  # of one pixel; sums have a margin for theirs
    assert np.all(oracles.norms(got, images, p) <= epsilon * (1 + rounding))
    assert np.all(oracles.norms(got, images, p) > epsilon * (1 - 2e-5))  # the ball is used up


def test_add_never_moves_too_far_or_out_of_the_box():
    rng = np.random.default_rng(6)
    images = rng.uniform(-1, 2, 20_000).astype(np.float32)
    delta = (10.0 ** rng.uniform(-6, 0.5, 20_000) * rng.choice([-1, 1], 20_000)).astype(np.float32)
    got = np.asarray(jax.jit(lambda a, b: add(a, b, bounds=(-1.0, 2.0)))(images, delta))
    assert got.min() >= -1 and got.max() <= 2
    exact = np.clip(images.astype(float) + delta, -1, 2)
    np.testing.assert_allclose(got, exact, rtol=0, atol=3e-7)
    limit = np.abs(delta.astype(float)) * (1 + 2.0**-23)  # rounding hides half a unit
    assert np.all(np.abs(np.float64(got) - images) <= limit)
    assert np.mean(np.abs(np.float64(images + delta) - images) > limit) > 0.2


@pytest.mark.parametrize("p", oracles.NORMS)
def test_weights_give_the_nearest_point_in_their_units(p):
    shape = 4, 4, 1
    images = oracles.images_with_corners((5, *shape))
    weights = np.float32([0.25, 0.5, 2, 1]).reshape(4, 1, 1) * np.ones(shape, np.float32)
    weights[2, 1:3] = 0
    moved = images + np.random.default_rng(8).normal(size=images.shape).astype(np.float32)
    epsilon = np.resize(np.float32(RADII[p]), 5)
    got = confine(moved, images, p=p, epsilon=epsilon, bounds=(0.0, 1.0), budget_weights=weights)
    check_perturbation(got, images, p=p, epsilon=epsilon, budget_weights=weights)
    free = weights > 0
    for x, y, near, radius in zip(images, moved, np.asarray(got), epsilon, strict=True):
        np.testing.assert_array_equal(near[~free], x[~free])
        scaled = (np.float64(z[free]) / weights[free] for z in (y - x, 0 - x, 1 - x))
        expected = x[free] + weights[free] * oracles.project(*scaled, p=p, radius=float(radius))
        np.testing.assert_allclose(near[free], expected, rtol=0, atol=3e-6)

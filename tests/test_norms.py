"""Norms against closed forms, scipy and finite differences."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import optimize, stats

from advspur.norms import dual_exponent, lp_norm, project_lp_ball, sample_lp_ball, steepest_ascent
from tests.refusals import refused

ALL_P = (1, 1.5, 2, 3, math.inf)
BALLS = (1, 2, math.inf)


@pytest.fixture(autouse=True)
def strict_promotion():
    """Ranks must not widen silently, since the functions are used under vmap."""
    with jax.numpy_rank_promotion("raise"):
        yield


def vectors(rows, size=12, seed=0, scale=1.0):
    return np.random.default_rng(seed).normal(0, scale, (rows, size)).astype(np.float32)


@pytest.mark.parametrize("p", ALL_P)
def test_norm_agrees_with_numpy(p):
    x = vectors(5)
    expected = np.linalg.norm(x.astype(np.float64), ord=p, axis=1)
    np.testing.assert_allclose(lp_norm(x, p, axis=1), expected, rtol=1e-6, atol=0)
    expected = np.linalg.norm(x.astype(np.float64).ravel(), ord=p)
    np.testing.assert_allclose(lp_norm(x, p), expected, rtol=1e-6, atol=0)


@pytest.mark.parametrize("p", (2, 3))
@pytest.mark.parametrize("scale", (1e-30, 1e30))
def test_norms_neither_vanish_nor_overflow(p, scale):
    x = jnp.array([3.0, -4.0]) * scale
    expected = scale * np.linalg.norm([3.0, 4.0], ord=p)
    np.testing.assert_allclose(lp_norm(x, p), expected, rtol=1e-5, atol=0)


def test_dual_exponents():
    assert [dual_exponent(p) for p in (1, math.inf, 2)] == [math.inf, 1, 2]
    assert 1 / 1.5 + 1 / dual_exponent(1.5) == pytest.approx(1, abs=1e-12)


@pytest.mark.parametrize("p", ALL_P)
def test_steepest_ascent_attains_the_dual_norm(p):
    for g in vectors(4):
        v = np.asarray(steepest_ascent(g, p=p), np.float64)
        q = dual_exponent(p)
        assert np.linalg.norm(v, ord=p) == pytest.approx(1, abs=1e-5)
        assert v @ g == pytest.approx(np.linalg.norm(g.astype(float), ord=q), rel=1e-5)


@pytest.mark.parametrize("p", ALL_P)
def test_steepest_ascent_of_zero_and_of_tiny_gradients(p):
    np.testing.assert_array_equal(steepest_ascent(jnp.zeros(7), p=p), np.zeros(7))
    g = vectors(1)[0]
    tiny = steepest_ascent(g * np.float32(1e-30), p=p)
    np.testing.assert_allclose(tiny, steepest_ascent(g, p=p), rtol=1e-5, atol=1e-6)


def project_l1_by_bisection(x, radius):
    x = x.astype(np.float64)
    if np.abs(x).sum() <= radius:
        return x
    threshold = optimize.brentq(
        lambda t: np.maximum(np.abs(x) - t, 0).sum() - radius, 0, np.abs(x).max(), xtol=1e-14
    )
    return np.sign(x) * np.maximum(np.abs(x) - threshold, 0)


@pytest.mark.parametrize("radius", (0.1, 1.0, 5.0, 100.0))
def test_l1_projection_agrees_with_bisection(radius):
    for x in vectors(6):
        got, expected = project_lp_ball(x, p=1, radius=radius), project_l1_by_bisection(x, radius)
        np.testing.assert_allclose(got, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("p", BALLS)
def test_projection_is_the_nearest_point_of_the_ball(p):
    """Variational inequality: <x - P x, z - P x> <= 0 for every z of the ball."""
    radius = 1.3
    others = vectors(300, seed=2)
    others *= radius / np.linalg.norm(others, ord=p, axis=1, keepdims=True)
    for x in vectors(4, scale=2.0):
        z = np.asarray(project_lp_ball(x, p=p, radius=radius))
        assert np.all((others - z) @ (x - z) <= 1e-4)
        assert not np.allclose(x, z, rtol=0, atol=1e-3)


@pytest.mark.parametrize("p", BALLS)
def test_projection_is_inside_idempotent_and_non_expansive(p):
    project = jax.vmap(functools.partial(project_lp_ball, p=p, radius=1.5))
    x, y = vectors(50, scale=2.0), vectors(50, seed=1, scale=2.0)
    on_x, on_y = np.asarray(project(x)), np.asarray(project(y))
    assert np.all(np.linalg.norm(on_x, ord=p, axis=1) <= 1.5 * (1 + 1e-6))
    np.testing.assert_allclose(project(on_x), on_x, rtol=1e-6, atol=1e-7)
    distance = np.linalg.norm(x - y, axis=1)
    assert np.all(np.linalg.norm(on_x - on_y, axis=1) <= distance * (1 + 1e-6))


@pytest.mark.parametrize("p", BALLS)
def test_projection_of_inside_points_zero_and_radius_zero(p):
    inside = jnp.array([0.1, -0.2, 0.0])
    np.testing.assert_array_equal(project_lp_ball(inside, p=p, radius=1.0), inside)
    np.testing.assert_array_equal(project_lp_ball(jnp.zeros(3), p=p, radius=0.0), np.zeros(3))
    np.testing.assert_array_equal(project_lp_ball(inside, p=p, radius=0.0), np.zeros(3))


@pytest.mark.parametrize("p", BALLS)
@pytest.mark.parametrize("radius", (1e-3, 1.0, 1000.0))
def test_projection_of_an_image_sized_vector_ends_inside(p, radius):
    x = vectors(1, size=150_528)[0] * (1 if p == math.inf else 5)
    z = np.asarray(project_lp_ball(x.reshape(224, 224, 3), p=p, radius=radius), np.float64)
    norm = np.linalg.norm(z.ravel(), ord=p)
    # Float32 sums of 150,528 terms: the slack is that of attacks.check_perturbation.
    assert norm <= radius * (1 + 1e-5)
    if p != math.inf or radius == 1e-3:
        # The l1 threshold is about as large as the entries (20), so rounding is 2e-6.
        assert norm >= radius * (1 - 1e-4) - 1e-5


@pytest.mark.parametrize("p", ALL_P)
def test_the_derivative_is_zero_at_zero_and_else_that_of_finite_differences(p, x64):
    np.testing.assert_array_equal(jax.grad(lp_norm)(jnp.zeros(4), p), np.zeros(4))
    x, step = np.array([0.3, -1.2, 0.7, 2.0]), 1e-6
    rows = jax.grad(lambda x: lp_norm(x, p, axis=1).sum())(jnp.array([np.zeros(4), x]))
    assert rows.dtype == np.float64
    np.testing.assert_array_equal(rows[0], np.zeros(4))
    ahead, back = (np.linalg.norm(x + s * np.eye(4), ord=p, axis=1) for s in (step, -step))
    expected = (ahead - back) / (2 * step)
    np.testing.assert_allclose(rows[1], expected, rtol=1e-7, atol=1e-8)


@pytest.mark.parametrize("p", BALLS)
def test_samples_are_uniform_in_the_ball(p, key):
    """For a uniform point P(||x||_p <= r) = (r / radius)^d, and coordinates are symmetric."""
    d, radius = 3, 2.0
    draw = jax.jit(jax.vmap(lambda k: sample_lp_ball(k, (d,), p=p, radius=radius)))
    x = np.asarray(draw(jax.random.split(key, 4000)), np.float64)
    norms = np.linalg.norm(x, ord=p, axis=1)
    assert norms.max() <= radius * (1 + 1e-6)
    assert stats.kstest(norms / radius, lambda r: np.clip(r, 0, 1) ** d).pvalue > 1e-3
    # The direction is uniform too: a half-ball moment against rejection from the cube.
    cube = np.random.default_rng(0).uniform(-radius, radius, (40_000, d))
    cube = cube[np.linalg.norm(cube, ord=p, axis=1) <= radius]
    assert stats.ks_2samp(x[:, 0], cube[:, 0]).pvalue > 1e-3
    assert stats.ks_2samp(np.prod(x, axis=1), np.prod(cube, axis=1)).pvalue > 1e-3


@pytest.mark.parametrize("p", BALLS)
def test_a_sample_of_radius_zero_is_zero_and_keys_matter(p, key):
    np.testing.assert_array_equal(sample_lp_ball(key, (5,), p=p, radius=0.0), np.zeros(5))
    one = sample_lp_ball(key, (5,), p=p, radius=1.0)
    other = sample_lp_ball(jax.random.key(1), (5,), p=p, radius=1.0)
    assert float(jnp.abs(one - other).max()) > 1e-3


@pytest.mark.parametrize("p", (0.5, 0, -1, math.nan, "2", None, True))
def test_bad_norms_are_refused_by_name(p, key):
    refused("^p = ", dual_exponent, p)
    refused("^p = ", lp_norm, jnp.ones(3), p)
    refused("^p = ", steepest_ascent, jnp.ones(3), p=p)
    refused("^p = ", project_lp_ball, jnp.ones(3), p=p, radius=1.0)
    refused("^p = ", sample_lp_ball, key, (3,), p=p, radius=1.0)


def test_other_balls_and_bad_radii_are_refused_by_name(key):
    cases = [(p, 1.0, "one of 1, 2, inf") for p in (3, 1.5)]
    cases += [(2, radius, "^radius = ") for radius in (-1.0, math.nan, math.inf)]
    for p, radius, message in cases:
        refused(message, project_lp_ball, jnp.ones(3), p=p, radius=radius)
        refused(message, sample_lp_ball, key, (3,), p=p, radius=radius)

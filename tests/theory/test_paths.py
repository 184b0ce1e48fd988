"""Whole paths: each breakpoint is the minimiser at its own budget."""

import functools
import math

import jax
import numpy as np
import pytest

from advspur._checks import InputError
from advspur.theory import gaussian_linear_model
from advspur.theory.paths import regularization_path


@functools.cache
def paths(p):
    return jax.jit(jax.vmap(lambda model: regularization_path(model, p=p)))


@pytest.mark.parametrize("p", (1, math.inf))
def test_breakpoints_are_minimisers(p, q, solve, random_problems, numpy_radius):
    models, _ = random_problems(16, 5, p=p, condition=30.0, seed=4)
    path = jax.tree.map(np.asarray, paths(p)(models))
    assert np.all(path.is_complete)
    assert np.all(np.diff(path.epsilon, axis=1) <= 1e-12)
    assert np.all(np.diff(path.kappa, axis=1) <= 0)
    np.testing.assert_allclose(path.epsilon[:, 0], numpy_radius(models, p), rtol=1e-13, atol=0)
    np.testing.assert_array_equal(path.theta[:, 0], 0)
    np.testing.assert_array_equal(path.epsilon[:, -1], 0)
    np.testing.assert_allclose(path.theta[:, -1], models.theta_opt, rtol=0, atol=1e-12)

    v = models.theta_opt[:, None] - path.theta
    h = np.einsum("nij,nkj->nki", models.covariance, v)
    for found, expected, digits in (
        (path.variance, np.sum(v * h, axis=2) + models.noise_std[:, None] ** 2, 1e-14),
        (path.kappa, np.linalg.norm(h, ord=p, axis=2), 1e-13),
        (path.norm, np.linalg.norm(path.theta, ord=q, axis=2), 1e-13),
    ):
        np.testing.assert_allclose(found, expected, rtol=1e-10, atol=digits)

    row, index = np.nonzero(np.diff(path.kappa, axis=1, append=-1) < 0)  # one of each point
    assert len(row) > 3 * 16
    each = jax.tree.map(lambda x: x[row], models)
    theta = path.theta[row, index]
    best = solve(each, path.epsilon[row, index], p=p)
    np.testing.assert_allclose(best.theta, theta, rtol=0, atol=1e-10)
    # And between two breakpoints the path is straight.
    between = index > 0
    row, index, each = row[between], index[between], jax.tree.map(lambda x: x[between], each)
    middle = (path.theta[row, index] + path.theta[row, index - 1]) / 2
    v = each.theta_opt - middle
    h = np.einsum("nij,nj->ni", each.covariance, v)
    kappa = np.linalg.norm(h, ord=p, axis=1)
    n = np.linalg.norm(middle, ord=q, axis=1)
    np.testing.assert_allclose(np.sum(h * middle, axis=1), kappa * n, rtol=1e-10, atol=1e-12)
    q_kappa = (path.kappa[row, index] + path.kappa[row, index - 1]) / 2
    np.testing.assert_allclose(kappa, q_kappa, rtol=1e-10, atol=1e-13)


@pytest.mark.parametrize("p", (1, math.inf))
def test_symmetric_design_and_too_few_breakpoints(p, x64):
    model = gaussian_linear_model(0.5, spurious_scale=3.0)
    path = regularization_path(model, p=p)
    assert path.is_complete
    np.testing.assert_allclose(path.theta[-1], model.theta_opt, rtol=0, atol=1e-13)
    # The three spurious features are the same to the model.
    np.testing.assert_allclose(path.theta[:, 2], path.theta[:, 4], rtol=0, atol=1e-13)
    assert not regularization_path(model, p=p, max_breakpoints=2).is_complete


def test_other_norms_are_refused(x64):
    with pytest.raises(InputError, match="one of 1, inf"):
        regularization_path(gaussian_linear_model(0.5), p=2)

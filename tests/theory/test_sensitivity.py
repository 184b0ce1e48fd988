"""Derivatives of the minimiser against central finite differences of other solves."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from advspur.theory import gaussian_linear_model, minimize_adversarial_loss, norm_fraction_spurious

STEP = 1e-5
# Three symmetric directions in the space of covariances: a variance, a core-spurious
# correlation, and one that breaks the symmetry among the spurious features.
DIRECTIONS = np.zeros((3, 5, 5))
DIRECTIONS[0, 0, 0] = DIRECTIONS[1, 1, 3] = DIRECTIONS[1, 3, 1] = 1
DIRECTIONS[2, 2, 4] = DIRECTIONS[2, 4, 2] = 1


# Where x = (epsilon, eta, noise_std, scale, theta_opt_1, three of Q) is differentiated:
# epsilon as a share of the collapse radius, eta, scale.
POINTS = {
    1: [(0.3, 0.5, 1.0), (0.7, 0.75, 1.0), (1.5, 0.5, 1.0)],
    math.inf: [(0.4, 0.5, 1.0), (0.9, 0.5, 3.0), (1.5, 0.5, 1.0)],
}
SMOOTH_POINTS = [(0.4, 0.5, 1.0), (0.9, 0.75, 2.0), (1.5, 0.5, 1.0)]


def outputs(x, p):
    """[7]: theta, loss, NFS."""
    epsilon, eta, noise_std, scale, first = x[:5]
    facts = {"noise_std": noise_std, "theta_opt": jnp.zeros(5).at[:2].set(jnp.array([first, 1]))}
    model = gaussian_linear_model(eta, spurious_scale=scale, **facts)
    change = jnp.tensordot(x[5:], DIRECTIONS, 1)
    model = model._replace(covariance=model.covariance + change)
    best = minimize_adversarial_loss(model, epsilon, p=p)
    nfs = norm_fraction_spurious(best.theta, model.is_spurious)
    return jnp.concatenate([best.theta, jnp.stack([best.loss, nfs])])


@functools.cache
def derivatives(p):
    """x -> (outputs, forward Jacobian, reverse Jacobian).

    One linearisation is what jacfwd and jacrev both rest on: here it is compiled once.
    """

    def all_of_them(x):
        value, push = jax.linearize(lambda x: outputs(x, p), x)
        pull = jax.linear_transpose(push, x)
        return value, jax.vmap(push, out_axes=-1)(jnp.eye(8)), jax.vmap(pull)(jnp.eye(7))[0]

    return jax.jit(jax.vmap(all_of_them))


def test_derivatives_agree_with_finite_differences(p, q, paper_models, numpy_radius):
    fractions, etas, scales = np.array(POINTS.get(p, SMOOTH_POINTS)).T
    models = paper_models(etas, scales=scales, theta_opts=(0.9, 1, 0, 0, 0))
    epsilons = numpy_radius(models, p) * fractions
    centres = np.zeros((3, 8))
    centres[:, :5] = np.c_[epsilons, etas, np.full(3, 0.1), scales, np.full(3, 0.9)]
    shifts = STEP * np.concatenate([np.zeros((1, 8)), np.eye(8), -np.eye(8)])
    results = derivatives(p)((centres[:, None] + shifts).reshape(51, 8))
    value, forward, reverse = (np.asarray(x).reshape(3, 17, *x.shape[1:]) for x in results)
    differences = (value[:, 1:9] - value[:, 9:]) / (2 * STEP)
    expected = np.moveaxis(differences, 1, 2)  # [point, output, parameter]
    for got in (forward[:, 0], reverse[:, 0]):
        # Rounding of a difference of solves: 1e-15 / STEP, times the condition of the path.
        np.testing.assert_allclose(got[:2], expected[:2], rtol=1e-6, atol=1e-8)
        # Beyond the collapse theta = 0 whatever the parameters, and the loss is s^2.
        np.testing.assert_array_equal(got[2, :5], 0)
        np.testing.assert_allclose(got[2, 5], expected[2, 5], rtol=1e-6, atol=1e-8)
    assert np.all(np.any(np.abs(expected[1]) > 1e-3, axis=0))  # each parameter matters there
    slope = slopes(models, epsilons, value[:, 0, :5], q)
    np.testing.assert_allclose(forward[:, 0, 5, 0], slope, rtol=1e-12, atol=1e-14)
    if p == 2:  # more budget and more correlation: more reliance
        nfs = jax.jit(jax.vmap(jax.grad(lambda x: outputs(x, p)[6])))(centres)
        np.testing.assert_allclose(nfs[:2], reverse[:2, 0, 6], rtol=1e-12)
        assert np.all(nfs[:2, :2] > 0)


def slopes(models, epsilons, theta, q):
    """The envelope theorem: d loss / d epsilon = 2 epsilon n^2 + 2 c1 s n."""
    v, n = models.theta_opt - theta, np.linalg.norm(theta, ord=q, axis=1)
    s = np.sqrt(np.einsum("ni,nij,nj->n", v, models.covariance, v) + models.noise_std**2)
    return 2 * epsilons * n**2 + 2 * math.sqrt(2 / math.pi) * s * n


@pytest.mark.parametrize("p", (2, math.inf))
def test_second_derivative_of_the_loss(p, q, solve, paper_models):
    def loss(epsilon):
        return minimize_adversarial_loss(gaussian_linear_model(0.5), epsilon, p=p).loss

    second = jax.jit(jax.vmap(jax.grad(jax.grad(loss))))
    epsilons = np.array([0.3, 0.6, 1.0])
    shifted = np.concatenate([epsilons + STEP, epsilons - STEP])
    models = paper_models([0.5] * 6)
    up, down = slopes(models, shifted, solve(models, shifted, p=p).theta, q).reshape(2, 3)
    np.testing.assert_allclose(second(epsilons), (up - down) / (2 * STEP), rtol=1e-6, atol=1e-8)


def test_features_that_stay_zero_have_zero_derivatives(solve, paper_models):
    def theta(epsilon):
        model = gaussian_linear_model(0.25)
        return minimize_adversarial_loss(model, epsilon, p=3, features="core").theta

    slope = jax.jit(jax.jacfwd(theta))(0.7)
    models, epsilons = paper_models([0.25] * 2), 0.7 + np.array([1e-6, -1e-6])
    up, down = solve(models, epsilons, p=3, features="core").theta
    np.testing.assert_allclose(slope, (up - down) / 2e-6, atol=1e-8)
    assert not np.any(slope[2:])

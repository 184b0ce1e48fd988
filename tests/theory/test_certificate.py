"""The duality gap bounds what it says it bounds."""

import functools
import math

import jax
import numpy as np

from advspur.theory import adversarial_loss, duality_gap
from advspur.theory.linear_model import C2


@functools.cache
def gap_and_loss(p):
    def both(theta, model, epsilon):
        return duality_gap(theta, model, epsilon, p=p), adversarial_loss(theta, model, epsilon, p=p)

    return jax.jit(jax.vmap(both))


def test_gap_bounds_the_excess_loss_and_the_distance(p, solve, random_problems, numpy_radius):
    for fractions in ((1e-3, 0.999), (1.0, 3.0)):  # below the collapse and beyond it
        models, epsilons = random_problems(120, 5, p=p, seed=11, fractions=fractions)
        best = solve(models, epsilons, p=p)
        v = models.theta_opt - best.theta
        s = np.sqrt(np.einsum("ni,nij,nj->n", v, models.covariance, v) + models.noise_std**2)
        reach = s * np.minimum(1, epsilons / numpy_radius(models, p))
        rng = np.random.default_rng(0)
        for scale in 10.0 ** np.arange(-6, 1):
            change = scale * rng.normal(size=best.theta.shape)
            theta = best.theta + change
            gap, loss = gap_and_loss(p)(theta, models, epsilons)
            rounding = 1e-14 * loss
            assert np.all(loss - best.loss <= gap + rounding)
            distance = np.einsum("ni,nij,nj->n", change, models.covariance, change)
            # The optimum itself is known to sqrt(best.gap) only.
            assert np.all(C2 * distance <= gap * (1 + 1e-6) + 2 * np.sqrt(gap * best.gap))
            if scale <= 1e-3:  # and not loose: second order for the smooth norms
                order = 2 if 1 < p < math.inf and fractions[1] < 1 else 1
                assert np.all(gap <= 1000 * loss * (scale / reach) ** order)


def test_gap_is_tight_at_the_minimiser(p, solve, paper_models, numpy_radius):
    models = paper_models(np.repeat([0.0, 0.25, 0.5, 1.0], 6))
    epsilons = np.tile([1e-3, 0.1, 0.5, 0.99, 1.0001, 3.0], 4) * numpy_radius(models, p)
    best = solve(models, epsilons, p=p)
    gap, loss = gap_and_loss(p)(best.theta, models, epsilons)
    np.testing.assert_allclose(loss, best.loss, rtol=1e-14, atol=0)
    assert np.all(gap >= 0)
    assert np.all(gap <= 1e-13 * loss), np.max(gap / loss)
    assert np.all(gap[np.arange(24) % 6 >= 4] <= 1e-15 * loss[np.arange(24) % 6 >= 4])


def test_gap_at_epsilon_zero_is_the_excess(p, random_problems):
    models, _ = random_problems(24, 5, p=p, seed=2)
    theta = np.random.default_rng(0).normal(size=(24, 5))
    gap, loss = gap_and_loss(p)(theta, models, np.zeros(24))
    np.testing.assert_allclose(gap, loss - models.noise_std**2, rtol=1e-9, atol=0)
    gap, _ = gap_and_loss(p)(models.theta_opt, models, np.zeros(24))
    np.testing.assert_array_equal(gap, 0)


def test_gap_at_the_kink_without_noise(p, paper_models):
    """theta_opt without noise is optimal for small budgets: a gap of 0 although s = 0."""
    models = paper_models(np.tile([0.25, 0.5], 12), noise_stds=0.0)
    gap, loss = gap_and_loss(p)(models.theta_opt, models, np.full(24, 0.1))
    assert np.all(gap <= 1e-12 * loss)

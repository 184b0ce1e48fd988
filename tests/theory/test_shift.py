"""Expected losses under a shift against published examples, scipy's 1F1 and the noncentral chi2."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.special
import scipy.stats

from advspur.theory import expected_shifted_loss, gaussian_linear_model, standard_loss
from advspur.theory.shift import _mean_direction, sample_shifted_loss


@pytest.mark.parametrize("length", [1e-3, 0.3, 0.99, 1.01, 2.0, 10.0, 1e3])
def test_mean_direction_against_the_hypergeometric_function(x64, length):
    factor = math.gamma(3) / (math.sqrt(2) * math.gamma(3.5))
    expected = factor * length * scipy.special.hyp1f1(0.5, 3.5, -(length**2) / 2)
    rows = jnp.zeros((1, 5)).at[0, 0].set(length)
    np.testing.assert_allclose(_mean_direction(rows, 1.0)[0, 0], expected, rtol=1e-11)


# THEORY.md section 4, Fig 4: (1,1), eta = 0.25; computed there with other code.
@pytest.mark.parametrize(
    ("p", "epsilon", "scale", "features", "reading", "std", "loss"),
    [
        (1, 2.0, 1.0, "core", "R1", 0.0, 1.4671),
        (1, 2.0, 1.0, "all", "R1", 0.0, 1.2836),
        (1, 2.0, 1.0, "all", "R2", 0.5, 1.6335),
        (1, 2.0, 1.0, "all", "R3", 1.0, 1.7006),
        (2, 1.5, 1.0, "all", "R1", 1.0, 1.6521),
        (2, 1.5, 1.0, "all", "R3", 1.0, 1.6671),
        (math.inf, 1.18, 3.0, "all", "R1", 1.0, 3.4891),
        (math.inf, 1.18, 3.0, "all", "R2", 1.0, 3.5040),
        (math.inf, 1.18, 3.0, "all", "R3", 1.0, 3.5604),
    ],
)
def test_examples(solve, paper_models, p, epsilon, scale, features, reading, std, loss):
    models = paper_models([0.25], scales=scale)
    theta = solve(models, [epsilon], p=p, features=features).theta[0]
    found = expected_shifted_loss(theta, std, eta=0.25, spurious_scale=scale, reading=reading)
    assert abs(found - loss) < 6e-5


def test_without_shift_it_is_the_standard_loss(x64):
    theta, target = jnp.array([0.7, 0.9, 0.2, -0.1, 0.3]), (1, 1, 0.5, 0, 0)
    for scale in (1.0, 3.0):
        facts = {"spurious_scale": scale, "theta_opt": target}
        expected = standard_loss(theta, gaussian_linear_model(0.5, **facts))
        for reading in ("R1", "R2", "R3"):
            found = expected_shifted_loss(theta, 0.0, eta=0.5, reading=reading, **facts)
            np.testing.assert_allclose(found, expected, rtol=1e-13)


def test_law_of_a_draw_is_noncentral_chi_squared(x64, key):
    theta, std, noise_std = jnp.array([0.8, 0.8, 0.2, 0.2, 0.1]), 0.4, 0.1
    noise = jax.random.normal(key, (4000, 3, 5))
    facts = {"eta": 0.25, "theta_opt": (1, 1, 0, 0, 0), "noise_std": noise_std}
    facts |= {"spurious_scale": 1.0, "reading": "R1"}
    draw = jax.vmap(lambda n: sample_shifted_loss(theta, std, n, **facts))
    unit = std**2 * jnp.sum(theta[2:] ** 2)
    clean = standard_loss(theta, gaussian_linear_model(0.25))
    law = scipy.stats.ncx2(5, (clean - noise_std**2) / unit)
    assert scipy.stats.kstest((draw(noise) - noise_std**2) / unit, law.cdf).pvalue > 1e-4

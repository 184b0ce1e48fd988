"""Theorem 1 against simulation, the paper's covariance by hand, NFS, bad input."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from advspur._checks import InputError
from advspur.theory import (
    GaussianLinearModel,
    adversarial_loss,
    duality_gap,
    gaussian_linear_model,
    minimize_adversarial_loss,
    norm_fraction_spurious,
    restrict_to_core,
    standard_loss,
    worst_case_perturbation,
)
from advspur.theory.linear_model import mixing_matrix, residual_std


def test_adversarial_loss_agrees_with_simulation(p, q, x64, key):
    """Eq. 2 in standard errors; Eq. 3 is feasible, attains its maximum and is not beaten."""
    model = gaussian_linear_model(0.5, spurious_scale=2.0)
    theta, epsilon, n = np.array([0.8, -0.4, 0.3, 0.1, -0.2]), 0.7, 200_000
    keys = jax.random.split(key, 3)
    x = jax.random.normal(keys[0], (n, 5)) @ jnp.linalg.cholesky(model.covariance).T
    y = x @ model.theta_opt + model.noise_std * jax.random.normal(keys[1], (n,))
    delta = np.asarray(worst_case_perturbation(jnp.asarray(theta), x, y, epsilon, p=p))
    assert np.all(np.linalg.norm(delta, ord=p, axis=1) <= epsilon * (1 + 1e-12))
    residual = np.asarray(y - x @ theta)
    attacked = (residual - delta @ theta) ** 2
    expected = (np.abs(residual) + epsilon * np.linalg.norm(theta, ord=q)) ** 2
    np.testing.assert_allclose(attacked, expected, rtol=1e-12, atol=0)

    other = np.array(jax.random.normal(keys[2], (n, 5)))
    other *= epsilon / np.linalg.norm(other, ord=p, axis=1, keepdims=True)
    assert np.all((residual - other @ theta) ** 2 <= attacked * (1 + 1e-12))

    loss = adversarial_loss(jnp.asarray(theta), model, epsilon, p=p)
    error = np.std(attacked) / math.sqrt(n)
    assert abs(np.mean(attacked) - loss) < 4 * error
    assert error < 0.01 * loss  # the comparison says something


def test_worst_case_of_a_residual_of_zero_is_still_attained(x64):
    theta = jnp.array([1.0, -2.0])
    delta = worst_case_perturbation(theta, jnp.zeros((1, 2)), jnp.zeros(1), 0.5, p=math.inf)
    assert float(delta[0] @ theta) ** 2 == pytest.approx(1.5**2, abs=1e-14)


def test_the_papers_covariance_by_hand(x64):
    """eta = 1/2: spurious rows (1/2, 1/2, 1, 0, 0) have length sqrt(3/2)."""
    assert mixing_matrix(0.5, normalize=False)[3, :].tolist() == [0.5, 0.5, 0, 1, 0]
    rho = 0.75 / math.sqrt(1.25 * 1.5)
    core, spurious = np.full((2, 2), 0.8), np.full((3, 3), 1 / 3)
    cross = np.full((2, 3), rho)
    expected = np.block([[core, cross], [cross.T, spurious]])
    np.fill_diagonal(expected, 1)
    model = gaussian_linear_model(0.5)
    np.testing.assert_allclose(model.covariance, expected, rtol=0, atol=1e-15)
    scale = np.array([1, 1, 3, 3, 3])
    scaled = gaussian_linear_model(0.5, spurious_scale=3.0).covariance
    np.testing.assert_allclose(scaled, expected * scale[:, None] * scale, rtol=0, atol=1e-14)
    assert model.theta_opt.tolist() == [1, 1, 0, 0, 0]
    assert float(model.noise_std) == 0.1
    assert model.is_spurious.tolist() == [False, False, True, True, True]


def test_loss_at_epsilon_zero_is_the_standard_loss(p, x64):
    model = gaussian_linear_model(0.5)
    theta = jnp.array([0.3, 0.2, -0.1, 0.0, 0.7])
    expected = standard_loss(theta, model)
    np.testing.assert_allclose(adversarial_loss(theta, model, 0.0, p=p), expected, rtol=1e-15)
    np.testing.assert_allclose(residual_std(theta, model) ** 2, expected, rtol=1e-15)
    v = np.array([0.7, 0.8, 0.1, 0, -0.7])
    np.testing.assert_allclose(expected, v @ np.asarray(model.covariance) @ v + 0.01, rtol=1e-14)


def test_the_loss_is_convex_on_random_midpoints(p, x64):
    model = gaussian_linear_model(0.7)
    loss = jax.vmap(lambda theta: adversarial_loss(theta, model, 0.6, p=p))
    x, y = np.random.default_rng(0).normal(size=(2, 500, 5))
    assert np.all(loss((x + y) / 2) <= (loss(x) + loss(y)) / 2 * (1 + 1e-14))


def test_reliance_by_hand():
    spurious = np.array([False, False, True])
    thetas = [[3, 0, 4], [1, 2, 0], [0, 0, -2], [1, -1, 1], [3e-30, 0, 4e-30], [0, 0, 0]]
    nfs = [norm_fraction_spurious(jnp.array(t, jnp.float32), spurious) for t in thetas]
    np.testing.assert_allclose(nfs, [0.64, 0, 1, 1 / 3, 0.64, math.nan], atol=1e-6)


@pytest.mark.parametrize("theta_opt", ([1, 0.4, 0, 0, 0], [1, -0.4, 0.5, 0, -0.3]))
@pytest.mark.parametrize("p", (1, 2, 3, math.inf))
def test_restricted_model_has_the_losses_of_core_parameters(theta_opt, p, x64):
    model = gaussian_linear_model(0.5, spurious_scale=2.0, theta_opt=theta_opt)
    core = restrict_to_core(model)
    assert not np.any(core.theta_opt[2:])
    assert not np.any(core.covariance[:2, 2:])
    thetas = np.random.default_rng(1).normal(size=(50, 5)) * ~np.asarray(model.is_spurious)
    for epsilon in (0.0, 0.8):
        expected, got = (
            jax.vmap(lambda theta, m=m: adversarial_loss(theta, m, epsilon, p=p))(thetas)  # noqa: B023
            for m in (model, core)
        )
        np.testing.assert_allclose(got, expected, rtol=1e-12, atol=0)


def test_dtypes_follow_the_input(x64):
    for dtype in (jnp.float32, jnp.float64):
        *numbers, is_spurious = gaussian_linear_model(0.5)
        model = GaussianLinearModel(*(x.astype(dtype) for x in numbers), is_spurious)
        theta, x, y = jnp.ones(5, dtype), jnp.ones((3, 5), dtype), jnp.ones(3, dtype)
        assert adversarial_loss(theta, model, 0.5, p=2).dtype == dtype
        assert standard_loss(theta, model).dtype == dtype
        assert norm_fraction_spurious(theta, model.is_spurious).dtype == dtype
        assert worst_case_perturbation(theta, x, y, 0.5, p=2).dtype == dtype
        assert restrict_to_core(model).covariance.dtype == dtype


def test_models_are_float32_without_x64():
    assert all(x.dtype == jnp.float32 for x in gaussian_linear_model(0.5)[:3])


GOOD = GaussianLinearModel(
    np.array([[2.0, 0.5, 0.1], [0.5, 1.0, 0.2], [0.1, 0.2, 1.0]]),
    np.array([1.0, 0.5, 0.0]),
    0.1,
    np.array([False, False, True]),
)
BAD_MODELS = {
    "not symmetric": {"covariance": np.array([[2.0, 0.5, 0], [0.1, 1, 0], [0, 0, 1]])},
    "not positive semidefinite": {"covariance": np.diag([1.0, 1.0, -0.1])},
    r"covariance has shape \(2, 2\)": {"covariance": np.eye(2)},
    r"covariance has shape \(4, 3, 3\).*vmap": {"covariance": np.zeros((4, 3, 3))},
    r"theta_opt has shape \(1, 3\)": {"theta_opt": np.ones((1, 3))},
    r"theta_opt has shape \(\)": {"theta_opt": 1.0},
    r"is_spurious has shape \(2,\)": {"is_spurious": np.array([True, False])},
    "is_spurious has dtype float": {"is_spurious": np.array([0.0, 0.0, 1.0])},
    "is_spurious marks 0 of 3": {"is_spurious": np.zeros(3, bool)},
    "is_spurious marks 3 of 3": {"is_spurious": np.ones(3, bool)},
    "noise_std = -0.1": {"noise_std": -0.1},
    "noise_std = nan": {"noise_std": math.nan},
    r"noise_std has shape \(2,\)": {"noise_std": np.ones(2)},
    "theta_opt contains NaN or infinity": {"theta_opt": np.array([1.0, math.nan, 0])},
    "covariance contains NaN or infinity": {"covariance": np.diag([1.0, 1.0, math.inf])},
}


@pytest.mark.parametrize("message", BAD_MODELS)
def test_bad_models_are_refused_by_name(message, x64):
    model = GOOD._replace(**BAD_MODELS[message])
    with pytest.raises(InputError, match=message):
        minimize_adversarial_loss(model, 0.5, p=2)
    with pytest.raises(InputError, match=message):
        duality_gap(np.ones(3), model, 0.5, p=2)


@pytest.mark.parametrize(
    "arguments, message",
    [
        ({"epsilon": -0.1}, "epsilon = -0.1.*>= 0"),
        ({"epsilon": math.nan}, "epsilon = nan"),
        ({"epsilon": math.inf}, "epsilon = inf"),
        ({"p": 0.5}, "p = 0.5"),
        ({"p": math.nan}, "p = nan"),
        ({"p": "2"}, "p = '2'"),
    ],
)
def test_bad_budgets_and_norms_are_refused_by_name(arguments, message, x64):
    arguments = {"epsilon": 0.5, "p": 2} | arguments
    theta = jnp.ones(3)
    for call in (
        lambda: minimize_adversarial_loss(GOOD, **arguments),
        lambda: adversarial_loss(theta, GOOD, **arguments),
        lambda: duality_gap(theta, GOOD, **arguments),
        lambda: worst_case_perturbation(theta, jnp.ones((2, 3)), jnp.ones(2), **arguments),
    ):
        with pytest.raises(InputError, match=message):
            call()


@pytest.mark.parametrize(
    ("function", "arguments", "options", "message"),
    [
        (
            minimize_adversarial_loss,
            (GOOD, np.ones(2)),
            {"p": 2},
            r"epsilon has shape \(2,\).*vmap",
        ),
        (minimize_adversarial_loss, (GOOD, 1), {"p": 2, "features": "x"}, "'x'.*'all', 'core'"),
        (gaussian_linear_model, (math.nan,), {}, "eta = nan"),
        (gaussian_linear_model, (np.ones(1),), {}, r"eta has shape \(1,\)"),
        (gaussian_linear_model, (0.5,), {"theta_opt": (1, 1)}, r"theta_opt has shape \(2,\)"),
        *(
            (gaussian_linear_model, (0.5,), {"spurious_scale": scale}, "spurious_scale = " + text)
            for scale, text in ((0.0, "0.0.*> 0"), (-1.0, "-1.0.*> 0"), (math.nan, "nan"))
        ),
    ],
)
def test_other_bad_arguments_are_refused_by_name(function, arguments, options, message, x64):
    with pytest.raises(InputError, match=message):
        function(*arguments, **options)


def test_models_closed_over_by_jit_are_checked_and_solved(x64):
    model = gaussian_linear_model(0.5)
    loss = jax.jit(lambda epsilon: minimize_adversarial_loss(model, epsilon, p=2).loss)(0.5)
    assert abs(loss - 0.5883229686285755) < 1e-14  # THEORY.md section 2

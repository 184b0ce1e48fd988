"""Closed forms of the collapse and of the phases before it, against the solver and by hand."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from advspur.theory import collapse_radius, gaussian_linear_model, norm_fraction_spurious
from advspur.theory.budget import attack_budget
from advspur.theory.limits import (
    critical_spurious_scale,
    epsilon_of_first_reliance,
    epsilon_of_full_reliance,
    limit_nfs,
    phase_diagram,
    plateau_onset,
)

ETAS = (0.0, 0.1, 0.25, 0.5, 0.75, 1.0, 2.0)
AT_ONE = {1: 5.440, 1.5: 3.186, 2: 2.440, 3: 1.871, math.inf: 1.1874}  # radius at eta = 1


def rho(eta):
    """Correlation of a core and a spurious feature."""
    return 1.5 * eta / math.sqrt(1.25 * (1 + 2 * eta**2))


def reliances(best, models):
    return np.asarray(jax.vmap(norm_fraction_spurious)(best.theta, models.is_spurious))


def test_collapse_radius_by_hand(p, x64):
    for eta in ETAS:
        radius = float(collapse_radius(gaussian_linear_model(eta), p=p))
        assert eta != 1 or radius == pytest.approx(AT_ONE[p], abs=5.1e-4)
        b = np.array([1.8, 1.8, *[2 * rho(eta)] * 3])
        exact = np.linalg.norm(b, ord=p) / (math.sqrt(2 / math.pi) * math.sqrt(3.61))
        assert radius == pytest.approx(exact, rel=1e-13)


@pytest.mark.parametrize("theta_opt", ((1, 1, 0, 0, 0), (1, 0.5, 0, 0, 0)))
def test_critical_scale_is_that_of_the_closed_form(theta_opt, x64):
    for eta in ETAS[1:]:
        exact = 0.6 * math.sqrt(1.25 * (1 + 2 * eta**2)) / eta
        for noise_std in (0.0, 0.1, 1.0):
            model = gaussian_linear_model(eta, theta_opt=theta_opt, noise_std=noise_std)
            assert float(critical_spurious_scale(model)) == pytest.approx(exact, rel=1e-12)
    scaled = gaussian_linear_model(0.5, spurious_scale=2.0, theta_opt=theta_opt)
    exact = 0.3 * math.sqrt(1.25 * 1.5) / 0.5
    assert float(critical_spurious_scale(scaled)) == pytest.approx(exact, rel=1e-12)
    assert math.isinf(critical_spurious_scale(gaussian_linear_model(0.0)))


def test_spurious_features_are_used_just_above_the_critical_scale(solve, paper_models):
    etas = np.repeat([0.25, 0.5, 1.0, 2.0], 12)
    critical = 0.6 * np.sqrt(1.25 * (1 + 2 * etas**2)) / etas
    factors = np.tile(np.repeat([1 - 1e-6, 1 + 1e-6], 6), 4)
    models = paper_models(etas, scales=critical * factors)
    epsilons = np.tile([0.01, 0.1, 0.3, 0.6, 0.9, 1.1], 8)
    used = np.any(solve(models, epsilons, p=math.inf).theta[:, 2:], axis=1)
    np.testing.assert_array_equal(used, factors > 1)


@pytest.mark.parametrize("t, eta", [(0.25, 0.5), (0.5, 0.5), (0.5, 1.0)])
def test_opposite_core_features_have_a_budget_of_first_use(t, eta, solve, paper_models):
    """theta_opt = (1, -t): used iff scale rho > (1 - 0.8 t) / (1 - t), and only above eps*."""
    least = (1 - 0.8 * t) / (1 - t) / rho(eta)
    theta_opt = (1, -t, 0, 0, 0)
    below, above = (
        gaussian_linear_model(eta, spurious_scale=least * factor, theta_opt=theta_opt)
        for factor in (1 - 1e-6, 1.3)
    )
    base = gaussian_linear_model(eta, theta_opt=theta_opt)
    assert float(critical_spurious_scale(base)) == pytest.approx(least, rel=1e-12)
    assert math.isnan(epsilon_of_first_reliance(below))
    r = 1.3 * least * rho(eta)
    kappa = 0.2 * t * r / (r - 1)
    n, s = 1 - kappa - 0.8 * t, math.sqrt(kappa**2 + 0.36 * t**2 + 0.01)
    first = float(attack_budget(kappa, s, n))
    assert float(epsilon_of_first_reliance(above)) == pytest.approx(first, rel=1e-12)
    models = paper_models([eta] * 2, scales=1.3 * least, theta_opts=theta_opt)
    best = solve(models, first * np.array([1 - 1e-6, 1 + 1e-6]), p=math.inf)
    assert np.any(best.theta[:, 2:], axis=1).tolist() == [False, True]


def test_plateau_of_the_l1_model(solve, paper_models):
    """theta = t (1, ..., 1) with t = 2 rho / (1 + 2 c + 2 rho): NFS = 3/5 from there on."""
    table = (2.0822, 1.7204, 1.2420, 0.9316, 0.7315, 0.3699)
    onsets = []
    for eta, digits in zip(ETAS[1:], table, strict=True):
        onset = float(plateau_onset(gaussian_linear_model(eta)))
        assert onset == pytest.approx(digits, abs=5.1e-5)
        c = 2 * eta**2 / (1 + 2 * eta**2)
        theta = np.full(5, 2 * rho(eta) / (1 + 2 * c + 2 * rho(eta)))
        covariance = np.asarray(gaussian_linear_model(eta).covariance)
        v = np.array([1, 1, 0, 0, 0]) - theta
        h = covariance @ v
        s = math.sqrt(v @ h + 0.01)
        exact = attack_budget(np.abs(h).sum(), s, theta[0])
        assert onset == pytest.approx(float(exact), rel=1e-12)
        onsets.append(onset)
    models = paper_models(np.repeat(ETAS[1:], 2))
    best = solve(models, np.outer(onsets, [1 - 1e-6, 1 + 1e-6]).ravel(), p=1)
    size = np.abs(best.theta)
    equal = np.all(size == size.max(axis=1, keepdims=True), axis=1)
    assert equal.tolist() == [False, True] * 6
    nfs = reliances(best, models)
    np.testing.assert_allclose(nfs[1::2], 0.6, rtol=1e-14, atol=0)
    assert math.isnan(plateau_onset(gaussian_linear_model(0.0)))


def test_reliance_at_the_collapse(p, solve, paper_models, numpy_radius):
    """3 (2R)^k / (2 1.8^k + 3 (2R)^k), k = 2 (p - 1), R = scale rho."""
    etas, scales = (x.ravel() for x in np.meshgrid([0.25, 0.5, 1.0], [1.0, 2.0, 4.0]))
    models = paper_models(etas, scales=scales)
    expected = []
    for eta, scale in zip(etas, scales, strict=True):
        ratio = 2 * scale * rho(eta) / 1.8
        if p == math.inf:
            expected.append(float(ratio > 1))
        else:
            share = ratio ** (2 * (p - 1))
            expected.append(3 * share / (2 + 3 * share))
        model = gaussian_linear_model(eta, spurious_scale=scale)
        assert float(limit_nfs(model, p=p)) == pytest.approx(expected[-1], rel=1e-12)
    # 1 - 1e-9 of the radius leaves theta = O(1e-9), its direction right to about as much.
    best = solve(models, (1 - 1e-9) * numpy_radius(models, p), p=p)
    np.testing.assert_allclose(reliances(best, models), expected, rtol=0, atol=1e-6)
    assert float(limit_nfs(gaussian_linear_model(1.0), p=2)) == pytest.approx(0.526316, abs=1e-6)


def test_full_reliance_of_the_linf_model(solve, paper_models):
    """theta_C = 0 from kappa = D / (S2 - 3 R) on, with S2 = scale^2 (1 + 2 c)."""
    cases = [(0.5, 3.0, 0.9297), (1.0, 2.0, 0.6805), (0.25, 3.0, 1.1748)]
    for eta, scale, digits in cases:
        model = gaussian_linear_model(eta, spurious_scale=scale)
        full = float(epsilon_of_full_reliance(model))
        assert full == pytest.approx(digits, abs=5.1e-5)
        c, r = 2 * eta**2 / (1 + 2 * eta**2), scale * rho(eta)
        s2 = scale**2 * (1 + 2 * c)
        d = 1.8 * s2 - 6 * r**2

        def at(kappa, eta=eta, model=model, s2=s2, r=r, d=d):
            """(theta_C, theta_S, the budget) on the first piece of the path."""
            core, spurious = 1 - kappa * (s2 - 3 * r) / d, kappa * (2 * r - 1.8) / d
            v = np.array([1 - core] * 2 + [-spurious] * 3)
            s = math.sqrt(v @ np.asarray(model.covariance) @ v + 0.01)
            return core, spurious, float(attack_budget(kappa, s, 2 * core + 3 * spurious))

        kappas = d / (s2 - 3 * r) * np.array([0.01, 0.3, 0.8, 1.0])
        core, spurious, budgets = np.array([at(kappa) for kappa in kappas]).T
        assert full == pytest.approx(budgets[-1], rel=1e-12)
        epsilons = [*budgets[:-1], full * (1 - 1e-6), full * (1 + 1e-6)]
        models = paper_models([eta] * 5, scales=scale)
        best = solve(models, epsilons, p=math.inf)
        np.testing.assert_allclose(best.theta[:3, :2].T, [core[:3]] * 2, rtol=0, atol=1e-12)
        np.testing.assert_allclose(best.theta[:3, 2:].T, [spurious[:3]] * 3, rtol=0, atol=1e-12)
        nfs = reliances(best, models)
        assert nfs[3] < 1
        assert nfs[4] == 1
        assert float(epsilon_of_first_reliance(model)) == 0
    assert math.isnan(epsilon_of_full_reliance(gaussian_linear_model(0.5)))


def test_phase_diagram_is_its_cells(x64):
    etas, scales = np.array([0.25, 0.5, 1.0]), np.array([1.0, 3.0])
    diagram = phase_diagram(etas, scales)
    names = ("used_from", "one_from", "collapse_radius")
    assert set(diagram) == {*names, "critical_scale"}
    assert {diagram[n].shape for n in names} == {(3, 2)}
    for i, eta in enumerate(etas):
        for j, scale in enumerate(scales):
            model = gaussian_linear_model(eta, spurious_scale=scale)
            used_from, one_from = epsilon_of_first_reliance(model), epsilon_of_full_reliance(model)
            expected = used_from, one_from, collapse_radius(model, p=math.inf)
            found = [diagram[n][i, j] for n in names]
            np.testing.assert_allclose(found, expected, rtol=1e-12, atol=0)
    used = scales[None] > np.asarray(diagram["critical_scale"])[:, None]
    np.testing.assert_array_equal(~jnp.isnan(diagram["used_from"]), used)

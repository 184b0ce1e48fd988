"""Budgets that differ by feature: reference rows, thresholds, rates, limits, the worst case."""

import itertools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from advspur import theory
from advspur._checks import InputError
from advspur.theory import GaussianLinearModel, adversarial_loss, minimize_adversarial_loss
from advspur.theory.weights import reweight
from tests.theory.test_solve import padded
from tests.theory.test_solve import reference as read_reference

C1 = math.sqrt(2 / math.pi)
NORMS = (1, 1.25, 1.5, 2, 3, 4, math.inf)
SIZE = 20  # features after padding
pytestmark = pytest.mark.usefixtures("x64")


def core_radius(model, p):
    return float(theory.collapse_radius(theory.restrict_to_core(model), p=p))


def weigh(model, weight):
    return np.where(model.is_spurious, weight, 1.0)


@pytest.fixture
def reference(shared):
    """The rows of theory_weights.json: solved to 50 digits, in theta, by another method."""
    return read_reference(shared, "weights")


@pytest.mark.parametrize("p", NORMS)
def test_the_rows_solved_by_another_method(p, reference, solve):
    rows = [row for row in reference if row["p"] == p]
    models = padded(rows, SIZE)
    weights = np.array([row["weights"] + [1] * (SIZE - len(row["weights"])) for row in rows])
    inside, _ = jax.vmap(lambda m, w: (reweight(m, w, has_limits=False)[0], 0))(models, weights)
    best = solve(jax.tree.map(np.asarray, inside), [row["eps"] for row in rows], p=p)
    assert np.all(best.converged)
    for i, row in enumerate(rows):
        m = len(row["theta"])
        theta, scale = best.theta[i, :m] / weights[i, :m], np.max(np.abs(row["theta"])) or 1
        np.testing.assert_allclose(theta, row["theta"], rtol=0, atol=1e-9 * scale)
        one = jax.tree.map(lambda x: x[i], models)  # noqa: B023
        facts = {"p": p, "budget_weights": weights[i]}
        loss = adversarial_loss(best.theta[i] / weights[i], one, row["eps"], **facts)
        assert loss == pytest.approx(row["loss"], rel=1e-12)
        radius = theory.collapse_radius(one, **facts)
        assert radius == pytest.approx(row["collapse_radius"], rel=1e-12)


@pytest.mark.parametrize("p", (2, math.inf))
def test_the_minimiser_takes_weights(p, reference):
    """The public way, one problem at a time, with its certificate and its derivatives."""
    row = next(r for r in reference if r["p"] == p and r["kind"] == "paper" and not r["zero"])
    model = theory.gaussian_linear_model(row["eta"], spurious_scale=row["scale"])
    model = model._replace(theta_opt=jnp.array(row["theta_opt"]))
    facts = {"p": p, "budget_weights": np.array(row["weights"])}
    best = minimize_adversarial_loss(model, row["eps"], **facts)
    np.testing.assert_allclose(best.theta, row["theta"], rtol=0, atol=1e-9)
    assert best.gap < 1e-12 and theory.duality_gap(best.theta, model, row["eps"], **facts) < 1e-12
    worse = best.theta + 1e-3
    excess = adversarial_loss(worse, model, row["eps"], **facts) - best.loss
    assert excess <= theory.duality_gap(worse, model, row["eps"], **facts)

    def loss(weights):
        call = facts | {"budget_weights": weights}
        return minimize_adversarial_loss(model, row["eps"], **call).loss

    # Envelope: d loss / d w_j = 2 epsilon (c1 s + epsilon n) dn / d w_j at the minimiser.
    s, w = math.sqrt(row["clean"]), np.array(row["weights"])
    theta, n = np.array(row["theta"]), row["weighted_norm"]
    slope = np.abs(theta) if p == math.inf else w * theta**2 / n
    expected = 2 * row["eps"] * (C1 * s + row["eps"] * n) * slope
    np.testing.assert_allclose(jax.grad(loss)(jnp.array(w)), expected, rtol=1e-8, atol=1e-12)


def test_the_worst_case_is_the_best_corner():
    """p = inf: all corners of the box; p = 1: all of the cross-polytope."""
    theta, x = jnp.array([0.7, -0.2, 0.4]), jnp.array([0.3, 1.0, -0.5])
    weights, y, epsilon = np.array([1.0, 2.5, 0.0]), 0.9, 0.3
    corners = {
        math.inf: np.array(list(itertools.product((-1, 1), repeat=3))),
        1: np.concatenate([np.eye(3), -np.eye(3)]),
    }
    for p, points in corners.items():
        losses = (y - (x + epsilon * weights * points) @ theta) ** 2
        call = {"p": p, "budget_weights": weights}
        delta = theory.worst_case_perturbation(theta, x, y, epsilon, **call)
        assert (y - (x + delta) @ theta) ** 2 == pytest.approx(float(losses.max()), rel=1e-12)


@pytest.mark.parametrize("theta_opt", ((1, 1, 0, 0, 0), (1, 0.5, 0, 0, 0)))
def test_linf_leaves_the_spurious_features_from_the_protective_weight_on(theta_opt):
    model = theory.gaussian_linear_model(0.5, spurious_scale=3.0, theta_opt=theta_opt)
    radius = core_radius(model, math.inf)
    everywhere = 1 / float(theory.critical_spurious_scale(model))
    assert everywhere == pytest.approx(1.825741858350554, rel=1e-12)  # R / 0.9, by hand

    @jax.jit
    def used(share, factor):
        epsilon = share * radius
        weight = theory.protective_weight(model, epsilon, p=math.inf)
        weights = jnp.where(model.is_spurious, factor * weight, 1)
        best = minimize_adversarial_loss(model, epsilon, p=math.inf, budget_weights=weights)
        return weight, jnp.any(best.theta[2:] != 0)

    for share in (0.1, 0.5, 0.9, 0.999):
        weight, above = used(share, 1 + 1e-6)
        assert not above and used(share, 1 - 1e-6)[1]
        assert weight <= everywhere * (1 + 1e-12)
    if theta_opt == (1, 0.5, 0, 0, 0):  # it falls before the collapse
        assert used(0.999, 1)[0] == pytest.approx(1.760736, abs=1e-6)
    assert used(1.2, 1)[0] == pytest.approx(float(used(1 - 1e-12, 1)[0]) / 1.2, rel=1e-6)


@pytest.mark.parametrize(
    ("p", "limit", "at_weight"), [(1, 3 / 2, 100), (2, 5 / 9, 1000), (3, 0.2057613, 100)]
)
def test_nfs_falls_as_a_power_of_the_weight(p, limit, at_weight):
    """Below the collapse no weight is enough; beyond it one is."""
    model = theory.gaussian_linear_model(0.5)
    radius = core_radius(model, p)
    epsilon = 0.4 * radius
    assert theory.nfs_rate(model, epsilon, p=p) == pytest.approx(limit, rel=1e-6)
    assert theory.protective_weight(model, epsilon, p=p) == math.inf
    weights = weigh(model, at_weight)
    theta = minimize_adversarial_loss(model, epsilon, p=p, budget_weights=weights).theta
    nfs = theory.norm_fraction_spurious(theta, model.is_spurious)
    assert 0 < nfs and nfs * at_weight ** (2 * p) == pytest.approx(limit, rel=2e-3)
    weight = theory.protective_weight(model, 1.1 * radius, p=p)
    b, s0 = model.covariance @ model.theta_opt, math.sqrt(3.6 + 0.01)
    power = np.abs(np.asarray(b)) ** p
    by_hand = (power[2:].sum() / ((C1 * 1.1 * radius * s0) ** p - power[:2].sum())) ** (1 / p)
    assert weight == pytest.approx(by_hand, rel=1e-9)
    for factor, zero in ((1 + 1e-6, True), (1 - 1e-6, False)):
        call = {"p": p, "budget_weights": weigh(model, factor * weight)}
        assert np.all(minimize_adversarial_loss(model, 1.1 * radius, **call).theta == 0) == zero


@pytest.mark.parametrize("p", (1, 2, math.inf))
def test_the_limits_of_the_weights(p):
    model = theory.gaussian_linear_model(0.5)
    epsilon = 0.5 * core_radius(model, p)

    def best(core, spurious):
        weights = np.where(model.is_spurious, spurious, core)
        found = minimize_adversarial_loss(model, epsilon, p=p, budget_weights=weights)
        loss = adversarial_loss(found.theta, model, epsilon, p=p, budget_weights=weights)
        assert found.converged and found.loss == pytest.approx(float(loss), rel=1e-12)
        return found

    # inf: the best core-only model, and what large weights tend to.
    core = minimize_adversarial_loss(model, epsilon, p=p, features="core")
    np.testing.assert_allclose(best(1, math.inf).theta, core.theta, rtol=0, atol=1e-12)
    np.testing.assert_allclose(best(1, 1e4).theta, core.theta, rtol=0, atol=2e-4)
    # 0: least squares on S given C, and what small weights tend to.
    free = best(1, 0)
    h = model.covariance @ (model.theta_opt - free.theta)
    np.testing.assert_allclose(h[2:], 0, atol=1e-12)
    np.testing.assert_allclose(best(1, 1e-4).theta, free.theta, rtol=0, atol=2e-3)
    # Only S attacked: theta_opt is not on S, and stays.
    np.testing.assert_allclose(best(0, 1).theta, model.theta_opt, atol=1e-12)
    assert best(0, 0).loss == pytest.approx(0.01, rel=1e-12)
    assert not np.any(best(math.inf, math.inf).theta)


def test_an_unattacked_spurious_feature_bounds_the_loss():
    """(1, 1), eta = 0.5: C is dropped at eps_C; half of it gives numbers solved to 50 digits."""
    model = theory.gaussian_linear_model(0.5)
    covariance, free = np.asarray(model.covariance), weigh(model, 0)
    left = covariance[:2, :2] - covariance[:2, 2:] @ np.linalg.solve(
        covariance[2:, 2:], covariance[2:, :2]
    )
    gain = left @ np.ones(2)
    radius = gain.max() / (C1 * math.sqrt(gain.sum() + 0.01))
    best = minimize_adversarial_loss(model, 0.5 * radius, p=math.inf, budget_weights=free)
    nfs = theory.norm_fraction_spurious(best.theta, model.is_spurious)
    assert nfs == pytest.approx(0.005883, abs=1e-6)
    assert best.loss == pytest.approx(0.646860022, abs=1e-9)
    for share in (1.01, 3):  # beyond: NFS 1, the loss does not grow any more
        best = minimize_adversarial_loss(model, share * radius, p=math.inf, budget_weights=free)
        assert best.loss == pytest.approx(1.45, abs=1e-9) and not np.any(best.theta[:2])
    assert theory.collapse_radius(model, p=2, budget_weights=free) == math.inf


def test_paths_and_limits_take_weights():
    model = theory.gaussian_linear_model(0.5, spurious_scale=3.0)
    for p, weight in ((1, 2.0), (math.inf, 1.2)):
        call = {"p": p, "budget_weights": weigh(model, weight)}
        path = theory.regularization_path(model, **call)
        for k in (1, 2):
            best = minimize_adversarial_loss(model, path.epsilon[k], **call)
            np.testing.assert_allclose(path.theta[k], best.theta, rtol=0, atol=1e-9)
    for p in (1, 2, 3, math.inf):
        call = {"p": p, "budget_weights": weigh(model, 1.2)}
        radius = theory.collapse_radius(model, **call)
        theta = minimize_adversarial_loss(model, radius * (1 - 1e-7), **call).theta
        nfs = theory.norm_fraction_spurious(theta, model.is_spurious)
        assert nfs == pytest.approx(float(theory.limit_nfs(model, **call)), abs=1e-5)


def test_a_sweep_holds_the_table_of_the_price():
    """p = 2, eta = 0.5, epsilon = 1: NFS, clean, uniform, core-only attack, own loss, 50 digits."""
    table = {
        0.1: (0.886682, 0.884625, 3.137219, 1.450775, 1.476394),
        1.0: (0.083261, 0.170018, 1.829830, 1.718448, 1.829830),
        2.0: (0.012797, 0.071730, 1.904610, 1.884308, 1.965397),
        4.0: (0.001483, 0.045566, 2.011112, 2.008511, 2.050097),
        10.0: (0.0000519, 0.042772, 2.082272, 2.082177, 2.091664),
        math.inf: (0, 0.043214, 2.101528, 2.101528, 2.101528),
    }
    model = theory.gaussian_linear_model(0.5)
    sweep = theory.sweep_budget_weights(model, list(table), [1.0, 3.0], p=2)
    names = ("nfs", "clean_loss", "uniform_loss", "core_loss", "loss")
    found = np.stack([getattr(sweep, name)[:, 0] for name in names], axis=1)
    np.testing.assert_allclose(found, list(table.values()), rtol=0, atol=1e-6)
    assert np.all(sweep.converged) and np.all(np.isnan(sweep.nfs[1:, 1]))
    assert sweep.protective_weight[0] == math.inf > sweep.protective_weight[1]
    b = np.asarray(model.covariance @ model.theta_opt)
    radii = [math.hypot(*b[:2], *b[2:] / w) / (C1 * math.sqrt(3.61)) for w in table]
    np.testing.assert_allclose(sweep.collapse_radius, radii, rtol=1e-12)


@pytest.mark.parametrize(
    ("p", "eta", "scale", "theta_opt", "core_only", "slightly_more"),
    [
        (1, 0.25, 1, (1, 1, 0, 0, 0), 1.961381, 2.52885),
        (2, 0.5, 1, (1, 0.5, 0, 0, 0), 1.199026, 1.37435),
        (math.inf, 1, 3, (1, 0.5, 0, 0, 0), 0.907262, 0.66779),
    ],
)
def test_the_break_even_budget(p, eta, scale, theta_opt, core_only, slightly_more):
    """Against 50-digit solutions of both problems by another method."""
    model = theory.gaussian_linear_model(eta, spurious_scale=scale, theta_opt=theta_opt)
    assert theory.break_even_budget(model, p=p) == pytest.approx(core_only, abs=2e-6)
    nearly = theory.break_even_budget(model, p=p, weight=1 + 1e-6)
    assert nearly == pytest.approx(slightly_more, abs=2e-5)


def test_without_a_gain_there_is_no_break_even_budget():
    unused = theory.gaussian_linear_model(0.5)
    assert np.isnan(theory.break_even_budget(unused, p=math.inf))
    needed = theory.gaussian_linear_model(0.5, spurious_scale=3.0, theta_opt=(1, 1, 0.01, 0, 0))
    assert np.isnan(theory.break_even_budget(needed, p=math.inf))
    with pytest.raises(InputError, match="weight = 1: it must be > 1"):
        theory.break_even_budget(unused, p=2, weight=1)


def test_nfs_can_rise_with_the_weight():
    """The counterexample of docs/theory.md: the core features drop out first."""
    covariance = np.array([[1, 0, 1.6], [0, 1, 0.4], [1.6, 0.4, 4]])
    is_spurious = np.array([False, False, True])
    model = GaussianLinearModel(covariance, np.array([1.0, -1, 0]), 0.1, is_spurious)
    sweep = theory.sweep_budget_weights(model, [0.25, 0.5, 0.8], [0.95], p=math.inf)
    np.testing.assert_allclose(sweep.nfs[:, 0], [0.701990, 0.827761, 1], rtol=0, atol=1e-6)


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        ([1, 1, 1], r"budget_weights has shape \(3,\); give one for each of 5 features"),
        ([1, 1, -1, 1, 1], "they must be >= 0"),
        ([1, 1, math.nan, 1, 1], "they must be >= 0"),
    ],
)
def test_weights_that_make_no_sense_are_named(weights, message):
    model = theory.gaussian_linear_model(0.5)
    for function in (
        lambda **call: minimize_adversarial_loss(model, 0.1, **call),
        lambda **call: adversarial_loss(model.theta_opt, model, 0.1, **call),
        lambda **call: theory.collapse_radius(model, **call),
        lambda **call: theory.limit_nfs(model, **call),
    ):
        with pytest.raises(InputError, match=message):
            function(p=2, budget_weights=np.array(weights))


def test_closed_forms_that_have_no_limits_say_so():
    model = theory.gaussian_linear_model(0.5)
    for weights in ([1, 1, 0, 1, 1], [1, 1, math.inf, 1, 1]):
        with pytest.raises(InputError, match="must be positive and finite"):
            theory.regularization_path(model, p=1, budget_weights=np.array(weights))
    with pytest.raises(InputError, match="p = inf has no rate"):
        theory.nfs_rate(model, 0.5, p=math.inf)
    with pytest.raises(InputError, match="epsilon must be > 0"):
        theory.protective_weight(model, 0.0, p=2)
    with pytest.raises(InputError, match="epsilons must be > 0"):
        theory.sweep_budget_weights(model, [1.0], [0.0], p=2)

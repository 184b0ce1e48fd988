"""The exact minimiser against reference tables, scipy, its certificate and itself."""

import json
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import optimize

from advspur.theory import (
    GaussianLinearModel,
    faces,
    gaussian_linear_model,
    minimize_adversarial_loss,
    norm_fraction_spurious,
    smooth,
)
from advspur.theory import problem as problem_module
from advspur.theory import solve as solve_module
from advspur.theory.problem import Problem

C1 = math.sqrt(2 / math.pi)


def reference(shared, name):
    path = shared / "reference" / f"theory_{name}.json"
    if not path.is_file():
        pytest.skip(f"{path} is absent: this test compares with its rows")
    table = json.loads(path.read_text())
    rows = table["rows"] if isinstance(table, dict) else table
    return [row | {"p": float(row["p"])} for row in rows]


def column(rows, name):
    return np.array([row[name] for row in rows], float)


def row_models(paper_models, rows, noise_stds=0.1):
    return paper_models(
        column(rows, "eta"),
        scales=[row.get("scale", 1.0) for row in rows],
        theta_opts=column(rows, "theta_opt"),
        noise_stds=noise_stds,
    )


def check_against(best, rows):
    expected = column(rows, "theta")
    np.testing.assert_allclose(best.theta[:, : expected.shape[1]], expected, rtol=0, atol=1e-9)
    assert not np.any(best.theta[:, expected.shape[1] :])
    np.testing.assert_allclose(best.loss, column(rows, "loss"), rtol=1e-12, atol=0)
    assert np.all(best.gap >= 0)
    assert np.all(best.gap <= 1e-12 * best.loss)
    assert np.all(best.converged)


def test_every_row_of_the_papers_models(p, shared, solve, paper_models):
    paper, edge = (
        [row for row in reference(shared, table) if row["p"] == p] for table in ("paper", "edge")
    )
    rows = paper + edge
    noise_stds = [row.get("sigma_w", 0.1) for row in rows]
    best = solve(row_models(paper_models, rows, noise_stds), column(rows, "eps"), p=p)
    check_against(best, rows)
    theta = best.theta[: len(paper)]
    nfs = [norm_fraction_spurious(t, np.arange(5) >= 2) for t in theta]
    np.testing.assert_allclose(nfs, column(paper, "nfs"), rtol=0, atol=1e-9)
    np.testing.assert_array_equal(~np.any(theta, axis=1), [row["zero"] for row in paper])


def padded(rows, size):
    """Models of the rows, padded with independent useless features: the minimiser is 0 there."""
    covariance, theta_opt = np.zeros((len(rows), size, size)) + np.eye(size), []
    is_spurious = np.tile(np.arange(size) >= 2, (len(rows), 1))
    for i, row in enumerate(rows):
        m = len(row["theta_opt"])
        covariance[i, :m, :m] = row["Sigma"]
        is_spurious[i, :m] = row.get("is_spurious", is_spurious[i, :m])
        theta_opt.append(row["theta_opt"] + [0] * (size - m))
    return GaussianLinearModel(
        covariance, np.array(theta_opt, float), column(rows, "sigma_w"), is_spurious
    )


@pytest.mark.parametrize("p", (1, 1.25, 1.5, 2, 3, 4, math.inf))
def test_every_row_of_the_random_table(p, shared, solve):
    """Three features inside five (unrolled elimination), eight inside twenty (LAPACK)."""
    rows = [row for row in reference(shared, "random") if row["p"] == p]
    for m, size in ((3, 20 if p in (1.25, 4) else 5), (8, 20)):
        some = [row for row in rows if row["m"] == m]
        check_against(solve(padded(some, size), column(some, "eps"), p=p), some)


def test_float32_reproduces_the_reliance(p, shared, float32_functions):
    paper_models, solve = float32_functions
    rows = [row for row in reference(shared, "paper") if row["p"] == p and row["nfs"] is not None]
    best = solve(row_models(paper_models, rows), column(rows, "eps"), p=p)
    assert best.theta.dtype == best.loss.dtype == best.gap.dtype == np.float32
    assert np.all(best.converged)
    nfs = [norm_fraction_spurious(theta, np.arange(5) >= 2) for theta in best.theta]
    # float32 rounds theta by about 1e-6.
    np.testing.assert_allclose(nfs, column(rows, "nfs"), rtol=0, atol=1e-4)


def plain_loss(x, norm, slope, covariance, theta_opt, noise_std, epsilon):
    """(loss, gradient, derivative by the norm) in numpy."""
    h = covariance @ (theta_opt - x)
    s = math.sqrt((theta_opt - x) @ h + noise_std**2)
    loss = s**2 + epsilon**2 * norm**2 + 2 * C1 * epsilon * s * norm
    by_norm = 2 * epsilon**2 * norm + 2 * C1 * epsilon * s
    return loss, -2 * (1 + C1 * epsilon * norm / s) * h + by_norm * slope, by_norm


def by_scipy(p, q, *model):
    """Another way to the minimiser: quasi-Newton and a root, or an epigraph without kinks."""
    theta_opt = model[1]
    if 1 < p < math.inf:

        def both(x):
            norm = np.linalg.norm(x, ord=q)
            slope = np.sign(x) * (np.abs(x) / norm) ** (q - 1)
            return plain_loss(x, norm, slope, *model)[:2]

        near = optimize.minimize(both, 0.5 * theta_opt + 0.01, jac=True, method="BFGS").x
        return optimize.root(lambda x: both(x)[1], near, method="hybr", tol=1e-14).x

    def epigraph(x):  # theta = a - b with a, b >= 0, and n >= ||a + b||_q
        loss, grad, by_norm = plain_loss(x[:m] - x[m:-1], x[-1], 0 * theta_opt, *model)
        return loss, np.concatenate([grad, -grad, [by_norm]])

    m = len(theta_opt)
    parts = np.eye(m) if p == 1 else np.ones((1, m))  # n >= each |theta_i|, or their sum
    bounds = np.c_[-parts, -parts, np.ones(len(parts))]
    positive, negative = np.maximum(theta_opt, 0), np.maximum(-theta_opt, 0)
    start = np.concatenate([positive, negative, [np.linalg.norm(theta_opt, ord=q)]])
    options = {"bounds": [(0, None)] * (2 * m + 1), "options": {"maxiter": 2000, "ftol": 1e-16}}
    options["constraints"] = {"type": "ineq", "fun": lambda x: bounds @ x, "jac": lambda x: bounds}
    found = optimize.minimize(epigraph, start, jac=True, method="SLSQP", **options).x
    return found[:m] - found[m:-1]


def test_scipy_finds_the_same(p, q, solve, random_problems):
    models, epsilons = random_problems(10, 5, p=p, condition=20.0, seed=3, fractions=(0.05, 0.9))
    best = solve(models, epsilons, p=p)
    # SLSQP stops at a loss that is right to rounding: theta to its square root.
    digits = 1e-8 if 1 < p < math.inf else 2e-6
    for i, epsilon in enumerate(epsilons):
        model = [x[i] for x in models[:3]]
        theta = by_scipy(p, q, *model, epsilon)
        np.testing.assert_allclose(best.theta[i], theta, rtol=0, atol=digits)
        loss = plain_loss(theta, np.linalg.norm(theta, ord=q), 0 * theta, *model, epsilon)[0]
        assert best.loss[i] <= loss * (1 + 1e-12)


@pytest.mark.parametrize("m", (5, 20))
def test_random_problems_are_certified(p, m, solve, random_problems):
    for condition in (10.0, 1e4):
        models, epsilons = random_problems(256, m, p=p, condition=condition, seed=m)
        best = solve(models, epsilons, p=p)
        assert np.all(best.converged), np.flatnonzero(~best.converged)
        assert np.all(best.unique)
        assert np.all(np.any(best.theta, axis=1))


def test_without_noise_theta_opt_is_a_kink(p, q, solve, paper_models):
    """theta = theta_opt up to eps_free = c1 / min over g in d||theta_opt||_q of |g|_(cov^-1)."""
    model = jax.tree.map(lambda x: x[0], paper_models([0.5], noise_stds=0.0))
    inverse = np.linalg.inv(model.covariance)
    if p == math.inf:  # free where theta_opt is 0, and inside [-1, 1]
        free = -np.linalg.solve(inverse[2:, 2:], inverse[2:, :2] @ np.ones(2))
        g = np.append(np.ones(2), np.clip(free, -1, 1))
    elif p == 1:  # of the convex hull of the two tied unit vectors the symmetric one
        g = np.array([0.5, 0.5, 0, 0, 0])
    else:
        g = np.array([1, 1, 0, 0, 0]) / 2 ** (1 - 1 / q)
    free = C1 / math.sqrt(g @ inverse @ g)
    epsilons = free * np.array([1e-3, 0.5, 1 - 1e-6, 1.01])
    models = paper_models([0.5] * 4, noise_stds=0.0)
    best = solve(models, epsilons, p=p)
    assert np.all(best.converged)
    np.testing.assert_array_equal(best.theta[:3], models.theta_opt[:3])
    assert np.max(np.abs(best.theta[3] - models.theta_opt[3])) > 1e-6


def test_theta_opt_zero_and_epsilon_zero(p, solve, paper_models):
    theta_opts = [[0] * 5, [0] * 5, [1, 1, 0, 0, 0], [1, -0.5, 0, 0.2, 0]]
    models = paper_models([0.5] * 4, theta_opts=theta_opts)
    best = solve(models, [0.4, 0.0, 0.0, 0.0], p=p)
    np.testing.assert_array_equal(best.theta, models.theta_opt)
    np.testing.assert_allclose(best.loss, 0.01, rtol=1e-14, atol=0)
    np.testing.assert_array_equal(best.gap, 0)
    assert np.all(best.converged & best.unique)


def test_theta_is_zero_from_the_collapse_on(p, solve, paper_models, numpy_radius):
    models = paper_models([0.25, 0.5, 1.0] * 4)
    factors = np.repeat([1 - 1e-6, 1 + 1e-14, 2.0, 1e6], 3)
    best = solve(models, factors * numpy_radius(models, p), p=p)
    assert np.all(np.any(best.theta[:3], axis=1))
    np.testing.assert_array_equal(best.theta[3:], 0)
    np.testing.assert_array_equal(best.gap[3:], 0)
    nfs = norm_fraction_spurious(jnp.asarray(best.theta[-1]), models.is_spurious[-1])
    assert np.isnan(nfs)
    assert np.all(best.converged)


@pytest.mark.parametrize("dtype", ("float32", "float64"))
@pytest.mark.parametrize("rank", (1, 3))
def test_large_singular_matrices_have_a_solution(dtype, rank, x64):
    """Rounding makes pivots negative: nearly equal features, m = 600."""
    root = 1 + 0.01 * np.random.default_rng(0).normal(size=(600, rank))
    matrix = jnp.asarray(root @ root.T, dtype)
    side = matrix @ jnp.ones(600, dtype)
    found = problem_module.solve(problem_module.factor(matrix), side)
    error = jnp.max(jnp.abs(matrix @ found - side)) / jnp.max(jnp.abs(side))
    assert error < 1e4 * jnp.finfo(dtype).eps


@pytest.mark.parametrize("m", (5, 20))  # eliminated by hand, and by LAPACK
def test_rank_deficient_covariance_is_certified(m, p, solve, numpy_radius):
    """Two copies of the same features: for p = 1 and inf nothing says which to use."""
    rng = np.random.default_rng(0)
    rank, copied = m - m // 2, m // 2
    half = rng.normal(size=(20, rank, rank))
    root = np.concatenate([half, half[:, :copied]], axis=1)
    theta_opt = np.concatenate([rng.normal(size=(20, copied)), np.zeros((20, rank))], axis=1)
    is_spurious = np.broadcast_to(np.arange(m) >= copied, (20, m))
    covariance = root @ root.transpose(0, 2, 1)
    models = GaussianLinearModel(covariance, theta_opt, np.full(20, 0.1), is_spurious)
    best = solve(models, np.geomspace(0.01, 0.95, 20) * numpy_radius(models, p), p=p)
    assert np.all(best.converged), (best.gap / best.loss)[~best.converged]
    np.testing.assert_array_equal(best.unique, p not in (1, math.inf))
    if 1 < p < math.inf:  # copies share alike
        copies = best.theta[:, rank:]
        np.testing.assert_allclose(best.theta[:, :copied], copies, rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("p", (2, math.inf))
def test_core_features_alone(p, solve, paper_models):
    theta_opt = [1, 0.4, 0, 0, 0]
    models, epsilons = paper_models([0.5] * 4, theta_opts=theta_opt), [0.0, 0.3, 0.7, 5.0]
    # The core alone, padded with uninformative features.
    row = {"m": 2, "Sigma": models.covariance[0, :2, :2], "theta_opt": theta_opt[:2]}
    small = padded([row | {"sigma_w": 0.1}] * 4, 5)
    best, other = solve(models, epsilons, p=p, features="core"), solve(small, epsilons, p=p)
    np.testing.assert_allclose(best.theta, other.theta, rtol=0, atol=1e-14)
    np.testing.assert_array_equal(best.theta[:, 2:], 0)
    np.testing.assert_allclose(best.loss, other.loss, rtol=1e-14, atol=0)
    assert np.all(best.converged)
    everything = solve(models, epsilons, p=p)
    assert np.all(everything.loss <= best.loss * (1 + 1e-12))


def test_a_grid_is_one_compilation_and_its_cells_are_single_solves(x64):
    def cell(eta, epsilon):
        return minimize_adversarial_loss(gaussian_linear_model(eta), epsilon, p=2)

    compiled = []

    def listener(event, duration, **_):
        compiled.extend([event] * event.endswith("backend_compile_duration"))

    grid = jax.jit(jax.vmap(jax.vmap(cell, in_axes=(None, 0)), in_axes=(0, None)))
    jax.monitoring.register_event_duration_secs_listener(listener)
    try:
        etas, epsilons = np.linspace(0, 1, 12), np.linspace(0, 3, 16)  # more than one chunk
        best = jax.block_until_ready(grid(etas, epsilons))
        assert len(compiled) == 1
        jax.block_until_ready(grid(etas + 0.1, epsilons * 0.5))
        assert len(compiled) == 1
    finally:
        jax.monitoring.unregister_event_duration_listener(listener)
    assert best.theta.shape == (12, 16, 5)
    assert np.all(best.converged)
    for i, j in ((0, 0), (5, 7), (11, 3), (11, 15)):
        single = minimize_adversarial_loss(gaussian_linear_model(etas[i]), epsilons[j], p=2)
        np.testing.assert_allclose(best.theta[i, j], single.theta, rtol=0, atol=1e-14)
        np.testing.assert_allclose(best.loss[i, j], single.loss, rtol=1e-14, atol=0)


def as_problem(models, epsilons):
    covariance, target, noise_std = (jnp.moveaxis(jnp.asarray(x), 0, -1) for x in models[:3])
    product = jnp.einsum("ijn,jn->in", covariance, target)
    return Problem(covariance, target, product, noise_std**2, jnp.asarray(epsilons))


@pytest.mark.parametrize("p", (1, math.inf))
def test_active_set_and_homotopy_agree(p, random_problems):
    models, epsilons = random_problems(64, 20, p=p, seed=8)

    @jax.jit
    def both(problem):
        def theta(face, line, done):
            return faces.point(face, line, faces.position(line, problem.epsilon), p), done

        return theta(*faces.active_set(problem, p, 50)), theta(*faces.homotopy(problem, p, 176))

    (jumped, settled), (walked, reached) = both(as_problem(models, epsilons))
    assert np.all(settled)
    assert np.all(reached)
    np.testing.assert_allclose(jumped, walked, rtol=0, atol=1e-10)


@pytest.mark.parametrize("p", (2, math.inf))
def test_bisection_where_newton_fails(p, random_problems, monkeypatch):
    models, epsilons = random_problems(8, 5, p=p, condition=10.0, seed=5, fractions=(0.1, 0.9))
    problem = as_problem(models, epsilons)
    if p == math.inf:
        face, data, _ = faces.homotopy(problem, p, 56)
        curve, start, state = faces.curve, jnp.zeros(8), ()
        limit = data.rho / jnp.finfo(data.rho.dtype).eps ** 0.9
    else:
        curve = smooth.ridge
        data, start, state = problem, jnp.full(8, 1e-3), 0.5 * problem.target
        limit = jnp.full(8, 1e12)
    arguments = (curve(data), problem.epsilon, start, state, limit)
    tau, _ = solve_module.guarded_position(*arguments)

    def fails(moments, epsilon, start, state, limit):
        garbage = jnp.where(jnp.arange(8) == 3, tau, jnp.nan)
        return garbage, state, jnp.arange(8) == 3

    monkeypatch.setattr(solve_module, "path_position", fails)
    found, _ = solve_module.guarded_position(*arguments)
    np.testing.assert_allclose(found, tau, rtol=1e-9, atol=0)
    assert found[3] == tau[3]


@pytest.mark.parametrize(("p", "m"), [(1.0, 5), (2.0, 5), (3.0, 5), (math.inf, 14)])
def test_float32_models_stay_float32_where_float64_is_on(x64, p, m):
    model = GaussianLinearModel(
        jnp.eye(m, dtype=jnp.float32) + jnp.float32(0.3),
        jnp.where(jnp.arange(m) < 2, 1, 0).astype(jnp.float32),
        jnp.float32(0.1),
        jnp.arange(m) >= 2,
    )
    found = minimize_adversarial_loss(model, 0.5, p=p)
    assert found.theta.dtype == jnp.float32 and found.converged


def test_integers_and_lists_are_taken_as_floats(x64):
    given = GaussianLinearModel([[1, 0], [0, 1]], [1, 0], 1, np.array([False, True]))
    exact = GaussianLinearModel(jnp.eye(2), jnp.array([1.0, 0.0]), 1.0, np.array([False, True]))
    found = minimize_adversarial_loss(given, 0.5, p=2).theta
    assert np.array_equal(found, minimize_adversarial_loss(exact, 0.5, p=2).theta)


def test_a_negative_budget_under_vmap_is_not_certified(x64):
    model = gaussian_linear_model(0.5)
    found = jax.vmap(lambda e: minimize_adversarial_loss(model, e, p=2))(jnp.array([-0.5, 0.5]))
    assert found.converged.tolist() == [False, True]

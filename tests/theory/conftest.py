"""Batches of problems for the tests of the theory: one compilation for each (p, m)."""

import functools
import math

import jax
import numpy as np
import pytest

from advspur.theory import GaussianLinearModel, minimize_adversarial_loss, sweeps

BATCH = 128


@functools.cache
def _solver(p, features):
    def one(model, epsilon):
        return minimize_adversarial_loss(model, epsilon, p=p, features=features)

    return jax.jit(jax.vmap(one))


def _solve(models, epsilons, *, p, features="all"):
    epsilons = np.asarray(epsilons)
    count = len(epsilons)
    pieces = []
    for start in range(0, count, BATCH):
        index = np.minimum(np.arange(start, start + BATCH), count - 1)
        rows = jax.tree.map(lambda x: np.asarray(x)[index], models)  # noqa: B023
        pieces.append(_solver(float(p), features)(rows, epsilons[index]))
    return jax.tree.map(lambda *x: np.concatenate(x)[:count], *pieces)


def _paper_models(etas, *, scales=1.0, theta_opts=(1, 1, 0, 0, 0), noise_stds=0.1):
    n = len(etas)
    models = jax.tree.map(np.asarray, sweeps.paper_models(etas, np.broadcast_to(scales, n)))
    dtype = models.covariance.dtype
    return models._replace(
        theta_opt=np.broadcast_to(np.asarray(theta_opts, dtype), (n, 5)),
        noise_std=np.broadcast_to(np.asarray(noise_stds, dtype), n),
    )


def _radius(models, p):
    """Collapse radii in numpy, independent of the package."""
    b = np.einsum("nij,nj->ni", models.covariance, models.theta_opt)
    s = np.sqrt(np.sum(b * models.theta_opt, axis=1) + models.noise_std**2)
    return np.linalg.norm(b, ord=p, axis=1) / (math.sqrt(2 / math.pi) * s)


def _random_problems(count, m, *, p, condition=100.0, seed=0, fractions=(1e-3, 0.999)):
    rng = np.random.default_rng(seed)
    bases = np.linalg.qr(rng.normal(size=(count, m, m)))[0]
    values = condition ** -rng.uniform(size=(count, 1, m))
    values[:, :, :2] = 1, 1 / condition
    covariance = (bases * values) @ bases.transpose(0, 2, 1)
    covariance = (covariance + covariance.transpose(0, 2, 1)) / 2
    is_spurious = np.broadcast_to(np.arange(m) >= m - m // 2, (count, m))
    theta_opt = np.where(is_spurious & (rng.uniform(size=(count, 1)) < 0.7), 0, 1)
    theta_opt = theta_opt * rng.normal(size=(count, m))
    noise_std = 10 ** rng.uniform(-3, 0, count)
    models = GaussianLinearModel(covariance, theta_opt, noise_std, is_spurious)
    low, high = np.log(fractions)
    return models, _radius(models, p) * np.exp(rng.uniform(low, high, count))


@pytest.fixture(params=(1, 1.5, 2, 3, math.inf))
def p(request):
    """The norm of the attack, for tests of all of them."""
    return request.param


@pytest.fixture
def q(p):
    """The dual norm of p."""
    return {1: math.inf, math.inf: 1}.get(p) or p / (p - 1)


@pytest.fixture
def solve(x64):
    """(models, epsilons, p=, features=) -> RobustMinimizer of numpy arrays, [n, ...] each."""
    return _solve


@pytest.fixture
def paper_models(x64):
    """The paper's models at n values of eta, as numpy arrays [n, ...]."""
    return _paper_models


@pytest.fixture
def random_problems(x64):
    """(count, m, p=, condition=, seed=, fractions=) -> (models, epsilons below the collapse)."""
    return _random_problems


@pytest.fixture
def float32_functions():
    """(paper_models, solve) for tests in float32."""
    return _paper_models, _solve


@pytest.fixture
def numpy_radius():
    """(models, p) -> [n] collapse radii."""
    return _radius

"""Closed forms for the collapse of the minimiser and for the phases before it.

Each follows from the path alone; `budget.attack_budget` gives the epsilon of a point on it.
Derivations in docs/theory.md.
"""

import functools
import math

import jax
import jax.numpy as jnp

from advspur._checks import check_norm, require
from advspur.norms import lp_norm
from advspur.theory.linear_model import (
    C1,
    check_facts,
    check_model,
    check_weights,
    gaussian_linear_model,
    norm_fraction_spurious,
    restrict_to_core,
)
from advspur.theory.paths import regularization_path
from advspur.theory.weights import weighted_model


def collapse_radius(model, *, p, budget_weights=None):
    """epsilon_0: theta = 0 minimises the adversarial loss exactly if epsilon >= epsilon_0.

    ||D^-1 covariance theta_opt||_p / (c1 sqrt(theta_opt' covariance theta_opt + noise_std^2)), with
    the attack's norm p in [1, inf] and D = 1, or diag(budget_weights). Infinite if a feature
    correlated with Y is not attacked.
    """
    model = check_model(model)
    b = model.covariance @ model.theta_opt
    variance = model.theta_opt @ b + model.noise_std**2
    size = C1 * jnp.sqrt(variance)
    if budget_weights is None:
        return lp_norm(b, p) / size
    weights, _ = check_weights(budget_weights, *b.shape, b.dtype)
    attacked = weights > 0
    b = jnp.where(attacked, b / jnp.where(attacked, weights, 1), jnp.where(b != 0, jnp.inf, 0))
    return jnp.where(jnp.all(jnp.isfinite(b)), lp_norm(b, p) / size, jnp.inf)


def limit_nfs(model, *, p, budget_weights=None):
    """Return NFS just below the collapse radius.

    theta then points along sign(b) |b|^(p-1), b = covariance theta_opt: NFS is
    sum_S |b|^(2 (p-1)) / sum |b|^(2 (p-1)). For p = 1 and inf, where b may be 0 or have ties, the
    direction is that of the first straight piece of the path.

    Args:
      budget_weights: [m], positive and finite, see `adversarial_loss`; D theta then points along
        sign(b) |b|^(p-1) with b = D^-1 covariance theta_opt.
    """
    check_norm(p)
    model, weights = weighted_model(model, budget_weights)
    if p in (1, math.inf):
        path = regularization_path(model, p=p)
        moved = jnp.argmax(path.norm > 0)  # past steps of length 0
        return norm_fraction_spurious(path.theta[moved] / weights, model.is_spurious)
    b = model.covariance @ model.theta_opt
    size = jnp.abs(b) / jnp.max(jnp.abs(b))
    return norm_fraction_spurious(size ** (p - 1) / weights, model.is_spurious)


def critical_spurious_scale(model):
    """The factor on the spurious features above which linf-robust models use them for some epsilon.

    The path of the core features alone is the whole path as long as |h_j| <= kappa for the spurious
    j, h = covariance (theta_opt - theta). A factor r multiplies h_j by r, so the critical one is
    the minimum of kappa / max_j |h_j| over the breakpoints. For the paper's model with theta_opt =
    (1, t, 0, 0, 0), 0 < t <= 1, it is 0.6 sqrt(1.25 (1 + 2 eta^2)) / eta. NaN if theta_opt is
    not 0 on S: such features are used at any scale.
    """
    path = regularization_path(restrict_to_core(model), p=math.inf)
    error = model.theta_opt - path.theta
    # kappa and h vanish together at the last breakpoint: use the slope of the last piece there.
    last = jnp.argmax(path.kappa <= 0)
    beyond = (path.kappa <= 0)[:, None]
    error = jnp.where(beyond, path.theta[last] - path.theta[last - 1], error)
    kappa = jnp.where(path.kappa > 0, path.kappa, path.kappa[last - 1])
    h = jnp.max(jnp.abs(jnp.where(model.is_spurious, error @ model.covariance, 0)), axis=1)
    critical = jnp.min(jnp.where(h > 0, kappa / jnp.where(h > 0, h, 1), jnp.inf))
    is_known = path.is_complete & ~jnp.any((model.theta_opt != 0) & model.is_spurious)
    return jnp.where(is_known, critical, jnp.nan)


def plateau_onset(model):
    """The epsilon from which an l1-robust model has all |theta_i| equal; NaN if there is none.

    NFS is then |S| / m for every larger epsilon below the collapse radius. It is the budget of
    the first breakpoint of the path, where a feature leaves the tie.
    """
    path = regularization_path(model, p=1)
    size = jnp.abs(path.theta)
    tied = jnp.all(size >= path.norm[:, None] * (1 - 1e-9), axis=1) & (path.norm > 0)
    return _least(path, tied)


def epsilon_of_full_reliance(model):
    """The epsilon from which an linf-robust model uses spurious features only (NFS = 1).

    It is the budget of the last breakpoint before a core feature joins; NaN if there is none below
    the collapse radius.
    """
    return _reliance(model)[1]


def epsilon_of_first_reliance(model):
    """The least epsilon above which an linf-robust model uses spurious features.

    0 if it uses them at every small epsilon, NaN if at none below the collapse radius.
    """
    return _reliance(model)[0]


def phase_diagram(etas, scales, *, theta_opt=(1, 1, 0, 0, 0), noise_std=0.1):
    """Map where an linf-robust model of the paper's problem uses its spurious features.

    Args:
      etas: [a].
      scales: [b] > 0.
    Returns: dict of [a, b] arrays used_from, one_from (`epsilon_of_first_reliance`,
      `epsilon_of_full_reliance`), collapse_radius, and [a] critical_scale.
    """
    etas, scales = jnp.asarray(etas, float), jnp.asarray(scales, float)
    require(etas.ndim == scales.ndim == 1, "etas and scales must be lists of numbers")
    check_facts(etas, scales, noise_std, theta_opt)
    return _diagram(etas, scales, jnp.asarray(theta_opt, float), jnp.asarray(noise_std, float))


@jax.jit
def _diagram(etas, scales, theta_opt, noise_std):
    build = functools.partial(gaussian_linear_model, theta_opt=theta_opt, noise_std=noise_std)

    def cell(eta, scale):
        model = build(eta, spurious_scale=scale)
        return *_reliance(model), collapse_radius(model, p=math.inf)

    cells = jax.vmap(jax.vmap(cell, in_axes=(None, 0)), in_axes=(0, None))(etas, scales)
    critical = jax.vmap(lambda eta: critical_spurious_scale(build(eta)))(etas)
    names = ("used_from", "one_from", "collapse_radius")
    return dict(zip(names, cells, strict=True)) | {"critical_scale": critical}


def _reliance(model):
    path = regularization_path(model, p=math.inf)
    present = path.theta != 0
    core = jnp.any(present & ~model.is_spurious, axis=1)
    used = jnp.any(present & model.is_spurious, axis=1)
    # A piece of the path uses features that either end uses; its lower end bounds its budgets.
    used = used | jnp.roll(used, 1).at[0].set(False)
    spurious_only = ~jnp.cumsum(core).astype(bool) & (path.norm > 0)
    return _least(path, used), _least(path, spurious_only)


def _least(path, where):
    least = jnp.min(jnp.where(where, path.epsilon, jnp.inf))
    return jnp.where(jnp.any(where) & path.is_complete, least, jnp.nan)

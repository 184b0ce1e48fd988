"""The budget on the spurious features at which robust training stops using them.

The weight w is the budget of each spurious feature relative to a core feature: `budget_weights`
are 1 on C and w on S. Derivations in docs/theory.md.
"""

import functools
import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from advspur._checks import check_nonnegative, check_norm, is_concrete, require
from advspur.norms import dual_exponent, lp_norm
from advspur.theory.grid import solve_grid
from advspur.theory.limits import collapse_radius
from advspur.theory.linear_model import (
    C1,
    adversarial_loss,
    check_model,
    norm_fraction_spurious,
    residual_std,
    standard_loss,
)
from advspur.theory.solve import minimize_adversarial_loss
from advspur.theory.weights import reweight


def spurious_weights(model, weight):
    """Return [m]: `weight` on the spurious features, 1 on the core features."""
    return jnp.where(model.is_spurious, weight, jnp.ones((), model.theta_opt.dtype))


def protective_weight(model, epsilon, *, p):
    """w*: the least weight of the spurious features at which the minimiser uses none of them.

    With theta_c the best core-only model, h = covariance (theta_opt - theta_c), n = ||theta_c||_q,
    y = epsilon n / s and K = s epsilon (c1 + y) / (1 + c1 y):

    - p = inf: w* = max over S of |h_j| / K, exactly. Its maximum over all epsilon is
      1 / `critical_spurious_scale`.
    - p < inf: w* = inf (no finite weight is enough), except that w* = 0 if h = 0 on S, and
      w* = (||b_S||_p^p / ((c1 epsilon s0)^p - ||b_C||_p^p))^(1/p) if the core-only model is 0, with
      b = covariance theta_opt.

    Args:
      epsilon: attack budget > 0.
      p: norm of the attack, in [1, inf].
    """
    check_norm(p)
    model = check_model(model)
    theta = _core_minimizer(model, epsilon, p)
    return least_weight(model, epsilon, theta, p=p)


def least_weight(model, epsilon, theta, *, p):
    """`protective_weight`, given theta_c."""
    spurious = model.is_spurious
    size = jnp.abs(core_ratios(model, epsilon, theta, p=p))
    excess = jnp.max(jnp.where(spurious, size, 0))
    if p == math.inf:
        return excess
    # Beyond the collapse h = b and K = c1 epsilon s0.
    room = 1 - jnp.sum(jnp.where(spurious, 0, size) ** p)
    weight = (jnp.sum(jnp.where(spurious, size, 0) ** p) / jnp.maximum(room, 0)) ** (1 / p)
    rounding = jnp.finfo(size.dtype).eps ** 0.6
    return jnp.where(excess <= rounding, 0, jnp.where(jnp.any(theta != 0), jnp.inf, weight))


def nfs_rate(model, epsilon, *, p):
    """a such that NFS w^(2 p) -> a as the weight w of the spurious features grows, 1 <= p < inf.

    a = n^2 sum over S of (|h_j| / K)^(2 p - 2) / ||theta_c||^2 in the notation of
    `protective_weight`; for p = 1 the sum counts the j with h_j != 0. NaN where the core-only
    model is 0.
    """
    check_norm(p)
    require(p < math.inf, "p = inf has no rate: NFS is 0 from protective_weight on")
    model = check_model(model)
    theta = _core_minimizer(model, epsilon, p)
    ratios = core_ratios(model, epsilon, theta, p=p)
    size = jnp.where(model.is_spurious, jnp.abs(ratios), 0)
    used = size > jnp.finfo(size.dtype).eps ** 0.6
    total = jnp.sum(jnp.where(used, jnp.where(used, size, 1) ** (2 * p - 2), 0))
    return lp_norm(theta, dual_exponent(p)) ** 2 * total / (theta @ theta)


def break_even_budget(model, *, p, weight=math.inf):
    """The budget below which attacking S more lowers the clean loss, and above which it does not.

    The epsilon at which the minimisers under `weight` on S and under the uniform attack have the
    same `standard_loss`. NaN if the former is never lower, for example if theta_opt is not 0 on S
    or robust training uses no spurious feature.

    It is the last of 64 budgets up to the collapse radius at which the loss is lower, refined by 64
    budgets up to the next, and so on; if the sign changes more than once, it is the last change.

    Args:
      p: norm of the attack, in [1, inf].
      weight: of the spurious features, > 1; inf: the best core-only model. For a weight just above
        1, the budget is where d clean loss / d weight changes its sign.
    """
    check_norm(p)
    require(weight > 1, f"weight = {weight}: it must be > 1")
    return _break_even(check_model(model), jnp.asarray(weight, float), float(p))


@functools.partial(jax.jit, static_argnames="p")
def _break_even(model, weight, p):
    def clean_loss(epsilon, weight):
        call = {"p": p, "budget_weights": spurious_weights(model, weight)}
        return standard_loss(minimize_adversarial_loss(model, epsilon, **call).theta, model)

    def gain(epsilon):
        uniform, weighted = jax.vmap(clean_loss, in_axes=(None, 0))(epsilon, weights)
        return (uniform - weighted) / uniform

    def refine(_, carry):
        low, width, exists = carry
        width = width / 64
        steps = jnp.arange(64, dtype=width.dtype)
        is_lower = jax.vmap(gain)(low + width * steps) > rounding
        last = jnp.max(jnp.where(is_lower, steps, 0))
        return low + width * last, width, exists | jnp.any(is_lower)

    radius = collapse_radius(model, p=p)
    weights = jnp.stack([jnp.ones_like(radius), weight.astype(radius.dtype)])
    rounding = jnp.finfo(radius.dtype).eps ** 0.8
    rounds = math.ceil(jnp.finfo(radius.dtype).nmant / 6)
    low, width, exists = jax.lax.fori_loop(
        0, rounds, refine, (jnp.zeros_like(radius), radius, jnp.zeros((), bool))
    )
    is_known = exists & ~jnp.any((model.theta_opt != 0) & model.is_spurious)
    return jnp.where(is_known, low + width / 2, jnp.nan)


def core_ratios(model, epsilon, theta, *, p):
    """Return h / K of `protective_weight` at theta_c, [m]; for p = inf the weights needed on S."""
    s = residual_std(theta, model)
    y = epsilon * lp_norm(theta, dual_exponent(p)) / s
    multiplier = s * epsilon * (C1 + y) / (1 + C1 * y)
    return model.covariance @ (model.theta_opt - theta) / multiplier


def _core_minimizer(model, epsilon, p):
    """Return theta_c, the best theta with theta_S = 0."""
    check_nonnegative("epsilon", epsilon)
    is_attack = not is_concrete(epsilon) or np.all(np.asarray(epsilon) > 0)
    require(is_attack, "epsilon must be > 0: weights have no effect without an attack")
    return minimize_adversarial_loss(model, epsilon, p=p, features="core").theta


class WeightSweep(NamedTuple):
    """Minimisers over w weights of the spurious features (0: not attacked, inf: not used)."""

    weights: np.ndarray  # [w]
    epsilons: np.ndarray  # [e]
    theta: np.ndarray  # [w, e, m]
    loss: np.ndarray  # [w, e] adversarial loss under the weights
    clean_loss: np.ndarray  # [w, e] standard loss
    uniform_loss: np.ndarray  # [w, e] adversarial loss under the attack without weights
    core_loss: np.ndarray  # [w, e] adversarial loss under the attack on the core features alone
    nfs: np.ndarray  # [w, e]; NaN from the collapse radius on
    gap: np.ndarray  # [w, e] upper bound on loss - least loss
    converged: np.ndarray  # [w, e] bool, whether the gap certifies theta
    collapse_radius: np.ndarray  # [w]
    protective_weight: np.ndarray  # [e]


def sweep_budget_weights(model, weights, epsilons, *, p, progress=None):
    """Sweep the budget weight of the spurious features; return reliance and losses.

    Args:
      model: GaussianLinearModel of m features.
      weights: [w] >= 0, budgets of a spurious feature relative to a core feature; 0 and inf are the
        limits (not attacked, not used).
      epsilons: [e] > 0.
      p: norm of the attack, in [1, inf].
      progress: object with advance(number of problems).
    Returns: WeightSweep.
    """
    check_norm(p)
    model, p = check_model(model), float(p)
    weights, epsilons = np.asarray(weights, float), positive_budgets(epsilons)
    require(weights.ndim == 1 and weights.size, "weights: expected a list of numbers")
    require(np.all(weights >= 0), f"weights = {weights}: they must be >= 0")
    rows = jnp.asarray(weights, model.theta_opt.dtype)
    solved = solve_grid(_weighted(model, rows), epsilons, p=p, progress=progress)
    budgets = jnp.asarray(epsilons, rows.dtype)
    measured = _measured(model, rows, budgets, solved["theta"], p=p)
    return WeightSweep(weights, epsilons, **solved | jax.tree.map(np.asarray, measured))


def positive_budgets(epsilons):
    """Return epsilons as an array [e]; raise InputError unless all are finite and > 0."""
    epsilons = np.asarray(epsilons, float)
    require(epsilons.ndim == 1 and epsilons.size, "epsilons: expected a list of numbers")
    check_nonnegative("epsilons", epsilons)
    require(np.all(epsilons > 0), "epsilons must be > 0")
    return epsilons


@jax.jit
def _weighted(model, weights):
    """Return the models of theta' for each weight, stacked."""
    return jax.vmap(lambda w: reweight(model, spurious_weights(model, w))[0])(weights)


@functools.partial(jax.jit, static_argnames="p")
def _measured(model, weights, epsilons, theta, *, p):
    """Return the fields of a WeightSweep that the solver does not."""

    def cell(theta, epsilon):
        core = spurious_weights(model, 0)
        return {
            "theta": theta,
            "nfs": norm_fraction_spurious(theta, model.is_spurious),
            "clean_loss": standard_loss(theta, model),
            "uniform_loss": adversarial_loss(theta, model, epsilon, p=p),
            "core_loss": adversarial_loss(theta, model, epsilon, p=p, budget_weights=core),
        }

    def row(weight, theta):
        scale = spurious_weights(model, weight)
        _, restore = reweight(model, scale)
        cells = jax.vmap(cell)(jax.vmap(restore)(theta), epsilons)
        return cells | {"collapse_radius": collapse_radius(model, p=p, budget_weights=scale)}

    least = jax.vmap(lambda epsilon: protective_weight(model, epsilon, p=p))(epsilons)
    return jax.vmap(row)(weights, theta) | {"protective_weight": least}

"""The sweeps behind Figures 2, 3 and 4.

>>> sweep = sweep_nfs([0.25, 0.5], [0.1, 0.5, 1.0], p=2)
>>> sweep.nfs.shape, bool((sweep.nfs[1] > sweep.nfs[0]).all())
((2, 3), True)
"""

import functools
import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from advspur._checks import check_choice, check_count, check_nonnegative, check_norm, require
from advspur.theory.grid import solve_grid
from advspur.theory.limits import collapse_radius
from advspur.theory.linear_model import check_facts, gaussian_linear_model, restrict_to_core
from advspur.theory.shift import COLUMNS, READINGS, expected_shifted_loss, sample_shifted_loss


class NfsSweep(NamedTuple):
    """Minimisers for r rows (an eta and a spurious scale each) and e budgets."""

    etas: np.ndarray  # [r]
    scales: np.ndarray  # [r] of the spurious features
    epsilons: np.ndarray  # [e]
    theta: np.ndarray  # [r, e, 5]
    loss: np.ndarray  # [r, e] adversarial loss
    nfs: np.ndarray  # [r, e]; NaN from the collapse radius on
    gap: np.ndarray  # [r, e] upper bound on loss - least loss
    converged: np.ndarray  # [r, e] bool, whether the gap certifies theta
    collapse_radius: np.ndarray  # [r]


class ShiftSweep(NamedTuple):
    """Standard loss under a distribution shift, for the best core-only and the best whole model.

    The axis of 2 is (core, total). Noise draws are independent between cells.
    """

    epsilons: np.ndarray  # [e] training budgets
    shift_stds: np.ndarray  # [d]
    theta: np.ndarray  # [e, 2, 5]
    loss: np.ndarray  # [e, d, 2] expected loss, in closed form
    mean: np.ndarray  # [e, d, 2] its Monte Carlo estimate
    error: np.ndarray  # [e, d, 2] standard error of `mean`
    low: np.ndarray  # [e, d, 2] 5% quantile over single draws of the noise
    high: np.ndarray  # [e, d, 2] 95% quantile
    improved: np.ndarray  # [e, d] share of draws that lower the loss of the total model
    converged: np.ndarray  # [e, 2] bool, whether theta is certified


def sweep_nfs(
    etas,
    epsilons,
    *,
    p,
    spurious_scale=1.0,
    noise_std=0.1,
    theta_opt=(1, 1, 0, 0, 0),
    features="all",
    progress=None,
):
    """Sweep NFS of adversarially trained models over eta and epsilon (Figure 2).

    Args:
      etas: [r] strengths of the spurious correlation.
      epsilons: [e] budgets >= 0.
      p: norm of the attack, in [1, inf].
      spurious_scale: a number, or [r], one for each eta.
      features: "all", or "core" for the best theta with theta_S = 0.
      progress: object with advance(number of problems).
    Returns: NfsSweep, exact in float64 (`gap`). Problems are split over the local devices; working
      memory is bounded for any number of them.
    """
    check_norm(p)
    check_choice("features", features, ("all", "core"))
    require(
        np.shape(spurious_scale) in ((), np.shape(etas)),
        f"spurious_scale has shape {np.shape(spurious_scale)}; give a number, or one for each eta",
    )
    scales = np.full(np.shape(etas), spurious_scale)
    etas, scales, epsilons = (np.asarray(x, float) for x in (etas, scales, epsilons))
    for name, x in (("etas", etas), ("scales", scales), ("epsilons", epsilons)):
        require(x.ndim == 1 and x.size, f"{name} has shape {x.shape}; expected a list of numbers")
    check_facts(etas, scales, noise_std, theta_opt)
    check_nonnegative("epsilons", epsilons)
    models = paper_models(etas, scales, noise_std=noise_std, theta_opt=theta_opt)
    radius = radii(models, p=float(p))
    if features == "core":
        models = _cores(models)
    solved = solve_grid(models, epsilons, p=float(p), progress=progress)
    return NfsSweep(etas, scales, epsilons, **solved, collapse_radius=np.asarray(radius))


def sweep_nfs_over_scale(
    scales, epsilons, *, eta, p=math.inf, noise_std=0.1, theta_opt=(1, 1, 0, 0, 0), progress=None
):
    """Sweep NFS over the scale of the spurious features and epsilon (Figure 3); see `sweep_nfs`."""
    facts = {"noise_std": noise_std, "theta_opt": theta_opt}
    etas = np.full(np.shape(scales), eta)
    return sweep_nfs(etas, epsilons, p=p, spurious_scale=scales, progress=progress, **facts)


def paper_models(etas, scales, *, noise_std=0.1, theta_opt=(1, 1, 0, 0, 0)):
    """Stack `gaussian_linear_model` for r etas and spurious scales along a leading axis."""
    return _models(*(jnp.asarray(x, float) for x in (etas, scales, noise_std, theta_opt)))


@functools.partial(jax.jit, static_argnames="p")
def radii(models, *, p):
    """Return [r]: `collapse_radius` of stacked models."""
    return jax.vmap(functools.partial(collapse_radius, p=p))(models)


def sweep_distribution_shift(
    epsilons,
    shift_stds,
    *,
    p,
    eta=0.25,
    spurious_scale,
    key,
    noise_std=0.1,
    theta_opt=(1, 1, 0, 0, 0),
    reading="R1",
    num_draws=2000,
):
    """Sweep the standard loss under a shift that breaks the spurious correlation (Figure 4).

    "core" is the adversarially trained model of the core features alone, "total" that of all.

    Args:
      epsilons: [e] training budgets.
      shift_stds: [d] standard deviations sigma_Q of the noise on the spurious rows of Q.
      p: norm of the attack in training.
      key: JAX random key for `num_draws` Monte Carlo draws of the noise in each cell.
      reading: where the noise is added, "R1", "R2" or "R3", see `shift`.
    Returns: ShiftSweep.
    """
    check_choice("reading", reading, READINGS)
    check_nonnegative("shift_stds", shift_stds)
    require(np.ndim(shift_stds) == 1, f"shift_stds = {shift_stds}: expected a list of numbers")
    check_count("num_draws", num_draws, 2)
    facts = {"noise_std": noise_std, "theta_opt": theta_opt}
    both = [
        sweep_nfs([eta], epsilons, p=p, spurious_scale=spurious_scale, features=features, **facts)
        for features in ("core", "all")
    ]
    theta = jnp.stack([jnp.asarray(s.theta[0]) for s in both], axis=1)
    stds = jnp.asarray(shift_stds, theta.dtype)
    keys = jax.random.split(key, (len(theta), len(stds), 2))
    facts |= {"eta": eta, "spurious_scale": spurious_scale}
    facts = {name: jnp.asarray(x, theta.dtype) for name, x in facts.items()}
    outcome = _shifted(theta, stds, keys, facts, reading=reading, num_draws=num_draws)
    *numbers, improved = map(np.asarray, (stds, theta, *outcome))
    converged = np.stack([s.converged[0] for s in both], axis=1)
    return ShiftSweep(both[0].epsilons, *numbers, improved[..., 1], converged)


@jax.jit
@functools.partial(jax.vmap, in_axes=(0, 0, None, None))
def _models(eta, scale, noise_std, theta_opt):
    facts = {"noise_std": noise_std, "theta_opt": theta_opt}
    return gaussian_linear_model(eta, spurious_scale=scale, **facts)


_cores = jax.jit(jax.vmap(restrict_to_core))


@functools.partial(jax.jit, static_argnames=("reading", "num_draws"))
def _shifted(theta, stds, keys, facts, *, reading, num_draws):
    """Return [e, d, 2] each: expected loss; mean, error, low, high of the draws; share improved."""

    def cell(theta, std, key):
        noise = jax.random.normal(key, (num_draws, 3, COLUMNS), theta.dtype)
        loss = functools.partial(sample_shifted_loss, theta, reading=reading, **facts)
        drawn = jax.vmap(lambda noise: loss(std, noise))(noise)
        low, high = jnp.quantile(drawn, jnp.array([0.05, 0.95], theta.dtype))
        error = jnp.std(drawn, ddof=1) / math.sqrt(num_draws)
        rounding = 1 - 16 * jnp.finfo(theta.dtype).eps
        improved = jnp.mean(drawn < loss(0.0, noise[0]) * rounding, dtype=theta.dtype)
        expected = expected_shifted_loss(theta, std, reading=reading, **facts)
        return expected, jnp.mean(drawn), error, low, high, improved

    for axes in ((0, None, 0), (None, 0, 0), (0, None, 0)):  # models, shifts, budgets
        cell = jax.vmap(cell, in_axes=axes)
    return cell(theta, stds, keys)

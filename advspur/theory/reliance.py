"""Predict adversarial training from a fitted Gaussian linear model, with 95% intervals.

All quantities are bootstrapped over the examples. docs/results.md reports the coverage.
"""

import functools
import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from advspur._checks import check_count, check_nonnegative, check_norm, require
from advspur.intervals import CONFIDENCE, Estimate
from advspur.norms import lp_norm
from advspur.theory import limits
from advspur.theory.estimate import estimate
from advspur.theory.linear_model import C1, norm_fraction_spurious, restrict_to_core
from advspur.theory.prescription import core_ratios, least_weight
from advspur.theory.solve import minimize_adversarial_loss

TAIL = (1 - CONFIDENCE) / 2
SHARES = (0.001, 0.1, 0.25, 0.4, 0.55, 0.7, 0.85, 0.999)  # of the core's collapse radius, for w*
LEAST_SIDE = 0.02  # a bias is corrected by no more than this share of resamples on one side says


class Reliance(NamedTuple):
    """Predictions of a fitted model for one norm; `num_examples` of each is n."""

    epsilons: np.ndarray  # [e]
    theta: np.ndarray  # [e, d] the minimisers, in the basis of the fit
    nfs: Estimate  # of [e]; NaN from the collapse radius on
    collapse_radius: Estimate
    first_reliance: Estimate  # p = inf and core_only, else NaN; inf: no budget is enough
    protective_weight: Estimate  # of [e]; inf: no weight is enough
    uniform_weight: Estimate  # w* for every budget: p = inf and core_only, else NaN


def estimate_reliance(fit, epsilons, key, *, p, num_resamples=1000):
    """NFS, collapse, first reliance and protective weights of a GaussianFit, with intervals.

    The values are those of `fit.model`; the intervals are bootstrapped over the examples. Shrinkage
    is as in the fit; the intervals do not correct its bias.

    Args:
      fit: from `fit_gaussian_linear_model`. Unless it is `core_only`, its theta_opt is never
        exactly 0 on S, so first reliance and the uniform weight carry no information and are NaN.
      epsilons: [e] > 0, in the units of the features.
      key: JAX random key for the resamples.
      p: norm of the attack, in [1, inf].
    Returns: Reliance.
    """
    check_norm(p)
    check_count("num_resamples", num_resamples, 100)
    epsilons = np.asarray(epsilons, float)
    require(epsilons.ndim == 1 and epsilons.size, "epsilons: expected a list of numbers")
    check_nonnegative("epsilons", epsilons)
    require(np.all(epsilons > 0), "epsilons must be > 0")
    n, d = fit.features.shape
    enough = fit.options["shrinkage"] != 0 or n >= 3 * (d + 1)
    require(enough, f"n = {n} examples of {d} features cannot be resampled without shrinkage")
    facts = fit.model.is_spurious, jax.random.split(key, num_resamples)
    drawn = _resample(fit.features, fit.labels, *facts, **fit.options)
    models = jax.tree.map(lambda one, more: jnp.concatenate([one[None], more]), fit.model, drawn)
    budgets = jnp.asarray(epsilons, fit.features.dtype)
    call = {"p": float(p), "core_only": fit.options["core_only"]}
    found = jax.tree.map(np.asarray, _predict(models, budgets, **call))
    nothing = Estimate(math.nan, math.nan, math.nan, n)
    radius, weight = found["radius"], found["weight"]
    out = {"first_reliance": nothing, "uniform_weight": nothing}
    if p < math.inf:
        out["collapse_radius"] = corrected(radius, n)
        out["protective_weight"] = _stack([corrected(column, n) for column in weight.T])
    else:
        out["collapse_radius"] = largest(radius, found["sizes"], n)
        columns = zip(weight.T, found["ratios"].swapaxes(0, 1), strict=True)
        out["protective_weight"] = _stack([largest(*column, n) for column in columns])
        if call["core_only"]:
            first = np.where(np.isnan(found["first"]), math.inf, found["first"])
            out["first_reliance"] = corrected(first, n)
            out["uniform_weight"] = largest(found["uniform"], found["profile"], n)
    theta, spurious = found["theta"], np.asarray(fit.model.is_spurious)
    columns = zip(found["nfs"].T, theta.swapaxes(0, 1), strict=True)
    nfs = _stack([reliant(values, points, spurious, n) for values, points in columns])
    return Reliance(epsilons, theta[0], nfs=nfs, **out)


@functools.partial(jax.jit, static_argnames=("core_only", "shrinkage"))
def _resample(x, y, is_spurious, keys, **options):
    """The models of one resample of the examples for each key, stacked."""
    n, d = x.shape

    def one(key):
        rows = jax.random.randint(key, (n,), 0, n)
        return estimate(x[rows], y[rows], is_spurious, **options)[0]

    return jax.lax.map(one, keys, batch_size=max(1, 1_000_000 // (n * d)))


@functools.partial(jax.jit, static_argnames=("p", "core_only"))
def _predict(models, epsilons, *, p, core_only):
    """dict of arrays [1 + resamples, ...]."""
    e = len(epsilons)

    def one(model):
        core, spurious = restrict_to_core(model), model.is_spurious
        budgets = epsilons
        if p == math.inf and core_only:
            more = limits.collapse_radius(core, p=p) * jnp.array(SHARES, epsilons.dtype)
            budgets = jnp.concatenate([epsilons, more])
        both = jax.tree.map(lambda *parts: jnp.stack(parts), model, core)

        @jax.vmap  # one program for the two
        def minimizer(which, epsilon):
            chosen = jax.tree.map(lambda x: x[which], both)
            return minimize_adversarial_loss(chosen, epsilon, p=p).theta

        which = jnp.concatenate([jnp.zeros(e, int), jnp.ones(len(budgets), int)])
        theta = minimizer(which, jnp.concatenate([epsilons, budgets]))
        theta, of_core = theta[:e], theta[e:]
        b = model.covariance @ model.theta_opt
        sizes = b / (C1 * jnp.sqrt(model.theta_opt @ b + model.noise_std**2))
        nfs = jax.vmap(norm_fraction_spurious, (0, None))(theta, spurious)
        found = {"theta": theta, "nfs": nfs, "sizes": sizes, "radius": lp_norm(sizes, p)}
        of_each = functools.partial(jax.vmap, in_axes=(None, 0, 0))
        weight = of_each(functools.partial(least_weight, p=p))(model, budgets, of_core)
        found["weight"] = weight[:e]
        if p == math.inf:
            ratios = of_each(functools.partial(core_ratios, p=p))(model, budgets, of_core)
            ratios = jnp.where(spurious, ratios, 0)
            found["ratios"] = ratios[:e]
            if core_only:
                found["profile"] = ratios[e:].reshape(-1)
                found["uniform"] = 1 / limits.critical_spurious_scale(model)
                found["first"] = limits.epsilon_of_first_reliance(model)
        return found

    return jax.vmap(one)(models)


def corrected(values, n):
    """Estimate of the first of [1 + resamples] values; the others make its interval.

    The bias-corrected percentile interval (Efron, Canadian J. Statistics 9 (1981) 139): quantiles
    Phi(2 z0 -+ 1.96), Phi(z0) the share of resamples below the value, kept within LEAST_SIDE of 0
    and 1; z0 = 0 where the value is 0, 1 or inf, at which values pile up. NaN are left out.
    """
    from scipy import special

    value, drawn = values[0], values[1:][~np.isnan(values[1:])]
    if math.isnan(value) or not len(drawn):
        return Estimate(math.nan, math.nan, math.nan, n)
    share = np.mean(drawn < value) + np.mean(drawn == value) / 2
    share = np.clip(share, LEAST_SIDE, 1 - LEAST_SIDE)
    shift = 0.0 if value in (0, 1, math.inf) else 2 * special.ndtri(share)
    ends = special.ndtr(shift + special.ndtri([TAIL, 1 - TAIL]))
    low, high = np.quantile(drawn, ends, method="inverted_cdf")
    return Estimate(float(value), float(min(low, value)), float(max(high, value)), n)


def largest(values, parts, n):
    """Estimate of `values`, each the largest |entry| of its row of parts [1 + resamples, k].

    A maximum of nearly equal parts is biased up, and the bootstrap does not see by how much.
    Each part x_j has standard error s_j: the interval is from max_j |x_j| - c s_j, c the 95%
    quantile of the largest of all |x_j* - x_j| / s_j, to max_j |x_j| + 1.96 s_j.
    """
    from scipy import special

    change, size = parts[1:] - parts[0], np.abs(parts[0])
    error = np.std(change, axis=0)
    scaled = np.max(np.abs(change) / np.where(error > 0, error, 1), axis=1)
    low = np.max(size - np.quantile(scaled, CONFIDENCE) * error)
    high = np.max(size + special.ndtri(1 - TAIL) * error)
    value = float(values[0])
    return Estimate(value, min(max(float(low), 0.0), value), max(float(high), value), n)


def reliant(values, theta, spurious, n):
    """Estimate of NFS, `values` [1 + resamples], from theta [1 + resamples, d].

    NFS is a ratio of squares: where |theta_S| is of the size of its error it is biased up and
    cannot be 0, and where |theta_C| is, it cannot be 1. So the interval joins two: `corrected`, and
    that of the factors t of the smaller part of theta with which it could have given what was
    found: with the resamples' errors added to theta / |theta|, so changed, at least 2.5% of the
    ratios of the two parts' lengths are above that found, and 2.5% below. They are cautious.
    """
    first = corrected(values, n)
    if not 0 < first.value < 1:
        return first
    is_less = first.value <= 0.5
    is_part = spurious == is_less
    theta = theta[np.any(theta != 0, axis=1)]  # without collapsed ones
    theta = theta / np.linalg.norm(theta, axis=1, keepdims=True)
    part, size = theta[0, is_part], np.sum(theta[0, is_part] ** 2)
    odds = size / (1 - size)
    # |t part + error|^2 < odds |rest*|^2 for t between the roots `below` and `above`.
    change = theta[1:, is_part] - part
    half = change @ part / size
    rest = np.sum(change**2, axis=1) - odds * np.sum(theta[1:, ~is_part] ** 2, axis=1)
    room = half**2 - rest / size
    root = np.sqrt(room[room > 0])
    below, above = np.sort(-half[room > 0] - root), np.sort(-half[room > 0] + root)
    factors = np.unique(np.clip(np.concatenate([[0], below, above]), 0, None))
    between = np.searchsorted(below, factors) - np.searchsorted(above, factors, side="right")
    share = between / len(change)
    low, high = (
        t**2 * odds / (1 + t**2 * odds)
        for t in (factors[share <= 1 - TAIL].min(initial=1), factors[share >= TAIL].max(initial=0))
    )
    low, high = (low, high) if is_less else (1 - high, 1 - low)
    return Estimate(first.value, min(first.low, low), max(first.high, high), n)


def _stack(estimates):
    """One Estimate of arrays."""
    *numbers, counts = zip(*estimates, strict=True)
    return Estimate(*map(np.array, numbers), counts[0])

"""Predict adversarial training from a fitted Gaussian linear model, with 95% intervals.

The bootstrap resamples the examples. docs/results.md reports the coverage of the intervals.
"""

import functools
import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from advspur._checks import check_count, check_norm, require
from advspur.intervals import CONFIDENCE, Estimate
from advspur.norms import lp_norm
from advspur.theory import limits
from advspur.theory.estimate import estimate
from advspur.theory.linear_model import C1, norm_fraction_spurious, restrict_to_core
from advspur.theory.prescription import core_ratios, least_weight, positive_budgets
from advspur.theory.solve import minimize_adversarial_loss

TAIL = (1 - CONFIDENCE) / 2
SHARES = (0.001, 0.1, 0.25, 0.4, 0.55, 0.7, 0.85, 0.999)  # of the core's collapse radius, for w*
LEAST_SIDE = 0.02  # least share of resamples on either side of the value, for its bias correction


class Reliance(NamedTuple):
    """Predictions of a fitted model for one norm; `num_examples` of each is n."""

    epsilons: np.ndarray  # [e]
    theta: np.ndarray  # [e, d] the minimisers, in the coordinates of the fit
    nfs: Estimate  # of [e]; NaN from the collapse radius on
    collapse_radius: Estimate
    first_reliance: Estimate  # p = inf and core_only, otherwise NaN; inf: no budget is enough
    protective_weight: Estimate  # of [e]; inf: no weight is enough
    uniform_weight: Estimate  # w* for every budget: p = inf and core_only, otherwise NaN


def estimate_reliance(fit, epsilons, key, *, p, num_resamples=1000):
    """Estimate NFS, collapse, first reliance and protective weights from a GaussianFit.

    The values are those of `fit.model`, the intervals are bootstrapped over the examples. Resamples
    are shrunk as in the fit; the intervals do not correct the bias of shrinkage.

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
    epsilons = positive_budgets(epsilons)
    n, d = fit.features.shape
    enough = fit.options["shrinkage"] != 0 or n >= 3 * (d + 1)
    require(enough, f"n = {n} examples of {d} features cannot be resampled without shrinkage")
    facts = fit.model.is_spurious, jax.random.split(key, num_resamples)
    drawn = _resample(fit.features, fit.labels, *facts, **fit.options)
    models = jax.tree.map(lambda one, more: jnp.concatenate([one[None], more]), fit.model, drawn)
    budgets = jnp.asarray(epsilons, fit.features.dtype)
    call = {"p": float(p), "core_only": fit.options["core_only"]}
    predicted = jax.tree.map(np.asarray, _predict(models, budgets, **call))
    nothing = Estimate(math.nan, math.nan, math.nan, n)
    radius, weight = predicted["radius"], predicted["weight"]
    out = {"first_reliance": nothing, "uniform_weight": nothing}
    if p < math.inf:
        out["collapse_radius"] = corrected_estimate(radius, n)
        out["protective_weight"] = _stack([corrected_estimate(column, n) for column in weight.T])
    else:
        out["collapse_radius"] = maximum_estimate(radius, predicted["sizes"], n)
        columns = zip(weight.T, predicted["ratios"].swapaxes(0, 1), strict=True)
        out["protective_weight"] = _stack([maximum_estimate(*column, n) for column in columns])
        if call["core_only"]:
            first = np.where(np.isnan(predicted["first"]), math.inf, predicted["first"])
            out["first_reliance"] = corrected_estimate(first, n)
            parts = predicted["uniform"], predicted["profile"]
            out["uniform_weight"] = maximum_estimate(*parts, n)
    theta, spurious = predicted["theta"], np.asarray(fit.model.is_spurious)
    columns = zip(predicted["nfs"].T, theta.swapaxes(0, 1), strict=True)
    nfs = _stack([nfs_estimate(values, points, spurious, n) for values, points in columns])
    return Reliance(epsilons, theta[0], nfs=nfs, **out)


@functools.partial(jax.jit, static_argnames=("core_only", "shrinkage"))
def _resample(x, y, is_spurious, keys, **options):
    """Return the models fitted to one resample of the examples for each key, stacked."""
    n, d = x.shape

    def one(key):
        rows = jax.random.randint(key, (n,), 0, n)
        return estimate(x[rows], y[rows], is_spurious, **options)[0]

    return jax.lax.map(one, keys, batch_size=max(1, 1_000_000 // (n * d)))


@functools.partial(jax.jit, static_argnames=("p", "core_only"))
def _predict(models, epsilons, *, p, core_only):
    """Return dict of arrays [1 + resamples, ...]."""
    e = len(epsilons)

    def one(model):
        core, spurious = restrict_to_core(model), model.is_spurious
        budgets = epsilons
        if p == math.inf and core_only:
            more = limits.collapse_radius(core, p=p) * jnp.array(SHARES, epsilons.dtype)
            budgets = jnp.concatenate([epsilons, more])
        both = jax.tree.map(lambda *parts: jnp.stack(parts), model, core)

        @jax.vmap  # one program for both models
        def minimizer(which, epsilon):
            chosen = jax.tree.map(lambda x: x[which], both)
            return minimize_adversarial_loss(chosen, epsilon, p=p).theta

        which = jnp.concatenate([jnp.zeros(e, int), jnp.ones(len(budgets), int)])
        theta = minimizer(which, jnp.concatenate([epsilons, budgets]))
        theta, core_theta = theta[:e], theta[e:]
        b = model.covariance @ model.theta_opt
        sizes = b / (C1 * jnp.sqrt(model.theta_opt @ b + model.noise_std**2))
        nfs = jax.vmap(norm_fraction_spurious, (0, None))(theta, spurious)
        predicted = {"theta": theta, "nfs": nfs, "sizes": sizes, "radius": lp_norm(sizes, p)}
        per_budget = functools.partial(jax.vmap, in_axes=(None, 0, 0))
        weight = per_budget(functools.partial(least_weight, p=p))(model, budgets, core_theta)
        predicted["weight"] = weight[:e]
        if p == math.inf:
            ratios = per_budget(functools.partial(core_ratios, p=p))(model, budgets, core_theta)
            ratios = jnp.where(spurious, ratios, 0)
            predicted["ratios"] = ratios[:e]
            if core_only:
                predicted["profile"] = ratios[e:].reshape(-1)
                predicted["uniform"] = 1 / limits.critical_spurious_scale(model)
                predicted["first"] = limits.epsilon_of_first_reliance(model)
        return predicted

    return jax.vmap(one)(models)


def corrected_estimate(values, n):
    """Return the Estimate of the first of [1 + resamples] values; the others give its interval.

    The bias-corrected percentile interval (Efron, Canadian J. Statistics 9 (1981) 139): quantiles
    Phi(2 z0 -+ 1.96), Phi(z0) the share of resamples below the value, at least LEAST_SIDE from
    0 and 1; z0 = 0 if the value is 0, 1 or inf, where values pile up. NaN are left out.
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


def maximum_estimate(values, parts, n):
    """Return the Estimate of `values`, the largest |entry| of each row of [1 + resamples, k] parts.

    The maximum of nearly equal parts is biased up, by an amount that the bootstrap does not show.
    With s_j the standard error of part x_j, the interval is from max_j |x_j| - c s_j, c the 95%
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


def nfs_estimate(values, theta, spurious, n):
    """Return the Estimate of NFS from its `values` [1 + resamples] and theta [1 + resamples, d].

    NFS is a ratio of squares: it is biased up and cannot be 0 if |theta_S| is of the size of its
    error, and it cannot be 1 if |theta_C| is. So the interval is the union of two: that of
    `corrected_estimate`, and that of all factors t on the smaller part of theta that could have
    given the observed NFS. Such a t, with the resamples' errors added to theta / |theta|, makes at
    least 2.5% of the ratios of the two parts' lengths larger than observed and 2.5% smaller. The
    union is conservative.
    """
    first = corrected_estimate(values, n)
    if not 0 < first.value < 1:
        return first
    is_less = first.value <= 0.5
    is_part = spurious == is_less
    theta = theta[np.any(theta != 0, axis=1)]  # without collapsed resamples
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
    """Return one Estimate of arrays."""
    *numbers, counts = zip(*estimates, strict=True)
    return Estimate(*map(np.array, numbers), counts[0])

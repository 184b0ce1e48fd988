"""The Gaussian linear model of section 3 of the paper: losses, worst case, reliance.

Y = <X, theta_opt> + W with X ~ N(0, covariance) and W ~ N(0, noise_std^2). Theorem 1: with
1/p + 1/q = 1, c1 = sqrt(2/pi), c2 = 1 - c1^2 and

    s^2 = (theta - theta_opt)' covariance (theta - theta_opt) + noise_std^2,

the adversarial loss is c2 s^2 + (c1 s + epsilon ||theta||_q)^2. Everything here is pure, follows
the dtype of its input and can be jitted, vmapped and differentiated.

>>> model = gaussian_linear_model(0.5)
>>> theta = 0.9 * model.theta_opt
>>> bool(jnp.allclose(adversarial_loss(theta, model, 0.0, p=2), standard_loss(theta, model)))
True
"""

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from advspur._checks import check_nonnegative, is_concrete, require
from advspur.norms import dual_exponent, lp_norm, steepest_ascent

C1 = math.sqrt(2 / math.pi)  # E|Z| of a standard normal Z
C2 = 1 - C1**2


class GaussianLinearModel(NamedTuple):
    """A linear model with Gaussian features of any number m."""

    covariance: jax.Array  # [m, m] of the features X, symmetric and positive semidefinite
    theta_opt: jax.Array  # [m], the parameter that generates Y
    noise_std: jax.Array  # standard deviation of W, >= 0
    is_spurious: jax.Array  # [m] bool, the features of S. The paper has theta_opt = 0 there


def gaussian_linear_model(eta, *, spurious_scale=1.0, noise_std=0.1, theta_opt=(1, 1, 0, 0, 0)):
    """The paper's model of two core and three spurious features (Eq. 4): covariance Q Q'.

    The rows of Q are those of [[1, 1/2, 0, 0, 0], [1/2, 1, 0, 0, 0], [eta, eta, I_3]], divided
    by their lengths; the spurious rows are then multiplied by `spurious_scale`.

    Args:
      eta: strength of the correlation between core and spurious features.
      spurious_scale: scale of the spurious features (Figure 3), > 0.
      noise_std: sigma_w, 0.1 throughout the paper.
      theta_opt: [5]. The paper does not state it: see docs/theory.md for why (1, 1, 0, 0, 0).
    """
    for name, x in (("eta", eta), ("spurious_scale", spurious_scale), ("noise_std", noise_std)):
        require(jnp.shape(x) == (), f"{name} has shape {jnp.shape(x)}; expected a number")
    check_facts(eta, spurious_scale, noise_std, theta_opt)
    dtype = jnp.result_type(float, *map(jnp.asarray, (eta, spurious_scale, noise_std)))
    eta, scale, noise_std, theta_opt = (
        jnp.asarray(x, dtype) for x in (eta, spurious_scale, noise_std, theta_opt)
    )
    require(theta_opt.shape == (5,), f"theta_opt has shape {theta_opt.shape}; expected (5,)")
    q = mixing_matrix(eta)
    is_spurious = jnp.arange(5) >= 2
    q = jnp.where(is_spurious[:, None], scale * q, q)
    return GaussianLinearModel(q @ q.T, theta_opt, noise_std, is_spurious)


def mixing_matrix(eta, *, normalize=True):
    """[5, 5]: Q of Eq. 4 (rows of length 1), or Q~ before normalisation."""
    eta = jnp.asarray(eta)
    core = jnp.array([[1, 0.5, 0, 0, 0], [0.5, 1, 0, 0, 0]], eta.dtype)
    spurious = jnp.concatenate([jnp.full((3, 2), eta), jnp.eye(3, dtype=eta.dtype)], axis=1)
    q = jnp.concatenate([core, spurious])
    return q / jnp.linalg.norm(q, axis=1, keepdims=True) if normalize else q


def residual_std(theta, model):
    """s = sqrt((theta - theta_opt)' covariance (theta - theta_opt) + noise_std^2)."""
    return _safe_sqrt(standard_loss(theta, model))


def standard_loss(theta, model):
    """E[(Y - <X, theta>)^2] = s^2 of Theorem 1, theta [m]."""
    expected, shape = jnp.shape(model.theta_opt), jnp.shape(theta)
    require(shape == expected, f"theta has shape {shape}; expected {expected} (batch by jax.vmap)")
    error = model.theta_opt - theta
    return error @ model.covariance @ error + model.noise_std**2


def adversarial_loss(theta, model, epsilon, *, p, budget_weights=None):
    """E[max over ||delta||_p <= epsilon of (Y - <X + delta, theta>)^2]: Theorem 1, Eq. 2.

    c2 s^2 + (c1 s + epsilon ||theta||_q)^2. Convex in theta. The derivative of the norm at its
    kinks is that of `norms.lp_norm`.

    Args:
      theta: [m].
      model: GaussianLinearModel of m features.
      epsilon: attack budget >= 0, in the units of the features.
      p: norm of the attack, in [1, inf].
      budget_weights: [m] >= 0, the budget of each feature in units of epsilon: the attack is then
        ||D^-1 delta||_p <= epsilon with D = diag(budget_weights), and ||D theta||_q takes the place
        of ||theta||_q. None: 1 for all.
    """
    check_nonnegative("epsilon", epsilon)
    s = residual_std(theta, model)
    weighted = weigh(theta, budget_weights)
    return C2 * s**2 + (C1 * s + epsilon * lp_norm(weighted, dual_exponent(p))) ** 2


def worst_case_perturbation(theta, x, y, epsilon, *, p, budget_weights=None):
    """The delta that attains max over ||delta||_p <= epsilon of (y - <x + delta, theta>)^2: Eq. 3.

    delta = -sign(y - <x, theta>) epsilon D v with v = argmax_{||v||_p <= 1} <v, D theta> and D = 1,
    or diag(budget_weights); the maximum is (|y - <x, theta>| + epsilon ||D theta||_q)^2.

    Args:
      theta: [m].
      x: [..., m] inputs.
      y: [...] outputs.
      budget_weights: [m], finite; see `adversarial_loss`.
    Returns: [..., m].
    """
    check_nonnegative("epsilon", epsilon)
    sign = jnp.where(y - x @ theta >= 0, 1, -1)  # at 0 both signs are maximisers, 0 is not
    delta = epsilon * weigh(steepest_ascent(weigh(theta, budget_weights), p=p), budget_weights)
    return -sign[..., None] * delta


def weigh(theta, budget_weights):
    """Return D theta; a parameter that is 0 stays 0 under an infinite weight."""
    if budget_weights is None:
        return theta
    weights, _ = check_weights(budget_weights, jnp.shape(theta)[-1], jnp.result_type(theta))
    return jnp.where(jnp.isinf(weights) & (theta == 0), 0, weights) * theta


def norm_fraction_spurious(theta, is_spurious):
    """NFS = sum of theta_i^2 over the spurious i / sum over all i (Eq. 5); NaN at theta = 0."""
    theta = jnp.asarray(theta)
    require(theta.ndim == 1, f"theta has shape {theta.shape}; expected [m] (batch by jax.vmap)")
    largest = jax.lax.stop_gradient(jnp.max(jnp.abs(theta)))
    scaled = theta / largest  # tiny parameters must not underflow when squared; 0 / 0 is NaN
    return jnp.sum(jnp.where(is_spurious, scaled, 0) ** 2) / jnp.sum(scaled**2)


def restrict_to_core(model, *, barred=None):
    """Return the model restricted to the core features (theta_S = 0).

    Its minimisers have theta_S = 0, where its losses equal those of `model`. S becomes independent
    of everything. If theta_opt is not 0 on S, the regression of <X_S, theta_opt> on X_C joins
    theta_opt, and the residual joins the noise.

    Args:
      barred: [m] bool, the features to exclude; None: S.
    """
    covariance, theta_opt, noise_std, is_spurious = model
    barred = is_spurious if barred is None else barred
    core = ~barred
    within = jnp.where(core[:, None] & core, covariance, 0)
    outside = jnp.where(barred, theta_opt, 0)
    explained = jnp.linalg.pinv(within, hermitian=True) @ jnp.where(core, covariance @ outside, 0)
    variance = outside @ covariance @ outside - explained @ within @ explained
    noise_std = _safe_sqrt(noise_std**2 + jnp.maximum(variance, 0))
    isolated = jnp.diag(jnp.where(barred, jnp.diag(covariance), 0))
    theta_opt = jnp.where(core, theta_opt, 0) + explained
    return GaussianLinearModel(within + isolated, theta_opt, noise_std, is_spurious)


def check_facts(eta, spurious_scale, noise_std, theta_opt):
    """Check that the parameters of the paper's models are finite and have a valid sign."""
    for name, x in (("eta", eta), ("spurious_scale", spurious_scale), ("theta_opt", theta_opt)):
        check_finite(name, x)
    check_nonnegative("noise_std", noise_std)
    is_positive = not is_concrete(spurious_scale) or np.all(np.asarray(spurious_scale) > 0)
    require(is_positive, f"spurious_scale = {spurious_scale}: it must be > 0")


def check_model(model):
    """Return the model as arrays of one float dtype; raise InputError if it is invalid."""
    covariance, theta_opt = float_arrays(*model[:2])
    noise_std = jnp.asarray(model.noise_std).astype(covariance.dtype)
    is_spurious = jnp.asarray(model.is_spurious)
    m = theta_opt.shape[-1] if theta_opt.ndim else 0
    require(theta_opt.ndim == 1 and m >= 2, f"theta_opt has shape {theta_opt.shape}; expected [m]")
    arrays = {"covariance": covariance, "is_spurious": is_spurious, "noise_std": noise_std}
    for (name, array), shape in zip(arrays.items(), ((m, m), (m,), ()), strict=True):
        require(
            array.shape == shape,
            f"{name} has shape {array.shape}; with theta_opt of {m} entries expected {shape} "
            "(batch models by jax.vmap)",
        )
    require(is_spurious.dtype == bool, f"is_spurious has dtype {is_spurious.dtype}; expected bool")
    check_nonnegative("noise_std", noise_std)
    check_finite("theta_opt", theta_opt)
    check_finite("covariance", covariance)
    if is_concrete(is_spurious):
        count = int(np.sum(np.asarray(is_spurious)))  # under jit, .sum() would be traced
        require(
            0 < count < m,
            f"is_spurious marks {count} of {m} features: at least one must be spurious, one core",
        )
    if is_concrete(covariance):
        c = np.asarray(covariance, float)
        size = np.max(np.abs(np.diag(c)), initial=0)
        rounding = m * float(jnp.finfo(covariance.dtype).eps) * size
        skew = np.max(np.abs(c - c.T))
        require(skew <= 4 * rounding, f"covariance is not symmetric (off by {skew:.3g})")
        lowest = np.linalg.eigvalsh(c)[0]
        negative = f"covariance is not positive semidefinite (lowest eigenvalue {lowest:.3g})"
        require(lowest >= -4 * rounding, negative)
    return GaussianLinearModel(covariance, theta_opt, noise_std, is_spurious)


def check_weights(weights, num_features, dtype):
    """Return (budget weights [m], whether any may be 0 or inf)."""
    weights = jnp.asarray(weights, dtype)
    require(
        weights.shape == (num_features,),
        f"budget_weights has shape {weights.shape}; give one for each of {num_features} features",
    )
    if not is_concrete(weights):
        return weights, True
    values = np.asarray(weights)
    require(
        np.all(values >= 0),
        f"budget_weights = {values.tolist()}: they must be >= 0 (0: a feature is not attacked, "
        "inf: it is not used)",
    )
    return weights, not np.all((values > 0) & np.isfinite(values))


def float_arrays(*values):
    """Return the values as arrays of one float dtype."""
    arrays = [jnp.asarray(x) for x in values]
    dtype = jnp.result_type(*arrays)
    dtype = dtype if jnp.issubdtype(dtype, jnp.floating) else jnp.result_type(float)
    return [x.astype(dtype) for x in arrays]


def check_finite(name, value):
    """Raise InputError if `value` (a number or an array) contains NaN or infinity."""
    if is_concrete(value):
        bad = "contains NaN or infinity" if np.ndim(value) else f"= {value}: it must be finite"
        require(np.all(np.isfinite(np.asarray(value))), f"{name} {bad}")


def _safe_sqrt(x):
    """sqrt with derivative 0 at 0, where the plain one gives NaN."""
    return jnp.where(x > 0, jnp.sqrt(jnp.where(x > 0, x, 1)), 0)

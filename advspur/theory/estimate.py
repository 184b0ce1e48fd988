"""Fit the Gaussian linear model to data: parameters, standard errors, tests of normality.

>>> from advspur.theory import gaussian_linear_model, sample_data
>>> x, y = sample_data(gaussian_linear_model(0.5), jax.random.key(0), 1000)
>>> fit = fit_gaussian_linear_model(x, y, is_spurious=[0, 0, 1, 1, 1], core_only=True)
>>> bool(jnp.all(jnp.abs(fit.model.theta_opt - jnp.array([1, 1, 0, 0, 0])) < 0.02))
True
"""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from advspur._checks import require
from advspur.theory.linear_model import C1, GaussianLinearModel, check_finite


class Normality(NamedTuple):
    """Mardia's measures for n vectors of d entries (Biometrika 57 (1970) 519).

    With z the vectors whitened by their covariance (divisor n), b1 = mean_ij <z_i, z_j>^3 and
    b2 = mean_i <z_i, z_i>^2. Both measures are 0 for Gaussian vectors, up to sampling error.
    """

    skewness: jax.Array  # (b1 - d (d+1) (d+2) / n) / d: mean squared skewness per direction
    skewness_p: jax.Array  # P(chi^2 >= n b1 / 6), d (d+1) (d+2) / 6 degrees of freedom
    kurtosis: jax.Array  # b2 / (d (d+2)) - 1; for d = 1, excess kurtosis / 3
    kurtosis_p: jax.Array  # two-sided, from (b2 - d (d+2) (n-1) / (n+1)) / sqrt(8 d (d+2) / n)


class CoreTest(NamedTuple):
    """The F test of theta_opt = 0 on S, valid if the model is linear with Gaussian noise."""

    statistic: jax.Array
    degrees: tuple[int, int]
    p_value: jax.Array  # NaN if n <= d + 1


class GaussianFit(NamedTuple):
    """A GaussianLinearModel fitted to data in the coordinates of `basis`, and the centred data.

    For the features as they were passed, theta is basis @ model.theta_opt.
    """

    model: GaussianLinearModel
    covariance_error: jax.Array  # [d, d] standard errors
    theta_error: jax.Array  # [d] of theta_opt; 0 where theta_opt is fixed to 0
    noise_error: jax.Array
    shrinkage: jax.Array  # the value used, in [0, 1]
    core_test: CoreTest
    feature_normality: Normality
    residual_normality: Normality
    residual_ratio: jax.Array  # mean |Y - <X, theta_opt>| / (c1 noise_std); Theorem 1 assumes 1
    basis: jax.Array  # [d, d] orthonormal: the model's features are (features as passed) @ basis
    features: jax.Array  # [n, d] centred, in the basis
    labels: jax.Array  # [n] centred
    options: dict  # core_only and shrinkage as passed


def fit_gaussian_linear_model(
    features,
    labels,
    *,
    core_only,
    is_spurious=None,
    spurious_directions=None,
    target_class=None,
    shrinkage=0.0,
):
    """Fit Y = <X, theta_opt> + W to n examples and return a GaussianFit.

    Features and labels are centred, which gives an intercept that the adversary cannot change. With
    Sigma the sample covariance (divisor n - 1), the model's covariance is Sigma with its entries
    off the diagonal times 1 - l, l the shrinkage; theta_opt = covariance^-1 cov(X, Y), on the core
    features alone if `core_only`; noise_std^2 = |Y - <X, theta_opt>|^2 / (n - 1 - k) with
    k = tr(covariance^-1 Sigma), which without shrinkage is the number of features used.

    Standard errors hold for any distribution with fourth moments, given l: that of a mean of
    products for the covariance, and for theta_opt the sandwich (White, Econometrica 48 (1980) 817)
    times sqrt(n / (n - 1 - k)).

    Args:
      features: [n, d], n >= 3.
      labels: [n] numbers, or integers of two values, which become -1 and 1.
      core_only: whether theta_opt is fixed to 0 on S, as in the paper; `core_test` tests it. A free
        theta_opt is never exactly 0 on S, so models use spurious features from the least budget on.
      is_spurious: [d] bool; give either this or
      spurious_directions: [k, d], a basis of the spurious subspace, k < d. The model's features are
        then coordinates in an orthonormal basis whose last k vectors span the subspace. The attack
        is the same in both bases for p = 2 only; for other p it acts on these coordinates, and the
        basis is arbitrary within the subspace and within its complement.
      target_class: for labels of more than two classes: this one becomes 1, the rest -1.
      shrinkage: in [0, 1]; 0 (none) needs n >= d + 2. None: the estimate of Schäfer & Strimmer
        (Statistical Applications in Genetics and Molecular Biology 4 (2005) 32) for correlations,
        sum Var(r_jk) / sum r_jk^2 over j != k, which does not depend on the features' units.
    Raises: InputError for invalid input.
    """
    x, y, is_spurious, basis = _prepare(
        features, labels, is_spurious, spurious_directions, target_class, shrinkage
    )
    options = {"core_only": bool(core_only), "shrinkage": shrinkage}
    model, amount = estimate(x, y, is_spurious, **options)
    residual = y - x @ model.theta_opt
    return GaussianFit(
        model,
        *_errors(x, residual, model, amount, ~is_spurious | (not core_only)),
        amount,
        _core_test(x, y, is_spurious),
        _normality(np.asarray(x)),
        _normality(np.asarray(residual)[:, None]),
        jnp.mean(jnp.abs(residual)) / (C1 * model.noise_std),
        basis,
        x,
        y,
        options,
    )


@functools.partial(jax.jit, static_argnames=("core_only", "shrinkage"))
def estimate(x, y, is_spurious, *, core_only, shrinkage):
    """Return (GaussianLinearModel, shrinkage) for x [n, d], y [n], which it centres; for vmap."""
    n, d = x.shape
    x, y = x - jnp.mean(x, axis=0), y - jnp.mean(y)
    covariance = x.T @ x / (n - 1)
    off = ~jnp.eye(d, dtype=bool)
    if shrinkage is None:
        scale = jnp.sqrt(jnp.mean(x**2, axis=0))
        z = x / jnp.where(scale > 0, scale, 1)
        correlation = z.T @ z / n
        noise = jnp.sum(jnp.where(off, (z**2).T @ z**2 / n - correlation**2, 0)) / n
        size = jnp.sum(jnp.where(off, correlation**2, 0))
        shrinkage = jnp.clip(noise / jnp.where(size > 0, size, 1), 0, 1)
    shrinkage = jnp.asarray(shrinkage, x.dtype)
    covariance = jnp.where(off, (1 - shrinkage) * covariance, covariance)
    inverse = _inverse(covariance, ~is_spurious | (not core_only))
    theta = inverse @ (x.T @ y / (n - 1))
    freedom = jnp.maximum(n - 1 - _num_fitted(inverse, x), 1)
    noise_std = jnp.sqrt(jnp.sum((y - x @ theta) ** 2) / freedom)
    return GaussianLinearModel(covariance, theta, noise_std, is_spurious), shrinkage


def _inverse(covariance, used):
    """Return the inverse of the block of the features used, 0 elsewhere."""
    block = used[:, None] & used
    isolated = jnp.diag(jnp.where(used, 0, 1)).astype(covariance.dtype)
    return jnp.where(block, jnp.linalg.inv(jnp.where(block, covariance, 0) + isolated), 0)


def _num_fitted(inverse, x):
    """Return tr(inverse Sigma), the effective number of parameters of theta."""
    return jnp.sum(inverse * (x.T @ x)) / (len(x) - 1)


@jax.jit
def _errors(x, residual, model, shrinkage, used):
    """Return the standard errors of covariance, theta_opt and noise_std."""
    n, d = x.shape
    spread = jnp.sqrt(jnp.maximum((x**2).T @ x**2 / n - (x.T @ x / n) ** 2, 0) / n)
    factor = jnp.where(jnp.eye(d, dtype=bool), 1, 1 - shrinkage)
    inverse = _inverse(model.covariance, used)
    meat = (x * residual[:, None] ** 2).T @ x / n
    freedom = jnp.maximum(n - 1 - _num_fitted(inverse, x), 1)
    theta_error = jnp.sqrt(jnp.diag(inverse @ meat @ inverse) / freedom)
    return factor * spread, theta_error, jnp.std(residual**2) / (2 * model.noise_std * n**0.5)


def _core_test(x, y, is_spurious):
    from scipy import stats

    (n, d), k = x.shape, int(np.sum(is_spurious))
    x, y, core = np.asarray(x), np.asarray(y), np.asarray(~is_spurious)
    if n <= d + 1:
        return CoreTest(np.nan, (k, 0), np.nan)

    def sum_of_squares(x):
        return np.sum((y - x @ np.linalg.lstsq(x, y)[0]) ** 2)

    degrees, full = (k, n - d - 1), sum_of_squares(x)
    statistic = (sum_of_squares(x[:, core]) - full) / k / (full / degrees[1])
    return CoreTest(statistic, degrees, stats.f.sf(statistic, *degrees))


def _normality(x):
    """Return the Normality of centred vectors [n, d]; NaN if n <= d."""
    from scipy import stats

    n, d = x.shape
    values, vectors = np.linalg.eigh(x.T @ x / n)
    if n <= d or values[0] <= 1e-12 * values[-1]:
        return Normality(*[np.nan] * 4)
    z = x @ (vectors / np.sqrt(values))
    # The mean of <z_i, z_j>^3 over i and j is the sum of the squared third moments.
    parts = np.array_split(z, -(-n // 1000))
    moments = sum((x[:, :, None] * x[:, None]).reshape(-1, d * d).T @ x for x in parts) / n
    b1 = np.sum(moments**2)
    b2 = np.mean(np.sum(z**2, axis=1) ** 2)
    triples, size = d * (d + 1) * (d + 2), d * (d + 2)
    distance = (b2 - size * (n - 1) / (n + 1)) / np.sqrt(8 * size / n)
    skewness_p = stats.chi2.sf(n * b1 / 6, triples / 6)
    kurtosis_p = 2 * stats.norm.sf(abs(distance))
    return Normality((b1 - triples / n) / d, skewness_p, b2 / size - 1, kurtosis_p)


def _prepare(features, labels, is_spurious, directions, target_class, shrinkage):
    """Return (x [n, d], y [n], is_spurious [d], basis [d, d]): centred floats in the basis."""
    x = jnp.asarray(features, float)
    require(
        x.ndim == 2 and x.shape[0] >= 3 and x.shape[1] >= 2,
        f"features have shape {x.shape}; expected [n, d] with n >= 3 and d >= 2",
    )
    n, d = x.shape
    check_finite("features", x)
    y = _label_values(np.asarray(labels), target_class)
    require(y.shape == (n,), f"labels have shape {y.shape}; expected ({n},), one per row")
    check_finite("labels", y)
    require(np.ptp(y) > 0, f"labels are all {y[0] + 0:g}: a fit needs two different values")
    constant = np.flatnonzero(np.ptp(np.asarray(x), axis=0) == 0)
    require(not len(constant), f"features {constant[:5].tolist()} are constant: remove them")
    is_one_given = (is_spurious is None) != (directions is None)
    require(is_one_given, "give either is_spurious or spurious_directions")
    basis = jnp.eye(d, dtype=x.dtype)
    if directions is not None:
        basis, is_spurious = _spurious_basis(np.asarray(directions, float), d)
        basis = jnp.asarray(basis, x.dtype)
    is_spurious = np.asarray(is_spurious)
    require(
        is_spurious.shape == (d,) and np.all((is_spurious == 0) | (is_spurious == 1)),
        f"is_spurious has shape {is_spurious.shape}; expected ({d},), each true or false",
    )
    count = int(is_spurious.sum())
    fault = f"{count} of {d} features are spurious: at least one must be spurious, one core"
    require(0 < count < d, fault)
    in_range = shrinkage is None or 0 <= shrinkage <= 1
    require(in_range, f"shrinkage = {shrinkage}: it must be in [0, 1] or None")
    enough = shrinkage is None or shrinkage > 0 or n >= d + 2
    require(enough, f"n = {n} examples of {d} features: shrinkage = 0 needs n >= {d + 2}")
    x, y = (x - jnp.mean(x, axis=0)) @ basis, jnp.asarray(y, x.dtype)
    return x, y - jnp.mean(y), jnp.asarray(is_spurious.astype(bool)), basis


def _label_values(labels, target_class):
    """Return the labels as floats, classes as -1 and 1."""
    if target_class is not None:
        classes = np.unique(labels).tolist()
        is_label = target_class in classes
        require(is_label, f"target_class = {target_class} is not a label; labels: {classes[:9]}")
        return np.where(labels == target_class, 1.0, -1.0)
    if labels.dtype.kind in "iub":
        values = np.unique(labels)
        advice = "choose one with target_class (against the rest), or give floats"
        require(len(values) <= 2, f"labels are integers of {len(values)} values: {advice}")
        return np.where(labels == values[-1], 1.0, -1.0)
    require(labels.dtype.kind == "f", f"labels have dtype {labels.dtype}; expected numbers")
    return labels.astype(float)


def _spurious_basis(directions, d):
    """Return (orthonormal [d, d] whose last k columns span the k directions, is_spurious [d])."""
    shape = directions.shape
    fits = len(shape) == 2 and shape[1] == d and 0 < shape[0] < d
    require(fits, f"spurious_directions have shape {shape}; expected [k, {d}] with 0 < k < {d}")
    check_finite("spurious_directions", directions)
    k = len(directions)
    lengths = np.linalg.norm(directions, axis=1, keepdims=True)
    _, sizes, rows = np.linalg.svd(directions / np.where(lengths > 0, lengths, 1))
    rank = int(np.sum(sizes > 1e-8))
    require(rank == k, f"spurious_directions are dependent: {k} vectors of rank {rank}")
    return np.concatenate([rows[k:], rows[:k]]).T, np.arange(d) >= d - k

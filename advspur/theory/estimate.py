"""The Gaussian linear model of data: its parameters, their errors, and how far from Gaussian.

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
    """Mardia's measures of n vectors of d entries (Biometrika 57 (1970) 519).

    With z the vectors whitened by their covariance (divisor n), b1 = mean_ij <z_i, z_j>^3 and
    b2 = mean_i <z_i, z_i>^2; of Gaussian vectors both measures are 0 up to sampling.
    """

    skewness: jax.Array  # (b1 - d (d+1) (d+2) / n) / d: a mean squared skewness of a direction
    skewness_p: jax.Array  # P(chi^2 >= n b1 / 6), d (d+1) (d+2) / 6 degrees of freedom
    kurtosis: jax.Array  # b2 / (d (d+2)) - 1: of d = 1, excess kurtosis / 3
    kurtosis_p: jax.Array  # two-sided, of (b2 - d (d+2) (n-1) / (n+1)) / sqrt(8 d (d+2) / n)


class CoreTest(NamedTuple):
    """The F test of theta_opt = 0 on S, given that the model is linear with Gaussian noise."""

    statistic: jax.Array
    degrees: tuple[int, int]
    p_value: jax.Array  # NaN with n <= d + 1


class GaussianFit(NamedTuple):
    """A GaussianLinearModel of data, in the basis of `basis`, and the centred data."""

    model: GaussianLinearModel
    covariance_error: jax.Array  # [d, d] standard errors
    theta_error: jax.Array  # [d] of theta_opt; 0 where it is assumed to be 0
    noise_error: jax.Array
    shrinkage: jax.Array  # used, in [0, 1]
    core_test: CoreTest
    feature_normality: Normality
    residual_normality: Normality
    residual_ratio: jax.Array  # mean |Y - <X, theta_opt>| / (c1 noise_std); Theorem 1 assumes 1
    basis: jax.Array  # [d, d] orthonormal: features @ basis are the model's, theta is basis @ its
    features: jax.Array  # [n, d] centred, in the basis
    labels: jax.Array  # [n] centred
    options: dict  # core_only and shrinkage, as they were given


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
    """The Gaussian linear model Y = <X, theta_opt> + W of n examples, as a GaussianFit.

    Features and labels are centred: an intercept that the adversary does not touch. With S their
    covariance (divisor n - 1), the model's is S with its entries off the diagonal times 1 - l, l
    the shrinkage; theta_opt = covariance^-1 cov(X, Y), on the core features alone if `core_only`;
    noise_std^2 = |Y - <X, theta_opt>|^2 / (n - 1 - k), k = tr(covariance^-1 S) their number where
    nothing is shrunk.

    Standard errors hold for any distribution with fourth moments, given l: those of the mean
    of products, and the sandwich (White, Econometrica 48 (1980) 817) times sqrt(n / (n - 1 - k)).

    Args:
      features: [n, d], n >= 3.
      labels: [n] numbers, or whole numbers of two values, which become -1 and 1.
      core_only: whether theta_opt = 0 on S, as in the paper; `core_test` tests it. Without it a
        fitted theta_opt is never exactly 0 on S, so that every attack finds spurious features used.
      is_spurious: [d] bool; this or
      spurious_directions: [k, d], a basis of the spurious subspace, k < d. The model's features are
        then coordinates in an orthonormal basis, those of the subspace last. An attack is the same
        in both bases for p = 2 only; for other p it is one on those coordinates, whose basis within
        the subspace and off it is arbitrary.
      target_class: of labels of more than two classes: this one becomes 1, the rest -1.
      shrinkage: in [0, 1]; None: that of Schäfer & Strimmer (Statistical Applications in Genetics
        and Molecular Biology 4 (2005) 32), of correlations towards the identity,
        sum Var(r_jk) / sum r_jk^2 over j != k, so that nothing depends on the features' units; 0:
        none, which needs n >= d + 2.
    Raises: InputError for input that makes no sense.
    """
    x, y, is_spurious, basis = _check(
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
    """(GaussianLinearModel, shrinkage) of [n, d] and [n], centred here; pure, for vmap."""
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
    freedom = jnp.maximum(n - 1 - _fitted(inverse, x), 1)
    noise_std = jnp.sqrt(jnp.sum((y - x @ theta) ** 2) / freedom)
    return GaussianLinearModel(covariance, theta, noise_std, is_spurious), shrinkage


def _inverse(covariance, used):
    """The inverse of the block of the features used, 0 elsewhere."""
    block = used[:, None] & used
    alone = jnp.diag(jnp.where(used, 0, 1)).astype(covariance.dtype)
    return jnp.where(block, jnp.linalg.inv(jnp.where(block, covariance, 0) + alone), 0)


def _fitted(inverse, x):
    """tr(inverse S): the number of parameters that the fit of theta spends."""
    return jnp.sum(inverse * (x.T @ x)) / (len(x) - 1)


@jax.jit
def _errors(x, residual, model, shrinkage, used):
    """Standard errors of covariance, theta_opt and noise_std."""
    n, d = x.shape
    spread = jnp.sqrt(jnp.maximum((x**2).T @ x**2 / n - (x.T @ x / n) ** 2, 0) / n)
    kept = jnp.where(jnp.eye(d, dtype=bool), 1, 1 - shrinkage)
    inverse = _inverse(model.covariance, used)
    meat = (x * residual[:, None] ** 2).T @ x / n
    freedom = jnp.maximum(n - 1 - _fitted(inverse, x), 1)
    of_theta = jnp.sqrt(jnp.diag(inverse @ meat @ inverse) / freedom)
    return kept * spread, of_theta, jnp.std(residual**2) / (2 * model.noise_std * n**0.5)


def _core_test(x, y, is_spurious):
    from scipy import stats

    (n, d), k = x.shape, int(np.sum(is_spurious))
    x, y, core = np.asarray(x), np.asarray(y), np.asarray(~is_spurious)
    if n <= d + 1:
        return CoreTest(np.nan, (k, 0), np.nan)

    def squares(x):
        return np.sum((y - x @ np.linalg.lstsq(x, y)[0]) ** 2)

    degrees, of_all = (k, n - d - 1), squares(x)
    statistic = (squares(x[:, core]) - of_all) / k / (of_all / degrees[1])
    return CoreTest(statistic, degrees, stats.f.sf(statistic, *degrees))


def _normality(x):
    """The Normality of centred vectors [n, d]; NaN with n <= d."""
    from scipy import stats

    n, d = x.shape
    values, vectors = np.linalg.eigh(x.T @ x / n)
    if n <= d or values[0] <= 1e-12 * values[-1]:
        return Normality(*[np.nan] * 4)
    z = x @ (vectors / np.sqrt(values))
    # The cubes <z_i, z_j>^3 summed over i and j are those of the third moments, squared.
    parts = np.array_split(z, -(-n // 1000))
    moments = sum((x[:, :, None] * x[:, None]).reshape(-1, d * d).T @ x for x in parts) / n
    b1 = np.sum(moments**2)
    b2 = np.mean(np.sum(z**2, axis=1) ** 2)
    triples, size = d * (d + 1) * (d + 2), d * (d + 2)
    distance = (b2 - size * (n - 1) / (n + 1)) / np.sqrt(8 * size / n)
    skewness_p = stats.chi2.sf(n * b1 / 6, triples / 6)
    kurtosis_p = 2 * stats.norm.sf(abs(distance))
    return Normality((b1 - triples / n) / d, skewness_p, b2 / size - 1, kurtosis_p)


def _check(features, labels, is_spurious, directions, target_class, shrinkage):
    """(x [n, d], y [n], is_spurious [d], basis [d, d]): centred, in the basis, as floats."""
    x = jnp.asarray(features, float)
    require(
        x.ndim == 2 and x.shape[0] >= 3 and x.shape[1] >= 2,
        f"features have shape {x.shape}; expected [n, d] with n >= 3 and d >= 2",
    )
    n, d = x.shape
    check_finite("features", x)
    y = _numbers(np.asarray(labels), target_class)
    require(y.shape == (n,), f"labels have shape {y.shape}; expected ({n},), one a row of features")
    check_finite("labels", y)
    require(np.ptp(y) > 0, f"labels are all {y[0] + 0:g}: nothing can be fitted to them")
    constant = np.flatnonzero(np.ptp(np.asarray(x), axis=0) == 0)
    require(not len(constant), f"features {constant[:5].tolist()} are constant: leave them out")
    one = (is_spurious is None) != (directions is None)
    require(one, "give is_spurious or spurious_directions, one of the two")
    basis = jnp.eye(d, dtype=x.dtype)
    if directions is not None:
        basis, is_spurious = _basis_of(np.asarray(directions, float), d)
        basis = jnp.asarray(basis, x.dtype)
    is_spurious = np.asarray(is_spurious)
    require(
        is_spurious.shape == (d,) and np.all((is_spurious == 0) | (is_spurious == 1)),
        f"is_spurious has shape {is_spurious.shape}; expected ({d},), true or false each",
    )
    count = int(is_spurious.sum())
    fault = f"{count} of {d} features are spurious: at least one must be, and one must not"
    require(0 < count < d, fault)
    in_range = shrinkage is None or 0 <= shrinkage <= 1
    require(in_range, f"shrinkage = {shrinkage}: it must be in [0, 1], or be None")
    enough = shrinkage is None or shrinkage > 0 or n >= d + 2
    require(enough, f"n = {n} examples of {d} features: shrinkage = 0 needs {d + 2}")
    x, y = (x - jnp.mean(x, axis=0)) @ basis, jnp.asarray(y, x.dtype)
    return x, y - jnp.mean(y), jnp.asarray(is_spurious.astype(bool)), basis


def _numbers(labels, target_class):
    """The labels as floats; classes as -1 and 1."""
    if target_class is not None:
        classes = np.unique(labels).tolist()
        known = target_class in classes
        require(known, f"target_class = {target_class} is no label; they are {classes[:9]}")
        return np.where(labels == target_class, 1.0, -1.0)
    if labels.dtype.kind in "iub":
        values = np.unique(labels)
        advice = "name one, against the rest, with target_class, or give floats"
        require(len(values) <= 2, f"labels are whole numbers of {len(values)} values: {advice}")
        return np.where(labels == values[-1], 1.0, -1.0)
    require(labels.dtype.kind == "f", f"labels have dtype {labels.dtype}; expected numbers")
    return labels.astype(float)


def _basis_of(directions, d):
    """(orthonormal [d, d] whose last k columns span the k directions, is_spurious [d])."""
    shape = directions.shape
    fits = len(shape) == 2 and shape[1] == d and 0 < shape[0] < d
    require(fits, f"spurious_directions have shape {shape}; expected [k, {d}] with 0 < k < {d}")
    check_finite("spurious_directions", directions)
    k = len(directions)
    lengths = np.linalg.norm(directions, axis=1, keepdims=True)
    _, sizes, rows = np.linalg.svd(directions / np.where(lengths > 0, lengths, 1))
    rank = int(np.sum(sizes > 1e-8))
    require(rank == k, f"spurious_directions are dependent: {k} of rank {rank}")
    return np.concatenate([rows[k:], rows[:k]]).T, np.arange(d) >= d - k

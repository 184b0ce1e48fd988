"""Linear heads on features that share a spurious cue, fitted to do without that cue.

They minimise, over W [d, k] and b [k], with weights mu_i of the rows that sum to 1,

    sum_i mu_i cross_entropy(x_i W + b, y_i) + weight_decay / 2 (||W||^2 + ||b||^2)

or the largest such loss of a group. The distance to the minimum is at most
||gradient||^2 / (2 weight_decay), by strong convexity, and is within TOLERANCE. Many heads are
fitted at once. Cross-entropy is invariant to a common shift of an example's logits, so the columns
of a minimiser sum to 0: it is sought in k - 1 coordinates.
"""

import warnings
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from advspur._checks import require
from advspur.data.table import check_classes
from advspur.heads.solvers import minimize

TOLERANCE = 1e-6
MAX_STEPS = 3_000


class Heads(NamedTuple):
    """h fitted heads."""

    kernel: np.ndarray  # [h, d, k]
    bias: np.ndarray  # [h, k]
    gap: np.ndarray  # [h], at least the objective minus its minimum


def balanced_weights(codes):
    """Return [n] weights mu_i = 1 / (m n_g), for m classes or groups of n_g rows each."""
    _, index, counts = np.unique(codes, return_inverse=True, return_counts=True)
    return 1 / (len(counts) * counts[index])


def subsample_weights(codes, rng):
    """Return [n] weights that sum to 1: equal on one balanced draw of rows, elsewhere 0.

    SUBY and SUBG of Idrissi et al., CLeaR 2022, arXiv 2110.14503.
    """
    (rows,) = balanced_draws(codes, 1, rng)
    return np.bincount(rows, minlength=len(codes)) / len(rows)


def balanced_draws(codes, num_draws, rng):
    """Return [num_draws, m smallest] rows, from each of m groups as many as the smallest has."""
    known, counts = np.unique(codes, return_counts=True)
    rows = [np.flatnonzero(codes == code) for code in known]
    draws = [[rng.permutation(r)[: counts.min()] for r in rows] for _ in range(num_draws)]
    return np.array([np.concatenate(draw) for draw in draws])


def fit_weighted(features, labels, weights, decays, *, num_classes):
    """Return the Heads of least weighted cross-entropy: ERM, balanced, second stage of JTT.

    Args:
      features, labels: [n, d], [n].
      weights: [h, n], each row sums to 1.
      decays: [h] > 0, weight_decay.
    """
    decays, weights = _arrays(features, decays, weights)
    x, onehot = with_constant(features, labels, num_classes)
    minimum = _fit_weighted(x, onehot, weights.T, decays)
    return _heads(minimum.x, minimum.gap, num_classes)


def fit_adversarial(features, labels, decays, budgets, *, num_classes):
    """Return the Heads of least cross-entropy when each x_i is shifted by at most eps in l2.

    For two classes f = x w + b is the difference of the logits, with w = W_1 - W_0 and s = +-1:

        mean_i log(1 + exp(-s_i f_i + eps ||w||_2)) + weight_decay / 4 (||w||^2 + b^2)

    since the worst shift reduces a margin by eps times the dual norm; the penalty is the module's.
    For more classes, each has such a problem against the rest, and f is its logit.

    Args:
      decays, budgets: [h], weight_decay > 0 and eps >= 0 in units of the features.
    """
    decays, budgets = _arrays(features, decays, budgets)
    x, onehot = with_constant(features, labels, num_classes)
    signs = 2 * onehot[:, 1:] - 1 if num_classes == 2 else 2 * onehot - 1
    problems = signs.shape[1]
    signs = jnp.tile(signs, (1, len(decays)))
    decays, budgets = (jnp.repeat(v, problems) for v in (decays, budgets))
    minimum = _fit_adversarial(x, signs, decays, budgets)
    w = np.asarray(minimum.x).reshape(-1, problems, x.shape[1])
    gap = np.asarray(minimum.gap).reshape(-1, problems).sum(1)
    w = np.concatenate([-w / 2, w / 2], axis=1) if num_classes == 2 else w
    w = np.swapaxes(w, 1, 2)
    warn_of(gap)
    return Heads(w[:, :-1], w[:, -1], gap)


def fit_group_dro(features, labels, groups, decays, adjustments, *, num_classes, max_rounds=40):
    """Return the Heads whose largest group loss is least: group DRO.

        min_{W, b} max_g F_g + weight_decay / 2 (||W||^2 + ||b||^2),
        F_g = mean_{i in g} cross_entropy_i + C / sqrt(n_g)

    As in Sagawa et al. (ICLR 2020, arXiv 1911.08731), group weights q are multiplied by
    exp(eta F_g) and normalised, but with the losses of the head that fits the *new* q. This ends
    when the saddle-point gap is within TOLERANCE: the largest F_g, minus sum_g q_g F_g of the best
    head for q, bounds the distance to the minimum.

    Args:
      groups: [n] codes; those without a row do not count.
      decays, adjustments: [h], weight_decay > 0 and C >= 0.
    Returns: (Heads, q [h, m] of the groups with rows).
    """
    decays, adjustments = _arrays(features, decays, adjustments)
    x, onehot = with_constant(features, labels, num_classes)
    _, index, counts = np.unique(groups, return_inverse=True, return_counts=True)
    shares = jnp.asarray(np.eye(len(counts))[index] / counts, x.dtype)  # [n, m]
    constants = adjustments[:, None] / jnp.sqrt(jnp.asarray(counts, x.dtype))
    q = jnp.full(constants.shape, 1 / len(counts), x.dtype)
    at = jnp.zeros((len(decays), x.shape[1] * (num_classes - 1)), x.dtype)
    gap = jnp.full(len(decays), jnp.inf, x.dtype)
    for round_ in range(max_rounds):
        # The gap is of first order in the remaining differences of the losses: in the end a head
        # must be much nearer to its minimum than TOLERANCE.
        eta, within = min(128.0 * 8**round_, 4096.0), max(1e-4 * 1e-3**round_, 1e-4 * TOLERANCE)
        rate = jnp.asarray([eta, within], x.dtype)
        if not jnp.any(gap > TOLERANCE):
            break
        at, q, gap = _dro_round(x, onehot, shares, constants, decays, rate, at, q, gap)
    return _heads(at, gap, num_classes), np.asarray(q)


def warn_of(gap):
    """Warn if a fit is farther from its minimum than rounding explains."""
    largest = np.max(gap)
    if not largest <= 100 * TOLERANCE:
        text = f"a head has not converged: its objective may exceed the minimum by {largest:.2g}"
        warnings.warn(text, stacklevel=3)


@jax.jit
def _fit_weighted(x, onehot, weights, decays):
    """Return the Minimum [h, (d + 1) (k - 1)] for weights [n, h]."""
    start = jnp.zeros((len(decays), x.shape[1] * (onehot.shape[1] - 1)), x.dtype)

    def mixed(losses):
        return jnp.sum(weights * losses, axis=0), weights

    function = _objective(x, onehot, mixed, decays)
    return minimize(function, start, tolerance=TOLERANCE, max_steps=MAX_STEPS)


@jax.jit
def _dro_round(x, onehot, shares, constants, decays, rate, at, q, gap):
    """Return (heads, q, gaps) after one change of q for the problems that are still open.

    The head minimises log sum_g q_g exp(eta F_g) / eta, whose gradient is that of sum_g q_g F_g
    with the changed q. `rate`: (eta, tolerance of that minimum).
    """
    eta, within = rate

    def group_losses(losses):
        return losses.T @ shares + constants

    def changed(of_groups):
        return jax.nn.softmax(jnp.log(q) + eta * of_groups, axis=1)

    def mixed(losses):
        of_groups = group_losses(losses)
        value = jax.nn.logsumexp(jnp.log(q) + eta * of_groups, axis=1) / eta
        return value, shares @ changed(of_groups).T

    function, is_open = _objective(x, onehot, mixed, decays), gap > TOLERANCE
    tolerance = jnp.where(is_open, within, jnp.inf)
    minimum = minimize(function, at, tolerance=tolerance, max_steps=MAX_STEPS)
    of_groups = group_losses(_losses(x, onehot, minimum.x)[0])
    new = jnp.maximum(changed(of_groups), jnp.finfo(x.dtype).tiny)
    new_gap = jnp.max(of_groups, axis=1) - jnp.sum(new * of_groups, axis=1) + minimum.gap
    wide = is_open[:, None]
    return jnp.where(wide, minimum.x, at), jnp.where(wide, new, q), jnp.where(is_open, new_gap, gap)


@jax.jit
def _fit_adversarial(x, signs, decays, budgets):
    """Return the Minimum [h, d + 1] for signs [n, h]."""
    n, transposed = len(x), jnp.asarray(x.T)

    def function(w):
        norm = jnp.sqrt(jnp.sum(w[:, :-1] ** 2, axis=1))
        margins = signs * (x @ w.T) - budgets * norm
        slopes = -jax.nn.sigmoid(-margins) / n
        grad = (transposed @ (slopes * signs)).T + decays[:, None] / 2 * w
        pull = -jnp.sum(slopes, axis=0) * budgets / jnp.where(norm > 0, norm, 1)
        grad = grad.at[:, :-1].add(pull[:, None] * w[:, :-1])
        value = jnp.mean(jax.nn.softplus(-margins), axis=0)
        value += decays / 4 * jnp.sum(w**2, axis=1)
        return value, grad, jnp.sum(grad**2, axis=1) / decays

    def newton(bias, _):
        p = jax.nn.sigmoid(-signs * bias)
        slope = -jnp.mean(signs * p, axis=0) + decays / 2 * bias
        return bias - slope / (jnp.mean(p * (1 - p), axis=0) + decays / 2), None

    # If the budget is too large, w is 0, where the norm has no derivative: the gradient of the
    # rest is then at most eps times the derivative by the margins. Check that first.
    bias, _ = jax.lax.scan(newton, jnp.zeros_like(decays), length=20)
    start = jnp.zeros((len(decays), x.shape[1]), x.dtype).at[:, -1].set(bias)
    start = jax.lax.optimization_barrier(start)  # see `minimize`
    _, grad, gap = function(start)
    least = budgets * jnp.mean(jax.nn.sigmoid(-signs * bias), axis=0)
    is_zero = jnp.sqrt(jnp.sum(grad[:, :-1] ** 2, axis=1)) <= least
    tolerance = jnp.where(is_zero, jnp.inf, TOLERANCE)
    minimum = minimize(function, start, tolerance=tolerance, max_steps=MAX_STEPS)
    return minimum._replace(gap=jnp.where(is_zero, grad[:, -1] ** 2 / decays, minimum.gap))


def _objective(x, onehot, mixed, decays):
    """Return the function that `minimize` takes: mixed losses plus the penalty.

    `mixed`: losses [n, h] -> (values [h], their derivatives by the losses [n, h]).
    """
    transposed, basis = jnp.asarray(x.T), class_basis(onehot.shape[1], x.dtype)

    def function(at):
        losses, errors = _losses(x, onehot, at)
        value, weights = mixed(losses)
        errors = (weights[..., None] * errors) @ basis
        grad = jnp.einsum("dn,nhj->hdj", transposed, errors).reshape(at.shape)
        grad += decays[:, None] * at
        value += decays / 2 * jnp.sum(at**2, axis=1)
        return value, grad, jnp.sum(grad**2, axis=1) / (2 * decays)

    return function


def _losses(x, onehot, at):
    """Return (losses [n, h], their derivatives by the logits) of heads [h, (d + 1) (k - 1)]."""
    basis = class_basis(onehot.shape[1], x.dtype)
    at = at.reshape(len(at), x.shape[1], -1)
    logits = jnp.einsum("nd,hdj->nhj", x, at) @ basis.T
    log_p = jax.nn.log_softmax(logits)
    return -jnp.sum(onehot[:, None] * log_p, axis=-1), jnp.exp(log_p) - onehot[:, None]


def class_basis(num_classes, dtype):
    """Return [k, k - 1], orthonormal columns that each sum to 0."""
    q, _ = np.linalg.qr(np.c_[np.ones(num_classes), np.eye(num_classes)[:, 1:]])
    return jnp.asarray(q[:, 1:], dtype)


def _heads(at, gap, num_classes):
    """Return the Heads with coordinates [h, (d + 1) (k - 1)]."""
    at, gap = np.asarray(at), np.asarray(gap)
    warn_of(gap)
    basis = np.asarray(class_basis(num_classes, at.dtype))
    w = at.reshape(len(at), -1, num_classes - 1) @ basis.T
    return Heads(w[:, :-1], w[:, -1], gap)


def with_constant(features, labels, num_classes):
    """Return (features with a constant column for the bias [n, d + 1], one-hot labels [n, k])."""
    check_classes(np.asarray(labels), len(features), num_classes)
    features = jnp.asarray(features)
    x = jnp.concatenate([features, jnp.ones_like(features[:, :1])], axis=1)
    return x, jax.nn.one_hot(jnp.asarray(labels), num_classes, dtype=x.dtype)


def _arrays(features, decays, others):
    """Return (decays [h] > 0, others [h, ...] >= 0), checked, with the features' dtype."""
    dtype = jnp.asarray(features).dtype
    require(jnp.issubdtype(dtype, jnp.floating), f"features are {dtype}; floats are needed")
    decays, others = np.asarray(decays, float), np.asarray(others, float)
    are_positive = decays.ndim == 1 and np.all(np.isfinite(decays) & (decays > 0))
    require(are_positive, f"decays = {decays}: give a list of numbers > 0")
    fault = f"weights, budgets or adjustments {others.shape} for {len(decays)} heads"
    require(len(others) == len(decays), f"{fault}: give one entry or row for each head")
    require(np.all(np.isfinite(others) & (others >= 0)), f"{fault}: give finite numbers >= 0")
    return jnp.asarray(decays, dtype), jnp.asarray(others, dtype)

"""Heads refitted to other rows, or to rows weighted by a first head's errors: DFR, JTT, AFR."""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from advspur._checks import require
from advspur.heads.robust import balanced_draws, class_basis, warn_of, with_constant
from advspur.heads.sparse import fit_sparse

CS = (1.0, 0.7, 0.3, 0.1, 0.07, 0.03, 0.01)  # of DFR
GAMMAS, LAMBDAS = tuple(np.linspace(4, 20, 33)), (0.0, 0.1, 0.2, 0.3)  # of AFR on Waterbirds


class Scaler(NamedTuple):
    """(x - mean) / scale; a feature that does not vary is only centred."""

    mean: np.ndarray
    scale: np.ndarray

    @classmethod
    def of(cls, features):
        """Return the Scaler to mean 0 and deviation 1 over rows."""
        deviation = np.std(features, axis=0, dtype=np.float64)
        return cls(features.mean(0, dtype=np.float64), np.where(deviation > 0, deviation, 1))

    def apply(self, features):
        """Return the scaled features, in float64."""
        return (features - self.mean) / self.scale

    def undo(self, kernel, bias):
        """Return the head for unscaled features that equals this one for scaled features."""
        kernel = kernel / self.scale[:, None]
        return kernel, bias - self.mean @ kernel


def fit_dfr(features, labels, draws, Cs, scaler, *, num_classes):
    """Return heads by last-layer retraining, for each C and each draw of rows.

        min_{w, b}  ||w||_1 + |b| + C sum_i log(1 + exp(-s_i (x_i w + b))),    s_i = +-1

    on scaled features, in float64; the intercept is penalised, as in liblinear. For two classes
    x w + b is the difference of the logits; for more, each class has a problem against the rest,
    and x w + b is its logit. (Kirichenko et al., ICLR 2023, arXiv 2204.02937.)

    Args:
      features, labels: [n, d], [n].
      draws: [r, m] rows.
      Cs: [c].
      scaler: a Scaler.
    Returns: (kernels [c, r, d, k], biases [c, r, k], duality gaps [c, r]).
    """
    draws, Cs = np.asarray(draws), np.asarray(Cs, float)
    x = scaler.apply(np.asarray(features))
    x = np.c_[x, np.ones(len(x))]
    positive = [1] if num_classes == 2 else range(num_classes)
    signs = np.stack([2.0 * (np.asarray(labels) == k) - 1 for k in positive])
    with jax.enable_x64(True):
        fits = [fit_sparse(x[r], s[r], C) for C in Cs for r in draws for s in signs]
    shape = len(Cs), len(draws), len(signs)
    w = np.reshape([fit.weights for fit in fits], (*shape, -1))
    gap = np.reshape([fit.gap for fit in fits], shape)
    w = np.concatenate([-w / 2, w / 2], axis=2) if num_classes == 2 else w
    w = np.swapaxes(w, 2, 3)
    kernel, bias = scaler.undo(w[..., :-1, :], w[..., -1, :])
    warn_of(gap)
    return kernel, bias, gap.sum(axis=2)


def halves(groups, rng):
    """Return (rows to fit to, balanced over groups; rows to score on): halves of shuffled rows."""
    order = rng.permutation(len(groups))
    first, second = order[: len(order) // 2], order[len(order) // 2 :]
    lost = set(groups.tolist()) - set(groups[first].tolist())
    require(not lost, f"group {min(lost, default='')} has no row in half of val: add some to val")
    (draw,) = balanced_draws(groups[first], 1, rng)
    return first[draw], second


def error_sets(features, labels, steps, *, num_classes):
    """Return [t, n] bool, the rows that ERM gets wrong after each number of steps in `steps` [t].

    ERM is full-batch gradient descent on the mean cross-entropy of standardised features, from
    zero, at rate 1 / L with L = largest eigenvalue of x'x / (2 n) >= the curvature.
    """
    features = np.asarray(features)
    x = np.float32(Scaler.of(features).apply(features))
    x, onehot = with_constant(x, labels, num_classes)
    return np.asarray(_error_sets(x, onehot, jnp.asarray(steps), most=max(steps)))


@functools.partial(jax.jit, static_argnames="most")
def _error_sets(x, onehot, steps, *, most):
    transposed = jnp.asarray(x.T)
    start = jnp.ones(x.shape[1], x.dtype)

    def power(v, _):
        v = transposed @ (x @ v)
        return v / jnp.linalg.norm(v), None

    v, _ = jax.lax.scan(power, start / jnp.linalg.norm(start), length=30)
    rate = 2 * len(x) / jnp.linalg.norm(transposed @ (x @ v))

    def step(state, count):
        head, wrong = state
        logits = x @ head
        is_wrong = jnp.argmax(logits, axis=1) != jnp.argmax(onehot, axis=1)
        wrong = jnp.where((steps == count)[:, None], is_wrong, wrong)
        error = (jax.nn.softmax(logits) - onehot) / len(x)
        return (head - rate * (transposed @ error), wrong), None

    state = jnp.zeros((x.shape[1], onehot.shape[1]), x.dtype), jnp.zeros((len(steps), len(x)), bool)
    return jax.lax.scan(step, state, jnp.arange(most + 1))[0][1]


def jtt_weights(wrong, lambda_up):
    """Return [n] weights that sum to 1, in the error set 1 + lambda_up times those outside.

    The official code of Just Train Twice (Liu et al., ICML 2021, arXiv 2107.09044) adds lambda_up
    copies of the error set to the training data.
    """
    weights = 1 + lambda_up * np.asarray(wrong, float)
    return weights / weights.sum()


def afr_weights(probabilities, labels, gammas):
    """Return [g, n] weights that sum to 1, mu_i ~ exp(-gamma p_i) / n_{y_i}.

    p_i [n] is the probability of the true class. (Automatic feature reweighting, Qiu et al.,
    ICML 2023, arXiv 2306.11074.)
    """
    per_class = 1 / np.bincount(labels)[labels]
    weights = per_class * np.exp(-np.asarray(gammas)[:, None] * probabilities)
    return weights / weights.sum(axis=1, keepdims=True)


def fit_afr(
    base,
    examples,
    scored,
    *,
    num_classes,
    gammas=GAMMAS,
    lambdas=LAMBDAS,
    learning_rate=1e-2,
    num_epochs=500,
):
    """Return heads by gradient descent from `base`, for each gamma and lambda.

        sum_i mu_i cross_entropy_i + lambda (||W - W_base||^2 + ||b - b_base||^2)

    is minimised with full batches, gradients clipped to length 1 and no momentum. The steps are in
    the span of the features, which are therefore rotated to at most n coordinates.

    Args:
      base: (W [d, k], b [k]), whose probabilities give mu by `afr_weights`.
      examples: (features [n, d], labels [n]) that the base head was not fitted to.
      scored: (features [v, d], labels [v], codes [v] >= 0); the score is the least accuracy of a
        code, and the first epoch of highest score is kept.
    Returns: [(W, b, {"gamma", "lambda", "epoch"}, score)].
    """
    kernel, bias = (np.asarray(z, np.float64) for z in base)
    features, labels = np.asarray(examples[0], np.float64), np.asarray(examples[1])
    x, v = (np.c_[z, np.ones(len(z))] for z in (features, np.asarray(scored[0], np.float64)))
    w = np.vstack([kernel, bias])
    shift = w.mean(axis=1, keepdims=True)  # the same for all classes: it changes no prediction
    directions, _ = np.linalg.qr(x.T)  # [d + 1, min(n, d + 1)]
    grid = [(gamma, lam) for gamma in gammas for lam in lambdas]
    logits = x @ (w - shift)
    onehot = np.eye(num_classes)[labels]
    p = np.sum(np.asarray(jax.nn.softmax(jnp.asarray(logits))) * onehot, axis=1)
    weights = np.repeat(afr_weights(p, labels, gammas), len(lambdas), axis=0)
    codes = np.eye(int(np.max(scored[2])) + 1)[scored[2]]
    codes = codes[:, codes.any(axis=0)]
    arrays = x @ directions, onehot, logits, v @ directions, v @ (w - shift)
    arrays += codes / codes.sum(axis=0), weights.T, [lam for _, lam in grid], learning_rate
    fitted = _fit_afr(*map(np.float32, arrays), np.asarray(scored[1]), num_epochs=num_epochs)
    change, scores, epochs = jax.device_get(fitted)
    basis = np.asarray(class_basis(num_classes, np.float32), np.float64)
    fits = []
    for (gamma, lam), at, score, epoch in zip(grid, change, scores, epochs, strict=True):
        head = w + directions @ at @ basis.T
        chosen = {"gamma": float(gamma), "lambda": float(lam), "epoch": int(epoch)}
        fits.append((head[:-1], head[-1], chosen, float(score)))
    return fits


@functools.partial(jax.jit, static_argnames="num_epochs")
def _fit_afr(
    x, onehot, start, v, v_start, codes, weights, penalties, learning_rate, v_labels, *, num_epochs
):
    """Return (change of the kept head [h, r, k - 1], its score [h], its epoch [h])."""
    basis, transposed = class_basis(onehot.shape[1], x.dtype), jnp.asarray(x.T)

    def epoch(state, number):
        at, *best = state
        logits = start[:, None] + jnp.einsum("nr,hrj->nhj", x, at) @ basis.T
        errors = (weights[..., None] * (jax.nn.softmax(logits) - onehot[:, None])) @ basis
        grad = jnp.einsum("rn,nhj->hrj", transposed, errors) + 2 * penalties[:, None, None] * at
        norm = jnp.sqrt(jnp.sum(grad**2, axis=(1, 2), keepdims=True))
        at = at - learning_rate * grad / jnp.maximum(norm, 1)
        logits = v_start[:, None] + jnp.einsum("vr,hrj->vhj", v, at) @ basis.T
        right = (jnp.argmax(logits, axis=-1) == v_labels[:, None]).astype(x.dtype)
        score = jnp.min(right.T @ codes, axis=1)
        is_best = score > best[1] + 1e-6
        kept = jnp.where(is_best[:, None, None], at, best[0])
        best = kept, jnp.where(is_best, score, best[1]), jnp.where(is_best, number, best[2])
        return (at, *best), None

    h = len(penalties)
    at = jnp.zeros((h, x.shape[1], basis.shape[1]), x.dtype)
    state = at, at, jnp.full(h, -1, x.dtype), jnp.zeros(h, int)
    return jax.lax.scan(epoch, state, jnp.arange(1, num_epochs + 1))[0][1:]

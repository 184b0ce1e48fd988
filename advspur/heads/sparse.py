"""Logistic regression with an l1 penalty, by an interior-point method.

    min_w  ||w||_1 + C sum_i log(1 + exp(-s_i x_i w)),    s_i = +-1

is solved over w = w+ - w-, w+ and w- >= 0, with duals z+ and z-, by Newton's method on the
optimality conditions with w z = mu, mu decreasing (Boyd & Vandenberghe, Convex Optimization,
algorithm 11.2). A step costs one Gram matrix of the rows or of the features, whichever are fewer.
Since few weights are not 0, it starts with the features of largest gradient, and adds those that
the minimum over these leaves out wrongly.
"""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.scipy.linalg import cho_factor, cho_solve
from jax.scipy.special import xlogy

CENTRING = 0.1  # target of mu, as a share of the mean of w z
TO_BOUNDARY = 0.99  # longest step, as a share of the distance to the next bound
DUAL = 1e-2  # a larger dual counts as not 0; the largest is 2
WORKING = 256  # features solved for at a time
MOST_ROUNDS = 8  # then all features are solved for at once


class SparseFit(NamedTuple):
    """The result of a problem."""

    weights: jax.Array  # [d]
    value: jax.Array  # of the objective
    gap: jax.Array  # duality gap: at least the value minus the least value
    steps: jax.Array


def fit_sparse(x, signs, C, *, tolerance=1e-6, max_steps=100, working=WORKING):
    """Return the SparseFit of rows x [n, d] with signs [n] = +-1; needs float64.

    An intercept is a constant column of x, penalised as in liblinear. Ends when the duality gap is
    at most `tolerance`, or after `max_steps`.
    """
    x, call = signs[:, None] * x, {"tolerance": tolerance, "max_steps": max_steps}
    if x.shape[1] > working:
        fit = _by_parts(x, C, working=working, **call)
        if fit.gap <= tolerance:
            return fit
    return _interior(x, C, **call)


@functools.partial(jax.jit, static_argnames="working")
def _by_parts(x, C, *, working, tolerance, max_steps):
    """Return the SparseFit of rows times their signs, for `working` features at a time."""

    def work(state):
        count, fit, grad = state
        priority = jnp.where(fit.weights != 0, jnp.inf, abs(grad))
        _, chosen = jax.lax.top_k(priority, working)
        part = _interior(x[:, chosen], C, tolerance=tolerance / 2, max_steps=max_steps)
        weights = jnp.zeros_like(fit.weights).at[chosen].set(part.weights)
        grad, _, loss, p = _at(x, x @ weights, C)
        value, gap = _value_and_gap(weights, grad, loss, p, C)
        return count + 1, SparseFit(weights, value, gap, fit.steps + part.steps), grad

    grad, _, loss, p = _at(x, jnp.zeros_like(x[:, 0]), C)
    none = jnp.zeros_like(x[0])
    start = 0, SparseFit(none, *_value_and_gap(none, grad, loss, p, C), 0), grad
    start = jax.lax.optimization_barrier(start)  # no constants, see `minimize`
    return jax.lax.while_loop(
        lambda state: (state[1].gap > tolerance) & (state[0] < MOST_ROUNDS), work, start
    )[1]


def _at(x, margins, C):
    """Return (gradient of the loss [d], curvatures [n], loss, dual [n]) at margins [n]."""
    p = jax.nn.sigmoid(-margins)
    loss = C * jnp.sum(jax.nn.softplus(-margins))
    return -C * (p @ x), C * p * (1 - p), loss, p


def _value_and_gap(w, grad, loss, p, C):
    p = p / jnp.maximum(1, jnp.max(abs(grad)))  # feasible: |C x' p| <= 1
    value = jnp.sum(abs(w)) + loss
    return value, value + C * jnp.sum(xlogy(p, p) + xlogy(1 - p, 1 - p))


@jax.jit
def _interior(x, C, *, tolerance, max_steps):
    """Return the SparseFit of rows times their signs by interior points, for all features."""
    d = x.shape[1]

    def at(margins):
        return _at(x, margins, C)

    def sparse(w, z):
        """(weights, value, gap). No iterate is exactly 0, so that weights whose dual is not 0 are
        set to 0; if both are nearly 0, a small weight stays."""
        w = jnp.where((w < z) & (z > DUAL), 0, w)
        w = w[0] - w[1]
        grad, _, loss, p = at(x @ w)
        return w, *_value_and_gap(w, grad, loss, p, C)

    def newton(grad, curvature, w, z, mu):
        """(step of w [2, d], step of z [2, d], step of x w [n])."""
        pull = jnp.stack([-grad, grad]) - 1 + mu / w
        loose = w / z
        c, f = loose[0] * pull[0] - loose[1] * pull[1], loose.sum(0)
        a = jnp.sqrt(curvature)[:, None] * x
        if len(x) <= d:  # (1 / f + a' a)^-1 c / f = c - f a' (1 + a f a')^-1 a c
            gram = (a * f) @ a.T + jnp.eye(len(x), dtype=x.dtype)
            q = cho_solve(cho_factor(gram), a @ c)
        else:
            root = jnp.sqrt(f)
            gram = root[:, None] * (a.T @ a) * root + jnp.eye(d, dtype=x.dtype)
            factor, y = cho_factor(gram), jnp.zeros_like(c)
            for _ in range(2):  # refined once: rounding matters if few rows are near the boundary
                rest = c / root - y - root * ((a @ (root * y)) @ a)
                y += cho_solve(factor, rest)
            q = a @ (root * y)
        bent = q @ a
        dw = loose * (pull - jnp.stack([bent, -bent]))
        return dw, (mu - z * (w + dw)) / w, x @ (dw[0] - dw[1])

    def residual(grad, w, z, mu):
        dual = jnp.stack([grad, -grad]) + 1 - z
        return jnp.sqrt(jnp.sum(dual**2) + jnp.sum((w * z - mu) ** 2))

    def step(state):
        count, w, z, margins, (grad, curvature, *_), length, _ = state
        # After a short step mu stays: otherwise it falls below the dual's residual, and bounds
        # stop every step.
        mu = jnp.where(length < 0.9, 1, CENTRING) * jnp.mean(w * z)
        dw, dz, along = newton(grad, curvature, w, z, mu)
        now, change = jnp.stack([w, z]), jnp.stack([dw, dz])
        most = jnp.min(jnp.where(change < 0, -now / change, jnp.inf))
        length = jnp.minimum(1, TO_BOUNDARY * most)
        before = residual(grad, w, z, mu)

        def shorter(search):
            length, tries, *_ = search
            point = at(margins + length * along)
            after = residual(point[0], w + length * dw, z + length * dz, mu)
            falls = after <= (1 - 0.01 * length) * before
            return jnp.where(falls, length, length / 2), tries + 1, falls, point

        search = length, 0, jnp.bool_(False), at(margins)
        length, _, _, point = jax.lax.while_loop(
            lambda search: ~search[2] & (search[1] < 30), shorter, search
        )
        w, z, margins = w + length * dw, z + length * dz, margins + length * along
        return count + 1, w, z, margins, point, length, sparse(w, z)[2]

    start = jnp.full((2, d), 0.1, x.dtype), jnp.zeros(len(x), x.dtype)
    w, margins = jax.lax.optimization_barrier(start)  # no constants, see `minimize`
    one, inf = jnp.asarray([1, jnp.inf], x.dtype)
    state = (0, w, jnp.ones_like(w), margins, at(margins), one, inf)
    state = jax.lax.while_loop(lambda s: (s[0] < max_steps) & (s[-1] > tolerance), step, state)
    count, w, z, *_ = state
    return SparseFit(*sparse(w, z), count)

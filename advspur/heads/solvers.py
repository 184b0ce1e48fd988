"""Minimise many smooth convex problems together, so that they share matrix products."""

from typing import NamedTuple

import jax
import jax.numpy as jnp

MEMORY = 40  # pairs of a step and the change of the gradient
ARMIJO = 1e-4
SHORTEST = 1e-7  # share of a step; less than this is rounding, and ends a problem


class Minimum(NamedTuple):
    """The results of h problems."""

    x: jax.Array  # [h, p]
    gap: jax.Array  # [h], at least the value minus the least value
    steps: jax.Array  # number of evaluations


def minimize(function, start, *, tolerance, max_steps):
    """Return the Minimum of h independent problems with p unknowns each, by L-BFGS.

    Each step evaluates all problems, each at its next point or at a shorter step towards it. It
    ends when the gaps are within `tolerance`, when only rounding is left, or after `max_steps`.
    Near a minimum, where values differ by rounding only, the slope decides whether a point is
    accepted (Hager & Zhang, SIAM J. Optim. 2005).

    Args:
      function: x [h, p] -> (values [h], gradients [h, p], gaps [h]); a gap is at least the value
        minus the minimum.
      start: [h, p].
    """
    h, p = start.shape
    # Without this, XLA folds a constant start into the first evaluation, which can be NaN on CPU.
    start = jax.lax.optimization_barrier(start)
    noise = 10 * jnp.finfo(start.dtype).eps

    def direction(grad, pairs, scale):
        """Minus the inverse Hessian times grad, by the two loops; a pair of weight 0 is unused."""

        def down(q, pair):
            s, y, weight = pair
            share = weight * _dot(s, q)
            return q - share[:, None] * y, share

        def up(r, pair):
            s, y, weight, share = pair
            return r + (share - weight * _dot(y, r))[:, None] * s, None

        q, shares = jax.lax.scan(down, grad, pairs, reverse=True)
        return -jax.lax.scan(up, scale[:, None] * q, (*pairs, shares))[0]

    def step(state):
        count, x, value, grad, gap, way, length, pairs, scale = state
        new = x + length[:, None] * way
        new_value, new_grad, new_gap = function(new)
        slope, new_slope = _dot(grad, way), _dot(new_grad, way)
        falls = new_value <= value + ARMIJO * length * slope
        is_flat = new_value <= value + noise * abs(value)
        is_flat &= new_slope <= (2 * ARMIJO - 1) * slope
        taken = (falls | is_flat) & (gap > tolerance) & (length > SHORTEST)
        # Otherwise to the minimum of the parabola through both values and the slope.
        bend = 2 * (new_value - value - length * slope)
        share = jnp.where(bend > 0, -length * slope / bend, 0.1)
        length = jnp.where(taken, 1, length * jnp.clip(jnp.nan_to_num(share), 0.1, 0.5))
        s, y = new - x, new_grad - grad
        product, square = _dot(s, y), _dot(y, y)
        is_pair = taken & (product > 0)
        weight = jnp.where(is_pair, 1 / jnp.where(is_pair, product, 1), 0)
        latest = jnp.where(is_pair[:, None], s, 0), jnp.where(is_pair[:, None], y, 0), weight
        pairs = jax.tree.map(lambda old, z: jnp.concatenate([old[1:], z[None]]), pairs, latest)
        scale = jnp.where(is_pair, product / jnp.where(is_pair, square, 1), scale)
        wide = taken[:, None]
        x, grad = jnp.where(wide, new, x), jnp.where(wide, new_grad, grad)
        value, gap = jnp.where(taken, new_value, value), jnp.where(taken, new_gap, gap)
        way = jnp.where(wide, direction(grad, pairs, scale), way)
        return count + 1, x, value, grad, gap, way, length, pairs, scale

    value, grad, gap = function(start)
    vectors = jnp.zeros((MEMORY, h, p), start.dtype)
    pairs = vectors, vectors, jnp.zeros((MEMORY, h), start.dtype)
    scale = 1 / jnp.maximum(jnp.sqrt(_dot(grad, grad)), 1)
    length, way = jnp.ones(h, start.dtype), -scale[:, None] * grad
    state = (1, start, value, grad, gap, way, length, pairs, scale)

    def is_open(state):
        count, _, _, _, gap, _, length, *_ = state
        return (count < max_steps) & jnp.any((gap > tolerance) & (length > SHORTEST))

    state = jax.lax.while_loop(is_open, step, state)
    return Minimum(state[1], state[4], state[0])


def _dot(a, b):
    return jnp.sum(a * b, axis=-1)

"""Exact geometry of an l_p ball, or a hyperplane, and the box of allowed pixels.

Functions of `delta` or `weights` take one image, as arrays of any one shape; batch them with
`jax.vmap`. A perturbation has the room `low` <= 0 <= `high` at each coordinate.

- `project_ball`: the nearest point of ball and box, in l2;
- `ascend`: the point of ball and box that is farthest along a direction;
- `nearest_on_hyperplane`: the perturbation of least l_p norm that reaches a hyperplane.

The last two follow the same path: raise all coordinates together (linf), in proportion to their
weights (l2), or one after the other, largest weight first (l1), each until its room is used up.
The first of them stops at a norm, the other at a gain.
"""

import math

import jax
import jax.numpy as jnp

MOST_STEPS = 60  # of Newton iterations that end by themselves after five to ten
ACCURACY = 5e-7  # relative accuracy of a norm in float32


def confine(adversarial, images, *, p, epsilon, bounds, budget_weights=None):
    """Project `adversarial` [n, h, w, c] onto the box and the balls of radius epsilon [n].

    With weights w >= 0 shaped like `images`, the ball is ||delta / w||_p <= epsilon (delta = 0
    where w = 0), and the nearest point is that of delta / w.
    """
    radius = safe_radius(epsilon, p=p)
    project = jax.vmap(lambda d, low, high, r: project_ball(d, low, high, p=p, radius=r))
    room = adversarial - images, bounds[0] - images, bounds[1] - images
    if budget_weights is None:
        return add(images, project(*room, radius), bounds=bounds)
    is_free = budget_weights > 0
    scale = jnp.where(is_free, budget_weights, 1)
    scaled = project(*(jnp.where(is_free, x / scale, 0) for x in room), radius)
    return add(images, scaled * budget_weights, bounds=bounds)


def safe_radius(epsilon, *, p):
    """Return a radius such that norms within it, computed in float32, are truly <= epsilon."""
    return epsilon if p == math.inf else epsilon * (1 - ACCURACY)


def add(images, delta, *, bounds):
    """Return images + delta in the box; rounding never moves a pixel farther than |delta|."""
    moved = images + delta
    back = moved - jnp.sign(delta) * jnp.abs(moved) * jnp.finfo(moved.dtype).eps  # a float or two
    is_beyond = jnp.abs(moved - images) > jnp.abs(delta)
    return jnp.clip(jnp.where(is_beyond, back, moved), *bounds)


def project_ball(delta, low, high, *, p, radius):
    """argmin ||z - delta||_2 over ||z||_p <= radius and low <= z <= high; p = 1, 2, inf. Exact.

    Published attacks project onto the l2 ball and then cut to the box, which is not exact: the cut
    shortens the perturbation, so at pixels near 0 or 1 they stop short of the best.
    """
    if p == math.inf:
        return jnp.clip(delta, jnp.maximum(low, -radius), jnp.minimum(high, radius))
    size = jnp.abs(delta)
    room = jnp.where(delta > 0, high, -low)
    if p == 2:
        share = jnp.minimum(jnp.sqrt(fill(size**2, room**2, radius**2)), 1)
        return jnp.clip(delta * share, low, high)
    threshold = _l1_threshold(size, room, radius)
    kept = jnp.clip(size - threshold, 0, room)
    norm = jnp.sum(kept)
    return jnp.sign(delta) * kept * jnp.where(norm > radius, radius / norm, 1)


def ascend(weights, low, high, *, p, radius):
    """argmax <weights, z> over ||z||_p <= radius and low <= z <= high; p = 1, 2, inf. Exact."""
    size = jnp.abs(weights)
    room = jnp.where(weights > 0, high, -low) * (size > 0)
    if p == math.inf:
        step = jnp.minimum(room, radius)
    elif p == 2:
        time = jnp.sqrt(fill(size**2, room**2, radius**2))
        step = jnp.where(jnp.isinf(time), room, jnp.minimum(room, size * time))
    else:
        step = _greedy(size, room, room, radius)
    return jnp.sign(weights) * step


def nearest_on_hyperplane(weights, gain, low, high, *, p):
    """argmin ||z||_p with <weights, z> = gain, or as near as low <= z <= high allows. Exact."""
    weights = jnp.where(gain < 0, -weights, weights)
    gain, size = jnp.abs(gain), jnp.abs(weights)
    room = jnp.where(weights > 0, high, -low) * (size > 0)
    if p == math.inf:
        step = jnp.minimum(room, fill(size, size * room, gain))
    elif p == 2:
        step = jnp.minimum(room, size * fill(size**2, size * room, gain))
    else:
        step = _greedy(size, room, size * room, gain)
    return jnp.sign(weights) * jnp.where(size > 0, step, 0)


def fill(rates, capacities, target):
    """Return t with sum_i min(t rates_i, capacities_i) = target; inf if there is none.

    The sum is concave in t, so Newton's method from t = 0 rises to the answer and ends there once
    it knows which capacities are full.
    """

    def full_at(time):
        return time * rates >= capacities

    def next_time(time):
        full = full_at(time)
        rate = jnp.sum(rates, where=~full)
        rest = target - jnp.sum(capacities, where=full)
        return jnp.where(rate > 0, rest / jnp.where(rate > 0, rate, 1), jnp.inf)

    def rising(state):
        time, before, count = state
        return (time > before) & (count < MOST_STEPS)

    def rise(state):
        time, _, count = state
        return next_time(time), time, count + 1

    start = jnp.zeros((), rates.dtype)
    time, before, _ = jax.lax.while_loop(rising, rise, (next_time(start), start, 0))
    return jnp.maximum(time, before)


def kth_largest(values, count):
    """Return the `count`-th largest of `values` >= 0; `count` may be traced."""
    return _greatest(values, jnp.ones_like(values), count - 0.5)


def _greedy(size, room, costs, budget):
    """Return `room` for the largest of `size` that `budget` pays for; the next get a share."""
    level = _greatest(size, costs, budget)
    is_above, is_next = size > level, size == level
    rest = budget - jnp.sum(costs, where=is_above)
    cost = jnp.sum(costs, where=is_next)
    share = jnp.clip(rest / jnp.where(cost > 0, cost, 1), 0, 1)
    return jnp.where(is_above, room, jnp.where(is_next, room * share, 0))


def _greatest(values, costs, budget):
    """Return the least v >= 0 such that all values larger than v cost at most `budget` together."""
    # Floats >= 0 have the order of their bits, so bisecting on bits is exact.
    bits = jnp.int32 if values.dtype == jnp.float32 else jnp.int64
    order = jax.lax.bitcast_convert_type(values, bits)

    def fits(level):
        return jnp.sum(costs, where=order > level) <= budget

    def halve(_, ends):
        low, high = ends  # `high` fits, `low` does not
        middle = low + (high - low) // 2
        fit = (middle > low) & fits(middle)
        return jnp.where(fit, low, middle), jnp.where(fit, middle, high)

    ends = jnp.array(-1, bits), jnp.max(order)
    level = jax.lax.fori_loop(0, jnp.iinfo(bits).bits, halve, ends)[1]
    return jax.lax.bitcast_convert_type(level, values.dtype)


def _l1_threshold(size, room, radius):
    """Solve for the least t >= 0 with sum_i min(max(size_i - t, 0), room_i) <= radius (Newton)."""

    def excess_at(threshold):
        rest = size - threshold
        slope = jnp.sum((rest > 0) & (rest < room), dtype=size.dtype)
        return jnp.sum(jnp.clip(rest, 0, room)) - radius, slope

    def is_off(state):
        _, _, _, (excess, _), count = state
        return (jnp.abs(excess) > ACCURACY * radius) & (count < MOST_STEPS)

    def step(state):
        low, high, threshold, (excess, slope), count = state
        low = jnp.where(excess > 0, threshold, low)
        high = jnp.where(excess > 0, high, threshold)
        new = threshold + excess / jnp.maximum(slope, 1)
        inside = (slope > 0) & (new > low) & (new < high)
        threshold = jnp.where(inside, new, (low + high) / 2)
        return low, high, threshold, excess_at(threshold), count + 1

    zero = jnp.zeros((), size.dtype)
    excess, slope = excess_at(zero)
    start = zero, jnp.max(size), zero, (jnp.maximum(excess, 0), slope), 0
    return jnp.where(excess > 0, jax.lax.while_loop(is_off, step, start)[2], zero)

"""The Square attack: random search over square windows; no gradient is asked for.

A query changes one window of the perturbation and is kept if it raises the margin. Windows shrink
as queries go on. linf: the window is set to +-epsilon, a sign a channel. l2 and l1: the window gets
two opposite bumps, and the budget of a second window (Andriushchenko, Croce, Flammarion & Hein,
ECCV 2020, arXiv 1912.00049; l1: Croce & Hein, ICML 2021, arXiv 2103.01208).
"""

import math

import jax
import jax.numpy as jnp
import numpy as np

from advspur._checks import attack_arrays, require
from advspur._convolutions import for_loops
from advspur.attacks.box import add, confine, safe_radius
from advspur.attacks.losses import margin
from advspur.attacks.parts import best_restart, image_keys, keep, per_image
from advspur.norms import lp_norm

FIRST_SHARE = 0.8  # of the pixels, that the first windows cover
HALVED_AFTER = (10, 50, 200, 500, 1000, 2000, 4000, 6000, 8000)  # queries; the share halves
TINY = 1e-12


def square(
    logits_fn,
    images,
    labels,
    key,
    *,
    p,
    epsilon,
    num_queries=5000,
    restarts=1,
    bounds=(0.0, 1.0),
):
    """Adversarial images in the l_p ball of radius `epsilon`, found by random search.

    Args:
      logits_fn: [n, h, w, c] images -> [n, num_classes] logits; need not be differentiable.
      images: [n, h, w, c] float inside `bounds`.
      labels: [n] int, the true classes.
      key: PRNG key, or one an image.
      p: 1, 2 or inf.
      epsilon: budget in the units of `images`; a number or [n]. May be traced.
      num_queries: forward passes after the first; fewer where all images are misclassified.
      restarts: independent runs; per image the first success wins, then the margin.
      bounds: smallest and largest pixel value.
    Returns:
      [n, h, w, c]: a misclassified image where one was found, else that of the largest margin.
    Raises: InputError for arguments out of range.
    """
    return run_square(
        logits_fn, images, labels, key, p=p, epsilon=epsilon, num_queries=num_queries,
        restarts=restarts, bounds=bounds,
    )[0]  # fmt: skip


def run_square(
    logits_fn, images, labels, key, *, p, epsilon, num_queries, restarts, bounds
):  # fmt: skip
    """`square`, with success [n] bool and the queries [n] asked until then (of the best run)."""
    images, labels, epsilon = attack_arrays(images, labels, p=p, epsilon=epsilon, bounds=bounds)
    require(num_queries >= 1, f"num_queries = {num_queries}: at least one query is needed")
    require(restarts >= 1, f"restarts = {restarts}: at least one start is needed")
    sizes = window_sizes(num_queries, images.shape[1:3], smallest=1 if p == math.inf else 3)
    distinct = sorted(set(sizes), reverse=True)
    bumps = None if p == math.inf else jnp.asarray(_bumps(distinct, p), images.dtype)
    which, sizes = (jnp.asarray(x) for x in ([distinct.index(s) for s in sizes], sizes))
    score = for_loops(lambda x: margin(logits_fn(x), labels))

    radius = safe_radius(epsilon, p=p)

    def propose(keys, x, query):
        size = sizes[query]
        if p == math.inf:
            change = jax.vmap(lambda k: _signed_window(k, images.shape[1:], size))(keys)
            limit = per_image(radius)
            return add(
                images, jnp.clip(x - images + 2 * limit * change, -limit, limit), bounds=bounds
            )
        one = jax.vmap(lambda k, d, r: _move_budget(k, d, r, size, bumps[which[query]], p))
        delta = one(keys, x - images, radius)
        if p == 1:
            return confine(images + delta, images, p=p, epsilon=epsilon, bounds=bounds)
        return add(images, delta, bounds=bounds)

    def one_start(keys):
        x = images + _start(keys, images.shape[1:], epsilon, p)
        x = confine(x, images, p=p, epsilon=epsilon, bounds=bounds)

        def is_going(state):
            _, value, _, query = state
            return (query < num_queries) & jnp.any(value <= 0)

        def ask(state):
            x, value, asked, query = state
            own = jax.vmap(jax.random.fold_in, in_axes=(0, None))(keys, query)
            new = propose(own, x, query)
            new_value = score(new)
            better = (new_value > value) & (value <= 0)  # found ones stay as they are
            x, new_value = keep((x, value), (new, new_value), better)
            return x, new_value, asked + (value <= 0), query + 1

        start = x, score(x), jnp.zeros(labels.shape, int), 0
        x, value, asked, _ = jax.lax.while_loop(is_going, ask, start)
        return x, value, value > 0, asked

    best = best_restart(one_start, image_keys(key, len(images)), restarts)
    is_lost = score(images) > 0  # without an attack
    x = keep(best[0], images, is_lost & ~best[2])
    return jax.lax.stop_gradient((x, best[2] | is_lost, best[3]))


def window_sizes(num_queries, shape, *, smallest):
    """The side of each query's window in images of `shape` (h, w).

    From 3 on, as the bumps of l2 and l1 have it, sides are odd.
    """
    height, width = shape
    sizes = []
    for query in range(num_queries):
        share = FIRST_SHARE / 2 ** sum(query > after for after in HALVED_AFTER)
        size = max(round(math.sqrt(share * height * width)), smallest)
        size += smallest == 3 and size % 2 == 0
        sizes.append(min(size, height, width))
    return sizes


def _start(keys, shape, epsilon, p):
    """linf: vertical stripes of +-epsilon; l2, l1: a grid of bumps of random signs."""
    height, width, channels = shape
    if p == math.inf:
        draw = jax.vmap(lambda k: _signs(k, (1, width, channels)))
        return jnp.broadcast_to(draw(keys) * per_image(epsilon), (len(keys), *shape))
    side = max(height // 5, 1)
    rows, columns = height // side, width // side
    bumps = _bumps([side], p)[0]
    margins = [((n - k * side) // 2, n - k * side - (n - k * side) // 2)
               for n, k in ((height, rows), (width, columns))]  # fmt: skip

    def one(key):
        key_sign, key_turn = jax.random.split(key)
        turn = jax.random.randint(key_turn, (rows, columns), 0, 2)
        tiles = jnp.asarray(bumps)[turn][..., None]  # [rows, columns, side, side, 1]
        tiles = tiles * _signs(key_sign, (rows, columns, 1, 1, channels))
        grid = tiles.swapaxes(1, 2).reshape(rows * side, columns * side, channels)
        return jnp.pad(grid, (*margins, (0, 0)))

    delta = jax.vmap(one)(keys)
    if p == 1:
        return delta
    length = jax.vmap(lambda d: lp_norm(d, 2))(delta)
    return delta * per_image(epsilon / (length + TINY))


def _signed_window(key, shape, size):
    """+-1 inside a random window, one sign a channel; 0 elsewhere."""
    key_window, key_sign = jax.random.split(key)
    window = _window(_from_corner(key_window, shape, size), size)
    return window * _signs(key_sign, (1, 1, shape[-1]))


def _move_budget(key, delta, radius, size, bumps, p):
    """A bump in one window of `delta`, paid for by all that another window had.

    For l2 the result has the norm `radius`.
    """
    key_first, key_second, key_sign, key_turn = jax.random.split(key, 4)
    places = _from_corner(key_first, delta.shape, size)
    first = _window(places, size)
    both = jnp.maximum(first, _window(_from_corner(key_second, delta.shape, size), size))
    channels = delta.shape[-1]

    def powers(x):
        return x * x if p == 2 else jnp.abs(x)

    def norm(sums):
        return jnp.sqrt(sums) if p == 2 else sums

    each = powers(delta)
    in_first, in_both, total = (jnp.sum(each * w, axis=(0, 1)) for w in (first, both, 1))
    bump = bumps[jax.random.randint(key_turn, (), 0, 2)]
    picked = (jnp.clip(place, 0, len(bump) - 1) for place in places)
    bump = bump[jnp.ix_(*picked)][..., None] * _signs(key_sign, (1, 1, channels))
    new = first * (bump + delta / (TINY + norm(in_first)))
    unused = jnp.maximum(powers(radius) - jnp.sum(total), 0) / channels
    budget = norm(unused + in_both) * (channels if p == 1 else 1)
    new_norm = norm(jnp.sum(powers(new), axis=(0, 1)))
    delta = delta * (1 - both) + new * (budget / (TINY + new_norm))
    if p == 1:
        return delta
    left = jnp.maximum(total - in_both, 0)  # outside of both windows
    return delta * (radius / (TINY + jnp.sqrt(jnp.sum(budget**2 + left))))


def _from_corner(key, shape, size):
    """Rows [h] and columns [w], counted from the corner of a random window."""
    corner = jax.random.randint(key, (2,), 0, jnp.array(shape[:2]) - size + 1)
    return [jnp.arange(n) - c for n, c in zip(shape[:2], corner, strict=True)]


def _window(places, size):
    """[h, w, 1]: 1 inside the window, 0 elsewhere."""
    rows, columns = ((place >= 0) & (place < size) for place in places)
    return (rows[:, None] & columns)[..., None].astype(jnp.float32)


def _signs(key, shape):
    return jax.random.rademacher(key, shape, jnp.float32)


def _bumps(sizes, p):
    """[number of sizes, 2, s, s], s the largest: opposite bumps side by side, and one below.

    Each of l_p norm 1, in the corner of its array, 0 elsewhere.
    """
    largest = max(sizes)
    table = np.zeros((len(sizes), 2, largest, largest), np.float32)
    for row, size in zip(table, sizes, strict=True):
        half = size // 2
        pair = np.concatenate([_bump(half, size, p), -_bump(size - half, size, p)])
        pair /= np.linalg.norm(pair.ravel(), ord=p)
        row[0, :size, :size], row[1, :size, :size] = pair, pair.T
    return table


def _bump(height, width, p):
    """Highest in the middle; at distance r: sum over k >= r of (k + 1)^-2 (l1: ^-4)."""
    rows, columns = (np.abs(np.arange(n) - n // 2) for n in (height, width))
    distance = np.maximum(rows[:, None], columns)
    heights = 1 / np.arange(1, max(height, width) // 2 + 2) ** (4.0 if p == 1 else 2.0)
    bump = np.cumsum(heights[::-1])[::-1][distance]
    return bump / max(np.linalg.norm(bump.ravel(), ord=p), TINY)

"""The Square attack: random search over square windows, without gradients.

A query changes one window of the perturbation and is kept if it raises the margin. Windows shrink
over the queries. linf: the window is set to +-epsilon, one sign per channel. l2 and l1: the window
gets two opposite bumps and the budget of a second window (Andriushchenko, Croce, Flammarion & Hein,
ECCV 2020, arXiv 1912.00049; l1: Croce & Hein, ICML 2021, arXiv 2103.01208).
"""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np

from advspur._checks import attack_arrays, check_count
from advspur._convolutions import for_loops
from advspur.attacks.box import add, confine, safe_radius
from advspur.attacks.losses import margin
from advspur.attacks.parts import count_classes, finished, finite_loss, image_keys, keep, per_image
from advspur.norms import lp_norm

FIRST_SHARE = 0.8  # of the pixels, in the first windows
HALVED_AFTER = (10, 50, 200, 500, 1000, 2000, 4000, 6000, 8000)  # queries that halve the share
TINY = 1e-12


def square(logits_fn, images, labels, key, *, p, epsilon, num_queries=5000, bounds=(0.0, 1.0)):
    """Return adversarial images in the l_p ball, found by random search.

    Arguments as in `pgd`, except:

    Args:
      logits_fn: need not be differentiable.
      num_queries: forward passes after the first; the search ends once all are misclassified.
    Returns:
      [n, h, w, c]: a misclassified image if one was found, else that of the largest margin.
    """
    ball = {"p": p, "epsilon": epsilon, "bounds": bounds}
    return run_square(logits_fn, images, labels, key, num_queries=num_queries, **ball)[0]


def run_square(logits_fn, images, labels, key, *, p, epsilon, num_queries, bounds):
    """Return (the images of `square`, the number of queries until success [n])."""
    images, labels, epsilon = attack_arrays(images, labels, p=p, epsilon=epsilon, bounds=bounds)
    check_count("num_queries", num_queries)
    count_classes(logits_fn, images, labels)
    sizes = window_sizes(num_queries, images.shape[1:3], smallest=1 if p == math.inf else 3)
    distinct = sorted(set(sizes), reverse=True)
    which = jnp.asarray([distinct.index(size) for size in sizes])
    logits_of = for_loops(logits_fn)
    radius = safe_radius(epsilon, p=p)
    # Each branch has a fixed size, so that a query touches only its windows.
    branches = [_mover(size, images, radius, p, bounds) for size in distinct]

    def score(x):
        logits = logits_of(x)
        return finite_loss(margin(logits, labels), logits)

    def is_searching(state):
        _, value, _, query = state
        return (query < num_queries) & jnp.any(value <= 0)

    def ask(state):
        x, value, num_asked, query = state
        query_keys = jax.vmap(jax.random.fold_in, in_axes=(0, None))(keys, query)
        new = jax.lax.switch(which[query], branches, query_keys, x)
        if p == 1:
            new = confine(new, images, p=p, epsilon=epsilon, bounds=bounds)
        new_value = score(new)
        better = (new_value > value) & (value <= 0)  # a success stays as it is
        x, new_value = keep((x, value), (new, new_value), better)
        return x, new_value, num_asked + (value <= 0), query + 1

    keys = image_keys(key, len(images))
    x = images + _start(keys, images.shape[1:], epsilon, p)
    x = confine(x, images, p=p, epsilon=epsilon, bounds=bounds)
    start = x, score(x), jnp.zeros(labels.shape, int), 0
    x, value, num_asked, _ = jax.lax.while_loop(is_searching, ask, start)
    before = score(images)  # without an attack
    x = keep(x, images, (before > 0) & ~(value > 0))
    return finished(x, jnp.isfinite(value + before)), num_asked


def window_sizes(num_queries, shape, *, smallest):
    """Return the side of each query's window in images of `shape` (h, w).

    For l1 and l2, `smallest` is 3 and the sides are odd, since bumps have a middle.
    """
    (height, width), sizes = shape, []
    for query in range(num_queries):
        share = FIRST_SHARE / 2 ** sum(query > after for after in HALVED_AFTER)
        size = max(round(math.sqrt(share * height * width)), smallest)
        size += smallest == 3 and size % 2 == 0
        sizes.append(min(size, height, width))
    return sizes


def _start(keys, shape, epsilon, p):
    """linf: vertical stripes of +-epsilon; l2, l1: a grid of bumps with random signs."""
    height, width, channels = shape
    if p == math.inf:
        draw = jax.vmap(lambda k: _signs(k, (1, width, channels)))
        return jnp.broadcast_to(draw(keys) * per_image(epsilon), (len(keys), *shape))
    side = max(height // 5, 1)
    rows, columns = height // side, width // side
    bumps = _bumps(side, p)
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


def _mover(size, images, radius, p, bounds):
    """Return the move of windows of one size, a function of (keys [n], x [n, ...])."""
    if p == math.inf:
        move = functools.partial(_set_window, size=size, bounds=bounds)
    else:
        move = functools.partial(_move_budget, bumps=_bumps(size, p), p=p, bounds=bounds)
    return lambda keys, x: jax.vmap(move)(keys, x, images, radius)


def _set_window(key, x, image, radius, *, size, bounds):
    """linf: set a random window to the edge of the ball, on a random side for each channel."""
    key_corner, key_sign = jax.random.split(key)
    corner = _corner(key_corner, x.shape, size)
    old, centre = (_cut(a, corner, size) for a in (x, image))
    change = 2 * radius * _signs(key_sign, (1, 1, x.shape[-1]))
    new = add(centre, jnp.clip(old - centre + change, -radius, radius), bounds=bounds)
    return _paste(x, new, corner)


def _move_budget(key, x, image, radius, *, bumps, p, bounds):
    """l2, l1: add a bump to one window and pay with all of a second one; l1 is projected later."""
    key_first, key_second, key_sign, key_turn = jax.random.split(key, 4)
    size, channels = bumps.shape[1], x.shape[-1]
    first, second = (_corner(k, x.shape, size) for k in (key_first, key_second))
    delta = x - image

    def powers(x):
        return x * x if p == 2 else jnp.abs(x)

    def sums(x):
        return jnp.sum(powers(x), axis=(0, 1))

    def norm(sums):
        return jnp.sqrt(sums) if p == 2 else sums

    old = _cut(delta, first, size)
    without = _paste(delta, jnp.zeros_like(old), first)
    other = _cut(without, second, size)
    total, in_first = sums(delta), sums(old)
    in_both = in_first + sums(other)
    bump = jnp.asarray(bumps)[jax.random.randint(key_turn, (), 0, 2)]
    new = bump[..., None] * _signs(key_sign, (1, 1, channels)) + old / (TINY + norm(in_first))
    unused = jnp.maximum(powers(radius) - jnp.sum(total), 0) / channels
    budget = norm(unused + in_both) * (channels if p == 1 else 1)
    new = new * (budget / (TINY + norm(sums(new))))
    delta = _paste(_paste(without, jnp.zeros_like(other), second), new, first)
    if p == 1:
        return image + delta
    outside = jnp.maximum(total - in_both, 0)
    delta = delta * (radius / (TINY + jnp.sqrt(jnp.sum(budget**2 + outside))))
    return add(image, delta, bounds=bounds)


def _corner(key, shape, size):
    """Draw the corner (row, column, 0) of a window."""
    row, column = jax.random.randint(key, (2,), 0, jnp.array(shape[:2]) - size + 1)
    return row, column, 0


def _cut(x, corner, size):
    return jax.lax.dynamic_slice(x, corner, (size, size, x.shape[-1]))


def _paste(x, window, corner):
    return jax.lax.dynamic_update_slice(x, window, corner)


def _signs(key, shape):
    return jax.random.rademacher(key, shape, jnp.float32)


def _bumps(size, p):
    """Return [2, size, size]: two opposite bumps of l_p norm 1, stacked and side by side."""
    half = size // 2
    pair = np.concatenate([_bump(half, size, p), -_bump(size - half, size, p)])
    pair /= np.linalg.norm(pair.ravel(), ord=p)
    return np.stack([pair, pair.T]).astype(np.float32)


def _bump(height, width, p):
    """Return a bump of height sum_{k >= r} (k + 1)^-2 (l1: ^-4) at distance r from its middle."""
    rows, columns = (np.abs(np.arange(n) - n // 2) for n in (height, width))
    distance = np.maximum(rows[:, None], columns)
    heights = 1 / np.arange(1, max(height, width) // 2 + 2) ** (4.0 if p == 1 else 2.0)
    bump = np.cumsum(heights[::-1])[::-1][distance]
    return bump / max(np.linalg.norm(bump.ravel(), ord=p), TINY)

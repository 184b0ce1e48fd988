"""l_p norms, and the projection, step and random point of an l_p attack.

Theory and attacks share one idea: an l_p budget epsilon gains epsilon times the dual norm of the
gradient, ``max_{||d||_p <= epsilon} <d, g> = epsilon ||g||_q`` with 1/p + 1/q = 1, and
`steepest_ascent` attains it.

>>> float(lp_norm(jnp.array([3.0, -4.0]), 2))
5.0
>>> project_lp_ball(jnp.array([3.0, -1.0]), p=1, radius=2.0)
Array([2., 0.], dtype=float32)
>>> steepest_ascent(jnp.array([3.0, -4.0]), p=math.inf)
Array([ 1., -1.], dtype=float32)

An array of any shape is one vector; batch the functions with ``jax.vmap``.
"""

import math

import jax
import jax.numpy as jnp

from advspur._checks import IMAGE_NORMS, check_nonnegative, check_norm

__all__ = ["dual_exponent", "lp_norm", "project_lp_ball", "sample_lp_ball", "steepest_ascent"]


def dual_exponent(p):
    """Return the exponent q with 1/p + 1/q = 1, for p in [1, inf]."""
    check_norm(p)
    if p == 1:
        return math.inf
    return 1.0 if p == math.inf else p / (p - 1)


def lp_norm(x, p, *, axis=None):
    """||x||_p = (sum_i |x_i|^p)^(1/p) for p in [1, inf], over `axis` (None: all).

    The derivative at x = 0 is defined as 0, the least-norm subgradient (the plain formula gives
    NaN). Ties of p = inf share the derivative.
    """
    check_norm(p)
    x = jnp.asarray(x)
    size = jnp.sign(x) * x  # |x|, with derivative 0 at 0 (jnp.abs has 1)
    if p == 1:
        return jnp.sum(size, axis=axis)
    if p == math.inf:
        return jnp.max(size, axis=axis)
    # Scaling by the largest entry keeps powers in range; the norm does not depend on it.
    largest = jax.lax.stop_gradient(jnp.max(size, axis=axis, keepdims=True))
    is_zero = largest == 0
    scaled = jnp.where(is_zero, 1.0, size / jnp.where(is_zero, 1.0, largest))
    norm = jnp.sum(scaled**p, axis=axis, keepdims=True) ** (1 / p) * largest
    return jnp.squeeze(norm, axis=axis)


def project_lp_ball(delta, *, p, radius):
    """Return the Euclidean projection argmin_{||z||_p <= radius} ||z - delta||_2.

    Args:
      delta: array of any shape.
      p: 1 (exact, by sorting: Duchi et al., ICML 2008), 2 or inf.
      radius: number >= 0 in the units of `delta`; may be traced.
    """
    check_norm(p, IMAGE_NORMS)
    check_nonnegative("radius", radius)
    delta = jnp.asarray(delta)
    if p == math.inf:
        return jnp.clip(delta, -radius, radius)
    if p == 2:
        norm = lp_norm(delta, 2)
        return delta * jnp.where(norm > radius, radius / jnp.where(norm > 0, norm, 1.0), 1.0)
    size = jnp.abs(delta)
    descending = jnp.sort(size.ravel())[::-1]
    excess = jnp.cumsum(descending) - radius
    count = jnp.arange(1, descending.size + 1, dtype=delta.dtype)
    kept = jnp.maximum(jnp.sum(descending * count > excess), 1)
    threshold = jnp.maximum(excess[kept - 1] / kept.astype(delta.dtype), 0)
    shrunk = jnp.where(size > threshold, delta - jnp.sign(delta) * threshold, 0)
    # Sums of many small entries are rounded; rescaling keeps the result inside in float32.
    norm = jnp.sum(jnp.abs(shrunk))
    shrunk = shrunk * jnp.where(norm > radius, radius / jnp.where(norm > 0, norm, 1.0), 1.0)
    return jnp.where(jnp.sum(size) <= radius, delta, shrunk)


def steepest_ascent(grad, *, p):
    """Return argmax_{||v||_p <= 1} <v, grad>, the step that attains the dual norm of `grad`.

    p = inf: sign(g); p = 2: g / ||g||_2; p = 1: the sign of the largest coordinate (the first, if
    several are equal); other p in [1, inf]: sign(g) |g|^(q-1) / ||g||_q^(q-1). Zero at g = 0.
    """
    check_norm(p)
    grad = jnp.asarray(grad)
    if p == math.inf:
        return jnp.sign(grad)
    if p == 1:
        largest = jnp.argmax(jnp.abs(grad))
        is_largest = jnp.arange(grad.size).reshape(grad.shape) == largest
        return jnp.sign(grad) * is_largest
    # Dividing by the largest entry first keeps powers of tiny gradients from underflowing.
    largest = jnp.max(jnp.abs(grad))
    scaled = grad / jnp.where(largest > 0, largest, 1)
    q = dual_exponent(p)
    power = scaled if q == 2 else jnp.sign(scaled) * jnp.abs(scaled) ** (q - 1)
    norm = lp_norm(power, p)
    return power / jnp.where(norm > 0, norm, 1)


def sample_lp_ball(key, shape, *, p, radius, dtype=jnp.float32):
    """Draw a point uniformly from the l_p ball of `radius`, p in {1, 2, inf}.

    For finite p: g / (sum_i |g_i|^p + e)^(1/p) with g of density exp(-|g|^p) and e exponential
    (Barthe, Guedon, Mendelson & Naor, Annals of Probability 2005).
    """
    check_norm(p, IMAGE_NORMS)
    check_nonnegative("radius", radius)
    if p == math.inf:
        return jax.random.uniform(key, shape, dtype, -1, 1) * radius
    key_direction, key_length = jax.random.split(key)
    if p == 1:
        g = jax.random.laplace(key_direction, shape, dtype)
    else:
        g = jax.random.normal(key_direction, shape, dtype) / math.sqrt(2)
    e = jax.random.exponential(key_length, (), dtype)
    return g * radius / (jnp.sum(jnp.abs(g) ** p) + e) ** (1 / p)

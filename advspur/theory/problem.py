"""Many problems at once, and the linear algebra they share.

Arrays are [m, n] and [m, m, n] for n problems of m features: with the batch as the minor axis
the small algebra of all runs in vector instructions. Single problems ([m], [m, m]) do as well.
"""

import functools
import operator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

UNROLLED = 12  # up to this many features elimination is unrolled; above, LAPACK is faster


class Problem(NamedTuple):
    """minimise c2 s^2 + (c1 s + epsilon ||theta||_q)^2 over theta, for n (model, epsilon)."""

    covariance: jax.Array  # [m, m, n]
    target: jax.Array  # [m, n] theta_opt
    product: jax.Array  # [m, n] covariance theta_opt
    variance: jax.Array  # [n] noise_std^2
    epsilon: jax.Array  # [n]


def matvec(matrix, x):
    """[m, n]: matrix x of every problem."""
    if len(x) > UNROLLED:
        return jnp.einsum("ij...,j...->i...", matrix, x)
    return functools.reduce(operator.add, (matrix[:, j] * x[j] for j in range(len(x))))


def identity_like(matrix):
    """The identities of the shape of [m, m, n] matrices."""
    m = matrix.shape[0]
    return jnp.eye(m, dtype=matrix.dtype).reshape(m, m, *[1] * (matrix.ndim - 2))


def dot(x, y):
    """[n]: <x, y> of every problem."""
    return jnp.sum(x * y, axis=0)


def moments(problem, v):
    """(covariance v, s^2) at theta = target - v."""
    h = matvec(problem.covariance, v)
    return h, jnp.maximum(dot(v, h), 0) + problem.variance


class Factors(NamedTuple):
    """matrix = L D L' (few features: entries [n], D inverted) or, by LAPACK, L L'."""

    lower: Any
    rest: Any
    matrix: jax.Array


def factor(matrix):
    """Factors of [m, m, n] symmetric positive (semi)definite matrices, for `solve`.

    A feature that depends on those before it gets 0: of a singular consistent system a solution.
    """
    m = matrix.shape[0]
    if m > UNROLLED:
        first = jnp.moveaxis(matrix, 2, 0) if matrix.ndim == 3 else matrix
        size = jnp.max(jnp.abs(first), axis=(-2, -1), keepdims=True)
        # Singular ones have a solution too, though rounding, which grows with m, may make a pivot
        # negative, and with it all of a factor NaN.
        tiny = max(100, 10 * m) * jnp.finfo(matrix.dtype).eps * size
        regular = first + tiny * jnp.eye(m, dtype=matrix.dtype)
        return Factors(jnp.linalg.cholesky(regular, symmetrize_input=False), None, first)
    floor = 8 * m * jnp.finfo(matrix.dtype).eps
    rest = [[matrix[i, j] for j in range(i + 1)] for i in range(m)]
    lower, inverses = [[] for _ in range(m)], []
    for k in range(m):
        pivot = rest[k][k]
        inverses.append(jnp.where(pivot > floor * matrix[k, k], 1 / pivot, 0))
        for i in range(k + 1, m):
            lower[i].append(rest[i][k] * inverses[k])
        for i in range(k + 1, m):
            for j in range(k + 1, i + 1):
                rest[i][j] = rest[i][j] - lower[i][k] * rest[j][k]
    return Factors(lower, inverses, matrix)


def solve(factors, side):
    """[m, n]: matrix^-1 side."""
    lower, rest, matrix = factors
    m = len(side)
    if m > UNROLLED:
        first = side.T[..., None] if side.ndim == 2 else side[:, None]
        factors = (lower, True)
        x = jax.scipy.linalg.cho_solve(factors, first)
        x += jax.scipy.linalg.cho_solve(factors, first - matrix @ x)  # undoes `tiny`
        return x[..., 0].T
    x = list(side)
    for i in range(m):
        for k in range(i):
            x[i] = x[i] - lower[i][k] * x[k]
    x = [a * b for a, b in zip(x, rest, strict=True)]
    for i in reversed(range(m)):
        for k in range(i + 1, m):
            x[i] = x[i] - lower[k][i] * x[k]
    # Without the barrier XLA fuses the elimination into each use of x and repeats it there.
    return jax.lax.optimization_barrier(jnp.stack(x))


def is_definite(covariance):
    """[n]: whether the covariance is positive definite beyond rounding."""
    m = covariance.shape[0]
    if m > UNROLLED:
        # Cholesky's factor of the covariance less the rounding of its largest eigenvalue, which the
        # sums of the rows bound (by sqrt(m) times at most): NaN where that is not definite.
        first, eps = jnp.moveaxis(covariance, 2, 0), jnp.finfo(covariance.dtype).eps
        rounding = 8 * m * eps * jnp.max(jnp.sum(jnp.abs(first), axis=-1), axis=-1)
        regular = first - rounding[:, None, None] * jnp.eye(m, dtype=first.dtype)
        return jnp.all(jnp.isfinite(jnp.linalg.cholesky(regular)), axis=(-2, -1))
    return functools.reduce(operator.and_, (x != 0 for x in factor(covariance).rest))

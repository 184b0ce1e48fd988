"""Many problems at once, and the linear algebra they share.

Arrays are [m, n] and [m, m, n] for n problems of m features: with the batch as the minor axis
the small algebra of all runs in vector instructions. Single problems ([m], [m, m]) do as well.
"""

import functools
import operator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

UNROLLED = 12  # up to this many features elimination is unrolled
LOOPED = 64  # up to this many it loops over the features of a batch; above, LAPACK is faster


class Problem(NamedTuple):
    """minimise c2 s^2 + (c1 s + epsilon ||theta||_q)^2 over theta, for n (model, epsilon)."""

    covariance: jax.Array  # [m, m, n]
    target: jax.Array  # [m, n] theta_opt
    product: jax.Array  # [m, n] covariance theta_opt
    variance: jax.Array  # [n] noise_std^2
    epsilon: jax.Array  # [n]


def matvec(matrix, x):
    """[m, n]: matrix x of every problem."""
    if matrix.shape[1] > UNROLLED:
        return jnp.sum(matrix * x, axis=1) if x.ndim == 2 else matrix @ x
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
    """matrix = L D L' with the diagonal inverted, or LAPACK's LU."""

    lower: Any
    rest: Any
    matrix: jax.Array


def factor(matrix):
    """Factors of [m, m, n] symmetric positive (semi)definite matrices, for `solve`.

    A feature that depends on those before it gets 0: of a singular consistent system a solution.
    """
    m, eps = matrix.shape[0], jnp.finfo(matrix.dtype).eps
    if _is_for_lapack(matrix):
        first = _batch_first(matrix)
        size = jnp.max(jnp.abs(first), axis=(-2, -1), keepdims=True)
        tiny = 100 * eps * size  # singular ones have a solution too
        regular = first + tiny * jnp.eye(m, dtype=matrix.dtype)
        return Factors(*jax.scipy.linalg.lu_factor(regular), matrix)
    eliminate = _eliminate if m <= UNROLLED else _eliminate_in_loop
    return Factors(*eliminate(matrix, 8 * m * eps), matrix)


def solve(factors, side):
    """[m, n]: matrix^-1 side."""
    lower, rest, matrix = factors
    if _is_for_lapack(matrix):
        matrix, first = _batch_first(matrix), side.T[..., None]
        x = jax.scipy.linalg.lu_solve((lower, rest), first)
        x += jax.scipy.linalg.lu_solve((lower, rest), first - matrix @ x)  # undoes `tiny`
        return x[..., 0].T
    return (_substitute if len(side) <= UNROLLED else _substitute_in_loop)(lower, rest, side)


def _is_for_lapack(matrix):
    return matrix.shape[0] > (UNROLLED if matrix.ndim == 2 else LOOPED)


def _batch_first(matrix):
    return jnp.moveaxis(matrix, 2, 0) if matrix.ndim == 3 else matrix


def _eliminate(matrix, floor):
    """(rows of L, inverses of D) as lists of [n]."""
    m = matrix.shape[0]
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
    return lower, inverses


def _substitute(lower, inverses, side):
    m, x = len(side), list(side)
    for i in range(m):
        for k in range(i):
            x[i] = x[i] - lower[i][k] * x[k]
    x = [a * b for a, b in zip(x, inverses, strict=True)]
    for i in reversed(range(m)):
        for k in range(i + 1, m):
            x[i] = x[i] - lower[k][i] * x[k]
    # Without the barrier XLA fuses the elimination into each use of x and repeats it there.
    return jax.lax.optimization_barrier(jnp.stack(x))


def _eliminate_in_loop(matrix, floor):
    """(L - I [m, m, n], inverses of D [m, n])."""
    m = len(matrix)
    index = jnp.arange(m)[:, None]

    def eliminate(k, carry):
        rest, inverses = carry
        row = rest[k]
        inverse = jnp.where(row[k] > floor * matrix[k, k], 1 / row[k], 0)
        row = jnp.where(index > k, row, 0)
        return rest - (row * inverse)[:, None] * row, inverses.at[k].set(inverse)

    rest, inverses = jax.lax.fori_loop(0, m, eliminate, (matrix, jnp.zeros_like(matrix[0])))
    return jnp.where((index > index.T)[..., None], rest * inverses, 0), inverses


def _substitute_in_loop(lower, inverses, side):
    def down(i, x):
        return x.at[i].add(-jnp.sum(lower[i] * x, axis=0))

    def up(i, x):
        i = len(side) - 1 - i
        return x - lower[i] * x[i]

    x = jax.lax.fori_loop(0, len(side), down, side) * inverses
    return jax.lax.fori_loop(0, len(side), up, x)


def is_definite(covariance):
    """[n]: whether the covariance is positive definite beyond rounding."""
    m, eps = covariance.shape[0], jnp.finfo(covariance.dtype).eps
    if m <= UNROLLED:
        return functools.reduce(operator.and_, (x != 0 for x in factor(covariance).rest))
    if not _is_for_lapack(covariance):
        return jnp.all(factor(covariance).rest != 0, axis=0)
    # Cholesky's factor of what is left without the rounding of the largest eigenvalue, which the
    # sums of a row bound; where there is none, its entries are NaN.
    first = _batch_first(covariance)
    largest = jnp.max(jnp.sum(jnp.abs(first), axis=-1), axis=-1)
    lower = jnp.linalg.cholesky(
        first - 8 * m * eps * largest[:, None, None] * jnp.eye(m, dtype=first.dtype)
    )
    return jnp.all(jnp.isfinite(lower), axis=(-2, -1))

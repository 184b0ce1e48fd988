"""Batches of problems, and the linear algebra they share.

Arrays are [m, n] and [m, m, n] for n problems of m features: with the batch as the minor axis,
small matrices use vector instructions across the batch. Single problems ([m], [m, m]) work too.
"""

import functools
import operator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

UNROLLED = 12  # elimination is unrolled up to this many features; beyond it LAPACK is faster


class Problem(NamedTuple):
    """minimise c2 s^2 + (c1 s + epsilon ||theta||_q)^2 over theta, for n pairs (model, epsilon)."""

    covariance: jax.Array  # [m, m, n]
    target: jax.Array  # [m, n] theta_opt
    product: jax.Array  # [m, n] covariance theta_opt
    variance: jax.Array  # [n] noise_std^2
    epsilon: jax.Array  # [n]


def matvec(matrix, x):
    """Return matrix x for every problem, [m, n]."""
    if len(x) > UNROLLED:
        return jnp.einsum("ij...,j...->i...", matrix, x)
    return functools.reduce(operator.add, (matrix[:, j] * x[j] for j in range(len(x))))


def identity_like(matrix):
    """Return identities that broadcast against [m, m, n] matrices."""
    m = matrix.shape[0]
    return jnp.eye(m, dtype=matrix.dtype).reshape(m, m, *[1] * (matrix.ndim - 2))


def dot(x, y):
    """Return <x, y> for every problem, [n]."""
    return jnp.sum(x * y, axis=0)


def moments(problem, v):
    """Return (covariance v, s^2) at theta = target - v."""
    h = matvec(problem.covariance, v)
    return h, jnp.maximum(dot(v, h), 0) + problem.variance


class Factors(NamedTuple):
    """matrix = L D L' (few features: entries are [n], D is inverted), or L L' by LAPACK."""

    lower: Any
    rest: Any
    matrix: jax.Array


def factor(matrix):
    """Return the Factors of [m, m, n] symmetric positive semidefinite matrices, for `solve`.

    A feature that depends on earlier ones gets 0, so `solve` solves singular consistent systems.
    """
    m = matrix.shape[0]
    if m > UNROLLED:
        batch = jnp.moveaxis(matrix, 2, 0) if matrix.ndim == 3 else matrix
        size = jnp.max(jnp.abs(batch), axis=(-2, -1), keepdims=True)
        # Rounding, which grows with m, may make a pivot of a singular matrix negative, and then the
        # whole factor is NaN: so add `tiny`, which `solve` corrects for.
        tiny = max(100, 10 * m) * jnp.finfo(matrix.dtype).eps * size
        regular = batch + tiny * jnp.eye(m, dtype=matrix.dtype)
        return Factors(jnp.linalg.cholesky(regular, symmetrize_input=False), None, batch)
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
    """Return matrix^-1 side, [m, n]."""
    lower, rest, matrix = factors
    m = len(side)
    if m > UNROLLED:
        batch = side.T[..., None] if side.ndim == 2 else side[:, None]
        factors = (lower, True)
        x = jax.scipy.linalg.cho_solve(factors, batch)
        x += jax.scipy.linalg.cho_solve(factors, batch - matrix @ x)  # corrects for `tiny`
        return x[..., 0].T
    x = list(side)
    for i in range(m):
        for k in range(i):
            x[i] = x[i] - lower[i][k] * x[k]
    x = [a * b for a, b in zip(x, rest, strict=True)]
    for i in reversed(range(m)):
        for k in range(i + 1, m):
            x[i] = x[i] - lower[k][i] * x[k]
    # Without this barrier XLA fuses the elimination into each use of x and repeats it there.
    return jax.lax.optimization_barrier(jnp.stack(x))


def is_definite(covariance):
    """Return whether each covariance is positive definite beyond rounding, [n]."""
    m = covariance.shape[0]
    if m > UNROLLED:
        # Cholesky factor of the covariance minus the rounding of its largest eigenvalue, which the
        # row sums bound (at most sqrt(m) times too high): NaN if that is not definite.
        batch, eps = jnp.moveaxis(covariance, 2, 0), jnp.finfo(covariance.dtype).eps
        rounding = 8 * m * eps * jnp.max(jnp.sum(jnp.abs(batch), axis=-1), axis=-1)
        regular = batch - rounding[:, None, None] * jnp.eye(m, dtype=batch.dtype)
        return jnp.all(jnp.isfinite(jnp.linalg.cholesky(regular)), axis=(-2, -1))
    return functools.reduce(operator.and_, (x != 0 for x in factor(covariance).rest))

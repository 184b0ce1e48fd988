"""The path for p = inf and p = 1: piecewise linear, with one straight piece for each face.

On a face of the dual ball theta = theta_0 - kappa w, n = n_0 - kappa rho and
s^2 = a + rho kappa^2. For p = inf (q = 1, the lasso) a face is a support with its signs; for
p = 1 (q = inf) it is a set of features tied at |theta_i| = n with their signs; the rest are free.

Two methods find the optimal face: `active_set` jumps (few steps at any m, but may fail), `homotopy`
walks down the path from the collapse and fails only at degenerate ties.
"""

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp

from advspur.norms import lp_norm
from advspur.theory.budget import attack_budget, path_position
from advspur.theory.linear_model import C1
from advspur.theory.problem import dot, factor, identity_like, matvec, moments, solve


class Face(NamedTuple):
    """`chosen` is the support for p = inf, the free features for p = 1 (the others are tied)."""

    chosen: jax.Array  # [m, n] bool
    sign: jax.Array  # [m, n], 0 off the support and for free features


class Line(NamedTuple):
    """The straight piece of the path on a face."""

    origin: jax.Array  # [m, n] theta_0
    slope: jax.Array  # [m, n] w
    norm: jax.Array  # [n] n_0
    rho: jax.Array  # [n]
    floor: jax.Array  # [n] a
    gradient: jax.Array  # [m, n] covariance (theta_opt - theta_0)
    lift: jax.Array  # [m, n] covariance w, so that h = gradient + kappa lift


def first_face(problem, p):
    """Return the face at the collapse."""
    b = problem.product
    if p == math.inf:
        index = jnp.arange(b.shape[0]).reshape(-1, *[1] * (b.ndim - 1))
        chosen = index == jnp.argmax(jnp.abs(b), axis=0)
    else:
        chosen = b == 0
    return Face(chosen, jnp.where(chosen ^ (p == 1), jnp.sign(b), 0))


def line_of(face, problem, p):
    """Return the Line of a face, from one factorisation and two right-hand sides."""
    chosen, sign = face
    matrix = jnp.where(
        chosen[:, None] & chosen[None], problem.covariance, identity_like(problem.covariance)
    )
    factors = factor(matrix)

    def solve_chosen(side):
        return solve(factors, jnp.where(chosen, side, 0))

    if p == math.inf:
        origin, slope = solve_chosen(problem.product), solve_chosen(sign)
        norm, rho = dot(sign, origin), dot(sign, slope)
    else:
        tied = matvec(problem.covariance, sign)  # contribution of the tied features
        free, follow = solve_chosen(problem.product), solve_chosen(tied)
        rho = 1 / (dot(sign, tied) - dot(follow, tied))
        norm = (dot(sign, problem.product) - dot(free, tied)) * rho
        slope = (sign - follow) * rho
        origin = free + (sign - follow) * norm
    # Make theta_0 = theta_opt exact if it holds up to rounding: then v = kappa w keeps all its
    # digits as kappa gets small, and a is the variance of the noise alone, which may be 0.
    v = problem.target - origin
    gradient, floor = moments(problem, v)
    eps, size = jnp.finfo(floor.dtype).eps, dot(problem.target, problem.product)
    exact = floor - problem.variance <= (16 * eps) ** 2 * size
    reach = jnp.max(jnp.abs(problem.target), axis=0)
    exact &= jnp.max(jnp.abs(v), axis=0) <= eps**0.6 * reach
    origin = jnp.where(exact, problem.target, origin)
    gradient, floor = jnp.where(exact, 0, gradient), jnp.where(exact, problem.variance, floor)
    return Line(origin, slope, norm, rho, floor, gradient, matvec(problem.covariance, slope))


def curve(line):
    """Return the `moments` that `budget.path_position` needs, for a straight piece of a path."""

    def at(tau, state):
        kappa = line.norm / (tau + line.rho)
        return line.floor / kappa**2 + line.rho, 2 * line.floor / (kappa * line.norm), state

    return at


def position(line, epsilon, find=path_position):
    """Return the kappa at which the line is optimal for `epsilon`, at most n_0 / rho (n = 0).

    `find` solves the scalar equation; it takes the arguments of `path_position`.
    """
    end = line.norm / line.rho
    inside = end > epsilon * C1 * jnp.sqrt(line.floor + line.rho * end**2)
    limit = line.rho / jnp.finfo(line.rho.dtype).eps ** 0.9
    budget = jnp.where(inside, epsilon, 1)
    tau, *_ = find(curve(line), budget, jnp.zeros_like(line.rho), (), limit)
    kappa = jnp.where(tau >= limit, 0, line.norm / (tau + line.rho))
    return jnp.where(inside, kappa, end)


def point(face, line, kappa, p):
    """Return theta on the line, exactly on its face: zeros off the support, ties equal."""
    theta = line.origin - kappa * line.slope
    if p == math.inf:
        return jnp.where(face.chosen, theta, 0)
    return jnp.where(face.chosen, theta, face.sign * (line.norm - kappa * line.rho))


def homotopy_step(face, line, kappa, p):
    """Return (kappa, face) at the next breakpoint below `kappa`; kappa = 0 if there is none.

    The first linear slack of the face to reach 0 decides; ties take steps of length 0.
    """
    theta = line.origin - kappa * line.slope
    h = line.gradient + kappa * line.lift
    chosen, sign = face
    if p == math.inf:
        held, held_rate = sign * theta, -sign * line.slope  # the signs on the support
        other, other_rate, bound, bound_rate = h, line.lift, kappa, 1  # |h_j| <= kappa off it
        is_held = chosen
    else:
        held, held_rate = sign * h, sign * line.lift  # the signs of h on the tied features
        n = line.norm - kappa * line.rho
        other, other_rate, bound, bound_rate = theta, -line.slope, n, -line.rho  # |theta_j| <= n
        is_held = ~chosen
    slacks = jnp.stack([held, bound - other, bound + other])
    rates = jnp.stack([held_rate, bound_rate - other_rate, bound_rate + other_rate])
    possible = jnp.stack([is_held, ~is_held, ~is_held])
    eps = jnp.finfo(theta.dtype).eps
    rate_floor = 64 * eps * (jnp.abs(bound_rate) + jnp.max(jnp.abs(rates), axis=(0, 1)))
    steps = jnp.where(
        possible & (rates > rate_floor),
        jnp.maximum(slacks, 0) / jnp.where(rates > rate_floor, rates, 1),
        jnp.inf,
    )
    m, flat = theta.shape[0], steps.reshape(-1, *steps.shape[2:])
    first, step = jnp.argmin(flat, axis=0), jnp.min(flat, axis=0)
    hit = jnp.arange(m).reshape(-1, *[1] * (theta.ndim - 1)) == first % m
    new_sign = jnp.where(first >= 2 * m, -1, 1) * jnp.ones_like(theta)
    joins = hit & ~is_held
    sign = jnp.where(hit, jnp.where(joins, new_sign, 0), sign)
    rest = kappa - step
    return jnp.where(rest > 0, rest, 0), Face(chosen ^ hit, sign)


def homotopy(problem, p, max_steps):
    """Find the (face, line, reached) optimal for epsilon by walking down from the collapse."""
    highest = lp_norm(problem.product, p, axis=0)  # kappa at the collapse

    def unfinished(carry):
        return (carry[0] < max_steps) & jnp.any(carry[-1])

    def walk(carry):
        step, face, line, kappa, walking = carry
        below, ahead = homotopy_step(face, line, kappa, p)
        s = jnp.sqrt(line.floor + line.rho * below**2)
        is_inside = attack_budget(below, s, line.norm - below * line.rho) <= problem.epsilon
        walking &= ~is_inside & (below > 1e-14 * highest)
        face = jax.tree.map(lambda a, b: jnp.where(walking, a, b), ahead, face)
        line = line_of(face, problem, p)
        return step + 1, face, line, jnp.where(walking, below, kappa), walking

    face = first_face(problem, p)
    carry = (0, face, line_of(face, problem, p), highest, highest > 0)
    _, face, line, _, walking = jax.lax.while_loop(unfinished, walk, carry)
    return face, line, ~walking


def active_set(problem, p, max_steps):
    """Find the (face, line, settled) optimal for epsilon by a primal-dual active set.

    Each step solves on the face, drops features of the wrong sign and adds those that break their
    bound, until nothing changes.
    """

    def unfinished(carry):
        return (carry[0] < max_steps) & jnp.any(carry[-1])

    def improve(carry):
        step, face, line, moving = carry
        kappa = position(line, problem.epsilon)
        theta = line.origin - kappa * line.slope
        h = line.gradient + kappa * line.lift
        if p == math.inf:
            keep = face.sign * theta >= 0
            chosen = jnp.where(face.chosen, keep, jnp.abs(h) > kappa)
            sign = jnp.where(face.chosen, face.sign, jnp.sign(h))
            new = Face(chosen, jnp.where(chosen, sign, 0))
        else:
            n = line.norm - kappa * line.rho
            chosen = jnp.where(face.chosen, jnp.abs(theta) <= n, face.sign * h < 0)
            sign = jnp.where(face.chosen, jnp.sign(theta), face.sign)
            new = Face(chosen, jnp.where(chosen, 0, sign))
        moving &= jnp.any(new.chosen != face.chosen, axis=0)
        face = jax.tree.map(lambda a, b: jnp.where(moving, a, b), new, face)
        return step + 1, face, line_of(face, problem, p), moving

    face = first_face(problem, p)
    line = line_of(face, problem, p)
    carry = (0, face, line, line.norm == line.norm)
    _, face, line, moving = jax.lax.while_loop(unfinished, improve, carry)
    return face, line, ~moving

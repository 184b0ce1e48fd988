"""The path for 1 < p < inf: smooth, with one point for every tau = n / kappa.

The point at tau minimises v' covariance v / 2 + ||theta||_q^2 / (2 tau) over theta, with
v = theta_opt - theta. For p = 2 it is one linear solve. Otherwise Newton's method finds it; for
p > 2 in the dual, with ||covariance v||_p^2 in place of ||theta||_q^2, so that no power is below 2.

A path is the `moments` of `budget.path_position`: (tau, v) -> ((s / kappa)^2, its derivative, v).
"""

import jax
import jax.numpy as jnp

from advspur.theory.budget import newton_step
from advspur.theory.problem import dot, factor, identity_like, matvec, moments, solve

MAX_NEWTON_STEPS = 60
MAX_HALVINGS = 30


def ridge(problem):
    """Return the path for p = 2: (I + tau covariance) v = theta_opt."""

    def at(tau, _):
        factors = factor(identity_like(problem.covariance) + tau * problem.covariance)
        v = solve(factors, problem.target)
        h, s2 = moments(problem, v)
        fall = solve(factors, h)
        kappa2, change = dot(h, h), dot(h, matvec(problem.covariance, fall))
        ratio = s2 / kappa2
        return ratio, 2 * (ratio * change - dot(h, fall)) / kappa2, v

    return at


def spectral_ridge(problem, values, vectors):
    """Return `ridge` from eigenvalues [m, n] and eigenvectors [m, m, n] of the covariance."""
    weights = jnp.sum(vectors * problem.target[:, None], axis=0)

    def at(tau, _):
        shrink = 1 / (1 + tau * values)
        part = (values * weights * shrink) ** 2  # of kappa^2; d / d tau brings values * shrink
        kappa2 = jnp.sum(part, axis=0)
        s2 = dot(values, (weights * shrink) ** 2) + problem.variance
        fall = jnp.sum(part * shrink, axis=0)
        kappa_fall = dot(part, values * shrink)
        ratio = s2 / kappa2
        return ratio, 2 * (ratio * kappa_fall - fall) / kappa2, matvec(vectors, weights * shrink)

    return at


def general(problem, p):
    """Return the path for any 1 < p < inf, by damped Newton steps from the v passed in."""

    def at(tau, v):
        v = _descend(problem, p, tau, v)
        h, s2 = moments(problem, v)
        _, fall, _ = _newton(problem, p, tau, v)
        return *_ratio(problem, h, s2, fall, p), v

    return at


def first_step(problem, p, limit):
    """Return (tau, v): tau after one Newton step from the collapse, and v just below the collapse.

    There theta = tau grad(||b||_p^2 / 2) to first order in tau, b = covariance theta_opt.
    """
    target, b = problem.target, problem.product
    _, gradient, _ = _half_square(b, p)
    s2 = dot(target, b) + problem.variance
    ratio, slope = _ratio(problem, b, s2, -gradient, p)
    tau, _ = newton_step(jnp.zeros_like(s2), ratio, slope, problem.epsilon, limit)
    size = jnp.max(jnp.abs(gradient), axis=0)
    reach = jnp.max(jnp.abs(target), axis=0)
    return tau, target - 1e-6 * gradient * reach / jnp.where(size > 0, size, 1)


def _ratio(problem, h, s2, fall, p):
    """Return (s / kappa)^2 and its derivative along the path, with fall = d v / d tau."""
    half_square, gradient, _ = _half_square(h, p)
    kappa2 = 2 * half_square
    ratio = s2 / kappa2
    kappa_fall = dot(gradient, matvec(problem.covariance, fall))
    return ratio, 2 * (dot(h, fall) - ratio * kappa_fall) / kappa2


def _descend(problem, p, tau, v):
    """Minimise the objective at tau, convex in v, by Newton's method with halved steps."""
    eps = jnp.finfo(v.dtype).eps
    scale = dot(problem.target, problem.product) * (tau if p < 2 else 1)

    def unfinished(carry):
        return (carry[0] < MAX_NEWTON_STEPS) & jnp.any(carry[2])

    def improve(carry):
        step, v, moving = carry
        direction, _, slope = _newton(problem, p, tau, v)
        value = _objective(problem, p, tau, v)
        rounding = 16 * eps * (scale + jnp.abs(value))

        def too_long(trial):
            return (trial[0] < MAX_HALVINGS) & jnp.any(trial[2])

        def halve(trial):
            halvings, length, long = trial
            length = jnp.where(long, length / 2, length)
            return halvings + 1, length, long & is_long(length)

        def is_long(length):
            new = _objective(problem, p, tau, v + length * direction)
            return ~(new <= value + 1e-4 * length * slope + rounding)

        one = jnp.ones_like(tau)
        _, length, _ = jax.lax.while_loop(too_long, halve, (0, one, is_long(one)))
        v = jnp.where(moving, v + length * direction, v)
        return step + 1, v, moving & (-slope > eps**1.8 * scale)  # the next step squares it

    _, v, _ = jax.lax.while_loop(unfinished, improve, (0, v, tau == tau))
    return v


def _objective(problem, p, tau, v):
    h = matvec(problem.covariance, v)
    if p > 2:
        return dot(v, h) / 2 + tau * _half_square(h, p)[0] - dot(problem.product, v)
    return tau * dot(v, h) / 2 + _half_square(problem.target - v, p / (p - 1))[0]


def _newton(problem, p, tau, v):
    """Return (Newton direction, d v / d tau on the path, slope of the objective) at v."""
    covariance = problem.covariance
    h = matvec(covariance, v)
    if p > 2:
        _, gradient, hessian = _half_square(h, p)
        residual, tau_slope = v + tau * gradient - problem.target, gradient
        matrix = identity_like(covariance) + tau * jnp.einsum(
            "ij...,jk...->ik...", hessian, covariance
        )
    else:
        _, gradient, hessian = _half_square(problem.target - v, p / (p - 1))
        residual, tau_slope = tau * h - gradient, h
        matrix = tau * covariance + hessian
    sides = -jnp.stack([residual, tau_slope], axis=1)
    if v.ndim == 2:  # LAPACK needs the batch first
        matrix, sides = jnp.moveaxis(matrix, 2, 0), jnp.moveaxis(sides, 2, 0)
    both = jnp.linalg.solve(matrix, sides)
    direction, fall = (both[..., i].T for i in (0, 1))
    dual = matvec(covariance, direction) if p > 2 else direction
    return direction, fall, dot(residual, dual)


def _half_square(x, r):
    """Return ||x||_r^2 / 2, its gradient and its Hessian, r >= 2; the Hessian at 0 is set to 0."""
    largest = jnp.max(jnp.abs(x), axis=0)
    safe = jnp.where(largest > 0, largest, 1)
    a = jnp.abs(x) / safe
    norm = jnp.sum(a**r, axis=0) ** (1 / r)
    norm = jnp.where(largest > 0, norm, 1)
    a = a / norm
    direction = jnp.sign(x) * a ** (r - 1)
    outer = direction[:, None] * direction[None]
    hessian = (r - 1) * identity_like(outer) * a ** (r - 2) - (r - 2) * outer
    norm = norm * largest
    return norm**2 / 2, norm * direction, hessian

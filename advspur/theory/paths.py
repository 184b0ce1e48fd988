"""Whole regularisation paths for p = 1 and p = inf: one covers every epsilon and noise_std."""

import functools
import math
from typing import NamedTuple

import jax
import jax.numpy as jnp

from advspur._checks import check_norm
from advspur.norms import lp_norm
from advspur.theory import faces
from advspur.theory.budget import attack_budget
from advspur.theory.linear_model import C1, check_model
from advspur.theory.problem import Problem, matvec, moments
from advspur.theory.weights import weighted_model


class RegularizationPath(NamedTuple):
    """Breakpoints of the minimisers over all budgets, from the collapse down (p = 1 or inf).

    theta is linear in kappa between breakpoints. epsilon falls from the collapse radius to 0
    (without noise, to the largest budget at which theta_opt is optimal). The last breakpoint is
    kappa = 0, theta = theta_opt; the remaining rows repeat it.
    """

    epsilon: jax.Array  # [k]
    theta: jax.Array  # [k, m]
    kappa: jax.Array  # [k] ||covariance (theta_opt - theta)||_p
    norm: jax.Array  # [k] ||theta||_q
    variance: jax.Array  # [k] standard loss of theta
    is_complete: jax.Array  # whether the path was followed to its end


def regularization_path(model, *, p, max_breakpoints=None, budget_weights=None):
    """Return the RegularizationPath of a model: its minimisers for all epsilon, p = 1 or inf.

    At most `max_breakpoints` (static; default 4 m + 8) are followed. `budget_weights` [m] must be
    positive and finite; `kappa` is then ||D^-1 covariance (theta_opt - theta)||_p and `norm`
    ||D theta||_q.
    """
    check_norm(p, (1.0, math.inf))
    model, weights = weighted_model(check_model(model), budget_weights)
    path = path_arrays(*model[:3], p=float(p), count=max_breakpoints)
    return path._replace(theta=path.theta / weights)


@functools.partial(jax.jit, static_argnames=("p", "count"))
def path_arrays(covariance, target, noise_std, *, p, count=None):
    """`regularization_path` for arrays, without checks."""
    count = count or 4 * target.shape[0] + 8
    variance = noise_std**2
    product = matvec(covariance, target)
    problem = Problem(covariance, target, product, variance, jnp.zeros_like(variance))
    top = lp_norm(product, p)  # kappa at the collapse

    def record(line, face, kappa):
        theta = faces.point(face, line, kappa, p)
        if p == math.inf:  # a feature that leaves the support here is 0 up to rounding
            small = 64 * jnp.finfo(theta.dtype).eps * jnp.max(jnp.abs(theta))
            theta = jnp.where(jnp.abs(theta) > small, theta, 0)
        n, s2 = line.norm - kappa * line.rho, line.floor + line.rho * kappa**2
        budget = attack_budget(kappa, jnp.sqrt(s2), n)
        # Without noise kappa and s vanish together: E tends to c1 / sqrt(rho).
        noiseless = C1 / jnp.sqrt(jnp.where(line.rho > 0, line.rho, 1))
        budget = jnp.where(kappa > 0, budget, jnp.where(line.floor > 0, 0, noiseless))
        return budget, theta, kappa, n, s2

    def walk(carry, _):
        face, kappa, last = carry
        line = faces.line_of(face, problem, p)
        below, ahead = faces.homotopy_step(face, line, kappa, p)
        below = jnp.where(below > 1e-14 * top, below, 0)
        done = kappa <= 0
        point = jax.tree.map(lambda a, b: jnp.where(done, a, b), last, record(line, face, below))
        face = jax.tree.map(lambda a, b: jnp.where(done, a, b), face, ahead)
        return (face, jnp.where(done, kappa, below), point), point

    zero = jnp.zeros_like(target)
    _, s0 = moments(problem, target)
    start = (top / (C1 * jnp.sqrt(s0)), zero, top, jnp.zeros_like(top), s0)
    carry = (faces.first_face(problem, p), top, start)
    (_, kappa, _), points = jax.lax.scan(walk, carry, length=count - 1)
    points = jax.tree.map(lambda a, b: jnp.concatenate([a[None], b]), start, points)
    return RegularizationPath(*points, kappa <= 0)


def segments(path, epsilons):
    """Return [...] index of the breakpoint above each epsilon: the next piece has the minimiser."""
    count = path.epsilon.shape[0]
    index = count - jnp.searchsorted(path.epsilon[::-1], epsilons, side="left") - 1
    return jnp.clip(index, 0, jnp.maximum(jnp.argmax(path.kappa <= 0), 1) - 1)


def piece(upper, lower):
    """Return the Line between two breakpoints (theta, kappa, norm, variance), [..., n] each."""
    (theta, kappa, norm, variance), (theta_1, kappa_1, norm_1, _) = lower, upper
    length = jnp.where(kappa_1 > kappa, kappa_1 - kappa, 1)
    slope, rho = (theta - theta_1) / length, (norm - norm_1) / length
    origin = theta + kappa * slope
    return faces.Line(origin, slope, norm + kappa * rho, rho, variance - rho * kappa**2, None, None)

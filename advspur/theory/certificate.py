"""A rigorous bound on how far the loss of any theta is from the least adversarial loss.

The dual of the convex problem of Theorem 1 is, with b = covariance theta_opt,

    maximise  w'b + noise_std sqrt(u^2 - w' covariance w) - f*(u, ||covariance w||_p)

over u >= 0 and w' covariance w <= u^2, where f* is the conjugate of c2 s^2 + (c1 s + epsilon n)^2.
Every such (w, u) gives a lower bound; the pair derived from theta is tight at a minimiser.
"""

import math

import jax.numpy as jnp

from advspur._checks import check_nonnegative
from advspur.norms import dual_exponent, lp_norm, steepest_ascent
from advspur.theory.linear_model import C1, C2, check_model
from advspur.theory.problem import Problem, dot, matvec, moments
from advspur.theory.weights import weighted_model


def duality_gap(theta, model, epsilon, *, p, budget_weights=None):
    """Return an upper bound on adversarial_loss(theta) - min adversarial_loss, 0 at a minimiser.

    The smaller of two bounds: the dual value at u = 2 s + 2 c1 epsilon n, w = u v / s, with
    v = theta_opt - theta (second order in the error, written without cancellation), and the best
    multiple of that dual point, tighter far from the minimiser. Also
    c2 (theta - theta*)' covariance (theta - theta*) <= gap. The arguments are those of
    `adversarial_loss`; weights must be positive and finite.
    """
    check_nonnegative("epsilon", epsilon)
    (covariance, target, noise_std, _), weights = weighted_model(check_model(model), budget_weights)
    theta = weights * theta
    problem = Problem(covariance, target, covariance @ target, noise_std**2, epsilon)
    v = target - theta
    s = jnp.sqrt(moments(problem, v)[1])
    # At theta = theta_opt without noise s = 0: the multiplier of the kink replaces v.
    kink = jnp.linalg.pinv(covariance, hermitian=True) @ steepest_ascent(theta, p=p)
    unit = jnp.where(s > 0, v / jnp.where(s > 0, s, 1), kink_direction(problem, kink))
    return gap_and_loss(problem, theta, unit, p)[0]


def kink_direction(problem, direction):
    """Scale `direction` to the dual point of theta = theta_opt, s = 0."""
    length = jnp.sqrt(dot(direction, matvec(problem.covariance, direction)))
    return direction * jnp.minimum(problem.epsilon / C1, 1 / jnp.where(length > 0, length, 1))


def gap_and_loss(problem, theta, unit, p):
    """Return `duality_gap` and `adversarial_loss` for batched problems; unit = v / s, [m, n].

    Rounding errors in `unit` enter to second order only.
    """
    q = dual_exponent(p)
    epsilon = problem.epsilon
    _, s2 = moments(problem, problem.target - theta)
    s = jnp.sqrt(s2)
    n = lp_norm(theta, q, axis=0)
    h = matvec(problem.covariance, unit)
    size = lp_norm(h, p, axis=0)
    loss = C2 * s2 + (C1 * s + epsilon * n) ** 2

    safe = jnp.where(epsilon > 0, epsilon, 1)
    u = 2 * s + 2 * C1 * epsilon * n
    e = u * size / safe
    flat = loss + jnp.maximum(u, e) ** 2 / 4 - u * s - e * epsilon * n
    curved = (e - 2 * (epsilon * n + C1 * s)) ** 2 / (4 * C2)
    fenchel = jnp.where((e <= C1 * u) | (u <= C1 * e), flat, curved)
    first = fenchel + u * _hoelder_excess(theta, h, n, size, p, q)

    r = size / safe
    conjugate = jnp.where(
        (r <= C1) | (1 <= C1 * r), jnp.maximum(1, r) ** 2 / 4, (1 - 2 * C1 * r + r**2) / (4 * C2)
    )
    bound = jnp.maximum(s + dot(h, theta), 0) ** 2 / (4 * conjugate)
    rounding = 8 * jnp.finfo(loss.dtype).eps * loss
    second = jnp.maximum(loss - bound, 0) + rounding
    attacked = jnp.minimum(jnp.maximum(first, 0), second)
    unattacked = jnp.where(epsilon == 0, s2 - problem.variance, jnp.nan)  # NaN: epsilon < 0
    return jnp.where(epsilon > 0, attacked, unattacked), loss


def certified(gap, loss):
    """Return whether gap <= 1e-9 loss in float64, 1e-4 loss in float32."""
    return gap <= (1e-9 if jnp.finfo(loss.dtype).eps < 1e-12 else 1e-4) * loss


def _hoelder_excess(theta, h, n, size, p, q):
    """Return ||h||_p ||theta||_q - <h, theta> >= 0, without cancellation if they are aligned."""
    if p == math.inf:
        return jnp.sum(jnp.abs(theta) * (size - jnp.sign(theta) * h), axis=0)
    if p == 1:
        return jnp.sum(jnp.abs(h) * (n - jnp.sign(h) * theta), axis=0)
    a = theta / jnp.where(n > 0, n, 1)
    c = h / jnp.where(size > 0, size, 1)
    if p == 2:
        return size * n * jnp.sum((a - c) ** 2, axis=0) / 2
    a, c, same = jnp.abs(a), jnp.abs(c), jnp.sign(a * c)
    return size * n * jnp.sum(a**q / q + c**p / p - a * c * same, axis=0)

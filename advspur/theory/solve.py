"""The exact minimiser of the adversarial loss, with its certificate and its derivatives.

For every norm the minimiser solves one scalar equation on a regularisation path (`budget`). For
p = 1 and p = inf it is on a straight piece, found by walking or jumping (`faces`); for 1 < p < inf
the path is a smooth curve (`smooth`). Each result comes with a duality gap (`certificate`).

>>> from advspur.theory import gaussian_linear_model, norm_fraction_spurious
>>> model = gaussian_linear_model(0.5)
>>> best = minimize_adversarial_loss(model, 0.5, p=2)
>>> bool(best.converged), round(float(norm_fraction_spurious(best.theta, model.is_spurious)), 5)
(True, 0.00357)
"""

import functools
import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
import jaxopt

from advspur._checks import check_choice, check_nonnegative, check_norm, require
from advspur.norms import lp_norm
from advspur.theory import certificate, faces, smooth
from advspur.theory.budget import inverse_budget, path_position
from advspur.theory.linear_model import (
    C1,
    GaussianLinearModel,
    adversarial_loss,
    check_model,
    check_weights,
    restrict_to_core,
)
from advspur.theory.problem import UNROLLED, Problem, is_definite, matvec, moments
from advspur.theory.sensitivity import minimizer_tangent
from advspur.theory.weights import reweight

HALVINGS = 60  # of log tau, from a range of 100 down to its rounding
CHUNK = 128  # problems of five features solved side by side, so that they stay in the cache


class RobustMinimizer(NamedTuple):
    """theta = argmin adversarial_loss, with its certificate.

    `unique`: True if theta is known to be the only minimiser. False if a singular covariance may
    allow others (for 1 < p < inf and epsilon > 0 there are none).
    """

    theta: jax.Array  # [m]; exactly 0 from the collapse radius on
    loss: jax.Array  # adversarial loss of theta
    gap: jax.Array  # upper bound on loss - least loss (`duality_gap`)
    converged: jax.Array  # gap <= 1e-9 loss in float64, 1e-4 loss in float32
    unique: jax.Array


def minimize_adversarial_loss(model, epsilon, *, p, features="all", budget_weights=None):
    """argmin over theta of c2 s^2 + (c1 s + epsilon ||theta||_q)^2 (Theorem 1), exactly.

    Args:
      model: GaussianLinearModel of m features, 2 <= m <= about 4000.
      epsilon: attack budget >= 0, in the units of the features.
      p: norm of the attack, in [1, inf].
      features: "all", or "core" for the best theta with theta_S = 0.
      budget_weights: [m] >= 0, see `adversarial_loss`. A feature of weight 0 is not attacked, one
        of weight inf is not used; both limits are exact.
    Returns: RobustMinimizer.
    Raises: InputError for an invalid model or argument.

    Batch with jax.vmap over epsilon, models or both: this compiles once, and the batch runs in
    vector instructions. theta and loss have derivatives of any order, forward and reverse, in
    epsilon, covariance, theta_opt and noise_std, by implicit differentiation. At a kink in epsilon
    they are one-sided; at epsilon = 0 they are NaN if theta_opt is on a kink of the norm.
    """
    model = check_model(model)
    check_norm(p)
    check_nonnegative("epsilon", epsilon)
    check_choice("features", features, ("all", "core"))
    epsilon = jnp.asarray(epsilon, model.theta_opt.dtype)
    shape = epsilon.shape
    require(shape == (), f"epsilon has shape {shape}; expected a number (batch by jax.vmap)")
    weights, has_limits = budget_weights, False
    if weights is not None:
        weights, has_limits = check_weights(weights, *model.theta_opt.shape, epsilon.dtype)
    return _minimize(model, epsilon, weights, float(p), features, has_limits)


@functools.partial(jax.jit, static_argnames=("p", "features", "has_limits"))
def _minimize(model, epsilon, weights, p, features, has_limits):
    if features == "core":
        model = restrict_to_core(model)
    if weights is not None:
        model, restore = reweight(model, weights, has_limits=has_limits)
    theta, loss, gap, unique = _solve(p, *model[:3], epsilon)
    theta = theta if weights is None else restore(theta)
    return RobustMinimizer(theta, loss, gap, certificate.certified(gap, loss), unique > 0)


@functools.partial(jax.custom_jvp, nondiff_argnums=(0,))
def _solve(p, covariance, target, noise_std, epsilon):
    arguments = (covariance, target, noise_std**2, epsilon)
    return tuple(x[0] for x in _batched_solver(p)(*(x[None] for x in arguments)))


@_solve.defjvp
def _(p, primals, tangents):
    theta, loss, gap, unique = outputs = _solve(p, *primals)
    theta_dot = minimizer_tangent(p, theta, primals, tangents)

    def value(theta, covariance, target, noise_std, epsilon):
        model = GaussianLinearModel(covariance, target, noise_std, None)
        return adversarial_loss(theta, model, epsilon, p=p)

    _, loss_dot = jax.jvp(value, (theta, *primals), (theta_dot, *tangents))
    return outputs, (theta_dot, loss_dot, jnp.zeros_like(gap), jnp.zeros_like(unique))


@functools.cache
def _batched_solver(p):
    """Return the solver of problems along the first axis; vmap merges its new axis into that."""

    @jax.custom_batching.custom_vmap
    def solver(*arguments):
        m = arguments[0].shape[-1]
        return in_chunks(functools.partial(solve_problems, p=p), arguments, m)

    @solver.def_vmap
    def _(size, is_batched, *arguments):
        arguments = (
            x if batched else jnp.broadcast_to(x, (size, *x.shape))
            for x, batched in zip(arguments, is_batched, strict=True)
        )
        outputs = solver(*(x.reshape(-1, *x.shape[2:]) for x in arguments))
        outputs = tuple(x.reshape(size, -1, *x.shape[1:]) for x in outputs)
        return outputs, (True,) * len(outputs)

    return solver


def in_chunks(function, arguments, m):
    """Apply `function` (problems along the last axis) to problems along the first, in chunks."""
    n = len(arguments[-1])
    size = max(1, min(n, CHUNK * 25 // m**2))
    count = -(-n // size)

    def split(x):
        x = jnp.pad(x, [(0, count * size - n)] + [(0, 0)] * (x.ndim - 1), mode="edge")
        return x.reshape(count, size, *x.shape[1:])

    def chunk(arguments):
        outputs = function(*(jnp.moveaxis(x, 0, -1) for x in arguments))
        return tuple(jnp.moveaxis(x, -1, 0) for x in outputs)

    if count == 1:
        return chunk(arguments)
    outputs = jax.lax.map(chunk, tuple(split(x) for x in arguments))
    return tuple(x.reshape(-1, *x.shape[2:])[:n] for x in outputs)


def solve_problems(covariance, target, variance, epsilon, *, p):
    """Return (theta [m, n], loss [n], gap [n], unique [n]) for n problems."""
    problem = Problem(covariance, target, matvec(covariance, target), variance, epsilon)
    attacked = problem._replace(epsilon=jnp.where(epsilon > 0, epsilon, 1))
    if p in (1, math.inf):
        theta, unit, *_ = _on_faces(attacked, p)
        unique = is_definite(covariance)
    else:
        curve = smooth.ridge if p == 2 else functools.partial(smooth.general, p=p)
        theta, unit = on_curve(attacked, curve(attacked), p)
        unique = (epsilon > 0) | is_definite(covariance)
    return finish(problem, theta, unit, unique, p)


def finish(problem, theta, unit, unique, p):
    """Insert the two ends of the path, epsilon = 0 and the collapse; certify the result."""
    epsilon, target = problem.epsilon, problem.target
    s0 = jnp.sqrt(moments(problem, target)[1])
    rounding = 1 + 16 * jnp.finfo(theta.dtype).eps  # at the radius itself theta is exactly 0
    radius_reached = lp_norm(problem.product, p, axis=0) <= epsilon * C1 * s0 * rounding
    collapsed = (epsilon > 0) & radius_reached
    theta = jnp.where(collapsed, 0, jnp.where(epsilon > 0, theta, target))
    unit = jnp.where(collapsed, target / jnp.where(s0 > 0, s0, 1), unit)
    gap, loss = certificate.gap_and_loss(problem, theta, unit, p)
    return theta, loss, gap, (unique | collapsed).astype(theta.dtype)


def _on_faces(problem, p):
    m = problem.target.shape[0]
    if m <= UNROLLED:
        face, line, _ = faces.homotopy(problem, p, 8 * m + 16)
        return _face_solution(problem, face, line, p)
    face, line, settled = faces.active_set(problem, p, 50)
    first = _face_solution(problem, face, line, p)

    def walk():
        face, line, _ = faces.homotopy(problem, p, 8 * m + 16)
        second = _face_solution(problem, face, line, p)
        return jax.tree.map(lambda a, b: jnp.where(first[2] <= second[2], a, b), first, second)

    return jax.lax.cond(jnp.all(certificate.certified(*first[2:])), lambda: first, walk)


def _face_solution(problem, face, line, p):
    return line_solution(problem, line, lambda kappa: faces.point(face, line, kappa, p), p)


def line_solution(problem, line, point, p):
    """Return (theta, unit, gap, loss) on a straight piece, with theta = point(kappa)."""
    kappa = faces.position(line, problem.epsilon, guarded_position)
    theta = point(kappa)
    s = jnp.sqrt(line.floor + line.rho * kappa**2)
    v = problem.target - line.origin + kappa * line.slope
    unit = jnp.where(
        kappa > 0, v / jnp.where(s > 0, s, 1), certificate.kink_direction(problem, line.slope)
    )
    theta = jnp.where(kappa > 0, theta, problem.target)
    gap, loss = certificate.gap_and_loss(problem, theta, unit, p)
    return theta, unit, jnp.where(jnp.isnan(gap), jnp.inf, gap), loss


def on_curve(problem, curve, p):
    """Return (theta, unit) on the smooth path `curve` of `problem`."""
    target = problem.target
    limit = 1 / (jnp.finfo(target.dtype).eps ** 0.9 * jnp.max(problem.covariance, axis=(0, 1)))
    # Beyond the collapse no point of the path is optimal: `finish` sets theta = 0.
    radius = lp_norm(problem.product, p, axis=0) / (C1 * jnp.sqrt(moments(problem, target)[1]))
    inside = problem.epsilon < radius
    placeholder = jnp.where(radius > 0, radius / 2, 1)
    problem = problem._replace(epsilon=jnp.where(inside, problem.epsilon, placeholder))
    start, v = smooth.first_step(problem, p, limit)
    tau, v = guarded_position(curve, problem.epsilon, start, v, limit)
    h, s2 = moments(problem, v)
    inverse = 1 / jnp.where(s2 > 0, jnp.sqrt(s2), 1)
    # At theta_opt without noise: `certificate.kink_direction` for the multiplier v / ||h||_p.
    kink = (tau >= limit) & (problem.variance == 0)
    at_kink = jnp.minimum(problem.epsilon / (C1 * lp_norm(h, p, axis=0)), inverse)
    return jnp.where(kink, target, target - v), v * jnp.where(kink, at_kink, inverse)


def guarded_position(moments, epsilon, start, state, limit):
    """Return (tau, state) of `path_position`, by bisection in log tau where Newton's method fails.

    It never failed in the tests, but there is no proof that it cannot. The equation is monotone.
    """
    tau, end, is_root = path_position(moments, epsilon, start, state, limit)
    high = jnp.log(limit)
    low = high - 100

    def excess(log_tau):
        tau = jnp.exp(log_tau).astype(limit.dtype)  # jaxopt uses float64
        ratio, _, end = moments(tau, state)
        return (epsilon * inverse_budget(tau, ratio)[0] - 1).astype(log_tau.dtype), (tau, end)

    def bisected():
        # `run` first evaluates the function at both ends for its sign, which would compile the path
        # twice more. The function is known to increase, so a straight line can stand in for it.
        ends = {"lower": low, "upper": high, "check_bracket": False}
        initial = jaxopt.Bisection(lambda x: x - (low + high) / 2, **ends).init_state()
        bisection = jaxopt.Bisection(excess, has_aux=True, **ends)

        def halve(_, carry):
            bracket = initial._replace(low=carry[0], high=carry[1])
            new = bisection.update(None, bracket).state
            return new.low, new.high, new.aux

        return jax.lax.fori_loop(0, HALVINGS, halve, (initial.low, initial.high, (tau, end)))[-1]

    fallback = jax.lax.cond(jnp.all(is_root), lambda: (tau, end), bisected)
    return jax.tree.map(lambda a, b: jnp.where(is_root, a, b), (tau, end), fallback)

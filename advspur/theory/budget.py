"""The scalar equation that locates the minimiser of the adversarial loss on its path.

Every minimiser other than 0 satisfies covariance (theta_opt - theta) = kappa g with g in the
subdifferential of ||theta||_q: it is on the regularisation path of that norm, which does not depend
on epsilon. With n = ||theta||_q and s = `residual_std`, the point (kappa, s, n) is optimal for
exactly one budget, `attack_budget`; `path_position` inverts that function.
"""

import jax
import jax.numpy as jnp

from advspur.theory.linear_model import C1

MAX_NEWTON_STEPS = 40  # 72,000 random ridge problems needed at most 12


def attack_budget(kappa, s, n):
    """E(kappa, s, n): the epsilon at which a point of the path is optimal.

    The positive root of s n E^2 + c1 (s^2 - kappa n) E - kappa s = 0, which is
    kappa / s = E (c1 + y) / (1 + c1 y) with y = E n / s. At n = 0 it is kappa / (c1 s), the
    collapse radius.
    """
    b = C1 * (s**2 - kappa * n)
    root = jnp.sqrt(b**2 + 4 * s**2 * n * kappa)
    small = jnp.where(n > 0, 2 * s * n, 1)
    return jnp.where(b > 0, 2 * kappa * s / jnp.where(b > 0, b + root, 1), (root - b) / small)


def inverse_budget(tau, ratio, slope=0.0):
    """Return 1 / E and its derivative in tau = n / kappa, given ratio = (s / kappa)^2.

    `slope` is d ratio / d tau along the path. 1 / E increases with tau; the collapse is tau = 0.
    """
    root_ratio = jnp.sqrt(ratio)
    b = C1 * (ratio - tau)
    root = jnp.sqrt(b**2 + 4 * ratio * tau)
    value = jnp.where(
        b > 0, (b + root) / (2 * root_ratio), 2 * root_ratio * tau / jnp.where(b > 0, 1, root - b)
    )
    b_slope = C1 * (slope - 1)
    root_slope = (b * b_slope + 2 * (slope * tau + ratio)) / root
    return value, (b_slope + root_slope) / (2 * root_ratio) - value * slope / (2 * ratio)


def newton_step(tau, ratio, slope, epsilon, limit):
    """Return (next tau, epsilon / E - 1 at this tau)."""
    value, derivative = inverse_budget(tau, ratio, slope)
    new_tau = tau + (1 / epsilon - value) / derivative
    new_tau = jnp.where(new_tau > 0, new_tau, tau / 2)  # the root is positive
    new_tau = jnp.where(derivative > 0, jnp.minimum(new_tau, limit), limit)
    return new_tau, epsilon * value - 1


def path_position(moments, epsilon, start, state, limit):
    """Find the tau = n / kappa at which a path is optimal for `epsilon`: Newton's method on 1 / E.

    Args:
      moments: (tau, state) -> (ratio, d ratio / d tau, state) along the path.
      epsilon: [...] budgets above 0 and below the collapse radius.
      start: [...] initial tau: 0, the collapse, or just above.
      state: what `moments` passes on from one tau to the next (a warm start), or ().
      limit: [...] largest tau, where theta = theta_opt up to rounding.
    Returns: (tau, state, is_root): `state` is that at tau; is_root is true where the equation holds
      or theta_opt is optimal to rounding (tau = `limit`).
    """
    tolerance = jnp.finfo(start.dtype).eps ** 0.5  # convergence is quadratic

    def unfinished(carry):
        return (carry[0] < MAX_NEWTON_STEPS) & jnp.any(carry[-1])

    def newton(carry):
        step, tau, state, _, moving, _ = carry
        ratio, slope, state = moments(tau, state)
        new_tau, excess = newton_step(tau, ratio, slope, epsilon, limit)
        still_moving = moving & (jnp.abs(new_tau - tau) > tolerance * tau)
        # A converged tau is evaluated once more, for its own state and excess.
        return step + 1, jnp.where(moving, new_tau, tau), state, excess, still_moving, moving

    zero = jnp.zeros_like(epsilon)
    carry = (0, start, state, zero + jnp.inf, zero == 0, zero == 0)
    _, tau, state, excess, _, moved = jax.lax.while_loop(unfinished, newton, carry)
    # Comparisons with NaN are False.
    is_root = (jnp.abs(excess) < 100 * tolerance) | ((tau >= limit) & (excess <= 0))
    is_root &= ~moved  # otherwise `excess` belongs to the previous tau
    return tau, state, is_root

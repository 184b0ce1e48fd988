"""The one scalar equation behind every minimiser of the adversarial loss.

A minimiser other than 0 satisfies covariance (theta_opt - theta) = kappa g with g in the
subdifferential of ||theta||_q: it is on the regularisation path of that norm, which knows
nothing of epsilon. With n = ||theta||_q and s = `residual_std`, the point (kappa, s, n) is
optimal for exactly one budget, `attack_budget`; `path_position` inverts that.
"""

import jax
import jax.numpy as jnp

from advspur.theory.linear_model import C1

MAX_NEWTON_STEPS = 40  # 12 were the most needed on 72,000 random ridge problems


def attack_budget(kappa, s, n):
    """E(kappa, s, n): the epsilon for which a point of the path is optimal.

    The positive root of s n E^2 + c1 (s^2 - kappa n) E - kappa s = 0, from
    kappa / s = E (c1 + y) / (1 + c1 y) with y = E n / s. At n = 0 it is kappa / (c1 s), the
    collapse radius.
    """
    b = C1 * (s**2 - kappa * n)
    root = jnp.sqrt(b**2 + 4 * s**2 * n * kappa)
    small = jnp.where(n > 0, 2 * s * n, 1)
    return jnp.where(b > 0, 2 * kappa * s / jnp.where(b > 0, b + root, 1), (root - b) / small)


def inverse_budget(tau, ratio, slope=0.0):
    """1 / E as a function of tau = n / kappa and ratio = (s / kappa)^2, and its derivative.

    `slope` is d ratio / d tau along the path. Increasing in tau: tau = 0 is the collapse.
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
    """(next tau, relative excess of the equation at this one)."""
    value, derivative = inverse_budget(tau, ratio, slope)
    ahead = tau + (1 / epsilon - value) / derivative
    ahead = jnp.where(ahead > 0, ahead, tau / 2)  # the root is positive
    ahead = jnp.where(derivative > 0, jnp.minimum(ahead, limit), limit)
    return ahead, epsilon * value - 1


def path_position(moments, epsilon, start, state, limit):
    """The tau = n / kappa at which a path is optimal for `epsilon`, by Newton's method on 1 / E.

    Args:
      moments: (tau, state) -> (ratio, d ratio / d tau, state) along the path.
      epsilon: [...] budgets above 0 and below the collapse radius.
      start: [...] where to begin; 0, the collapse, or just above.
      state: what `moments` hands on from one tau to the next (a warm start), or ().
      limit: [...] the largest tau looked at: theta = theta_opt to rounding.
    Returns: (tau, state, is_root): the state is that at tau; is_root says where the equation holds,
      or tau is `limit`.
    """
    tolerance = jnp.finfo(start.dtype).eps ** 0.5  # the next step squares it

    def unfinished(carry):
        return (carry[0] < MAX_NEWTON_STEPS) & jnp.any(carry[-1])

    def newton(carry):
        step, tau, state, _, moving, _ = carry
        ratio, slope, state = moments(tau, state)
        ahead, excess = newton_step(tau, ratio, slope, epsilon, limit)
        still = moving & (jnp.abs(ahead - tau) > tolerance * tau)
        # Where it does not move any more, the next look is at the last tau.
        return step + 1, jnp.where(moving, ahead, tau), state, excess, still, moving

    zero = jnp.zeros_like(epsilon)
    carry = (0, start, state, zero + jnp.inf, zero == 0, zero == 0)
    _, tau, state, excess, _, moved = jax.lax.while_loop(unfinished, newton, carry)
    # Comparisons with NaN are False.
    is_root = (jnp.abs(excess) < 100 * tolerance) | ((tau >= limit) & (excess <= 0))
    is_root &= ~moved  # else the last look was at the tau before
    return tau, state, is_root

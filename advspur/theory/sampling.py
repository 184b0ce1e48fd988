"""Samples of the model: Theorem 1 by Monte Carlo, and adversarial training on finite data."""

import functools
import math

import jax
import jax.numpy as jnp

from advspur._checks import check_nonnegative, check_norm, require
from advspur.norms import dual_exponent, lp_norm
from advspur.theory.linear_model import check_finite, check_model, float_arrays, weigh
from advspur.theory.weights import positive_weights

SMOOTHINGS = 8  # each ten times sharper than the one before
NEWTON_STEPS = 50  # for each smoothing


def sample_data(model, key, num_samples):
    """(x [n, m], y [n]) with x ~ N(0, covariance), y = <x, theta_opt> + N(0, noise_std^2)."""
    require(num_samples >= 1, f"num_samples = {num_samples}: it must be >= 1")
    covariance, theta_opt, noise_std, _ = check_model(model)
    values, vectors = jnp.linalg.eigh(covariance)
    root = vectors * jnp.sqrt(jnp.maximum(values, 0))
    x_key, noise_key = jax.random.split(key)
    x = jax.random.normal(x_key, (num_samples, len(theta_opt)), covariance.dtype) @ root.T
    noise = noise_std * jax.random.normal(noise_key, (num_samples,), covariance.dtype)
    return x, x @ theta_opt + noise


def monte_carlo_adversarial_loss(
    theta, model, epsilon, key, *, p, num_samples=100_000, budget_weights=None
):
    """(mean, standard error) of max over ||delta||_p <= epsilon of (Y - <X + delta, theta>)^2.

    Each sample's maximum is (|y - <x, theta>| + epsilon ||theta||_q)^2 (Eq. 3); the mean estimates
    `adversarial_loss`, which explains `budget_weights`.
    """
    check_nonnegative("epsilon", epsilon)
    x, y = sample_data(model, key, num_samples)
    norm = lp_norm(weigh(theta, budget_weights), dual_exponent(p))
    losses = (jnp.abs(y - x @ theta) + epsilon * norm) ** 2
    return jnp.mean(losses), jnp.std(losses, ddof=1) / math.sqrt(num_samples)


def minimize_empirical_adversarial_loss(x, y, epsilon, *, p, budget_weights=None):
    """argmin over theta of mean_i (|y_i - <x_i, theta>| + epsilon ||theta||_q)^2.

    Adversarial training on n samples. The convex loss has kinks wherever a residual is 0; they are
    smoothed: |r| by sqrt(r^2 + w^2), the norm likewise, w falling to 1e-8 of the scale of the data
    (3e-4 in float32) over rounds of damped Newton steps.

    Args:
      x: [n, m].
      y: [n].
      budget_weights: [m], positive and finite: ||D theta||_q replaces ||theta||_q, see
        `adversarial_loss`.
    Returns: (theta [m], loss, bound), `bound` on how much loss the smoothing costs; inf if Newton's
      method did not converge.
    """
    check_norm(p)
    check_nonnegative("epsilon", epsilon)
    x, y = float_arrays(x, y)
    require(
        x.ndim == 2 and y.shape == x.shape[:1] and len(x) > 0,
        f"x and y have shapes {x.shape} and {y.shape}; expected [n, m] and [n] with n >= 1",
    )
    check_finite("x", x)
    check_finite("y", y)
    epsilon = jnp.asarray(epsilon, x.dtype)
    if budget_weights is None:
        return _train(x, y, epsilon, float(p))
    weights = positive_weights(budget_weights, x.shape[1], x.dtype)
    theta, *rest = _train(x / weights, y, epsilon, float(p))
    return theta / weights, *rest


@functools.partial(jax.jit, static_argnames="p")
def _train(x, y, epsilon, p):
    q = dual_exponent(p)
    m = x.shape[1]
    x_scale, y_scale = jnp.sqrt(jnp.mean(x**2)), jnp.sqrt(jnp.mean(y**2))
    x_scale, y_scale = (jnp.where(s > 0, s, 1) for s in (x_scale, y_scale))
    x, y, epsilon = x / x_scale, y / y_scale, epsilon / x_scale  # theta has scale y / x

    def loss(theta, width):
        size = jnp.sqrt(theta**2 + width**2)
        if q == math.inf:
            norm = width * jax.scipy.special.logsumexp(size / width)
        else:
            norm = lp_norm(size, q)
        return jnp.mean((jnp.sqrt((y - x @ theta) ** 2 + width**2) + epsilon * norm) ** 2)

    def descend(theta, width):
        def unfinished(carry):
            return (carry[0] < NEWTON_STEPS) & (carry[2] > 0)

        def improve(carry):
            step, theta, _ = carry
            gradient, hessian = jax.grad(loss)(theta, width), jax.hessian(loss)(theta, width)
            ridge = jnp.finfo(x.dtype).eps * jnp.trace(hessian) * jnp.eye(m, dtype=x.dtype)
            direction = -jnp.linalg.solve(hessian + ridge, gradient)
            lengths = 0.5 ** jnp.arange(24, dtype=x.dtype)
            trials = theta + lengths[:, None] * direction
            values = jax.vmap(loss, in_axes=(0, None))(trials, width)
            best = jnp.nanargmin(values)
            decrease = loss(theta, width) - values[best]
            return step + 1, jnp.where(decrease > 0, trials[best], theta), decrease

        return jax.lax.while_loop(unfinished, improve, (0, theta, jnp.ones((), x.dtype)))[1], None

    ridge = x.T @ x / len(y) + (epsilon**2 + 1e-6) * jnp.eye(m, dtype=x.dtype)
    start = jnp.linalg.solve(ridge, x.T @ y / len(y))
    widths = 0.1 ** jnp.arange(1, 1 + SMOOTHINGS, dtype=x.dtype)
    widths = jnp.maximum(widths, jnp.finfo(x.dtype).eps ** 0.5)
    theta, _ = jax.lax.scan(descend, start, widths)
    norm = lp_norm(theta, q)
    exact = jnp.mean((jnp.abs(y - x @ theta) + epsilon * norm) ** 2)
    # |r| gains at most w, the norm at most w m (w log m for the maximum); from the square's slope:
    gain = widths[-1] * (1 + epsilon * (math.log(m) + 1 if q == math.inf else m))
    cost = 2 * jnp.sqrt(exact) * gain + gain**2
    slope, hessian = jax.grad(loss)(theta, widths[-1]), jax.hessian(loss)(theta, widths[-1])
    decrement = slope @ jnp.linalg.solve(hessian, slope)  # twice what Newton's model still gains
    settled = jnp.abs(decrement) <= cost
    cost = jnp.where(settled, cost + jnp.abs(decrement), jnp.inf)
    return theta * y_scale / x_scale, exact * y_scale**2, cost * y_scale**2

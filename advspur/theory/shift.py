"""Figure 4: the standard loss of a fixed theta after the spurious correlations are broken.

Gaussian noise of standard deviation `shift_std` is added to every entry of the spurious rows of
Q. The paper does not say at which stage; the three readings add it to

    R1  the normalised and scaled rows: E loss = s^2 + 5 shift_std^2 ||(theta - theta_opt)_S||^2;
    R2  the normalised rows, before scaling: the added term is multiplied by scale^2;
    R3  the rows of Q~, before normalisation: the loss saturates as shift_std grows.
"""

import math

import jax
import jax.numpy as jnp

from advspur._checks import check_choice, check_nonnegative
from advspur.theory.linear_model import mixing_matrix

READINGS = ("R1", "R2", "R3")
COLUMNS = 5


def expected_shifted_loss(
    theta, shift_std, *, eta, theta_opt=(1, 1, 0, 0, 0), noise_std=0.1, spurious_scale=1.0, reading
):
    """E over the noise of E[(Y - <X, theta>)^2] for the paper's model (Eq. 4, Figure 4).

    Args:
      theta: [5].
      shift_std: sigma_Q >= 0.
      reading: "R1", "R2" or "R3", see the module.
    """
    check_choice("reading", reading, READINGS)
    check_nonnegative("shift_std", shift_std)
    error, core, spurious = _parts(theta, eta, theta_opt)
    fixed = core @ core + noise_std**2
    weights = spurious_scale * error
    if reading == "R3":
        rows = _mean_direction(mixing_matrix(eta, normalize=False)[2:], shift_std)
        mean = weights @ rows
        # Independent rows of length 1: E |w_i r_i|^2 = w_i^2, of which |w_i E r_i|^2 is in `mean`.
        spread = jnp.sum(weights**2) - jnp.sum(weights**2 * jnp.sum(rows**2, axis=1))
        return fixed + 2 * core @ mean + mean @ mean + spread
    mean = weights @ spurious
    std = shift_std * (spurious_scale if reading == "R2" else 1)
    return fixed + 2 * core @ mean + mean @ mean + COLUMNS * std**2 * (error @ error)


def sample_shifted_loss(
    theta, shift_std, noise, *, eta, theta_opt, noise_std, spurious_scale, reading
):
    """E[(Y - <X, theta>)^2] for one draw [3, 5] of standard normal noise, times `shift_std`.

    Its mean over draws is `expected_shifted_loss`.
    """
    error, core, spurious = _parts(theta, eta, theta_opt)
    noise = shift_std * noise
    if reading == "R3":
        rows = mixing_matrix(eta, normalize=False)[2:] + noise
        rows = spurious_scale * rows / jnp.linalg.norm(rows, axis=1, keepdims=True)
    else:
        rows = spurious_scale * spurious + noise * (spurious_scale if reading == "R2" else 1)
    residual = core + error @ rows
    return residual @ residual + noise_std**2


def _parts(theta, eta, theta_opt):
    """Return (theta - theta_opt)_S, the core part of Q'(theta - theta_opt), spurious rows of Q."""
    theta = jnp.asarray(theta)
    q = mixing_matrix(jnp.asarray(eta, theta.dtype))
    error = theta - jnp.asarray(theta_opt, theta.dtype)
    return error[2:], error[:2] @ q[:2], q[2:]


def _mean_direction(rows, std):
    """E[x / |x|] = A row for x ~ N(row, std^2 I), A = G(3) / (sqrt2 std G(7/2)) 1F1(1/2; 7/2; -z).

    z = |row|^2 / (2 std^2). In five dimensions 1F1 is elementary: with y = sqrt(2 z) and E the
    error function, A |row| = (1 - 2 / y^2 + 3 / y^4) E(y / sqrt2) + sqrt(2 / pi) (1 / y - 3 / y^3)
    exp(-y^2 / 2). For y <= 1, where this cancels, the series of 1F1 replaces it.
    """
    length = jnp.linalg.norm(rows, axis=1, keepdims=True)
    y = length / jnp.where(std > 0, std, 1)
    big = jnp.where(y > 1, y, 1)
    elementary = (1 - 2 / big**2 + 3 / big**4) * jax.scipy.special.erf(big / math.sqrt(2))
    elementary += math.sqrt(2 / math.pi) * (1 / big - 3 / big**3) * jnp.exp(-(big**2) / 2)
    small = jnp.minimum(y, 1)
    term = total = jnp.ones_like(y)
    for k in range(24):  # 1F1(3; 7/2; z) exp(-z), all terms positive
        term = term * (3 + k) / (3.5 + k) * (small**2 / 2) / (k + 1)
        total = total + term
    first = math.gamma(3) / (math.sqrt(2) * math.gamma(3.5))
    series = first * small * total * jnp.exp(-(small**2) / 2)
    length_of_mean = jnp.where(std > 0, jnp.where(y > 1, elementary, series), 1)
    return rows / length * length_of_mean

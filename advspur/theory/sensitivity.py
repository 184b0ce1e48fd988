"""Derivatives of the minimiser by implicit differentiation on its face.

On the face of theta the loss is smooth in coordinates z, theta + basis z, and
dz = -Hessian^-1 d(gradient). The face keeps the zeros of theta for p > 2 and its ties for p = 1;
for 1 < p <= 2 it is the whole space.
"""

import math

import jax
import jax.numpy as jnp

from advspur.norms import dual_exponent, lp_norm
from advspur.theory.linear_model import C1, C2


def minimizer_tangent(p, theta, arguments, tangents):
    """Return d theta along `tangents` of arguments = (covariance, target, noise_std, epsilon)."""
    collapsed = ~jnp.any(theta != 0)
    theta = jnp.where(collapsed, 1, theta)  # any differentiable point: the result is 0 there
    basis = _face_basis(p, theta)
    ties = jnp.abs(theta) == jnp.max(jnp.abs(theta))

    def norm(x):
        if p == math.inf:
            return jnp.sign(theta) @ x
        if p == 1:
            return jnp.sum(jnp.where(ties, jnp.sign(theta) * x, 0)) / jnp.sum(ties)
        if p == 2:
            return lp_norm(x, 2)
        q, present = dual_exponent(p), theta != 0  # |x|^q has no second derivative at 0 for q < 2
        size = jnp.abs(jnp.where(present, x, 1))
        return jnp.sum(jnp.where(present, size**q, 0)) ** (1 / q)

    def loss(z, covariance, target, noise_std, epsilon):
        x = theta + basis @ z
        v = target - x
        s2 = v @ covariance @ v + noise_std**2
        s = jnp.sqrt(jnp.where(s2 > 0, s2, 1))
        return C2 * s2 + (C1 * s + epsilon * norm(x)) ** 2

    origin = jnp.zeros_like(theta)
    gradient = jax.grad(loss)
    hessian = jax.jacfwd(gradient)(origin, *arguments)
    absent = ~jnp.any(basis != 0, axis=0)
    hessian = hessian + jnp.diag(absent.astype(theta.dtype))
    _, change = jax.jvp(lambda *x: gradient(origin, *x), arguments, tangents)
    tangent = -basis @ jnp.linalg.solve(hessian, change)

    covariance, target, noise_std, epsilon = arguments
    v = target - theta
    stuck = (v @ covariance @ v + noise_std**2) == 0  # theta = theta_opt without noise: a kink
    tangent = jnp.where(stuck, tangents[1], tangent)
    tangent = jnp.where(collapsed, 0, tangent)
    # At epsilon = 0, if theta_opt is on a kink, the face on which theta leaves it is not known.
    is_unknown = jnp.sum(ties) > 1 if p == 1 else jnp.any(theta == 0) if p > 2 else False
    return jnp.where((epsilon == 0) & is_unknown, jnp.nan, tangent)


def _face_basis(p, theta):
    """Return [m, m]: columns that span the face of theta, the rest 0."""
    size = jnp.abs(theta)
    if p == 1:
        ties = size == jnp.max(size)
        first = jnp.arange(theta.size) == jnp.argmax(ties)
        level = jnp.where(ties, jnp.sign(theta), 0)
        return jnp.diag((~ties).astype(theta.dtype)) + jnp.outer(level, first)
    if p > 2:  # ||theta||_q has no second derivative at theta_i = 0, and theta_i stays 0
        return jnp.diag((size > 0).astype(theta.dtype))
    return jnp.eye(theta.size, dtype=theta.dtype)

"""Two cues of an image as a Gaussian linear model: what an attack makes of them, before training.

Two classes, Y = 1 and -1. A change v of the input turns its core cue, or its spurious one, from
that of one class into that of the other. Read off by <x, 2 v / ||v||_2^2>, the cue is +-1; noise of
standard deviation s in each entry adds one of 2 s / ||v||_2, and an attack of l_p budget epsilon
moves it by 2 epsilon ||v||_q / ||v||_2^2. Cues in different entries share the budget as
`budget_weights` of those sizes do; where they overlap this is an approximation. Derivation and
limits in docs/theory.md.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from advspur._checks import check_nonnegative, require
from advspur.norms import dual_exponent, lp_norm
from advspur.theory.grid import solve_grid
from advspur.theory.limits import collapse_radius
from advspur.theory.linear_model import GaussianLinearModel, norm_fraction_spurious
from advspur.theory.prescription import protective_weight
from advspur.theory.weights import reweight

NUM_BUDGETS = 256  # up to the collapse, at which the reliance is looked up


class CueReliance(NamedTuple):
    """Predictions for models trained at e budgets.

    `protective_weight` is NaN at budget 0, and it and `half_budget` where a cue is not attacked.
    """

    theta: jax.Array  # [e, 2] of the core and of the spurious cue
    nfs: jax.Array  # [e]: theta_S^2 / |theta|^2; NaN where theta is 0
    gradient_share: jax.Array  # [e]: the same of the gradient of <x, .>: theta_i / ||v_i||_2
    half_budget: jax.Array  # the least budget at which NFS is 1/2; NaN if none below the collapse
    collapse_radius: jax.Array  # the budget from which theta is 0
    protective_weight: jax.Array  # [e]: factor on the spurious cue's budget that bars it


def cue_sizes(changes, *, p):
    """(root mean square of ||v||_2, mean of ||v||_q) of changes v [n, ...], 1/p + 1/q = 1."""
    changes = jnp.reshape(changes, (len(changes), -1))
    q = dual_exponent(p)
    length = jnp.sqrt(jnp.mean(jnp.sum(changes**2, axis=1)))
    return length, jnp.mean(jax.vmap(lambda v: lp_norm(v, q))(changes))


def two_cue_model(lengths, *, noise_std, correlation, num_classes=2):
    """The GaussianLinearModel of a core and a spurious cue.

    The core cue is that of the class; the spurious one too with probability `correlation`, else
    that of another of `num_classes` classes, of which one is the other of the two told apart, and
    the rest speak for neither. With a = P(own) + P(other of the two), r = P(own) - P(other):
    covariance [[1 + n_C^2, r], [r, a + n_S^2]], n_i = 2 noise_std / lengths_i, and theta_opt, the
    noise are those of the regression of Y.

    Args:
      lengths: [2], l2 lengths of the changes of the core and of the spurious cue, > 0.
      noise_std: of the noise in each entry of the input, in the units of the lengths.
    """
    lengths = jnp.asarray(lengths, float)
    require(lengths.shape == (2,), f"lengths has shape {lengths.shape}; expected (2,)")
    require(0 <= correlation <= 1, f"correlation = {correlation}: a probability is needed")
    require(num_classes >= 2, f"num_classes = {num_classes}: at least two are needed")
    check_nonnegative("noise_std", noise_std)
    other = (1 - correlation) / (num_classes - 1)
    covariance = jnp.array([[1.0, correlation - other], [correlation - other, correlation + other]])
    moment = covariance[0]  # E[Y z]
    covariance = covariance + jnp.diag((2 * noise_std / lengths) ** 2)
    theta_opt = jnp.linalg.pinv(covariance, hermitian=True) @ moment
    variance = jnp.maximum(1 - moment @ theta_opt, 0)
    is_spurious = jnp.array([False, True])
    return GaussianLinearModel(covariance, theta_opt, jnp.sqrt(variance), is_spurious)


def predict_reliance(
    core, spurious, epsilons, *, p, noise_std, correlation, num_classes=2, region_weights=(1, 1)
):
    """The CueReliance of models trained against l_p attacks, from the data's cues alone.

    Args:
      core, spurious: [n, ...] changes of inputs whose cue becomes that of another class.
      epsilons: [e] training budgets >= 0, in the units of the inputs.
      noise_std, correlation, num_classes: of `two_cue_model`.
      region_weights: factors on the budgets of the core and of the spurious cue, >= 0.
    """
    check_nonnegative("epsilons", epsilons)
    lengths, duals = jnp.array([cue_sizes(changes, p=p) for changes in (core, spurious)]).T
    require(
        bool(jnp.all((lengths > 0) & jnp.isfinite(lengths))),
        f"the cues change inputs by l2 lengths of {lengths.tolist()}: both must be finite and > 0",
    )
    model = two_cue_model(
        lengths, noise_std=noise_std, correlation=correlation, num_classes=num_classes
    )
    regions = jnp.asarray(region_weights, float)
    require(
        regions.shape == (2,) and bool(jnp.all((regions >= 0) & jnp.isfinite(regions))),
        f"region_weights = {region_weights}: give two finite numbers >= 0",
    )
    weights = 2 * duals / lengths**2 * regions
    radius = collapse_radius(model, p=p, budget_weights=weights)

    inside, restore = reweight(model, weights)

    def solve(budgets):
        stacked = jax.tree.map(lambda x: x[None], inside)
        return jax.vmap(restore)(jnp.asarray(solve_grid(stacked, budgets, p=p)["theta"][0]))

    def fraction(theta):
        return jax.vmap(norm_fraction_spurious, in_axes=(0, None))(theta, model.is_spurious)

    epsilons = jnp.asarray(epsilons, weights.dtype)
    theta = solve(epsilons)
    half = protective = jnp.full_like(radius, jnp.nan)
    if jnp.all(weights > 0):
        budgets = radius * jnp.arange(NUM_BUDGETS) / NUM_BUDGETS
        half = _first_half(budgets, fraction(solve(budgets)))
        attacked = jnp.where(epsilons > 0, epsilons, 1)
        protective = jax.vmap(lambda epsilon: protective_weight(inside, epsilon, p=p))(attacked)
    protective = jnp.where(epsilons > 0, protective, jnp.nan)
    return CueReliance(theta, fraction(theta), fraction(theta / lengths), half, radius, protective)


def _first_half(budgets, nfs):
    """The least budget at which NFS reaches 1/2, between budgets linearly; NaN if none."""
    at = jnp.argmax(nfs >= 0.5)
    before = jnp.maximum(at - 1, 0)
    rise = nfs[at] - nfs[before]
    part = jnp.where(rise > 0, (0.5 - nfs[before]) / jnp.where(rise > 0, rise, 1), 1)
    found = budgets[before] + part * (budgets[at] - budgets[before])
    return jnp.where(jnp.any(nfs >= 0.5), found, jnp.nan)

"""Two image cues as a Gaussian linear model, to predict the effect of an attack before training.

There are two classes, Y = 1 and -1. A change v of the input turns its core (or spurious) cue from
that of one class into that of the other. Read as <x, 2 v / ||v||_2^2>, the cue is +-1; noise of
standard deviation s in each entry of x adds noise of 2 s / ||v||_2, and an l_p attack of budget
epsilon moves it by 2 epsilon ||v||_q / ||v||_2^2. Cues in disjoint entries share the budget like
features with these sizes as `budget_weights`; if they overlap, this is an approximation. Derivation
and limits in docs/theory.md.
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

NUM_BUDGETS = 256  # grid up to the collapse radius, for `half_budget`


class CueReliance(NamedTuple):
    """Predictions for models trained at e budgets.

    `protective_weight` is NaN at budget 0; it and `half_budget` are NaN if a cue is not attacked.
    """

    theta: jax.Array  # [e, 2] on the core and the spurious cue
    nfs: jax.Array  # [e] theta_S^2 / |theta|^2; NaN if theta is 0
    gradient_share: jax.Array  # [e] the same ratio for the input gradient, theta_i / ||v_i||_2
    half_budget: jax.Array  # the least budget at which NFS is 1/2; NaN if none below the collapse
    collapse_radius: jax.Array  # the budget from which theta is 0
    protective_weight: jax.Array  # [e] least factor on the spurious cue's budget at which NFS is 0


def cue_sizes(changes, *, p):
    """Return (root mean square of ||v||_2, mean of ||v||_q) of changes [n, ...], 1/p + 1/q = 1."""
    changes = jnp.reshape(changes, (len(changes), -1))
    q = dual_exponent(p)
    length = jnp.sqrt(jnp.mean(jnp.sum(changes**2, axis=1)))
    return length, jnp.mean(jax.vmap(lambda v: lp_norm(v, q))(changes))


def two_cue_model(lengths, *, noise_std, correlation, num_classes=2):
    """Return the GaussianLinearModel of a core and a spurious cue.

    The core cue shows the class Y. The spurious cue shows Y with probability `correlation`,
    otherwise one of the other `num_classes` - 1 classes, all equally likely: -Y, or a class that
    counts as 0. The covariance is [[1 + n_C^2, r], [r, a + n_S^2]] with n_i = 2 noise_std /
    lengths_i and, for the spurious cue, a = P(Y) + P(-Y) and r = P(Y) - P(-Y). theta_opt and the
    noise are those of the regression of Y on the cues.

    Args:
      lengths: [2] l2 lengths of the changes of the core and of the spurious cue, > 0.
      noise_std: standard deviation of the noise in each input entry, in the units of `lengths`.
    """
    lengths = jnp.asarray(lengths, float)
    require(lengths.shape == (2,), f"lengths has shape {lengths.shape}; expected (2,)")
    require(0 <= correlation <= 1, f"correlation = {correlation}: it must be in [0, 1]")
    require(num_classes >= 2, f"num_classes = {num_classes}: it must be >= 2")
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
    """Predict how models trained against l_p attacks rely on two cues, from the data alone.

    Args:
      core, spurious: [n, ...] changes of inputs that turn this cue into that of a different class.
      epsilons: [e] training budgets >= 0, in the units of the inputs.
      noise_std, correlation, num_classes: see `two_cue_model`.
      region_weights: factors on the budgets of the core and of the spurious cue, >= 0.
    Returns: CueReliance.
    """
    check_nonnegative("epsilons", epsilons)
    lengths, duals = jnp.array([cue_sizes(changes, p=p) for changes in (core, spurious)]).T
    require(
        bool(jnp.all((lengths > 0) & jnp.isfinite(lengths))),
        f"the changes of the cues have l2 lengths {lengths.tolist()}; both must be finite and > 0",
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
    """Return the least budget at which NFS reaches 1/2, interpolated linearly; NaN if none."""
    first = jnp.argmax(nfs >= 0.5)
    before = jnp.maximum(first - 1, 0)
    rise = nfs[first] - nfs[before]
    part = jnp.where(rise > 0, (0.5 - nfs[before]) / jnp.where(rise > 0, rise, 1), 1)
    half = budgets[before] + part * (budgets[first] - budgets[before])
    return jnp.where(jnp.any(nfs >= 0.5), half, jnp.nan)

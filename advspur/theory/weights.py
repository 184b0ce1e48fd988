"""Budgets that differ by feature: the attack ||D^-1 delta||_p <= epsilon, D = diag(weights).

Theorem 1 then has ||D theta||_q in place of ||theta||_q. In theta' = D theta this is the problem
without weights, with covariance D^-1 covariance D^-1 and target D theta_opt, so one solver serves
both. Reliance is measured on theta. Derivations in docs/theory.md.
"""

import jax.numpy as jnp

from advspur._checks import is_concrete, require
from advspur.theory.linear_model import GaussianLinearModel, check_weights, restrict_to_core


def weighted_model(model, budget_weights):
    """Return (the model of theta' = D theta, D as an array [m]); (model, 1) without weights.

    Raises: InputError for weights that are 0 or inf.
    """
    if budget_weights is None:
        return model, 1
    weights = positive_weights(budget_weights, *model.theta_opt.shape, model.theta_opt.dtype)
    return reweight(model, weights, has_limits=False)[0], weights


def positive_weights(budget_weights, num_features, dtype):
    """Return the weights as an array [m]. Raises: InputError for weights that are 0 or inf."""
    weights, has_limits = check_weights(budget_weights, num_features, dtype)
    require(
        not has_limits or not is_concrete(weights),
        f"budget_weights = {budget_weights}: here they must be positive and finite "
        "(minimize_adversarial_loss also takes 0 and inf)",
    )
    return weights


def reweight(model, weights, *, has_limits=True):
    """Return (the model of theta' = D theta, a function theta' -> theta).

    Both models have the same minimisers and losses. In the limits, a feature of weight inf is left
    out, and one of weight 0 takes its least-squares value given the others: it is profiled out.

    Args:
      weights: [m].
      has_limits: whether some weights may be 0 or inf.
    """
    scale = weights
    if has_limits:
        barred, free = jnp.isinf(weights), weights == 0
        scale = jnp.where(barred | free, 1, weights)
        model = restrict_to_core(model, barred=barred)
        covariance, optimum = model.covariance, model.theta_opt
        among = jnp.where(free[:, None] & free, covariance, 0)
        across = jnp.where(free[:, None] & ~free, covariance, 0)
        fit = jnp.linalg.pinv(among, hermitian=True) @ across
        rest = jnp.where(~free[:, None] & ~free, covariance - across.T @ fit, 0)
        isolated = jnp.diag(jnp.where(free, jnp.diag(covariance), 0))
        model = model._replace(covariance=rest + isolated, theta_opt=jnp.where(free, 0, optimum))

    def restore(theta):
        theta = theta / scale
        if not has_limits:
            return theta
        return jnp.where(free, optimum + fit @ (optimum - theta), theta)

    covariance, target, *rest = model
    return GaussianLinearModel(covariance / scale / scale[:, None], scale * target, *rest), restore

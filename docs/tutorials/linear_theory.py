"""
The theory in ten minutes
=========================

Why should adversarial training make a model rely *more* on spurious features? In a linear model the
question can be answered exactly. This page computes the answer, checks it, and varies the
parameters.
"""

# %%
# 1. The model
# ------------
#
# Features X are Gaussian, the label is Y = ⟨X, θ_opt⟩ + noise. Two of the five features are *core*:
# they cause the label. Three are *spurious*: they do not, but they correlate with the core ones, by
# an amount η. An adversary moves x by at most ε in the l_p norm, and training minimises the
# expected loss under its best move.

import math

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np

from advspur import theory

jax.config.update("jax_enable_x64", True)

model = theory.gaussian_linear_model(0.5)  # η = 0.5
print(np.round(model.covariance, 2))
print("label:", model.theta_opt, " spurious:", model.is_spurious)

# %%
# 2. One exact answer
# -------------------
#
# Without an adversary the best θ is θ_opt, which ignores the spurious features. Under attack it
# does not. `norm_fraction_spurious` (NFS, the paper's Eq. 5) is the share of the squared weights on
# spurious features; `gap` bounds how far the loss can be from its minimum: the answer is certified,
# not just converged.

for epsilon in (0.0, 0.5, 1.0):
    best = theory.minimize_adversarial_loss(model, epsilon, p=2)
    nfs = theory.norm_fraction_spurious(best.theta, model.is_spurious)
    print(f"ε = {epsilon}: θ = {np.round(best.theta, 3)}, NFS = {nfs:.3f}, gap = {best.gap:.1e}")

# %%
# Do not believe it? Simulate: draw data, attack each point in the best possible way, average.

best = theory.minimize_adversarial_loss(model, 0.5, p=2)
x, y = theory.sample_data(model, jax.random.key(0), 1_000_000)
moved = x + theory.worst_case_perturbation(best.theta, x, y, 0.5, p=2)
losses = (y - moved @ best.theta) ** 2
error = losses.std() / math.sqrt(len(losses))
print(f"simulated {losses.mean():.4f} ± {error:.4f}, exact {best.loss:.4f}")

# %%
# 3. Three norms (the paper's Figure 2)
# -------------------------------------
#
# `sweep_nfs` solves a grid of problems at once. Reliance grows with the budget for l1 and l2. For
# l∞ it stays at zero: at this scale, the spurious features are not worth their price.

figure, axes = plt.subplots(1, 3, figsize=(9, 2.8), sharey=True, layout="constrained")
for axis, (p, name) in zip(axes, ((1, "l1"), (2, "l2"), (math.inf, "l∞")), strict=True):
    etas, epsilons = (0.1, 0.25, 0.5, 1.0), np.linspace(0, 3, 121)
    sweep = theory.sweep_nfs(etas, epsilons, p=p)
    assert sweep.converged.all()
    for eta, nfs in zip(etas, sweep.nfs, strict=True):
        axis.plot(epsilons, nfs, label=f"η = {eta}")
    axis.set(title=f"{name} adversary", xlabel="ε")
axes[0].set_ylabel("NFS")
axes[0].legend()
plt.show()

# %%
# 4. Scale decides under l∞ (Figure 3)
# ------------------------------------
#
# An l∞ adversary moves every feature by the same amount, so a spurious feature with a large scale
# is cheap to rely on. From which scale on? There is a closed form.

for eta in (0.25, 0.5, 1.0):
    threshold = theory.critical_spurious_scale(theory.gaussian_linear_model(eta))
    print(f"η = {eta}: used from scale {threshold:.3f} on")

scales, epsilons = np.linspace(1, 4, 61), np.linspace(0, 2, 101)
sweep = theory.sweep_nfs_over_scale(scales, epsilons, eta=0.5)
figure, axis = plt.subplots(figsize=(5, 3.2), layout="constrained")
image = axis.pcolormesh(epsilons, scales, sweep.nfs)
axis.axhline(theory.critical_spurious_scale(model), color="white", linestyle="--")
axis.set(xlabel="ε", ylabel="scale of the spurious features", title="NFS, l∞ adversary, η = 0.5")
figure.colorbar(image)
plt.show()

# %%
# 5. Your own problem, and derivatives
# ------------------------------------
#
# Any covariance will do, and the minimiser is differentiable: here, how fast reliance grows with
# the budget, at forty budgets in one call.

covariance = jnp.array([[1.0, 0.6], [0.6, 1.5]])
two = theory.GaussianLinearModel(
    covariance, jnp.array([1.0, 0.0]), noise_std=0.2, is_spurious=jnp.array([False, True])
)


def reliance(epsilon):
    theta = theory.minimize_adversarial_loss(two, epsilon, p=2).theta
    return theory.norm_fraction_spurious(theta, two.is_spurious)


epsilons = jnp.linspace(0.05, 1, 40)
rates = jax.vmap(jax.grad(reliance))(epsilons)
print(f"fastest growth: {rates.max():.3f} per unit of ε, at ε = {epsilons[rates.argmax()]:.2f}")

# %%
# 6. A remedy
# -----------
#
# Multiply the adversary's budget on the spurious features by `w`. How large must `w` be before a
# robust model stops using them? Under l∞ there is a finite answer; `w` = 1 is the usual adversary.

scaled = theory.gaussian_linear_model(0.5, spurious_scale=3.0)
w = theory.protective_weight(scaled, 0.75, p=math.inf)
for factor in (1.0, 0.9 * w, 1.1 * w):
    weights = jnp.where(scaled.is_spurious, factor, 1.0)
    best = theory.minimize_adversarial_loss(scaled, 0.75, p=math.inf, budget_weights=weights)
    nfs = theory.norm_fraction_spurious(best.theta, scaled.is_spurious)
    print(f"w = {factor:.3f}: NFS = {nfs:.1e}")

# %%
# Next: the guide :doc:`/theory` has the mathematics, and
# ``python scripts/theory.py --config configs/theory_nfs.py`` draws the paper's Figure 2 in full and
# checks the paper's sentences about it.

"""How often the intervals of theory.estimate_reliance hold the truth: python scripts/coverage.py

Data are drawn from Gaussian linear models whose parameters are known, fitted, and the 95% intervals
compared with what the models' own parameters give. The share that holds has a Wilson interval; 0.95
is what it should be. An interval that is NaN, of the NFS of a fit that has collapsed, is a miss.
"""

import math

import _cli
from absl import flags

SHARES = (0.05, 0.2, 0.4, 0.8)  # budgets, of the collapse radius
flags.DEFINE_integer("num_repetitions", 200, "Data sets of each setting.")
flags.DEFINE_integer("num_resamples", 500, "Of each data set.")
# Of the next four, each can be given several times: --norms=2 --norms=inf.
flags.DEFINE_multi_integer("num_examples", [200, 2000], "Of a data set.", lower_bound=3)
MODELS = ["paper", "factors"]
flags.DEFINE_multi_enum("models", MODELS, MODELS, "paper (5 features), factors (20 features).")
flags.DEFINE_multi_float("norms", [2, math.inf], "Norms of the attack.")
ASSUMED = ["yes", "no"]
flags.DEFINE_multi_enum("core_only", ASSUMED, ASSUMED, "Whether the fit has theta_opt = 0 on S.")
flags.DEFINE_float("shrinkage", 0.0, "Of the fit, in [0, 1]; -1: Schäfer and Strimmer's.")
flags.DEFINE_integer("seed", 0, "Of data and resamples.")


def main(flags):
    import itertools

    import jax

    jax.config.update("jax_enable_x64", True)
    from advspur._checks import check_count, check_norm, check_seed

    check_seed("seed", flags.seed)
    check_count("num_repetitions", flags.num_repetitions)
    for p in flags.norms:
        check_norm(p)
    print(f"{'what':24}{'epsilon':>9}{'truth':>11}{'median':>11}{'held':>7}   95% interval")
    settings = itertools.product(flags.models, flags.norms, flags.num_examples, flags.core_only)
    for name, p, n, core_only in settings:
        print(f"{name}, p = {p:g}, n = {n}, core_only = {core_only}", flush=True)
        for row in coverage(flags, known_model(name, p), p, n, core_only == "yes"):
            print(row, flush=True)


def known_model(name, p):
    """The paper's model, or one of 12 core and 8 spurious features with 6 common factors."""
    import jax.numpy as jnp
    import numpy as np

    from advspur.theory import GaussianLinearModel, gaussian_linear_model

    if name == "paper":  # for p = inf at a scale at which the spurious features are used
        return gaussian_linear_model(0.5, spurious_scale=3.0 if p == math.inf else 1.0)
    rng = np.random.default_rng(5)
    loadings = 0.6 * rng.normal(size=(20, 6))
    scale = np.where(np.arange(20) < 12, 1.0, 2.0)
    covariance = loadings @ loadings.T + np.diag(rng.uniform(0.3, 1, 20))
    theta_opt = np.where(np.arange(20) < 12, rng.normal(size=20), 0)
    parts = covariance * scale * scale[:, None], theta_opt, 1.0, np.arange(20) >= 12
    return GaussianLinearModel(*map(jnp.asarray, parts))


def coverage(flags, model, p, n, core_only):
    """Lines of a table, one for each quantity and budget."""
    import jax
    import numpy as np

    from advspur import theory
    from advspur.intervals import wilson

    radius = float(theory.collapse_radius(model, p=p))
    epsilons = np.array(SHARES) * radius
    truths = {"collapse_radius": [radius]}
    best = [theory.minimize_adversarial_loss(model, e, p=p).theta for e in epsilons]
    truths["nfs"] = [theory.norm_fraction_spurious(theta, model.is_spurious) for theta in best]
    if p == math.inf:
        truths["protective_weight"] = [theory.protective_weight(model, e, p=p) for e in epsilons]
        if core_only:
            first = float(theory.epsilon_of_first_reliance(model))
            truths["first_reliance"] = [math.inf if math.isnan(first) else first]
            truths["uniform_weight"] = [1 / theory.critical_spurious_scale(model)]
    shrinkage = None if flags.shrinkage < 0 else flags.shrinkage
    options = {"is_spurious": model.is_spurious, "core_only": core_only, "shrinkage": shrinkage}
    found = {name: [] for name in truths}
    for repetition in range(flags.num_repetitions):
        of_data, of_resamples = jax.random.split(
            jax.random.fold_in(jax.random.key(flags.seed), repetition)
        )
        fit = theory.fit_gaussian_linear_model(*theory.sample_data(model, of_data, n), **options)
        call = {"p": p, "num_resamples": flags.num_resamples}
        reliance = theory.estimate_reliance(fit, epsilons, of_resamples, **call)
        for name, estimates in found.items():
            estimates.append(np.reshape(getattr(reliance, name)[:3], (3, -1)))
    for name, truth in truths.items():
        values, lows, highs = np.array(found[name]).swapaxes(0, 1)
        rounding = 1e-9  # of both computations
        held = (lows <= np.array(truth) * (1 + rounding)) & (
            highs >= np.array(truth) * (1 - rounding)
        )
        for i, true in enumerate(truth):
            epsilon = f"{epsilons[i]:9.4f}" if len(truth) > 1 else " " * 9
            share = wilson(int(held[:, i].sum()), len(held))
            numbers = f"{float(true):11.3g}{np.nanmedian(values[:, i]):11.3g}{share.value:7.3f}"
            yield f"  {name:22}{epsilon}{numbers}   [{share.low:.3f}, {share.high:.3f}]"


if __name__ == "__main__":
    _cli.run(main)

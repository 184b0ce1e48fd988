"""Adversarially trained heads, predicted: python scripts/predict_heads.py MODEL [--data=PATH]

A Gaussian linear model is fitted to a network's features on one half of the images. Its prediction
of the reliance of adversarially trained linear heads (NFS over the budget) is compared with heads
trained on either half. The attack is on the features, reduced to some principal components in an
orthonormal basis whose last directions are the spurious ones.

Without --data, the images are spurious shapes of two classes, and the spurious directions are the
differences between features of the same object on two backgrounds. With --data, they are your own
images of two classes with an attribute (metadata.csv), and the spurious directions are the
differences, within a class, between the means of the attribute's values.
"""

import math
import sys

import _cli
from absl import flags

SHARES = (0.02, 0.1, 0.25, 0.5, 0.75, 0.9)  # budgets, of the collapse radius
flags.DEFINE_string("data", "", "Your own data; only the part `train` is read.")
flags.DEFINE_integer("image_size", 32, "Pixels per side of your own images.")
flags.DEFINE_multi_integer("classes", [0, 1], "Two of the spurious shapes: give the flag twice.")
flags.DEFINE_integer("num_images", 8000, "Number of spurious shapes, over all classes.")
flags.DEFINE_integer("num_components", 8, "Principal components of the features.")
flags.DEFINE_integer(
    "num_directions", 3, "Greatest number of spurious directions; those with most variance stay."
)
flags.DEFINE_bool("core_only", False, "Fit theta_opt = 0 on the spurious directions.")
flags.DEFINE_integer("seed", 0, "Of the halves and the resamples.")


def main(flags, spec):
    import jax
    import numpy as np

    from advspur import models
    from advspur._checks import check_count, check_seed, require

    check_seed("seed", flags.seed)
    for name in ("num_images", "num_components", "num_directions"):
        check_count(name, getattr(flags, name))
    print(f"{spec}: computing features", file=sys.stderr, flush=True)
    model = models.load(spec)
    features, labels, differences = (own_features if flags.data else shape_features)(flags, model)
    order = np.random.default_rng(flags.seed).permutation(len(labels))
    halves = order[::2], order[1::2]
    first = features[halves[0]]
    components = np.linalg.svd(first - first.mean(axis=0), full_matrices=False)[2]
    components = components[: flags.num_components]
    share = np.var(first @ components.T, axis=0).sum() / np.var(first, axis=0).sum()
    directions = np.linalg.svd(differences @ components.T, full_matrices=False)[2]
    directions = directions[: flags.num_directions]
    require(len(directions) < len(components), "fewer directions than components are needed")
    print(f"{len(labels)} images; {len(components)} components hold {share:.1%} of the variance")
    with jax.enable_x64(True):
        compare(flags, features @ components.T, labels, halves, directions)


def shape_features(flags, model):
    """Return (features [n, d], labels [n] of -1 and 1, differences [r, d] between pairs)."""
    import numpy as np

    from advspur._checks import require
    from advspur.data import spurious_shapes
    from advspur.data.spurious_shapes import SHAPES
    from advspur.predict import features_on

    classes = flags.classes
    are_two = len(set(classes)) == len(classes) == 2 and set(classes) <= set(range(len(SHAPES)))
    fault = f"classes = {classes}: give two of 0 to {len(SHAPES) - 1}, each by --classes=K"
    require(are_two, fault)
    passes = {
        split: features_on(model, spurious_shapes(split, num_examples=count), batch_size=500)
        for split, count in (("test", flags.num_images), ("mixed_same", 2000), ("mixed_rand", 2000))
    }
    features, label = passes["test"]["features"], passes["test"]["label"]
    rows = np.isin(label, classes)
    labels = np.where(label[rows] == classes[0], -1.0, 1.0)
    differences = passes["mixed_same"]["features"] - passes["mixed_rand"]["features"]
    return features[rows].astype(float), labels, differences.astype(float)


def own_features(flags, model):
    """Return the same for a user's data; the differences are between means."""
    import numpy as np

    from advspur._checks import require
    from advspur.data import own
    from advspur.data.groups import attributes
    from advspur.predict import features_on

    parts = own(flags.data, resize="none", image_size=flags.image_size)
    require("train" in parts, f"{flags.data} has no part train, only {', '.join(parts)}")
    table = parts["train"]
    require(table.num_classes == 2, f"{flags.data} has {table.num_classes} classes; expected 2")
    names = attributes(table)
    require(names, f"{flags.data} has no attribute")
    outcomes = features_on(model, table, batch_size=500)
    features, label = outcomes["features"].astype(float), outcomes["label"]
    differences = []
    for name in names:
        values = table.columns[name]
        for y in range(2):
            groups = [features[(values == v) & (label == y)] for v in np.unique(values)]
            means = [group.mean(axis=0) for group in groups if len(group)]
            differences += [mean - means[0] for mean in means[1:]]
    require(differences, f"no class of {flags.data} has images with two values of an attribute")
    return features, np.where(label == 0, -1.0, 1.0), np.array(differences)


def compare(flags, x, y, halves, directions):
    """Print the fit and, for each norm, the predicted NFS and those of heads."""
    import jax
    import numpy as np

    from advspur import theory

    options = {"core_only": flags.core_only, "spurious_directions": directions}
    fits = [theory.fit_gaussian_linear_model(x[rows], y[rows], **options) for rows in halves]
    describe(fits[0])
    for p in (2, math.inf):
        radius = float(theory.collapse_radius(fits[0].model, p=p))
        epsilons = np.array(SHARES) * radius
        reliance = theory.estimate_reliance(fits[0], epsilons, jax.random.key(flags.seed), p=p)
        print(f"p = {p}: collapse radius {text(*reliance.collapse_radius[:3])}")
        print(f"{'epsilon':>9}  {'predicted [95%]':30}{'head':>9}   other half: predicted, head")
        for i, epsilon in enumerate(epsilons):
            first, second = (nfs_of_head(fit, epsilon, p) for fit in fits)
            theta = theory.minimize_adversarial_loss(fits[1].model, epsilon, p=p).theta
            interval = text(*(part[i] for part in reliance.nfs[:3]))
            numbers = f"{first:9.4g}{nfs(theta, fits[1]):23.4g}{second:9.4g}"
            print(f"{epsilon:9.4f}  {interval:30}{numbers}")


def text(value, low, high):
    return f"{value:.4g} [{low:.4g}, {high:.4g}]"


def describe(fit):
    n, d = fit.features.shape
    statistic, degrees, p_value = fit.core_test
    print(f"fit to n = {n}, d = {d}, core_only = {fit.options['core_only']}")
    print(f"theta_opt = 0 on S: F{degrees} = {statistic:.2f}, p = {p_value:.2g}")
    for name in ("feature", "residual"):
        test = getattr(fit, f"{name}_normality")
        numbers = f"skewness {test.skewness:.3f} (p = {test.skewness_p:.2g})"
        print(f"{name}s: {numbers}, kurtosis {test.kurtosis:.3f} (p = {test.kurtosis_p:.2g})")
    explained = 1 - float(fit.model.noise_std**2 / (fit.labels @ fit.labels / (n - 1)))
    ratio = float(fit.residual_ratio)
    print(f"R^2 {explained:.3f}; mean |residual| / (c1 noise_std) = {ratio:.4f}")


def nfs(theta, fit):
    from advspur import theory

    return float(theory.norm_fraction_spurious(theta, fit.model.is_spurious))


def nfs_of_head(fit, epsilon, p):
    """Return the NFS of a head trained adversarially on the examples of the fit."""
    from advspur import theory

    theta, _, smoothing = theory.minimize_empirical_adversarial_loss(
        fit.features, fit.labels, epsilon, p=p
    )
    return nfs(theta, fit) if math.isfinite(smoothing) else math.nan


if __name__ == "__main__":
    _cli.run(main, arguments=True)

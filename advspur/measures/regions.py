"""Reliance on a region of the images: noise, attacks and gradients on it and off it.

RFS (RIVAL10), RCS (Salient ImageNet-1M) and their analogues on other data with masks share this
protocol. Images are moved to the devices once; noise is drawn there.
"""

import functools
import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from advspur import metrics
from advspur._checks import check_count, check_numbers, require
from advspur.attacks import margin
from advspur.data.masks import check_masks, mask_regions
from advspur.data.table import spread
from advspur.data.transforms import to_unit
from advspur.intervals import mean_value
from advspur.measures.robust import attack_passes, correct_under_pgd
from advspur.norms import lp_norm
from advspur.predict import correct, correct_clean, outcomes
from advspur.records import record


class Regions(NamedTuple):
    """Options of `region_records`, for pixels in [0, 1].

    l2 lengths of noise are for images of 224 pixels and scale with the side. "linf" is its authors'
    name for i.i.d. Gaussian noise.
    """

    names: tuple = ("core", "spurious")  # of the core region and of the rest
    linf_noise_levels: tuple = (0.25,)  # standard deviations of noise on one region
    l2_noise_levels: tuple = ()  # l2 lengths of noise on one region
    trials: int = 5  # draws of the noise for each image
    l2_epsilons: tuple = (0.25, 0.5, 1.0)  # budgets of PGD confined to one region
    linf_epsilons: tuple = (0.25 / 255, 0.5 / 255, 1 / 255)
    attack_steps: int = 10  # of 2.5 epsilon / steps, from the image
    num_attacked: int = 500  # images, spread evenly over the data
    mask: str = "soft"  # this and the next two: see `masks.mask_regions`
    dilation_rounds: int = 0
    spurious_region: str = "complement"

    @property
    def attacks(self):
        """Return [(p, budgets)] for the norms with budgets."""
        norms = {2.0: self.l2_epsilons, math.inf: self.linf_epsilons}
        return [(p, tuple(e)) for p, e in norms.items() if e and self.num_attacked]

    @property
    def protocol(self):
        """Return the options of the masks that records carry."""
        shown = {"dilation_rounds": self.dilation_rounds, "spurious_region": self.spurious_region}
        return {} if shown == {"dilation_rounds": 0, "spurious_region": "complement"} else shown

    @property
    def of_masks(self):
        """Return the options of `mask_regions`."""
        names = ("mask", "dilation_rounds", "spurious_region")
        return {name: getattr(self, name) for name in names}

    @property
    def passes(self):
        """Return the forward passes of an image without attacks; a gradient counts as three."""
        levels = len(self.linf_noise_levels) + len(self.l2_noise_levels)
        return 4 + 2 * self.trials * levels


def plan_regions(parts, **options):
    """Return the number of single-image forward passes, of `region_records`; check its options."""
    chosen = Regions(**options)
    for name in ("linf_noise_levels", "l2_noise_levels", "l2_epsilons", "linf_epsilons"):
        check_numbers(f"regions.{name}", getattr(chosen, name))
    has_noise = chosen.linf_noise_levels or chosen.l2_noise_levels
    check_count("regions.trials", chosen.trials, 1 if has_noise else 0)
    check_count("regions.attack_steps", chosen.attack_steps, 1 if chosen.attacks else 0)
    check_count("regions.num_attacked", chosen.num_attacked, 0)
    check_masks(**chosen.of_masks)
    budgets = sum(len(epsilons) for _, epsilons in chosen.attacks)
    of_attack = 2 * budgets * attack_passes(chosen.attack_steps)
    counts = map(len, parts.values())
    return sum(n * chosen.passes + min(chosen.num_attacked, n) * of_attack for n in counts)


def region_records(model, parts, *, key, batch_size, cache_dir=None, progress=None, **options):
    """Measure the sensitivity to noise, attacks and gradients on the core and on the rest.

    Options: see `Regions`. Noise, drawn with `key`: `<name>_noise_accuracy` (class-balanced) and
    `relative_<core>_sensitivity` for each family and level, and over all levels. PGD confined to a
    region: `<name>_attack_accuracy` and `adversarial_relative_<core>_sensitivity`. Off the core:
    `norm_fraction_spurious`, the mean share of the squared input gradient (deep NFS), and
    `spurious_area`, the mean share of the pixels. Images without a core are left out.
    """
    chosen = Regions(**options)
    running = {"batch_size": batch_size, "cache_dir": cache_dir, "progress": progress}
    records = []
    for part, table in parts.items():
        of_part = _noise_records(model, table, chosen, key, running)
        of_part += _attack_records(model, table, chosen, running)
        records += [r._replace(options=r.options | {"part": part}) for r in of_part]
    return records


def _noise_records(model, table, chosen, key, running):
    """Return the records of noise, gradients and areas."""
    lengths = tuple(level * table.image_size / 224 for level in chosen.l2_noise_levels)
    noises = [n for n in (("linf", tuple(chosen.linf_noise_levels)), ("l2", lengths)) if n[1]]

    def measure(batch, numbers):
        image, label = batch.image, batch.label
        core, rest = mask_regions(batch.mask, **chosen.of_masks)
        share, has_share = gradient_share(model, image, label, rest)
        right = {family: [] for family, _ in noises}
        for trial in range(chosen.trials):
            noise = gaussian_noise(image, numbers, jax.random.fold_in(key, trial))
            for family, levels in noises:
                for region in (core, rest):
                    confined = region_noise(noise, region, family=family)
                    right[family] += [
                        correct_under_noise(model, image, label, confined, level)
                        for level in levels
                    ]
        return {
            "label": label,
            "has_core": jnp.any(core > 0, axis=(1, 2, 3)),
            "clean": correct_clean(model, image, label),  # refuses logits that are not finite
            "share": share,
            "has_share": has_share,
            "area": jnp.mean(rest, axis=(1, 2, 3)),
        } | {family: jnp.stack(o, axis=1) for family, o in right.items()}

    key_data = jax.random.key_data(key).tolist()
    identity = ["regions", key_data, noises, chosen.trials, chosen.of_masks]
    results = outcomes(measure, model, table, identity, passes=chosen.passes, **running)
    has_core = results["has_core"]
    require(np.any(has_core), f"every mask of {table!r} is empty: no image has a core")
    results = {name: values[has_core] for name, values in results.items()}
    labels, protocol = results["label"], chosen.protocol
    nfs = mean_value(results["share"][results["has_share"]])
    records = [
        record("norm_fraction_spurious", nfs, options=protocol),
        record("spurious_area", mean_value(results["area"]), options=protocol),
    ]
    trials = {"trials": chosen.trials} if chosen.trials > 1 else {}
    for family, levels in noises:
        right = results[family].reshape(len(labels), chosen.trials, 2, len(levels))
        right = right.transpose(2, 3, 1, 0)  # [region, level, trial, n]
        options, kind = {"family": family} | trials | protocol, ("noise", "", "level")
        records += _sensitivity_records(kind, right, labels, chosen.names, options, levels)
    return records


def _attack_records(model, table, chosen, running):
    """Return the accuracies and sensitivities under PGD confined to a region."""
    records = []
    attacked = table.subset(spread(len(table), chosen.num_attacked))
    for p, epsilons in chosen.attacks:
        attack = {"p": p, "num_steps": chosen.attack_steps}

        def measure(batch, _, attack=attack, epsilons=epsilons):
            core, rest = (r >= 0.5 for r in mask_regions(batch.mask, **chosen.of_masks))
            right = [
                correct_under_pgd(
                    model, batch.image, batch.label, epsilon=epsilon, mask=region, **attack
                )
                for region in (core, rest)
                for epsilon in epsilons
            ]
            has_core = jnp.any(core > 0, axis=(1, 2, 3))
            return {"right": jnp.stack(right, axis=1), "label": batch.label, "has_core": has_core}

        options = attack | {"p": "inf" if p == math.inf else p}
        passes = 2 * len(epsilons) * attack_passes(chosen.attack_steps)
        identity = ["regions attack", options, epsilons, chosen.of_masks]
        results = outcomes(measure, model, attacked, identity, passes=passes, **running)
        has_core = results["has_core"]
        right = results["right"][has_core].reshape(-1, 2, len(epsilons), 1).transpose(1, 2, 3, 0)
        labels = results["label"][has_core]
        options, kind = options | chosen.protocol, ("attack", "adversarial_", "epsilon")
        records += _sensitivity_records(kind, right, labels, chosen.names, options, epsilons)
    return records


def _sensitivity_records(kind, right, labels, names, options, values):
    """Return records of outcomes `right` [region, level, trial, n], at each level and over all.

    A sensitivity that is 0 because both accuracies are 0 or 1 is marked as degenerate.
    """
    threat, prefix, level = kind  # how metrics and levels are named
    sensitivity, records = f"{prefix}relative_{names[0]}_sensitivity", []

    def add_sensitivity(right, options):
        estimate = metrics.relative_sensitivity(*right, labels)
        if right.size and right.min() == right.max():
            options = options | {"degenerate": True}
        records.append(record(sensitivity, estimate, options=options))

    for index, value in enumerate(values):
        at_level = options | {level: value}
        for name, of_region in zip(names, right[:, index], strict=True):
            accuracy = metrics.balanced_accuracy(of_region, labels)
            records.append(record(f"{name}_{threat}_accuracy", accuracy, options=at_level))
        add_sensitivity(right[:, index : index + 1], at_level)
    every_level = options | {f"{level}s": list(values)}
    add_sensitivity(right, every_level)
    mean = metrics.relative_sensitivity(*right, labels, average="sensitivities")
    records.append(record(f"mean_{sensitivity}", mean, options=every_level))
    return records


@jax.jit
def margin_gradient(classifier, images, labels):
    """Return the gradient of the margin [n, h, w, 3] at uint8 images.

    The margin is the largest other logit minus the label's.
    """
    return jax.grad(lambda x: jnp.sum(margin(classifier.logits(x), labels)))(to_unit(images))


@jax.jit
def gradient_share(classifier, images, labels, region):
    """Return (share [n], has_share [n]) of the squared input gradient on a region r, [n, h, w, 1].

    sum_i r_i g_i^2 / sum_i g_i^2, with g the `margin_gradient`. For a linear model of two classes
    and the region of the spurious pixels, it is the NFS of the paper's Eq. 5. An image with g = 0
    has no share; if g is not finite, the share is NaN.
    """
    grad = margin_gradient(classifier, images, labels)
    largest = jnp.max(jnp.abs(grad), axis=(1, 2, 3), keepdims=True)
    has_share = largest != 0
    energy = jnp.square(grad / jnp.where(has_share, largest, 1))  # so that squares do not underflow
    total = jnp.sum(energy, axis=(1, 2, 3))
    share = jnp.sum(energy * region, axis=(1, 2, 3)) / jnp.where(total != 0, total, 1)
    return share, has_share[:, 0, 0, 0]


@jax.jit
def gaussian_noise(images, numbers, key):
    """Draw z ~ N(0, I), [n, h, w, 3], which depends only on `key` and the images' numbers."""
    keys = jax.vmap(jax.random.fold_in, in_axes=(None, 0))(key, numbers)
    return jax.vmap(lambda k: jax.random.normal(k, images.shape[1:]))(keys)


@functools.partial(jax.jit, static_argnames="family")
def region_noise(noise, region, *, family):
    """Confine noise z [n, h, w, 3] to r [n, h, w, 1]: z r ("linf") or z r / ||z r||_2 ("l2").

    Levels, which are standard deviations or l2 lengths, multiply it. Regions, families, levels and
    models share z (Moayeri et al., CVPR 2022, arXiv 2201.10766).
    """
    noise = noise * region
    if family == "linf":
        return noise
    length = jax.vmap(lambda z: lp_norm(z, 2))(noise)[:, None, None, None]
    return noise / jnp.where(length > 0, length, 1)


@jax.jit
def correct_under_noise(classifier, images, labels, noise, level):
    """Return `correct` [n] on clip(x + level noise, 0, 1), for uint8 images x."""
    noisy = jnp.clip(to_unit(images) + level * noise, 0, 1)
    return correct(classifier.logits(noisy), labels)

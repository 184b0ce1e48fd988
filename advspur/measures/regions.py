"""Reliance on a region of the images: noise, attacks and gradients, on it and off it.

The one protocol behind RFS (RIVAL10), RCS (Salient ImageNet-1M) and their analogues on other
data with masks. Images are moved to the devices once; noise is drawn there.
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
    """What to measure on the two regions: the options of `region_records`, in [0, 1] pixel units.

    Lengths of l2 noise are for images of 224 pixels; for others they are scaled with the side.
    "linf" is the name that its authors give to i.i.d. Gaussian noise.
    """

    names: tuple = ("core", "spurious")  # of the core region and of the rest
    linf_noise_levels: tuple = (0.25,)  # standard deviations of noise on one region
    l2_noise_levels: tuple = ()  # its l2 lengths
    trials: int = 5  # draws of the noise an image
    l2_epsilons: tuple = (0.25, 0.5, 1.0)  # budgets of PGD confined to one region
    linf_epsilons: tuple = (0.25 / 255, 0.5 / 255, 1 / 255)
    attack_steps: int = 10  # of 2.5 epsilon / steps, from the image
    num_attacked: int = 500  # images, spread evenly over the data
    mask: str = "soft"  # the last three: of `masks.mask_regions`
    dilation_rounds: int = 0
    spurious_region: str = "complement"

    @property
    def attacks(self):
        """[(p, budgets)] of the norms that have budgets."""
        norms = {2.0: self.l2_epsilons, math.inf: self.linf_epsilons}
        return [(p, tuple(e)) for p, e in norms.items() if e and self.num_attacked]

    @property
    def protocol(self):
        """The options of the masks that records carry."""
        shown = {"dilation_rounds": self.dilation_rounds, "spurious_region": self.spurious_region}
        return {} if shown == {"dilation_rounds": 0, "spurious_region": "complement"} else shown

    @property
    def of_masks(self):
        """The options of `mask_regions`."""
        return {
            name: getattr(self, name) for name in ("mask", "dilation_rounds", "spurious_region")
        }

    @property
    def passes(self):
        """Forward passes an image takes without attacks; a gradient counts as three."""
        levels = len(self.linf_noise_levels) + len(self.l2_noise_levels)
        return 4 + 2 * self.trials * levels


def plan_regions(parts, **options):
    """Forward passes over an image that `region_records` makes; its options are checked."""
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
    counts = [len(table) for table in parts.values()]
    return sum(n * chosen.passes + min(chosen.num_attacked, n) * of_attack for n in counts)


def region_records(model, parts, *, key, batch_size, cache_dir=None, progress=None, **options):
    """Sensitivity to noise (of `key`), attacks and gradients on the core and on the rest.

    Options: `Regions`. For each noise family and level `<name>_noise_accuracy` (class-balanced) and
    `relative_<core>_sensitivity`, also of all levels together; the same under PGD confined to a
    region (`<name>_attack_accuracy`, `adversarial_relative_<core>_sensitivity`);
    `norm_fraction_spurious`, the mean share of the squared input gradient off the core (deep NFS);
    `spurious_area`, the mean share of pixels. Images without a core are left out.
    """
    chosen = Regions(**options)
    running = {"batch_size": batch_size, "cache_dir": cache_dir, "progress": progress}
    records = []
    for part, table in parts.items():
        found = _noise_records(model, table, chosen, key, running)
        found += _attack_records(model, table, chosen, running)
        records += [r._replace(options=r.options | {"part": part}) for r in found]
    return records


def _noise_records(model, table, chosen, key, running):
    """Records of noise, gradients and areas."""
    lengths = tuple(level * table.image_size / 224 for level in chosen.l2_noise_levels)
    noises = [n for n in (("linf", tuple(chosen.linf_noise_levels)), ("l2", lengths)) if n[1]]

    def measure(batch, numbers):
        image, label = batch.image, batch.label
        core, rest = mask_regions(batch.mask, **chosen.of_masks)
        share, has_share = gradient_share(model, image, label, rest)
        found = {
            "label": label,
            "has_core": jnp.any(core > 0, axis=(1, 2, 3)),
            "clean": correct_clean(model, image, label),
            "share": share,
            "has_share": has_share,
            "area": jnp.mean(rest, axis=(1, 2, 3)),
        }
        right = {family: [] for family, _ in noises}
        for trial in range(chosen.trials):
            noise = gaussian_noise(image, numbers, jax.random.fold_in(key, trial))
            for family, levels in noises:
                for region in (core, rest):
                    confined = region_noise(noise, region, family=family)
                    for level in levels:
                        found_right = correct_under_noise(model, image, label, confined, level)
                        right[family].append(found_right)
        return found | {family: jnp.stack(o, axis=1) for family, o in right.items()}

    of_key = jax.random.key_data(key).tolist()
    about = ["regions", of_key, noises, chosen.trials, chosen.of_masks]
    found = outcomes(measure, model, table, about, passes=chosen.passes, **running)
    require(np.any(found["has_core"]), f"every mask of {table!r} is empty: no image has a core")
    found = {name: values[found["has_core"]] for name, values in found.items()}
    labels, protocol = found["label"], chosen.protocol
    nfs = mean_value(found["share"][found["has_share"]])
    records = [
        record("norm_fraction_spurious", nfs, options=protocol),
        record("spurious_area", mean_value(found["area"]), options=protocol),
    ]
    trials = {"trials": chosen.trials} if chosen.trials > 1 else {}
    for family, levels in noises:
        right = found[family].reshape(len(labels), chosen.trials, 2, len(levels))
        right = right.transpose(2, 3, 1, 0)  # [region, level, trial, n]
        about, kind = {"family": family} | trials | protocol, ("noise", "", "level")
        records += _sensitivity_records(kind, right, labels, chosen.names, about, levels)
    return records


def _attack_records(model, table, chosen, running):
    """The accuracies and the sensitivity under PGD confined to either region."""
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
        about = ["regions attack", options, epsilons, chosen.of_masks]
        found = outcomes(measure, model, attacked, about, passes=passes, **running)
        has_core = found["has_core"]
        right = found["right"][has_core].reshape(-1, 2, len(epsilons)).transpose(1, 2, 0)
        right, labels = right[:, :, None], found["label"][has_core]
        options, kind = options | chosen.protocol, ("attack", "adversarial_", "epsilon")
        records += _sensitivity_records(kind, right, labels, chosen.names, options, epsilons)
    return records


def _sensitivity_records(kind, found, labels, names, options, values):
    """Records of outcomes `found` [region, level, trial, n]: at each level, and of all together.

    A sensitivity that is 0 because both accuracies are 0 or 1 is marked as degenerate.
    """
    of, prefix, level = kind  # how metrics and levels are named
    sensitivity, records = f"{prefix}relative_{names[0]}_sensitivity", []

    def add_sensitivity(right, about):
        estimate = metrics.relative_sensitivity(*right, labels)
        if right.size and right.min() == right.max():
            about = about | {"degenerate": True}
        records.append(record(sensitivity, estimate, options=about))

    for index, value in enumerate(values):
        at_level = options | {level: value}
        for name, right in zip(names, found[:, index], strict=True):
            accuracy = metrics.balanced_accuracy(right, labels)
            records.append(record(f"{name}_{of}_accuracy", accuracy, options=at_level))
        add_sensitivity(found[:, index : index + 1], at_level)
    every_level = options | {f"{level}s": list(values)}
    add_sensitivity(found, every_level)
    mean = metrics.relative_sensitivity(*found, labels, average="sensitivities")
    records.append(record(f"mean_{sensitivity}", mean, options=every_level))
    return records


@jax.jit
def margin_gradient(classifier, images, labels):
    """[n, h, w, 3]: gradient of the label's logit minus the largest other one, at uint8 images."""
    return jax.grad(lambda x: jnp.sum(margin(classifier.logits(x), labels)))(to_unit(images))


@jax.jit
def gradient_share(classifier, images, labels, region):
    """(share [n], has_share [n]) of the squared input gradient on a region r, [n, h, w, 1].

    sum_i r_i g_i^2 / sum_i g_i^2, with g the gradient of the margin (the label's logit minus the
    largest other one): for a linear model of two classes, and the region of the spurious pixels,
    the NFS of the paper's Eq. 5. Where g is 0 there is none; NaN where it is not finite.
    """
    grad = margin_gradient(classifier, images, labels)
    largest = jnp.max(jnp.abs(grad), axis=(1, 2, 3), keepdims=True)
    is_there = largest != 0
    energy = jnp.square(grad / jnp.where(is_there, largest, 1))  # small ones do not underflow
    total = jnp.sum(energy, axis=(1, 2, 3))
    share = jnp.sum(energy * region, axis=(1, 2, 3)) / jnp.where(total != 0, total, 1)
    return share, is_there[:, 0, 0, 0]


@jax.jit
def gaussian_noise(images, numbers, key):
    """z ~ N(0, I), [n, h, w, 3], a function of `key` and the images' numbers alone."""
    keys = jax.vmap(jax.random.fold_in, in_axes=(None, 0))(key, numbers)
    return jax.vmap(lambda k: jax.random.normal(k, images.shape[1:]))(keys)


@functools.partial(jax.jit, static_argnames="family")
def region_noise(noise, region, *, family):
    """Noise z [n, h, w, 3] on a region r [n, h, w, 1]: z r ("linf") or z r / ||z r||_2 ("l2").

    It is multiplied by a level: standard deviation, or l2 length. Regions, families, levels and
    models share z (Moayeri et al., CVPR 2022, arXiv 2201.10766).
    """
    noise = noise * region
    if family == "linf":
        return noise
    length = jax.vmap(lambda z: lp_norm(z, 2))(noise)[:, None, None, None]
    return noise / jnp.where(length > 0, length, 1)


@jax.jit
def correct_under_noise(classifier, images, labels, noise, level):
    """[n]: `correct` on clip(x + level noise, 0, 1), for uint8 images x."""
    noisy = jnp.clip(to_unit(images) + level * noise, 0, 1)
    return correct(classifier.logits(noisy), labels)

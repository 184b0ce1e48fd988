"""Reliance on a region of the images: noise, attacks and gradients, on it and off it.

The one protocol behind RFS (RIVAL10), RCS (Salient ImageNet-1M) and their analogues on other
data with masks. Of every image a region r in [0, 1] is the core (the object), 1 - r the rest.
Images and masks are read and moved to the devices once; noise is drawn there.
"""

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from advspur import metrics
from advspur._checks import check_count, check_numbers, require
from advspur.data.masks import check_masks, mask_regions
from advspur.data.table import spread
from advspur.measures.gradients import gradient_share
from advspur.measures.noise import correct_under_noise, gaussian_noise, region_noise
from advspur.measures.robust import attack_passes, correct_under_pgd
from advspur.predict import correct_clean, outcomes
from advspur.records import record


class Regions(NamedTuple):
    """What to measure on the two regions: the options of `region_records`.

    Attributes:
      names: of the core region and of the rest.
      linf_noise_levels: standard deviations of noise on one region, [0, 1] pixel units ("linf" is
        the name its authors give to i.i.d. Gaussian noise).
      l2_noise_levels: l2 lengths of noise on one region, for images of 224 pixels; for others they
        are scaled with the side.
      trials: draws of the noise an image.
      l2_epsilons, linf_epsilons: budgets of PGD confined to one region.
      attack_steps: PGD steps of 2.5 epsilon / steps from the image.
      num_attacked: how many images, spread evenly over the data, are attacked.
      mask, dilation_rounds, spurious_region: of `masks.mask_regions`.
    """

    names: tuple = ("core", "spurious")
    linf_noise_levels: tuple = (0.25,)
    l2_noise_levels: tuple = ()
    trials: int = 5
    l2_epsilons: tuple = (0.25, 0.5, 1.0)
    linf_epsilons: tuple = (0.25 / 255, 0.5 / 255, 1 / 255)
    attack_steps: int = 10
    num_attacked: int = 500
    mask: str = "soft"
    dilation_rounds: int = 0
    spurious_region: str = "complement"

    def noises(self, image_size):
        """[(family, levels)] of the families that have levels."""
        lengths = tuple(level * image_size / 224 for level in self.l2_noise_levels)
        families = {"linf": tuple(self.linf_noise_levels), "l2": lengths}
        return [(family, levels) for family, levels in families.items() if levels]

    @property
    def attacks(self):
        """[(p, budgets)] of the norms that have budgets."""
        norms = {2.0: self.l2_epsilons, math.inf: self.linf_epsilons}
        return [(p, tuple(e)) for p, e in norms.items() if e and self.num_attacked]

    @property
    def of_masks(self):
        """The options of `mask_regions`."""
        return {
            name: getattr(self, name) for name in ("mask", "dilation_rounds", "spurious_region")
        }

    @property
    def protocol(self):
        """The options of the masks that records carry."""
        is_plain = self.dilation_rounds == 0 and self.spurious_region == "complement"
        shown = () if is_plain else ("dilation_rounds", "spurious_region")
        return {name: getattr(self, name) for name in shown}

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
    least = {"trials": has_noise, "attack_steps": chosen.attacks, "num_attacked": False}
    for name, is_used in least.items():
        check_count(f"regions.{name}", getattr(chosen, name), 1 if is_used else 0)
    check_masks(**chosen.of_masks)
    budgets = sum(len(epsilons) for _, epsilons in chosen.attacks)
    of_attack = 2 * budgets * attack_passes(chosen.attack_steps)
    counts = [len(table) for table in parts.values()]
    return sum(n * chosen.passes + min(chosen.num_attacked, n) * of_attack for n in counts)


def region_records(model, parts, *, key, batch_size, cache_dir=None, progress=None, **options):
    """Sensitivity to noise, attacks and gradients on the core and on the rest; options: `Regions`.

    For each noise family and level `<name>_noise_accuracy` (class-balanced, noise on that region)
    and `relative_<core>_sensitivity`, also of all levels together; the same under masked PGD
    (`<name>_attack_accuracy`, `adversarial_relative_<core>_sensitivity`: RFS with the worst
    perturbation of a region instead of noise); `norm_fraction_spurious`, the mean share of the
    squared input gradient off the core (deep NFS); `spurious_area`, the mean share of pixels.
    Images without a core are left out.

    Args:
      key: PRNG key of the noise.
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
    noises = chosen.noises(table.image_size)

    def measure(batch, numbers):
        image, label = batch.image, batch.label
        core, rest = mask_regions(batch.mask, **chosen.of_masks)
        share, has_share = gradient_share(model, image, label, rest)
        found = {
            "label": label,
            "has_core": _not_empty(core),
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
                    right[family] += [
                        correct_under_noise(model, image, label, confined, level)
                        for level in levels
                    ]
        return found | {family: jnp.stack(o, axis=1) for family, o in right.items()}

    of_key = jax.random.key_data(key).tolist()
    about = ["regions", of_key, noises, chosen.trials, chosen.of_masks]
    found = outcomes(measure, model, table, about, passes=chosen.passes, **running)
    require(np.any(found["has_core"]), f"every mask of {table!r} is empty: no image has a core")
    found = {name: values[found["has_core"]] for name, values in found.items()}
    labels, protocol = found["label"], chosen.protocol
    nfs = metrics.mean_value(found["share"][found["has_share"]])
    records = [
        record("norm_fraction_spurious", nfs, options=protocol),
        record("spurious_area", metrics.mean_value(found["area"]), options=protocol),
    ]
    trials = {"trials": chosen.trials} if chosen.trials > 1 else {}
    for family, levels in noises:
        right = found[family].reshape(len(labels), chosen.trials, 2, len(levels))
        records += _sensitivity_records(
            "noise_accuracy",
            f"relative_{chosen.names[0]}_sensitivity",
            right.transpose(2, 3, 1, 0),  # [region, level, trial, n]
            labels,
            chosen.names,
            {"family": family} | trials | protocol,
            ("level", levels),
        )
    return records


def _attack_records(model, table, chosen, running):
    """The accuracies and the sensitivity under PGD confined to either region."""
    records = []
    attacked = table.subset(spread(len(table), chosen.num_attacked))
    for p, epsilons in chosen.attacks:
        options = {"p": "inf" if p == math.inf else p, "num_steps": chosen.attack_steps}

        def measure(batch, _, p=p, epsilons=epsilons):
            core, rest = (r >= 0.5 for r in mask_regions(batch.mask, **chosen.of_masks))
            attack = {"p": p, "num_steps": chosen.attack_steps}
            right = [
                correct_under_pgd(
                    model, batch.image, batch.label, epsilon=epsilon, mask=region, **attack
                )
                for region in (core, rest)
                for epsilon in epsilons
            ]
            right = jnp.stack(right, axis=1)
            return {"right": right, "label": batch.label, "has_core": _not_empty(core)}

        passes = 2 * len(epsilons) * attack_passes(chosen.attack_steps)
        about = ["regions attack", options, epsilons, chosen.of_masks]
        found = outcomes(measure, model, attacked, about, passes=passes, **running)
        has_core = found["has_core"]
        right = found["right"][has_core].reshape(-1, 2, len(epsilons)).transpose(1, 2, 0)
        records += _sensitivity_records(
            "attack_accuracy",
            f"adversarial_relative_{chosen.names[0]}_sensitivity",
            right[:, :, None],
            found["label"][has_core],
            chosen.names,
            options | chosen.protocol,
            ("epsilon", epsilons),
        )
    return records


def _sensitivity_records(accuracy, sensitivity, found, labels, names, options, levels):
    """Records of outcomes `found` [region, level, trial, n]: at each level, and of all together.

    A sensitivity whose two accuracies are both 0 or both 1 is 0 by definition; it is marked as
    degenerate.
    """
    records = []

    def add(metric, estimate, more):
        records.append(record(metric, estimate, options=options | more))

    name, values = levels
    for index, value in enumerate(values):
        at_level = {name: value}
        for region, of_region in zip(names, found, strict=True):
            add(
                f"{region}_{accuracy}",
                metrics.balanced_accuracy(of_region[index], labels),
                at_level,
            )
        flag = _flag(found[:, index])
        core, rest = found[:, index]
        add(
            sensitivity,
            metrics.relative_sensitivity(core[None], rest[None], labels),
            at_level | flag,
        )
    every_level, flag = {f"{name}s": list(values)}, _flag(found)
    add(sensitivity, metrics.relative_sensitivity(*found, labels), every_level | flag)
    mean = metrics.relative_sensitivity(*found, labels, average="sensitivities")
    add(f"mean_{sensitivity}", mean, every_level)
    return records


def _not_empty(region):
    return jnp.any(region > 0, axis=(1, 2, 3))


def _flag(outcomes):
    return {"degenerate": True} if outcomes.size and outcomes.min() == outcomes.max() else {}

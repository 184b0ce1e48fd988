"""Reliance on a region of the images: noise, attacks and gradients, on it and off it.

The one protocol behind RFS (RIVAL10), RCS (Salient ImageNet-1M) and their analogues on other
data with masks. Of every image a region r in [0, 1] is the core (the object), 1 - r the rest.
Images and masks are read and moved to the devices once; noise is drawn there.
"""

import math
import time
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from advspur._checks import check_count, check_numbers, require
from advspur.benchmarks import metrics
from advspur.benchmarks.predict import (
    correct_clean,
    correct_under_noise,
    correct_under_pgd,
    for_each_example,
    gaussian_noise,
    gradient_share,
    region_noise,
)
from advspur.data.layouts import spread
from advspur.data.transforms import to_unit
from advspur.records import record


class Regions(NamedTuple):
    """What to measure on the two regions; every field an option of the benchmarks.

    Attributes:
      names: of the core region and of the rest.
      linf_noise_levels: standard deviations of noise on one region, [0, 1] pixel units ("linf" is
        the name its authors give to i.i.d. Gaussian noise).
      l2_noise_levels: l2 lengths of noise on one region.
      trials: draws of the noise an image.
      l2_epsilons, linf_epsilons: budgets of PGD confined to one region.
      attack_steps: PGD steps of 2.5 epsilon / steps from the image.
      num_attacked: how many images, spread evenly over the data, are attacked.
    """

    names: tuple
    linf_noise_levels: tuple = ()
    l2_noise_levels: tuple = ()
    trials: int = 1
    l2_epsilons: tuple = (0.25, 0.5, 1.0)
    linf_epsilons: tuple = (0.25 / 255, 0.5 / 255, 1 / 255)
    attack_steps: int = 10
    num_attacked: int = 500

    def changed(self, changes):
        """These with other values of some fields, a dict or None, checked."""
        changes = dict(changes or {})
        unknown = sorted(changes.keys() - set(self._fields))
        require(not unknown, f"regions has {unknown}; it knows {', '.join(self._fields)}")
        new = self._replace(**changes)
        for name in ("linf_noise_levels", "l2_noise_levels", "l2_epsilons", "linf_epsilons"):
            check_numbers(f"regions.{name}", getattr(new, name))
        for name, used in (
            ("trials", new.noises), ("attack_steps", new.attacks), ("num_attacked", False)
        ):  # fmt: skip
            check_count(f"regions.{name}", getattr(new, name), 1 if used else 0)
        return new

    @property
    def noises(self):
        """(family, levels) of the families that have levels."""
        families = {"linf": self.linf_noise_levels, "l2": self.l2_noise_levels}
        return [(family, tuple(levels)) for family, levels in families.items() if levels]

    @property
    def attacks(self):
        """(p, budgets) of the norms that have budgets."""
        norms = {2.0: self.l2_epsilons, math.inf: self.linf_epsilons}
        return [(p, tuple(e)) for p, e in norms.items() if e and self.num_attacked]

    @property
    def passes(self):
        """Forward passes an image takes without attacks; a gradient counts as three."""
        return 4 + 2 * self.trials * sum(len(levels) for _, levels in self.noises)

    def num_passes(self, count):
        """Forward passes over an image that `region_records` makes for `count` images."""
        budgets = sum(len(epsilons) for _, epsilons in self.attacks)
        attacked = min(self.num_attacked, count) * 2 * budgets * attack_passes(self.attack_steps)
        return count * self.passes + attacked


def check_attacks(options):
    """Raise InputError for num_attacked, attack_steps or budgets that no attack can have."""
    for name in ("num_attacked", "attack_steps"):
        check_count(name, options[name])
    for name in ("l2_epsilons", "linf_epsilons"):
        check_numbers(name, options[name])


def attack_passes(num_steps):
    """Forward passes an attacked image takes; a gradient counts as three."""
    return 3 * num_steps + 3


@jax.jit
def mask_regions(masks):
    """(r, 1 - r) in [0, 1] of masks uint8 [n, h, w, 1]."""
    # 1 - 255 / 255 need not be 0 in compiled code, and l2 noise on it would have its full length.
    return to_unit(masks), to_unit(255 - masks)


def region_records(
    classifier,
    table,
    regions,
    *,
    key,
    batch_size,
    to_regions=mask_regions,
    protocol=None,
    **running,
):
    """Records of a classifier on a Table with masks.

    `accuracy`; for each noise family and level `<name>_noise_accuracy` (class-balanced, noise on
    that region) and `relative_<core>_sensitivity`, also of all levels together; the same under
    masked PGD (`<name>_attack_accuracy`, `adversarial_relative_<core>_sensitivity`: RFS with the
    worst perturbation of a region instead of noise); `norm_fraction_spurious`, the mean share of
    the squared input gradient off the core (deep NFS); `spurious_area`, the mean share of pixels.
    An image without a core takes part in `accuracy` only.

    Args:
      key: PRNG key of the noise.
      to_regions: masks uint8 [n, h, w, c] -> core and rest, [n, h, w, 1] in [0, 1].
      protocol: choices that the records carry among their options.
      running: image_size and progress of `for_each_example`.
    """
    start = time.monotonic()

    def measure(batch, numbers):
        image, label, (core, rest) = batch.image, batch.label, to_regions(batch.mask)
        share, has_share = gradient_share(classifier, image, label, rest)
        found = {
            "label": label,
            "has_core": _not_empty(core),
            "clean": correct_clean(classifier, image, label),
            "share": share,
            "has_share": has_share,
            "area": jnp.mean(rest, axis=(1, 2, 3)),
        }
        outcomes = {family: [] for family, _ in regions.noises}
        for trial in range(regions.trials):
            noise = gaussian_noise(image, numbers, jax.random.fold_in(key, trial))
            for family, levels in regions.noises:
                for part in (core, rest):
                    confined = region_noise(noise, part, family=family)
                    outcomes[family] += [
                        correct_under_noise(classifier, image, label, confined, level)
                        for level in levels
                    ]
        return found | {family: jnp.stack(o, axis=1) for family, o in outcomes.items()}

    found = for_each_example(
        measure, table, batch_size=batch_size, passes=regions.passes, **running
    )
    everywhere, protocol = metrics.accuracy(found["clean"]), protocol or {}
    require(np.any(found["has_core"]), f"no image of {table!r} has a core: all masks are empty")
    found = jax.tree.map(lambda x: x[found["has_core"]], found)
    labels, seconds = found["label"], time.monotonic() - start
    records = [
        record(name, estimate, options=protocol, seconds=seconds)
        for name, estimate in (
            ("accuracy", everywhere),
            ("norm_fraction_spurious", metrics.mean_value(found["share"][found["has_share"]])),
            ("spurious_area", metrics.mean_value(found["area"])),
        )
    ]
    trials = {"trials": regions.trials} if regions.trials > 1 else {}
    for family, levels in regions.noises:
        outcomes = found[family].reshape(len(labels), regions.trials, 2, len(levels))
        records += _sensitivity_records(
            "noise_accuracy",
            f"relative_{regions.names[0]}_sensitivity",
            outcomes.transpose(2, 3, 1, 0),  # [region, level, trial, n]
            labels,
            regions.names,
            {"family": family} | trials | protocol,
            ("level", levels),
            seconds,
        )
    attack = {"batch_size": batch_size, "to_regions": to_regions, **running}
    return records + _attack_records(classifier, table, regions, protocol, **attack)


def _attack_records(classifier, table, regions, protocol, *, batch_size, to_regions, **running):
    """The accuracies and the sensitivity under PGD confined to either region."""
    records = []
    chosen = spread(len(table), regions.num_attacked)
    for p, epsilons in regions.attacks:
        start = time.monotonic()

        def attacked(batch, _, p=p, epsilons=epsilons):
            core, rest = (region >= 0.5 for region in to_regions(batch.mask))
            outcomes = [
                correct_under_pgd(
                    classifier,
                    batch.image,
                    batch.label,
                    p=p,
                    epsilon=epsilon,
                    num_steps=regions.attack_steps,
                    mask=part,
                )
                for part in (core, rest)
                for epsilon in epsilons
            ]
            return jnp.stack(outcomes, axis=1), batch.label, _not_empty(core)

        passes = 2 * len(epsilons) * attack_passes(regions.attack_steps)
        outcomes, labels, has_core = for_each_example(
            attacked, table.subset(chosen), batch_size=batch_size, passes=passes, **running
        )
        outcomes = outcomes[has_core].reshape(-1, 2, len(epsilons)).transpose(1, 2, 0)
        options = {"p": "inf" if p == math.inf else p, "num_steps": regions.attack_steps} | protocol
        records += _sensitivity_records(
            "attack_accuracy",
            f"adversarial_relative_{regions.names[0]}_sensitivity",
            outcomes[:, :, None],
            labels[has_core],
            regions.names,
            options,
            ("epsilon", epsilons),
            time.monotonic() - start,
        )
    return records


def _sensitivity_records(accuracy, sensitivity, outcomes, labels, names, options, levels, seconds):
    """Records of outcomes [region, level, trial, n]: at each level, and of all levels together.

    A sensitivity whose two accuracies are both 0 or both 1 is 0 by definition; it is marked as
    degenerate.
    """
    records = []

    def add(metric, estimate, more):
        records.append(record(metric, estimate, options=options | more, seconds=seconds))

    name, values = levels
    for index, value in enumerate(values):
        at_level = {name: value}
        for region, of_region in zip(names, outcomes, strict=True):
            add(
                f"{region}_{accuracy}",
                metrics.balanced_accuracy(of_region[index], labels),
                at_level,
            )
        flag = _flag(outcomes[:, index])
        core, rest = outcomes[:, index]
        add(
            sensitivity,
            metrics.relative_sensitivity(core[None], rest[None], labels),
            at_level | flag,
        )
    every_level, flag = {f"{name}s": list(values)}, _flag(outcomes)
    add(sensitivity, metrics.relative_sensitivity(*outcomes, labels), every_level | flag)
    mean = metrics.relative_sensitivity(*outcomes, labels, average="sensitivities")
    add(f"mean_{sensitivity}", mean, every_level)
    return records


def _not_empty(region):
    return jnp.any(region > 0, axis=(1, 2, 3))


def _flag(outcomes):
    return {"degenerate": True} if outcomes.size and outcomes.min() == outcomes.max() else {}

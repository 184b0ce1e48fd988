"""Reliance on the background, measured on the embedded data set `data.spurious_shapes`.

Protocols of the real benchmarks, with exact masks: groups as in Waterbirds, background gap as in
ImageNet-9, foreground against background noise as in RIVAL10 (RFS).
"""

import math
import time

import jax.numpy as jnp
import numpy as np

from advspur._checks import require
from advspur.benchmarks import metrics
from advspur.benchmarks.predict import (
    correct_clean,
    correct_under_noise,
    correct_under_pgd,
    for_each_example,
    region_noise,
)
from advspur.data.spurious_shapes import spurious_shapes
from advspur.records import record

RFS = "relative_foreground_sensitivity"

# The levels of the RIVAL10 noise analysis, in [0, 1] pixel units: standard deviations, and four of
# its l2 lengths, given for images of 224 pixels a side and scaled with the side.
LINF_NOISE_LEVELS = tuple(k / 255 for k in (30, 60, 90, 120, 150, 180, 210))
L2_NOISE_LEVELS = (25.0, 50.0, 100.0, 200.0)


def evaluate(
    classifier,
    data_dir=None,
    *,
    batch_size,
    key,
    num_examples=2000,
    num_attacked=500,
    l2_epsilons=(0.125, 0.25, 0.5),
    linf_epsilons=(1 / 255, 2 / 255, 4 / 255),
    attack_steps=20,
    linf_noise_levels=LINF_NOISE_LEVELS,
    l2_noise_levels=L2_NOISE_LEVELS,
    shapes=None,
):
    """All numbers of one model, as Records without the model's name.

    Args:
      classifier: a `Classifier` trained on spurious_shapes.
      data_dir: not used; the data are embedded.
      batch_size: images a forward pass.
      key: PRNG key of the noise.
      num_examples: images of every split.
      num_attacked: the first so many test images are attacked.
      l2_epsilons, linf_epsilons: PGD budgets, [0, 1] pixel units.
      attack_steps: PGD steps of 2.5 epsilon / steps from the image.
      linf_noise_levels: standard deviations of the noise on one region.
      l2_noise_levels: l2 lengths of the noise on one region, as they would be for 224 pixels a
        side; they are scaled by image_size / 224. Noise of equal deviation carries
        more energy on the larger region; noise of equal length does not.
      shapes: options of `spurious_shapes`, those of training.
    """
    shapes = dict(shapes or {})
    num_classes = shapes.get("num_classes", 8)
    require(
        classifier.num_classes == num_classes,
        f"the model has {classifier.num_classes} classes, the data set {num_classes}",
    )
    require(num_attacked >= 1, f"num_attacked = {num_attacked}: attack at least one image")
    sources = {
        split: spurious_shapes(split, num_examples=num_examples, **shapes)
        for split in ("test", "mixed_same", "mixed_rand", "uncorrelated")
    }
    sizes = {
        "batch_size": batch_size,
        "image_size": sources["test"].columns["image"].shape[1],
    }
    labels, is_majority = (sources["test"].columns[name] for name in ("label", "is_majority"))
    start = time.monotonic()

    def clean(batch, _):
        return correct_clean(classifier, batch.image, batch.label)

    correct = {s: for_each_example(clean, source, **sizes) for s, source in sources.items()}
    on_test, same, rand = (correct[s] for s in ("test", "mixed_same", "mixed_rand"))
    estimates = {
        "majority_accuracy": metrics.accuracy(on_test[is_majority]),
        "minority_accuracy": metrics.accuracy(on_test[~is_majority]),
        "majority_minority_gap": metrics.majority_minority_gap(on_test, is_majority),
        "worst_group_accuracy": metrics.worst_group_accuracy(
            on_test, 2 * labels + is_majority, num_groups=2 * num_classes
        ),
        "background_gap": metrics.background_gap(same, rand),
        "relative_background_gap": metrics.relative_background_gap(same, rand),
    }
    seconds = time.monotonic() - start
    records = [
        record("accuracy", metrics.accuracy(outcome), options={"split": split}, seconds=seconds)
        for split, outcome in correct.items()
    ]
    records += [
        record(name, estimate, options={}, seconds=seconds) for name, estimate in estimates.items()
    ]
    for p, epsilons in ((2.0, l2_epsilons), (math.inf, linf_epsilons)):
        for epsilon in epsilons:
            attack = {"p": p, "epsilon": epsilon, "num_steps": attack_steps}
            records.append(_pgd_record(classifier, sources["test"], attack, num_attacked, sizes))
    lengths = [level * sizes["image_size"] / 224 for level in l2_noise_levels]
    for family, levels in (("linf", linf_noise_levels), ("l2", lengths)):
        if levels:
            records += _noise_records(classifier, sources["test"], key, family, levels, sizes)
    return records


def _pgd_record(classifier, source, attack, num_attacked, sizes):
    start = time.monotonic()

    def attacked(batch, _):
        return correct_under_pgd(classifier, batch.image, batch.label, **attack)

    survives = for_each_example(attacked, source, limit=num_attacked, **sizes)
    options = attack | {"p": "inf" if attack["p"] == math.inf else attack["p"]}
    seconds = time.monotonic() - start
    return record("pgd_accuracy", metrics.accuracy(survives), options=options, seconds=seconds)


def _noise_records(classifier, source, key, family, levels, sizes):
    start = time.monotonic()

    def noisy(batch, numbers):
        noises = [
            region_noise(region, numbers, key, family=family)
            for region in (batch.mask, 1 - batch.mask)
        ]
        outcomes = [
            correct_under_noise(classifier, batch.image, batch.label, noise, level)
            for level in levels
            for noise in noises
        ]
        return jnp.stack(outcomes, axis=1)

    outcomes = for_each_example(noisy, source, **sizes).reshape(len(source), len(levels), 2)
    foreground, background = np.moveaxis(outcomes, 0, -1).swapaxes(0, 1)  # [levels, n] each
    labels = source.columns["label"]
    seconds = time.monotonic() - start
    records = []
    for index, level in enumerate(levels):
        options = {"family": family, "level": level}
        for region, outcome in (("foreground", foreground), ("background", background)):
            estimate = metrics.accuracy(outcome[index])
            records.append(
                record(f"{region}_noise_accuracy", estimate, options=options, seconds=seconds)
            )
        estimate = metrics.relative_sensitivity(foreground[index], background[index], labels)
        records.append(record(RFS, estimate, options=options, seconds=seconds))
    estimate = metrics.relative_sensitivity(foreground, background, labels)
    options = {"family": family, "levels": list(levels)}
    return [*records, record(RFS, estimate, options=options, seconds=seconds)]

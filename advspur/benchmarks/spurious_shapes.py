"""Reliance on the background, measured on the embedded data set `data.spurious_shapes`.

Protocols of the real benchmarks, with exact masks: groups as in Waterbirds, background gap as in
ImageNet-9, foreground against background noise as in RIVAL10 (RFS).
"""

import math
import time

from advspur._checks import check_count
from advspur.benchmarks import metrics, rival10
from advspur.benchmarks.predict import (
    correct_on,
    correct_under_pgd,
    for_each_example,
    require_classes,
)
from advspur.benchmarks.regions import attack_passes, check_attacks, region_records
from advspur.data.layouts import with_defaults
from advspur.data.spurious_shapes import spurious_shapes
from advspur.records import record

NUM_CLASSES = ()  # those of its `shapes`
DIRECTORIES = ()  # the data are embedded
SPLITS = ("test", "mixed_same", "mixed_rand", "uncorrelated")
# RIVAL10's noise, with four of its l2 lengths.
REGIONS = rival10.REGIONS._replace(
    l2_noise_levels=(25.0, 50.0, 100.0, 200.0),
    l2_epsilons=(0.25, 0.5),
    linf_epsilons=(2 / 255, 4 / 255),
    num_attacked=200,
)


def load(data_dir=None, *, num_examples=2000, shapes=None):
    """{split: Table}, drawn from the seed in `shapes`."""
    options = dict(shapes or {})
    return {s: spurious_shapes(s, num_examples=num_examples, **options) for s in SPLITS}


def num_passes(data_dir=None, **options):
    """Forward passes over an image that `evaluate` makes."""
    options = with_defaults(evaluate, options)
    check_attacks(options)
    check_count("num_examples", options["num_examples"])
    count = options["num_examples"]
    budgets = len(options["l2_epsilons"]) + len(options["linf_epsilons"])
    attacked = min(options["num_attacked"], count) * budgets
    of_regions = REGIONS.changed(options["regions"]).num_passes(count)
    return len(SPLITS) * count + attacked * attack_passes(options["attack_steps"]) + of_regions


def evaluate(
    classifier,
    data_dir=None,
    *,
    batch_size,
    key,
    progress=None,
    cache_dir=None,
    num_examples=2000,
    num_attacked=500,
    l2_epsilons=(0.125, 0.25, 0.5),
    linf_epsilons=(1 / 255, 2 / 255, 4 / 255),
    attack_steps=20,
    regions=None,
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
      regions: changes to REGIONS, a dict. Its l2 lengths of noise are those of images of 224 pixels
        a side; they are scaled by image_size / 224. Noise of equal deviation carries more
        energy on the larger region; noise of equal length does not.
      shapes: options of `spurious_shapes`, those of training.
    """
    shapes = dict(shapes or {})
    num_classes = shapes.get("num_classes", 8)
    require_classes(classifier, (num_classes,))
    budgets = {"l2_epsilons": l2_epsilons, "linf_epsilons": linf_epsilons}
    check_attacks(budgets | {"num_attacked": num_attacked, "attack_steps": attack_steps})
    regions = REGIONS.changed(regions)
    sources = load(num_examples=num_examples, shapes=shapes)
    image_size = sources["test"].columns["image"].shape[1]
    running = {"batch_size": batch_size, "image_size": image_size, "progress": progress}
    labels, is_majority = (sources["test"].columns[name] for name in ("label", "is_majority"))
    start = time.monotonic()

    correct = {s: correct_on(classifier, source, **running) for s, source in sources.items()}
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
            records.append(_pgd_record(classifier, sources["test"], attack, num_attacked, running))
    lengths = tuple(level * image_size / 224 for level in regions.l2_noise_levels)
    of_regions = region_records(
        classifier, sources["test"], regions._replace(l2_noise_levels=lengths), key=key, **running
    )
    return records + [r for r in of_regions if r.metric != "accuracy"]


def _pgd_record(classifier, source, attack, num_attacked, running):
    start = time.monotonic()

    def attacked(batch, _):
        return correct_under_pgd(classifier, batch.image, batch.label, **attack)

    passes = attack_passes(attack["num_steps"])
    survives = for_each_example(attacked, source, limit=num_attacked, passes=passes, **running)
    options = attack | {"p": "inf" if attack["p"] == math.inf else attack["p"]}
    seconds = time.monotonic() - start
    return record("pgd_accuracy", metrics.accuracy(survives), options=options, seconds=seconds)

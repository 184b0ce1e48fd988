"""Reliance on an injected colour: CIFAR-10 with the red/green shift of the paper's section 4.4.

A model is measured at the ratio rho it was trained at (the test set is i.i.d.), on the images and
groups that its own colour shift assigns (split "test"), and, as a control, with colours that tell
nothing (split "uncorrelated").
"""

import functools
import math
import time

import jax

from advspur.benchmarks import cifar10, metrics
from advspur.benchmarks.predict import (
    correct_on,
    correct_under_pgd,
    for_each_example,
    require_classes,
)
from advspur.benchmarks.regions import attack_passes, check_attacks
from advspur.data.color_shift import clipped_share, shifted_table
from advspur.data.layouts import with_defaults
from advspur.data.memory import in_memory
from advspur.intervals import Estimate
from advspur.records import record

# Budgets of adversarially trained models, in units of the one they were trained with.
ROBUST_BUDGETS = (0.5, 1.0, 2.0)
NUM_CLASSES = cifar10.NUM_CLASSES
DIRECTORIES = cifar10.DIRECTORIES
SIZES = cifar10.SIZES
DATASET = "cifar10"
CONTROL = 1.0  # rho of the control
UNCORRELATED = {"rho": CONTROL, "shift": 16 / 255, "seed": 0}


def load(data_dir, *, color_shift=UNCORRELATED, allow_partial=False, skip_unreadable=False):
    """{"test": Table, "uncorrelated": Table} of arrays, shifted at the model's rho and at 1.

    Args:
      data_dir: as of benchmark "cifar10".
      color_shift: {"rho", "shift", "seed"} that the model was trained with.
    """
    values = tuple(float(color_shift[name]) for name in ("rho", "shift")) + (color_shift["seed"],)
    return _load(data_dir, values, allow_partial, skip_unreadable)


@functools.lru_cache(maxsize=1)  # a Table of the arrays of all images
def _decoded(data_dir, allow_partial, skip_unreadable):
    options = {"allow_partial": allow_partial, "skip_unreadable": skip_unreadable}
    table = cifar10.load(data_dir, **options)["test"]
    decoded = in_memory(table, 32)
    decoded.skipped = table.skipped
    return decoded


@functools.lru_cache(maxsize=2)
def _load(data_dir, values, allow_partial, skip_unreadable):
    table = _decoded(data_dir, allow_partial, skip_unreadable)
    rho, shift, seed = values
    return {
        part: shifted_table(table, "test", rho=ratio, shift=shift, seed=seed)
        for part, ratio in (("test", rho), ("uncorrelated", CONTROL))
    }


def num_passes(data_dir, **options):
    """The most forward passes over an image that `evaluate` makes."""
    options = with_defaults(evaluate, options)
    check_attacks(options)
    reading = {name: options[name] for name in ("allow_partial", "skip_unreadable")}
    count = len(_decoded(data_dir, **reading))
    budgets = len(options["l2_epsilons"]) + len(options["linf_epsilons"])
    attacked = min(options["num_attacked"], count) * budgets
    return 2 * (count + attacked * attack_passes(options["attack_steps"]))


def evaluate(
    classifier,
    data_dir,
    *,
    batch_size,
    key,
    progress=None,
    cache_dir=None,
    color_shift,
    num_attacked=10_000,
    l2_epsilons=(0.05, 0.1, 0.15, 0.2, 0.25),
    linf_epsilons=(0.25 / 255, 0.5 / 255, 0.75 / 255, 1 / 255),
    attack_steps=20,
    allow_partial=False,
    skip_unreadable=False,
):
    """Accuracy of all images, of majority and minority, clean and under PGD, at rho and at 1.

    Under PGD of budget 0 stands the clean accuracy of the images that are attacked.

    Args:
      classifier: with ten classes.
      key: of the attacks' random starts, one an image.
      color_shift: {"rho", "shift", "seed"} that the model was trained with.
      num_attacked: the first so many images are attacked.
      l2_epsilons, linf_epsilons: budgets, [0, 1] pixel units.
      attack_steps: PGD steps of 2.5 epsilon / steps from a random point of the ball; the iterate of
        highest loss counts. The shift is part of the image, and may be attacked.
      allow_partial, skip_unreadable: of `load`.
    """
    require_classes(classifier, NUM_CLASSES)
    budgets = {"l2_epsilons": l2_epsilons, "linf_epsilons": linf_epsilons}
    check_attacks(budgets | {"num_attacked": num_attacked, "attack_steps": attack_steps})
    reading = {"allow_partial": allow_partial, "skip_unreadable": skip_unreadable}
    parts = load(data_dir, color_shift=color_shift, **reading)
    curves = [(p, e) for p, e in ((2.0, l2_epsilons), (math.inf, linf_epsilons)) if e]
    running = {"batch_size": batch_size, "image_size": 32, "progress": progress}
    records = []
    for part, table in parts.items():
        about = {"split": part}
        start = time.monotonic()
        correct = correct_on(classifier, table, **running)
        records += _records("accuracy", correct, table, about, start)
        for p, epsilons in curves:
            attack = {"p": p, "num_steps": attack_steps}
            shown = about | attack | {"p": "inf" if p == math.inf else p}
            first = correct[:num_attacked]
            records += _records("pgd_accuracy", first, table, shown | {"epsilon": 0.0}, start)
            for epsilon in epsilons:
                start = time.monotonic()
                survives = for_each_example(
                    functools.partial(_attacked, classifier, key, attack | {"epsilon": epsilon}),
                    table,
                    limit=num_attacked,
                    passes=attack_passes(attack_steps),
                    **running,
                )
                of_budget = shown | {"epsilon": epsilon}
                records += _records("pgd_accuracy", survives, table, of_budget, start)
    cut = clipped_share(
        _decoded(data_dir, **reading).columns["image"],
        parts["test"].columns["label"],
        parts["test"].columns["is_majority"],
        shift=color_shift["shift"],
    )
    cut = Estimate(cut, cut, cut, len(parts["test"]))  # a fact of the data
    return [*records, record("clipped_share", cut, options={})]


def _attacked(classifier, key, attack, batch, numbers):
    keys = jax.vmap(jax.random.fold_in, in_axes=(None, 0))(key, numbers)
    return correct_under_pgd(classifier, batch.image, batch.label, keys=keys, **attack)


def _records(metric, correct, table, options, start):
    """Accuracy of the first len(correct) images, of their majority and minority, and the gap."""
    is_majority = table.columns["is_majority"][: len(correct)]
    seconds = time.monotonic() - start
    estimates = {
        metric: metrics.accuracy(correct),
        f"majority_{metric}": metrics.accuracy(correct[is_majority]),
        f"minority_{metric}": metrics.accuracy(correct[~is_majority]),
        f"majority_minority_{metric}_gap": metrics.majority_minority_gap(correct, is_majority),
    }
    return [record(n, e, options=options, seconds=seconds) for n, e in estimates.items()]

"""Accuracy under PGD of a linear model with a known strongest perturbation."""

import math

import jax
import numpy as np
import pytest

from advspur._checks import InputError
from advspur.data import array_source
from advspur.measures import pgd_records, robust
from advspur.measures.robust import attack_passes, correct_under_pgd, plan_pgd
from advspur.predict import correct_clean
from tests.data.fake_layouts import Passes
from tests.measures.linear import margins, of_two_classes, worst_images

NUM, SIZE = 13, 8
RNG = np.random.default_rng(0)
IMAGES = RNG.integers(60, 196, (NUM, SIZE, SIZE, 3), np.uint8)
LABELS = RNG.integers(0, 2, NUM)
MAJORITY = np.arange(NUM) % 3 > 0
WEIGHT = RNG.normal(0, 1, (SIZE, SIZE, 3))
MODEL = of_two_classes(WEIGHT, 0.2 - np.median(np.tensordot(IMAGES / 255, WEIGHT, axes=3)))
EPSILONS = (0.006, 0.01, 0.02)
OPTIONS = {"l2_epsilons": (), "linf_epsilons": EPSILONS, "num_steps": 3, "num_attacked": NUM}


def parts(**columns):
    return {"test": array_source(IMAGES, LABELS, num_classes=2, **columns)}


def measure(tables, model=MODEL, **options):
    call = {"key": jax.random.key(5), "batch_size": 8} | OPTIONS | options
    return {(r.metric, r.options["epsilon"]): r for r in pgd_records(model, tables, **call)}


def exact(epsilon):
    """[NUM]: whether an image is right under every perturbation within a budget."""
    return margins(MODEL, worst_images(MODEL, IMAGES / 255, LABELS, epsilon), LABELS) > 0


@pytest.mark.parametrize("start", ("image", "ball"))
def test_robust_accuracy_is_exact_for_all_majority_and_minority(start):
    found = measure(parts(is_majority=MAJORITY), start=start)
    assert len({exact(epsilon).sum() for epsilon in (0, *EPSILONS)}) == 4
    for epsilon in (0, *EPSILONS):
        right = exact(epsilon)
        for name, of in (("", slice(None)), ("majority_", MAJORITY), ("minority_", ~MAJORITY)):
            record = found[f"{name}pgd_accuracy", epsilon]
            assert record.value == pytest.approx(right[of].mean(), abs=1e-12)
            assert record.num_examples == len(right[of])
            about = {"p": "inf", "num_steps": 3, "part": "test"}
            assert record.options == about | {"epsilon": epsilon}
        gap = found["majority_minority_pgd_accuracy_gap", epsilon].value
        assert gap == pytest.approx(right[MAJORITY].mean() - right[~MAJORITY].mean(), abs=1e-12)
    assert len(found) == 4 * 4


@pytest.mark.parametrize("images, rows", (("first", range(4)), ("spread", (0, 3, 6, 9))))
def test_chosen_images_are_attacked_and_budget_0_has_their_clean_accuracy(images, rows):
    found = measure(parts(), images=images, num_attacked=4)
    for epsilon in (0, *EPSILONS):
        record = found["pgd_accuracy", epsilon]
        assert record.value == pytest.approx(exact(epsilon)[list(rows)].mean())
        assert record.num_examples == 4
    assert set(found) == {("pgd_accuracy", epsilon) for epsilon in (0, *EPSILONS)}


def test_each_norm_and_part_has_its_records():
    tables = parts() | {"other": parts()["test"].subset([1, 5])}
    call = OPTIONS | {"l2_epsilons": (0.05,), "linf_epsilons": (0.01,)}
    records = pgd_records(MODEL, tables, key=jax.random.key(0), batch_size=8, **call)
    found = [(r.options["part"], r.options["p"], r.options["epsilon"]) for r in records]
    each = [(2.0, 0.0), (2.0, 0.05), ("inf", 0.0), ("inf", 0.01)]
    assert found == [(part, *about) for part in tables for about in each]


def test_planned_passes_are_made_once_for_each_start(tmp_path):
    """Random starts depend only on the key and on the images' numbers."""
    call = {"num_attacked": 5, "cache_dir": tmp_path}
    rest = OPTIONS | {"num_attacked": 5, "images": "spread"}
    told = plan_pgd(parts(), start="image", **rest)
    assert told == 3 * 5 * attack_passes(3)
    for change, done in (
        ({}, told + NUM),
        ({}, 0),
        ({"start": "ball"}, told),
        ({"key": jax.random.key(9)}, 0),  # the key is unused
        ({"key": jax.random.key(9), "start": "ball"}, told),
        ({"num_steps": 2}, told * attack_passes(2) // attack_passes(3)),
    ):
        progress = Passes()
        measure(parts(), progress=progress, **call | change)
        assert progress.done == done, change


def attack(model=MODEL, **change):
    call = {"p": 2.0, "epsilon": 0.1, "num_steps": 3} | change
    return correct_under_pgd(model, IMAGES, LABELS.astype(np.int32), **call)


def test_a_zero_budget_changes_nothing_and_a_large_one_always_succeeds():
    clean = correct_clean(MODEL, IMAGES, LABELS)
    np.testing.assert_array_equal(clean, exact(0))
    np.testing.assert_array_equal(attack(epsilon=0.0), clean)
    assert np.sum(clean) >= 4 and np.sum(attack(epsilon=1.0)) == 0


def test_bad_attacks_are_refused_by_name():
    """The budget is traced inside, so it is checked before."""
    for name, value in (("p", 3), ("epsilon", -1.0), ("epsilon", math.nan)):
        with pytest.raises(InputError, match=f"{name} = {value}"):
            attack(**{name: value})


def test_pixels_changed_outside_the_mask_are_an_error(monkeypatch):
    """An attack that leaves its mask but not its ball is caught."""
    mask = np.zeros((SIZE, SIZE, 1), bool)
    mask[:4] = True
    inside = worst_images(MODEL, IMAGES / 255, LABELS, 0.01, mask)
    found = attack(mask=mask, p=math.inf, epsilon=0.01)
    np.testing.assert_array_equal(found, margins(MODEL, inside, LABELS) > 0)
    pgd = robust.pgd

    def everywhere(*args, budget_weights, **options):
        return pgd(*args, **options)

    monkeypatch.setattr(robust, "pgd", everywhere)
    robust._attack.clear_cache()
    with pytest.raises(InputError, match=r"the perturbation of image \d+ is inf"):
        attack(mask=mask)
    robust._attack.clear_cache()

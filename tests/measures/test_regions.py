"""Noise, attacks and gradients on a region, for a linear model with known results."""

import dataclasses
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from advspur import theory
from advspur._checks import InputError
from advspur.data import array_source
from advspur.data.masks import mask_regions
from advspur.measures import Regions, region_records, regions
from advspur.predict import for_each_example
from tests.data.fake_layouts import Passes
from tests.measures.linear import linear, margins, of_two_classes, worst_images

SIZE, NUM = 8, 13
RNG = np.random.default_rng(0)
IMAGES = RNG.integers(60, 196, (NUM, SIZE, SIZE, 3), np.uint8)
PIXELS = IMAGES / 255
LABELS = np.array([0, 1, 1, 0, 1, 0, 0, 1, 1, 1, 0, 1, 1])
# Discs of several sizes; image 3 has no core, image 7 nothing else.
MASKS = np.zeros((NUM, SIZE, SIZE, 1), np.uint8)
for _i in range(NUM):
    MASKS[_i, 1 : 3 + _i % 4, 2 : 5 + _i % 3] = 255
MASKS[3], MASKS[7] = 0, 255
TAKES_PART = np.arange(NUM) != 3
WEIGHT = RNG.normal(0, 1, (SIZE, SIZE, 3))
BIAS = 0.2 - np.median(np.sum(PIXELS * WEIGHT, axis=(1, 2, 3)))
MODEL = of_two_classes(WEIGHT, BIAS)
ALWAYS_1 = of_two_classes(WEIGHT, 1e4)
NAMES = ("core", "rest")
OPTIONS = {
    "names": NAMES,
    "linf_noise_levels": (0.1, 0.4),
    "l2_noise_levels": (112.0,),  # 4 for images of 8 pixels
    "trials": 2,
    "l2_epsilons": (),
    "linf_epsilons": (0.005, 0.03),
    "attack_steps": 3,
    "num_attacked": NUM,
}
QUIET = {"linf_noise_levels": (), "l2_noise_levels": (), "linf_epsilons": ()}
NO_NOISE = {"linf_noise_levels": (), "l2_noise_levels": ()}


def table(masks=MASKS, labels=LABELS):
    return array_source(IMAGES, labels, num_classes=2, mask=masks)


def measure(model=MODEL, source=None, **change):
    running = {"key": jax.random.key(5), "batch_size": 8}
    parts = {"test": table() if source is None else source}
    return region_records(model, parts, **running | OPTIONS | change)


@pytest.fixture(scope="module")
def records():
    return measure()


def value(records, metric, **options):
    def matches(record):
        found = {k: v for k, v in record.options.items() if k not in ("degenerate", "part")}
        return record.metric == metric and found == options

    (found,) = filter(matches, records)
    return found


def balanced(correct, labels):
    return np.mean([np.mean(correct[..., labels == k]) for k in np.unique(labels)])


def formula(core, rest):
    mean = (core + rest) / 2
    return (rest - core) / (2 * min(mean, 1 - mean))


def test_areas_and_gradients_use_the_images_with_a_core(records):
    area = value(records, "spurious_area")
    assert area.value == pytest.approx(np.mean(1 - MASKS[TAKES_PART] / 255), rel=1e-6)
    share = np.sum((1 - MASKS / 255) * WEIGHT**2, axis=(1, 2, 3)) / np.sum(WEIGHT**2)
    found = value(records, "norm_fraction_spurious")
    assert found.value == pytest.approx(np.mean(share[TAKES_PART]), rel=1e-5)
    assert {r.num_examples for r in records} == {TAKES_PART.sum()}
    assert {r.options["part"] for r in records} == {"test"}


def test_images_without_a_gradient_are_left_out():
    """The weights are zero and the prediction is constant."""
    records = measure(of_two_classes(0 * WEIGHT, 1.0), **QUIET)
    found = value(records, "norm_fraction_spurious")
    assert found.num_examples == 0 and math.isnan(found.value)
    assert value(records, "spurious_area").num_examples == TAKES_PART.sum()


def noisy_outcomes(family, levels):
    """[region, level, trial, n] bool from the noise of two keys, computed with NumPy."""
    outcomes = np.zeros((2, len(levels), 2, NUM), bool)
    for trial in range(2):
        key = jax.random.fold_in(jax.random.key(5), trial)
        z = [jax.random.normal(jax.random.fold_in(key, i), (SIZE, SIZE, 3)) for i in range(NUM)]
        for number, region in enumerate((MASKS / 255, 1 - MASKS / 255)):
            noise = np.float64(z) * region
            if family == "l2":
                length = np.sqrt(np.sum(noise**2, axis=(1, 2, 3), keepdims=True))
                noise = noise / np.where(length > 0, length, 1)
            for index, level in enumerate(levels):
                images = np.clip(PIXELS + level * noise, 0, 1)
                outcomes[number, index, trial] = margins(MODEL, images, LABELS) > 0
    return outcomes


def assert_noisy(records, outcomes, chosen, family, levels):
    """The records of a noise family agree with these outcomes of the chosen images."""
    labels, outcomes = LABELS[chosen], outcomes[..., chosen]
    accuracies = [[balanced(o, labels) for o in of_region] for of_region in outcomes]
    assert np.any(outcomes[0] != outcomes[1])
    for index, level in enumerate(levels):
        at_level = {"family": family, "trials": 2, "level": level}
        for name, of_region in zip(NAMES, accuracies, strict=True):
            found = value(records, f"{name}_noise_accuracy", **at_level)
            assert found.value == pytest.approx(of_region[index], abs=1e-9)
        found = value(records, "relative_core_sensitivity", **at_level)
        assert found.value == pytest.approx(formula(*(a[index] for a in accuracies)), abs=1e-9)
    of_all = {"family": family, "trials": 2, "levels": list(levels)}
    found = value(records, "relative_core_sensitivity", **of_all)
    assert found.value == pytest.approx(formula(*map(np.mean, accuracies)), abs=1e-9)
    found = value(records, "mean_relative_core_sensitivity", **of_all)
    each = [formula(*pair) for pair in zip(*accuracies, strict=True)]
    assert found.value == pytest.approx(np.mean(each), abs=1e-9)


@pytest.mark.parametrize("family, levels", (("linf", (0.1, 0.4)), ("l2", (4.0,))))
def test_noise_numbers_agree_with_an_independent_count(records, family, levels):
    assert_noisy(records, noisy_outcomes(family, levels), TAKES_PART, family, levels)


def test_a_subset_keeps_the_noise_numbers_of_its_images():
    """The noise depends on their numbers in the whole, not on their places in the subset."""
    rows = np.array([11, 2, 5, 9, 6, 0, 1, 10])
    change = {"l2_noise_levels": (), "linf_epsilons": ()}
    found = measure(source=table().subset(rows), **change)
    assert_noisy(found, noisy_outcomes("linf", (0.1, 0.4)), rows, "linf", (0.1, 0.4))


def exact_attack(region, epsilon):
    """Whether images are right under the worst linf perturbation of a region."""
    return margins(MODEL, worst_images(MODEL, PIXELS, LABELS, epsilon, region), LABELS) > 0


def assert_attacked_exactly(records, core, rest, chosen, **protocol):
    labels, accuracies = LABELS[chosen], []
    about = {"p": "inf", "num_steps": 3} | protocol
    for epsilon in OPTIONS["linf_epsilons"]:
        at_epsilon = [
            balanced(exact_attack(region, epsilon)[chosen], labels) for region in (core, rest)
        ]
        for name, expected in zip(NAMES, at_epsilon, strict=True):
            found = value(records, f"{name}_attack_accuracy", epsilon=epsilon, **about)
            assert found.value == pytest.approx(expected, abs=1e-9)
            assert found.num_examples == chosen.sum()
        found = value(records, "adversarial_relative_core_sensitivity", epsilon=epsilon, **about)
        assert found.value == pytest.approx(formula(*at_epsilon), abs=1e-9)
        accuracies.append(at_epsilon)
    of_all = about | {"epsilons": list(OPTIONS["linf_epsilons"])}
    found = value(records, "adversarial_relative_core_sensitivity", **of_all)
    assert found.value == pytest.approx(formula(*np.mean(accuracies, axis=0)), abs=1e-9)
    assert len({tuple(a) for a in accuracies}) > 1 and any(a != b for a, b in accuracies)


def test_attacks_on_a_region_reach_the_exact_optimum(records):
    core = MASKS > 0
    assert_attacked_exactly(records, core, ~core, TAKES_PART)


def test_attacks_use_soft_regions_from_one_half_on():
    """A mask of 127 / 255 is just background, for both regions."""
    masks = np.where(MASKS > 0, 130, 100).astype(np.uint8)
    masks[5] = 127
    found = measure(source=table(masks), **NO_NOISE)
    core = masks >= 127.5
    takes_part = core.any((1, 2, 3))
    assert takes_part.sum() == NUM - 2
    assert_attacked_exactly(found, core, ~core, takes_part)
    assert value(found, "spurious_area").num_examples == NUM  # all have a soft core


DOTTED = np.concatenate([MASKS, np.zeros_like(MASKS)], axis=-1)
DOTTED[:, 6, 1:7, 1] = 180
DOTTED[2, ..., 1] = 0  # image 2 has no spurious feature


@pytest.mark.parametrize(
    "options, shown",
    (
        ({"mask": "threshold"}, {}),
        ({"dilation_rounds": 1}, {"dilation_rounds": 1, "spurious_region": "complement"}),
        ({"spurious_region": "masks"}, {"dilation_rounds": 0, "spurious_region": "masks"}),
    ),
)
def test_regions_follow_the_protocol_of_the_masks(options, shown):
    """`mask_regions` makes them (tested there); records show options that are not the default."""
    found = measure(source=table(DOTTED), **NO_NOISE, **options)
    core, rest = (np.asarray(r) for r in mask_regions(jnp.asarray(DOTTED), **options))
    takes_part = core.any((1, 2, 3))
    lost = {3, 2} if "spurious_region" in options else {3}
    assert set(np.flatnonzero(~takes_part)) == lost
    area = value(found, "spurious_area", **shown)
    assert area.value == pytest.approx(rest[takes_part].mean(), rel=1e-5)
    assert area.num_examples == NUM - len(lost)
    assert_attacked_exactly(found, core >= 0.5, rest >= 0.5, takes_part, **shown)


def test_the_attacked_images_are_spread_over_the_data():
    """Four of 13: 0, 4, 8 and 12."""
    found = measure(num_attacked=4, **NO_NOISE)
    assert {r.num_examples for r in found if "attack" in r.metric} == {4}
    chosen = np.isin(np.arange(NUM), (0, 4, 8, 12))
    options = {"p": "inf", "num_steps": 3, "epsilon": 0.03}
    accuracy = value(found, "core_attack_accuracy", **options).value
    expected = balanced(exact_attack(MASKS > 0, 0.03)[chosen], LABELS[chosen])
    assert accuracy == pytest.approx(expected, abs=1e-9)


def test_a_sensitivity_without_room_is_0_and_marked():
    always_right = measure(ALWAYS_1, table(labels=np.ones(NUM, int)))
    found = [r for r in always_right if "sensitivity" in r.metric]
    assert len(found) >= 8 and all(r[1:4] == (0, -1, 1) for r in found)
    marked = [r for r in found if not r.metric.startswith("mean_")]
    assert all(r.options["degenerate"] is True for r in marked)


def test_data_without_a_core_are_refused():
    with pytest.raises(InputError, match="every mask of .* is empty: no image has a core"):
        measure(source=table(np.zeros_like(MASKS)))


def test_attacked_images_without_a_core_give_no_number():
    masks = MASKS.copy()
    masks[[0, 4, 8, 12]] = 0  # the four that are attacked
    found = measure(source=table(masks), num_attacked=4, **NO_NOISE)
    attacked = [r for r in found if "attack" in r.metric]
    assert attacked and all(r.num_examples == 0 and math.isnan(r.value) for r in attacked)


def test_the_order_of_work_does_not_change_the_numbers(records, monkeypatch):
    """Batches of 5 instead of 8, and one device instead of four."""
    assert jax.local_device_count() == 4
    one = jax.devices()[:1]
    monkeypatch.setattr(jax, "local_devices", lambda *_, **__: one)
    monkeypatch.setattr(jax, "local_device_count", lambda *_, **__: 1)
    found = measure(batch_size=5)
    assert [(r.metric, r.options) for r in found] == [(r.metric, r.options) for r in records]
    numbers, expected = ([r[1:4] for r in of] for of in (found, records))
    np.testing.assert_allclose(numbers, expected, rtol=1e-5, atol=1e-7)


def test_an_image_is_moved_to_the_devices_once(monkeypatch):
    put, moved = jax.device_put, []

    def counted(tree, *args, **more):
        for leaf in jax.tree.leaves(tree):
            if np.shape(leaf)[1:] == (SIZE, SIZE, 3) and leaf.dtype == np.uint8:
                moved.append(len(leaf))
        return put(tree, *args, **more)

    monkeypatch.setattr(jax, "device_put", counted)
    measure(linf_epsilons=())
    assert moved == [8, 8]


@pytest.mark.parametrize(
    "change", ({"num_attacked": 5, "trials": 1}, {"num_attacked": 0}, QUIET | {"trials": 0})
)
def test_planned_passes_are_made_once(change, tmp_path):
    """A second call reads all outcomes; a new key redraws noise, but attacks have no key."""
    told = regions.plan_regions({"test": table()}, **OPTIONS | change)
    first, second, other = Passes(), Passes(), Passes()
    call = change | {"cache_dir": tmp_path}
    found = measure(progress=first, **call)
    assert (first.done, first.skipped) == (told, 0)
    assert str(measure(progress=second, **call)) == str(found)
    assert (second.done, second.skipped) == (0, told)
    measure(progress=other, key=jax.random.key(6), **call)
    assert other.done == NUM * Regions(**OPTIONS | change).passes
    if change.get("num_attacked") == 0:
        assert not any("attack" in r.metric for r in found)


# Gradients: the share on a region, against the theory's for linear models.

REST = RNG.random((NUM, SIZE, SIZE, 1)) < np.linspace(0, 1, NUM)[:, None, None, None]
REST[0], REST[-1] = False, True


@pytest.mark.parametrize("scale", (1.0, 1e-25, 1e25))
def test_deep_nfs_of_a_linear_model_agrees_with_the_theory(scale):
    """Squares of gradients of 1e-25 and 1e25 leave the range of float32."""
    is_spurious = np.broadcast_to(REST, IMAGES.shape).reshape(NUM, -1)
    expected = [theory.norm_fraction_spurious(WEIGHT.ravel(), s) for s in is_spurious]
    by_hand = [np.sum(WEIGHT.ravel()[s] ** 2) / np.sum(WEIGHT**2) for s in is_spurious]
    model = of_two_classes(scale * WEIGHT, 0.1)
    got, has_share = regions.gradient_share(model, IMAGES, LABELS, REST.astype(np.float32))
    assert np.all(has_share) and (got[0], got[-1]) == (0, 1) and 0 < got[5] < 1
    np.testing.assert_allclose(got, expected, rtol=1e-5, atol=1e-7)
    np.testing.assert_allclose(got, by_hand, rtol=1e-5, atol=1e-7)


def test_the_margin_is_to_the_largest_of_the_others():
    """For three classes, the gradient is the label's weight minus that of the runner-up."""
    weights = RNG.normal(0, 1, (SIZE, SIZE, 3, 3))
    model = linear(weights, np.zeros(3))
    scores = np.tensordot(IMAGES / 255, weights, axes=3)
    scores[np.arange(NUM), LABELS] = -np.inf
    grads = weights[..., LABELS] - weights[..., scores.argmax(axis=1)]
    energy = np.moveaxis(grads, -1, 0) ** 2
    expected = np.sum(energy * REST, axis=(1, 2, 3)) / np.sum(energy, axis=(1, 2, 3))
    got, _ = regions.gradient_share(model, IMAGES, LABELS, REST.astype(np.float32))
    np.testing.assert_allclose(got, expected, rtol=1e-5, atol=1e-7)


def sighted(params, images):
    """A linear model of images with a bright first pixel; other logits are 0."""
    weights, bias = params
    logits = jax.numpy.tensordot(images, weights, axes=3) + bias
    return logits * (images[:, :1, 0, 0] > 0.5), None


def test_a_zero_gradient_has_no_share():
    model = dataclasses.replace(of_two_classes(WEIGHT, 0.1), forward=sighted)
    _, has_share = regions.gradient_share(model, IMAGES, LABELS, REST.astype(np.float32))
    bright = IMAGES[:, 0, 0, 0] / 255 > 0.5
    assert has_share.tolist() == bright.tolist() and 0 < bright.sum() < NUM


# Noise: confined, of its size, the same for all regions, batches and subsets.

SIDE, NUMBERS = 16, np.arange(8)
GREY = np.full((8, SIDE, SIDE, 3), 128, np.uint8)
DISC = np.hypot(*(np.indices((SIDE, SIDE)) - 6)) < 5
DISCS = np.broadcast_to(DISC[None, :, :, None], (8, SIDE, SIDE, 1)).astype(np.float32)


def noise_on(region, numbers, key, *, family):
    z = regions.gaussian_noise(GREY[: len(numbers)], numbers, key)
    return regions.region_noise(z, region, family=family)


@pytest.mark.parametrize("inverted", (False, True))
def test_noise_is_confined_to_its_region_and_has_its_size(inverted, key):
    region = 1 - DISCS if inverted else DISCS
    for family in ("linf", "l2"):
        assert not np.any(noise_on(0 * region, NUMBERS, key, family=family))
    on = np.broadcast_to(region == 1, GREY.shape)
    z = np.asarray(noise_on(region, NUMBERS, key, family="linf"))
    assert not np.any(z[~on]) and np.all(z[on])
    # one standard deviation, within 4 standard errors of a standard deviation
    assert abs(z[on].std() - 1) < 4 / np.sqrt(2 * on.sum())
    unit = np.asarray(noise_on(region, NUMBERS, key, family="l2")).reshape(8, -1)
    np.testing.assert_allclose(np.linalg.norm(unit, axis=1), 1, rtol=1e-5)
    flat = z.reshape(8, -1)
    np.testing.assert_allclose(unit, flat / np.linalg.norm(flat, axis=1)[:, None], atol=1e-6)


def test_a_subset_has_the_noise_of_the_whole(key):
    table = array_source(GREY, NUMBERS, num_classes=8)
    rows = np.array([6, 1, 3, 7, 0])

    def noise(batch, numbers):
        return {"z": regions.gaussian_noise(batch.image, numbers, key)}

    regions.gaussian_noise.clear_cache()  # other tests may compile a size with other flags
    whole = for_each_example(noise, table, batch_size=4)["z"]
    some = for_each_example(noise, table.subset(rows), batch_size=4)["z"]
    fewer = for_each_example(noise, table.subset(rows).subset([2, 4]), batch_size=8)["z"]
    np.testing.assert_array_equal(some, whole[rows])
    np.testing.assert_array_equal(fewer, whole[[3, 0]])
    assert len(np.unique(whole.reshape(8, -1), axis=0)) == 8


def test_noisy_pixels_are_clipped_to_the_box():
    """Black and white images stay unchanged if their noise leads out of the box.

    At mean brightness m the logits are 0.3, -m and m - 0.9: the first is largest for m = 0 and 1,
    one of the others for m = -1/2 and 3/2.
    """
    images = np.stack([np.zeros_like(GREY[0]), np.full_like(GREY[0], 255)] * 4)
    noise = np.where(images == 0, -1.0, 1.0).astype(np.float32)
    mean = np.full((SIDE, SIDE, 3), 1 / GREY[0].size)
    model = linear(np.stack([0 * mean, -mean, mean], axis=-1), [0.3, 0, -0.9])
    right = regions.correct_under_noise(model, images, np.zeros(8, int), noise, 0.5)
    np.testing.assert_array_equal(right, np.ones(8))

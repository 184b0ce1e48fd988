"""Noise, attacks and gradients on a region: a linear model, whose every number is known."""

import math

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from advspur.benchmarks.regions import Regions, region_records
from tests.benchmarks.layouts import Passes

from advspur import theory
from advspur._checks import InputError
from advspur.benchmarks import BENCHMARKS, predict
from advspur.data import array_source

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
REGIONS = Regions(
    names=("core", "rest"),
    linf_noise_levels=(0.1, 0.4),
    l2_noise_levels=(4.0,),
    trials=2,
    l2_epsilons=(),
    linf_epsilons=(0.005, 0.03),
    attack_steps=3,
    num_attacked=NUM,
)


@flax.struct.dataclass
class Linear:
    """Two classes, logits (0, <weight, x> + bias)."""

    weight: jax.Array
    bias: jax.Array

    @property
    def num_classes(self):
        return 2

    def logits(self, images):
        margin = jnp.sum(images * self.weight, axis=(1, 2, 3)) + self.bias
        return jnp.stack([jnp.zeros_like(margin), margin], axis=1)


def linear(weight=WEIGHT, bias=None):
    bias = 0.2 - np.median(np.sum(PIXELS * WEIGHT, axis=(1, 2, 3))) if bias is None else bias
    return Linear(jnp.asarray(weight, jnp.float32), jnp.float32(bias))


def table(masks=MASKS, labels=LABELS):
    return array_source(IMAGES, labels, num_classes=2, mask=masks)


def measure(classifier=None, source=None, **change):
    call = {"key": jax.random.key(5), "batch_size": 8, "image_size": SIZE} | {
        name: change.pop(name)
        for name in ("batch_size", "progress", "to_regions")
        if name in change
    }
    return region_records(
        classifier or linear(), source or table(), REGIONS._replace(**change), **call
    )


@pytest.fixture(scope="module")
def records():
    return measure()


def value(records, metric, **options):
    def matches(record):
        found = {k: v for k, v in record.options.items() if k != "degenerate"}
        return record.metric == metric and found == options

    (found,) = filter(matches, records)
    return found


def margins(images, labels=LABELS):
    """<0 where the prediction is wrong, in float64; never so near 0 that rounding matters."""
    model = linear()
    score = np.sum(images * np.float64(model.weight), axis=(1, 2, 3)) + float(model.bias)
    found = np.where(labels == 1, score, -score)
    assert np.abs(found).min() > 1e-5
    return found


def balanced(correct, labels):
    return np.mean([np.mean(correct[..., labels == k]) for k in np.unique(labels)])


def formula(core, rest):
    mean = (core + rest) / 2
    return (rest - core) / (2 * min(mean, 1 - mean))


@pytest.mark.parametrize("scale", (1.0, 1e-25, 1e25))
def test_deep_nfs_of_a_linear_model_is_the_theorys(scale):
    """Squares of gradients of 1e-25 and 1e25 are no float32 numbers."""
    rest = 1 - MASKS / np.float32(255)
    is_spurious = np.broadcast_to(rest > 0, IMAGES.shape).reshape(NUM, -1)
    expected = [theory.norm_fraction_spurious(WEIGHT.ravel(), s) for s in is_spurious]
    got, _ = predict.gradient_share(linear(scale * WEIGHT), IMAGES, LABELS, rest)
    np.testing.assert_allclose(got, expected, rtol=1e-5, atol=1e-7)
    by_hand = [np.sum(WEIGHT.ravel()[s] ** 2) / np.sum(WEIGHT**2) for s in is_spurious]
    np.testing.assert_allclose(got, by_hand, rtol=1e-5, atol=1e-7)
    assert got[3] == 1 and got[7] == 0 and 0 < got[0] < 1


def test_a_soft_region_takes_its_share_of_every_pixel():
    region = RNG.uniform(0, 1, (NUM, SIZE, SIZE, 1)).astype(np.float32)
    got, _ = predict.gradient_share(linear(), IMAGES, LABELS, region)
    expected = np.sum(region * WEIGHT**2, axis=(1, 2, 3)) / np.sum(WEIGHT**2)
    np.testing.assert_allclose(got, expected, rtol=1e-5)
    parts, _ = predict.gradient_share(linear(), IMAGES, LABELS, 1 - region)
    np.testing.assert_allclose(got + parts, 1, rtol=1e-5)


@flax.struct.dataclass
class Sighted(Linear):
    """Sees images whose first pixel is bright, of the others nothing."""

    # jax (0.10, 0.11) takes dataclasses of the same fields for one type, in one of 128 runs: then
    # it hands Sighted the program compiled for Linear. A static field of its own tells them apart.
    kind: str = flax.struct.field(pytree_node=False, default="sighted")

    def logits(self, images):
        return super().logits(images) * (images[:, :1, 0, 0] > 0.5)


def test_images_without_a_gradient_have_no_share_and_do_not_count():
    model = Sighted(*jax.tree.leaves(linear()))
    assert jax.tree.structure(model) != jax.tree.structure(linear())
    bright = IMAGES[:, 0, 0, 0] / 255 > 0.5
    rest = 1 - MASKS / np.float32(255)
    share, has_share = map(np.asarray, predict.gradient_share(model, IMAGES, LABELS, rest))
    assert has_share.tolist() == bright.tolist()
    records = measure(model, linf_noise_levels=(), l2_noise_levels=(), linf_epsilons=())
    found = value(records, "norm_fraction_spurious")
    counted = bright & TAKES_PART
    assert 0 < counted.sum() < TAKES_PART.sum() and found.num_examples == counted.sum()
    assert found.value == pytest.approx(np.mean(share[counted]), rel=1e-5)


def test_accuracy_is_of_all_images_and_the_rest_of_those_with_a_core(records):
    accuracy = value(records, "accuracy")
    assert accuracy.value == pytest.approx(np.mean(margins(PIXELS) > 0), abs=1e-9)
    assert accuracy.num_examples == NUM
    area = value(records, "spurious_area")
    assert area.value == pytest.approx(np.mean(1 - MASKS[TAKES_PART] / 255), rel=1e-6)
    share = np.sum((1 - MASKS / 255) * WEIGHT**2, axis=(1, 2, 3)) / np.sum(WEIGHT**2)
    found = value(records, "norm_fraction_spurious")
    assert found.value == pytest.approx(np.mean(share[TAKES_PART]), rel=1e-5)
    assert {r.num_examples for r in records if r is not accuracy} == {TAKES_PART.sum()}


def noisy_outcomes(family, levels):
    """[region, level, trial, n] bool from the noise of the two keys, counted with NumPy."""
    outcomes = np.zeros((2, len(levels), REGIONS.trials, NUM), bool)
    for trial in range(REGIONS.trials):
        key = jax.random.fold_in(jax.random.key(5), trial)
        z = [jax.random.normal(jax.random.fold_in(key, i), (SIZE, SIZE, 3)) for i in range(NUM)]
        for number, region in enumerate((MASKS / 255, 1 - MASKS / 255)):
            noise = np.float64(z) * region
            if family == "l2":
                length = np.sqrt(np.sum(noise**2, axis=(1, 2, 3), keepdims=True))
                noise = noise / np.where(length > 0, length, 1)
            for index, level in enumerate(levels):
                images = np.clip(PIXELS + level * noise, 0, 1)
                outcomes[number, index, trial] = margins(images) > 0
    return outcomes[..., TAKES_PART]


@pytest.mark.parametrize("family, levels", (("linf", (0.1, 0.4)), ("l2", (4.0,))))
def test_noise_numbers_agree_with_an_independent_count(records, family, levels):
    outcomes, labels = noisy_outcomes(family, levels), LABELS[TAKES_PART]
    accuracies = [[balanced(o, labels) for o in of_region] for of_region in outcomes]
    assert np.any(outcomes[0] != outcomes[1])
    for index, level in enumerate(levels):
        at_level = {"family": family, "trials": 2, "level": level}
        for name, of_region in zip(REGIONS.names, accuracies, strict=True):
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


def exact_attack(region, epsilon):
    """Right under the worst linf perturbation of a region inside of the box, in closed form."""
    up = np.where(LABELS == 1, -1, 1)[:, None, None, None] * np.sign(WEIGHT)
    worst = np.where(region, np.clip(PIXELS + epsilon * up, 0, 1), PIXELS)
    return margins(worst) > 0


def assert_attacked_exactly(records, core, rest, chosen):
    labels, accuracies = LABELS[chosen], []
    for epsilon in REGIONS.linf_epsilons:
        options = {"p": "inf", "num_steps": 3, "epsilon": epsilon}
        at_epsilon = [
            balanced(exact_attack(region, epsilon)[chosen], labels) for region in (core, rest)
        ]
        for name, expected in zip(REGIONS.names, at_epsilon, strict=True):
            found = value(records, f"{name}_attack_accuracy", **options)
            assert found.value == pytest.approx(expected, abs=1e-9)
            assert found.num_examples == chosen.sum()
        found = value(records, "adversarial_relative_core_sensitivity", **options)
        assert found.value == pytest.approx(formula(*at_epsilon), abs=1e-9)
        accuracies.append(at_epsilon)
    of_all = {"p": "inf", "num_steps": 3, "epsilons": list(REGIONS.linf_epsilons)}
    found = value(records, "adversarial_relative_core_sensitivity", **of_all)
    assert found.value == pytest.approx(formula(*np.mean(accuracies, axis=0)), abs=1e-9)
    assert len({tuple(a) for a in accuracies}) > 1 and any(a != b for a, b in accuracies)


def test_attacks_on_a_region_reach_the_exact_optimum(records):
    core = MASKS > 0
    assert_attacked_exactly(records, core, ~core, TAKES_PART)


def test_attacks_take_soft_regions_from_one_half_on():
    """A mask of 127 / 255 is just background; both regions are judged after that."""
    masks = np.where(MASKS > 0, 130, 100).astype(np.uint8)
    masks[5] = 127
    none = {"linf_noise_levels": (), "l2_noise_levels": ()}
    found = measure(source=table(masks), **none)
    core = masks >= 127.5
    takes_part = core.any((1, 2, 3))
    assert takes_part.sum() == NUM - 2
    assert_attacked_exactly(found, core, ~core, takes_part)
    assert value(found, "spurious_area").num_examples == NUM  # softly, all have a core


def test_the_attacked_images_are_spread_over_the_data():
    """Four of 13: 0, 4, 8 and 12."""
    none = {"linf_noise_levels": (), "l2_noise_levels": ()}
    found = measure(num_attacked=4, **none)
    assert {r.num_examples for r in found if "attack" in r.metric} == {4}
    chosen = np.isin(np.arange(NUM), (0, 4, 8, 12))
    options = {"p": "inf", "num_steps": 3, "epsilon": 0.03}
    accuracy = value(found, "core_attack_accuracy", **options).value
    expected = balanced(exact_attack(MASKS > 0, 0.03)[chosen], LABELS[chosen])
    assert accuracy == pytest.approx(expected, abs=1e-9)


def test_a_sensitivity_without_room_is_0_and_marked():
    always_right = measure(linear(bias=1e4), table(labels=np.ones(NUM, int)))
    found = [r for r in always_right if "sensitivity" in r.metric]
    assert len(found) >= 8 and all(r[1:4] == (0, -1, 1) for r in found)
    marked = [r for r in found if not r.metric.startswith("mean_")]
    assert all(r.options["degenerate"] is True for r in marked)


def test_a_constant_prediction_is_not_marked(records):
    """Right on one class and wrong on the other: 1/2 under any noise, but not without room."""
    constant = measure(linear(bias=1e4))
    found = [r for r in constant if "sensitivity" in r.metric]
    assert all(r.value == 0 and "degenerate" not in r.options for r in found)
    assert not any("degenerate" in r.options for r in records)


def test_data_without_a_core_are_refused_in_words():
    with pytest.raises(InputError, match="no image of .* has a core: all masks are empty"):
        measure(source=table(np.zeros_like(MASKS)))


def test_changes_of_the_regions_are_checked():
    assert REGIONS.changed(None) == REGIONS and REGIONS.changed({"trials": 5}).trials == 5
    for changes, match in (
        ({"trial": 1}, r"regions has \['trial'\]; it knows names, linf_noise"),
        ({"trials": 0}, "regions.trials = 0: it must be a whole number >= 1"),
        ({"attack_steps": 0}, "regions.attack_steps = 0: it must be a whole number >= 1"),
        ({"l2_epsilons": (-1.0,)}, "regions.l2_epsilons = .*: it must be finite and >= 0"),
        ({"linf_noise_levels": ("",)}, "regions.linf_noise_levels = .*: give a list of num"),
    ):
        with pytest.raises(InputError, match=match):
            REGIONS.changed(changes)


def test_attacked_images_without_a_core_give_no_number_or_one_line():
    masks = MASKS.copy()
    masks[[0, 4, 8, 12]] = 0  # the four that are attacked
    records = measure(source=table(masks), num_attacked=4)
    attacked = [r for r in records if "attack" in r.metric]
    assert all(r.num_examples == 0 and math.isnan(r.value) for r in attacked)


def test_the_order_of_work_does_not_change_the_numbers(records, monkeypatch):
    """Batches of 4 instead of 8, and one device instead of four."""

    def plain(found):
        return [(r.metric, r.options) for r in found], [r[1:4] for r in found]

    def assert_equal(found):
        names, numbers = plain(found)
        assert names == plain(records)[0]
        np.testing.assert_allclose(numbers, plain(records)[1], rtol=1e-5, atol=1e-7)

    assert_equal(measure(batch_size=4))
    assert jax.local_device_count() == 4
    one = jax.devices()[:1]
    monkeypatch.setattr(jax, "local_devices", lambda *_, **__: one)
    monkeypatch.setattr(jax, "local_device_count", lambda *_, **__: 1)
    assert_equal(measure(batch_size=5))


@pytest.mark.parametrize("levels", ((0.2,), (0.1, 0.2, 0.3, 0.4)))
def test_an_image_is_moved_to_the_devices_once_for_all_noise(levels, monkeypatch):
    put, moved = jax.device_put, []

    def counted(tree, *args, **more):
        for leaf in jax.tree.leaves(tree):
            if np.shape(leaf)[1:] == (SIZE, SIZE, 3) and leaf.dtype == np.uint8:
                moved.append(len(leaf))
        return put(tree, *args, **more)

    monkeypatch.setattr(jax, "device_put", counted)
    measure(linf_noise_levels=levels, linf_epsilons=())
    assert moved == [8, 8]


@pytest.mark.parametrize(
    "change",
    (
        {},
        {"num_attacked": 5, "l2_epsilons": (0.1,), "trials": 1},
        {"num_attacked": 100},
        {"linf_noise_levels": (), "l2_noise_levels": (), "trials": 0, "linf_epsilons": ()},
    ),
)
def test_the_passes_told_are_the_passes_made(change):
    progress = Passes()
    measure(progress=progress, **change)
    assert progress.done == REGIONS._replace(**change).num_passes(NUM)


def test_attacking_no_image_attacks_none_or_is_refused():
    """`num_passes` tells of no attack then."""
    progress = Passes()
    try:
        found = measure(num_attacked=0, progress=progress)
    except InputError as error:
        assert "num_attacked" in str(error)
        return
    assert progress.done == REGIONS._replace(num_attacked=0).num_passes(NUM)
    assert all(r.num_examples == 0 for r in found if "attack" in r.metric)


def test_the_embedded_benchmark_makes_the_passes_it_tells(tiny_classifier, easy_shapes):
    options = {
        "num_examples": 16, "num_attacked": 5, "l2_epsilons": (0.1,), "linf_epsilons": (),
        "attack_steps": 2,
        "regions": {
            "linf_noise_levels": (0.2,), "l2_noise_levels": (), "l2_epsilons": (0.5,),
            "linf_epsilons": (), "attack_steps": 2, "num_attacked": 6,
        },
    }  # fmt: skip
    module, progress = BENCHMARKS["spurious_shapes"], Passes()
    module.evaluate(
        tiny_classifier, batch_size=8, key=jax.random.key(0), shapes=easy_shapes,
        progress=progress, **options,
    )  # fmt: skip
    assert progress.done == module.num_passes(**options)


@pytest.mark.parametrize("batch_size, seen", ((1, 4), (4, 4), (5, 8), (13, 16), (50, 52)))
def test_batches_are_rounded_up_to_the_devices(batch_size, seen):
    shapes, progress = set(), Passes()

    def function(batch, numbers):
        shapes.add((batch.image.shape, numbers.shape, len(batch.image.sharding.device_set)))
        return {"label": batch.label, "twice": {"number": 2 * numbers}}

    found = predict.for_each_example(
        function, table(), batch_size=batch_size, image_size=SIZE, progress=progress, passes=3
    )
    assert shapes == {((seen, SIZE, SIZE, 3), (seen,), 4)}
    assert progress.done == 3 * NUM
    np.testing.assert_array_equal(found["label"], LABELS)
    np.testing.assert_array_equal(found["twice"]["number"], 2 * np.arange(NUM))


@pytest.mark.parametrize("limit", (0, None))
def test_a_source_without_examples_is_refused(limit):
    source = table() if limit == 0 else table().subset([])
    with pytest.raises(InputError, match="no example"):
        predict.for_each_example(
            lambda batch, _: batch.label, source, batch_size=8, image_size=SIZE, limit=limit
        )

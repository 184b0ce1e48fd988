"""Masked prediction: batch size does not matter, noise stays in its region, few compilations."""

import functools
import math

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from advspur._checks import InputError
from advspur.benchmarks import predict
from advspur.data import spurious_shapes


@pytest.fixture(scope="module")
def source(easy_shapes):
    return spurious_shapes("test", num_examples=13, **easy_shapes)


@pytest.fixture(scope="module")
def columns(source):
    return source.columns


def other_model(classifier):
    return classifier.replace(variables=jax.tree.map(lambda x: x * 1.1, classifier.variables))


@pytest.mark.parametrize("batch_size", (1, 5, 13, 20))
def test_every_example_is_counted_once(source, columns, batch_size):
    for_each = functools.partial(
        predict.for_each_example, source=source, batch_size=batch_size, image_size=16
    )
    got = for_each(lambda batch, numbers: {"label": batch.label, "number": numbers})
    np.testing.assert_array_equal(got["label"], columns["label"])
    np.testing.assert_array_equal(got["number"], np.arange(13))
    limited = for_each(lambda batch, _: batch.label, limit=7)
    np.testing.assert_array_equal(limited, columns["label"][:7])


def test_padding_leaves_predictions_unchanged(tiny_classifier, source, columns):
    def clean(batch, _):
        return predict.correct_clean(tiny_classifier, batch.image, batch.label)

    def attacked(batch, _):
        return predict.correct_under_pgd(
            tiny_classifier, batch.image, batch.label, p=2.0, epsilon=0.1, num_steps=2
        )

    def for_each(function, batch_size):
        return predict.for_each_example(function, source, batch_size=batch_size, image_size=16)

    logits = np.asarray(tiny_classifier.logits(columns["image"].astype(np.float32) / 255))
    expected = logits.argmax(axis=1) == columns["label"]
    assert 0 < expected.sum() < 13
    np.testing.assert_array_equal(for_each(clean, 8), expected)
    np.testing.assert_array_equal(for_each(clean, 13), expected)
    robust = for_each(attacked, 8)
    np.testing.assert_array_equal(for_each(attacked, 13), robust)
    assert np.all(robust <= expected)


def test_an_attack_of_radius_0_is_no_attack_and_a_large_one_wins(tiny_classifier, columns):
    images, labels = columns["image"][:8], columns["label"][:8].astype(np.int32)
    clean = predict.correct_clean(tiny_classifier, images, labels)
    attack = functools.partial(
        predict.correct_under_pgd, tiny_classifier, images, labels, p=2.0, num_steps=2
    )
    np.testing.assert_array_equal(attack(epsilon=0.0), clean)
    assert np.sum(clean) >= 4
    assert np.sum(attack(epsilon=3.0)) < np.sum(clean)


def test_one_compilation_serves_all_models_budgets_and_levels(tiny_classifier, columns, key):
    images = jnp.asarray(columns["image"][:8])
    labels = columns["label"][:8].astype(np.int32)
    region = jnp.asarray(columns["mask"][:8])

    def everything(classifier, epsilon, level):
        predict.correct_clean(classifier, images, labels)
        predict.correct_under_pgd(classifier, images, labels, p=2.0, epsilon=epsilon, num_steps=2)
        for r in (region, 1 - region):
            predict.correct_under_noise(
                classifier, images, labels, np.arange(len(labels)), r, key, level, family="linf"
            )

    jitted = (predict.correct_clean, predict._attack, predict.correct_under_noise)
    everything(tiny_classifier, 0.1, 0.2)
    before = [function._cache_size() for function in jitted]
    assert min(before) >= 1
    everything(other_model(tiny_classifier), 0.3, 0.5)
    everything(tiny_classifier, 1 / 255, 30 / 255)
    assert [function._cache_size() for function in jitted] == before


@flax.struct.dataclass
class Detector:
    """Logits of class 1 where `criterion(x - original, region)` holds, else of class 0."""

    original: jax.Array
    region: jax.Array
    criterion: object = flax.struct.field(pytree_node=False)

    def logits(self, images):
        holds = jax.vmap(self.criterion)(images - self.original, self.region)
        return jax.nn.one_hot(holds.astype(int), 2)


def moved_outside(delta, region):
    return jnp.any((delta != 0) & (region == 0))


def moved_inside(delta, region):
    return jnp.mean((delta != 0) & (region == 1)) > 0.9 * jnp.mean(region)


def has_length_level(delta, region):
    return jnp.abs(jnp.sqrt(jnp.sum(delta**2)) - 0.75) < 1e-4


def has_deviation_level(delta, region):
    deviation = jnp.sqrt(jnp.sum(delta**2) / (3 * jnp.sum(region)))
    return jnp.abs(deviation / 0.05 - 1) < 0.35


GREY = np.full((8, 16, 16, 3), 128, np.uint8)


def noise_detected(criterion, key, *, family, level, region):
    detector = Detector(jnp.asarray(GREY, jnp.float32) / 255, region, criterion)
    ones = np.ones(8, np.int32)
    return predict.correct_under_noise(
        detector, GREY, ones, np.arange(len(ones)), region, key, level, family=family
    )


@pytest.mark.parametrize("family, level", (("linf", 0.05), ("l2", 0.75)))
@pytest.mark.parametrize("inverted", (False, True))
def test_noise_is_confined_to_its_region_and_has_its_level(family, level, inverted, columns, key):
    region = jnp.asarray(columns["mask"][:8])
    region = 1 - region if inverted else region
    detected = functools.partial(noise_detected, key=key, family=family, level=level, region=region)
    assert not np.any(detected(moved_outside))
    assert np.all(detected(moved_inside))
    assert np.all(detected(has_deviation_level if family == "linf" else has_length_level))


@pytest.mark.parametrize("family", ("linf", "l2"))
def test_noise_on_an_empty_region_is_none(family, key):
    nowhere = jnp.zeros((8, 16, 16, 1))
    detected = noise_detected(
        lambda delta, _: jnp.any(delta != 0), key, family=family, level=1.0, region=nowhere
    )
    assert not np.any(detected)


def test_bad_noise_and_attacks_are_refused(tiny_classifier, key):
    region, labels = np.ones((8, 16, 16, 1), np.float32), np.zeros(8, np.int32)
    with pytest.raises(InputError, match="family = 'l1' is not known; allowed: 'linf', 'l2'"):
        predict.correct_under_noise(
            tiny_classifier, GREY, labels, np.arange(len(labels)), region, key, 0.1, family="l1"
        )
    with pytest.raises(InputError, match="p = 3"):
        predict.correct_under_pgd(tiny_classifier, GREY, labels, p=3, epsilon=0.1, num_steps=1)


@pytest.mark.parametrize("epsilon", (-1.0, math.nan))
def test_a_bad_epsilon_is_refused_by_name(tiny_classifier, epsilon):
    """The budget is traced inside; it must be looked at before."""
    with pytest.raises(InputError, match="epsilon"):
        predict.correct_under_pgd(
            tiny_classifier, GREY, np.zeros(8, np.int32), p=2.0, epsilon=epsilon, num_steps=2
        )


def test_an_epsilon_in_8_bit_units_warns(tiny_classifier):
    with pytest.warns(UserWarning, match="8/255"):
        predict.correct_under_pgd(
            tiny_classifier, GREY, np.zeros(8, np.int32), p=math.inf, epsilon=8, num_steps=2
        )

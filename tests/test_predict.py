"""Masked prediction: batch size does not matter, noise stays in its region, few compilations."""

import functools
import math

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
            noise = noise_on(r, np.arange(8), key, family="linf")
            predict.correct_under_noise(classifier, images, labels, noise, level)

    jitted = (predict.correct_clean, predict._attack, predict.correct_under_noise)
    everything(tiny_classifier, 0.1, 0.2)
    before = [function._cache_size() for function in jitted]
    assert min(before) >= 1
    everything(other_model(tiny_classifier), 0.3, 0.5)
    everything(tiny_classifier, 1 / 255, 30 / 255)
    assert [function._cache_size() for function in jitted] == before


GREY = np.full((8, 16, 16, 3), 128, np.uint8)
NUMBERS = np.arange(8)


def noise_on(region, numbers, key, *, family):
    z = predict.gaussian_noise(GREY[: len(numbers)], numbers, key)
    return predict.region_noise(z, region, family=family)


@pytest.mark.parametrize("inverted", (False, True))
def test_noise_is_confined_to_its_region_and_has_its_size(inverted, columns, key):
    region = 1 - columns["mask"][:8] if inverted else columns["mask"][:8]
    on = np.broadcast_to(region == 1, GREY.shape)
    z = np.asarray(noise_on(region, NUMBERS, key, family="linf"))
    assert not np.any(z[~on]) and np.all(z[on])
    # one standard deviation, within 4 standard errors of a standard deviation
    assert abs(z[on].std() - 1) < 4 / np.sqrt(2 * on.sum())
    unit = np.asarray(noise_on(region, NUMBERS, key, family="l2")).reshape(8, -1)
    np.testing.assert_allclose(np.linalg.norm(unit, axis=1), 1, rtol=1e-5)
    flat = z.reshape(8, -1)
    np.testing.assert_allclose(unit, flat / np.linalg.norm(flat, axis=1)[:, None], atol=1e-6)


def test_both_regions_and_all_batch_sizes_share_the_noise(key):
    everywhere = np.ones((8, 16, 16, 1), np.float32)
    mask = (np.arange(16) < 5)[None, :, None, None] * everywhere
    whole = noise_on(everywhere, NUMBERS, key, family="linf")
    parts = [noise_on(r, NUMBERS, key, family="linf") for r in (mask, 1 - mask)]
    np.testing.assert_allclose(parts[0] + parts[1], whole, atol=1e-7)
    half = noise_on(everywhere[4:], NUMBERS[4:], key, family="linf")
    np.testing.assert_allclose(half, whole[4:], atol=1e-7)


def test_noise_on_an_empty_region_is_none(key):
    nowhere = np.zeros((8, 16, 16, 1), np.float32)
    for family in ("linf", "l2"):
        assert not np.any(noise_on(nowhere, NUMBERS, key, family=family))


def test_noisy_pixels_are_clipped_to_the_box(tiny_classifier):
    images = np.stack([np.zeros_like(GREY[0]), np.full_like(GREY[0], 255)] * 4)
    noise = np.where(images == 0, -1.0, 1.0).astype(np.float32)
    labels = np.argmax(tiny_classifier.logits(images / np.float32(255)), axis=-1)
    assert np.all(predict.correct_under_noise(tiny_classifier, images, labels, noise, 0.5))


def test_bad_noise_and_attacks_are_refused(tiny_classifier, key):
    region, labels = np.ones((8, 16, 16, 1), np.float32), np.zeros(8, np.int32)
    with pytest.raises(InputError, match="family = 'l1' is not known; allowed: 'linf', 'l2'"):
        noise_on(region, NUMBERS, key, family="l1")
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

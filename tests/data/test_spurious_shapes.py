"""Spurious shapes: what the splits share, and what each dial does and does not change."""

import functools
import itertools

import numpy as np
import pytest
from scipy import stats

from advspur.data import spurious_shapes
from advspur.data.spurious_shapes import SHAPES, SPLITS, cue_changes, read
from tests.refusals import refused

small = functools.partial(spurious_shapes, image_size=16)
MANY = 800


def binomial_range(n, share):
    """Holds the count of successes but for one run in a million."""
    return stats.binom.interval(1 - 1e-6, n, share)


def test_examples_have_the_promised_types():
    source = small("train", num_examples=24)
    assert len(source) == 24 and source.num_classes == 8
    example = source[9]
    assert example["image"].shape == (16, 16, 3) and example["image"].dtype == np.uint8
    assert example["mask"].shape == (16, 16, 1) and example["mask"].dtype == bool
    assert example["label"] == 1
    np.testing.assert_array_equal(source.columns["label"], np.arange(24) % 8)
    columns = source.columns
    is_majority = columns["background"] == columns["label"]
    assert 0 < is_majority.sum() < 24
    np.testing.assert_array_equal(columns["is_majority"], is_majority)
    np.testing.assert_array_equal(columns["group"], 2 * columns["label"] + is_majority)
    np.testing.assert_array_equal(columns["pair"], np.arange(24))


def test_four_splits_are_measured_on():
    parts = read(num_examples=10, shapes={"image_size": 16, "num_classes": 3})
    assert list(parts) == ["test", "mixed_same", "mixed_rand", "uncorrelated"]
    for split, table in parts.items():
        assert table.digest == small(split, num_examples=10, num_classes=3).digest
        assert (len(table), table.num_classes, table.image_size, table.has_mask) == (10, 3, 16, 1)
    assert len({table.digest for table in parts.values()}) == 4


@pytest.mark.parametrize("split", SPLITS)
def test_an_image_depends_on_seed_split_and_index_alone(split):
    few, more = (small(split, num_examples=n).columns for n in (10, 30))
    for name in few:
        np.testing.assert_array_equal(few[name], more[name][:10])
    other = small(split, num_examples=10, seed=1).columns["image"]
    assert np.all(np.any(other != few["image"], axis=(1, 2, 3)))


def test_splits_are_independent_draws():
    masks = [small(split, num_examples=20).columns["mask"] for split in SPLITS[:3]]
    for one, other in itertools.combinations(masks, 2):
        assert np.mean(np.any(one != other, axis=(1, 2, 3))) > 0.9


@pytest.mark.parametrize("correlation, split", ((0.0, "train"), (0.6, "test"), (1.0, "mixed_same")))
def test_the_background_is_that_of_the_class_at_the_correlation(correlation, split):
    columns = small(split, num_examples=300, correlation=correlation).columns
    low, high = binomial_range(300, correlation)
    assert low <= np.sum(columns["is_majority"]) <= high


def test_mixed_same_has_the_background_classes_of_the_test_split():
    """Conditional on the label, not only in the share of the majority."""
    same = small("mixed_same", num_examples=MANY).columns
    test = small("test", num_examples=MANY).columns
    offsets = [np.bincount((c["background"] - c["label"]) % 8, minlength=8) for c in (same, test)]
    assert stats.chi2_contingency(offsets).pvalue > 1e-3
    assert np.mean(same["background"] == test["background"]) < 0.6  # other images' backgrounds


@pytest.mark.parametrize("split", ("mixed_rand", "uncorrelated"))
def test_random_backgrounds_are_uniform_and_independent_of_the_class(split):
    columns = small(split, num_examples=MANY).columns
    assert stats.chisquare(np.bincount(columns["background"], minlength=8)).pvalue > 1e-3
    table = np.zeros((8, 8))
    np.add.at(table, (columns["label"], columns["background"]), 1)
    assert stats.chi2_contingency(table).pvalue > 1e-3


@pytest.mark.parametrize("split", ("mixed_same", "mixed_rand"))
def test_mixed_splits_show_the_objects_of_the_test_split(split):
    test = small("test", num_examples=40, noise_std=0.05).columns
    mixed = small(split, num_examples=40, noise_std=0.05).columns
    np.testing.assert_array_equal(mixed["mask"], test["mask"])
    np.testing.assert_array_equal(mixed["label"], test["label"])
    on = np.broadcast_to(test["mask"] == 1, test["image"].shape)
    np.testing.assert_array_equal(mixed["image"][on], test["image"][on])
    off_differs = np.any((mixed["image"] != test["image"]) & ~on, axis=(1, 2, 3))
    assert np.all(off_differs)


def test_the_colour_of_an_object_tells_nothing_of_its_class():
    columns = small("train", num_examples=MANY, noise_std=0.0).columns
    on = columns["mask"][..., 0] == 1
    assert np.all(on.any(axis=(1, 2)))
    color = np.stack([image[m][0] for image, m in zip(columns["image"], on, strict=True)])
    deviation = color.astype(float) - 127.5
    strongest = np.abs(deviation).argmax(axis=1)
    kind = 2 * strongest + (deviation[np.arange(MANY), strongest] > 0)
    table = np.zeros((8, 6))
    np.add.at(table, (columns["label"], kind), 1)
    assert stats.chi2_contingency(table).pvalue > 1e-3
    # Largest deviation: core_scale = 0.25 of 255, up to the rounding of pixels.
    np.testing.assert_allclose(np.abs(deviation).max(axis=1), 0.25 * 255, rtol=0, atol=1)


@pytest.mark.parametrize("dial, on_object", (("core_scale", True), ("spurious_scale", False)))
def test_each_scale_changes_its_side_of_the_mask_only(dial, on_object):
    draw = functools.partial(small, "train", num_examples=24, noise_std=0.0)
    one, other = (draw(**{dial: value}).columns for value in (0.1, 0.3))
    np.testing.assert_array_equal(one["mask"], other["mask"])
    inside = np.broadcast_to((one["mask"] == 1) == on_object, one["image"].shape)
    np.testing.assert_array_equal(one["image"][~inside], other["image"][~inside])
    changed = (one["image"] != other["image"]) & inside
    assert np.all(changed.any(axis=(1, 2, 3)))


def test_noise_has_its_standard_deviation():
    options = {"num_examples": 16, "core_scale": 0.0, "spurious_scale": 0.0}
    pixels = small("train", noise_std=0.1, **options).columns["image"] / 255
    # 12,288 pixels: the standard error of the deviation is 0.0006.
    assert pixels.std() == pytest.approx(0.1, abs=0.003)


def test_position_and_size_dials_fix_the_object():
    fixed = small("train", num_examples=64, size_jitter=0.0, position_jitter=0.0).columns["mask"]
    for k in range(8):
        assert np.all(fixed[k::8] == fixed[k])
    assert len(np.unique(fixed[:8].reshape(8, -1), axis=0)) == len(SHAPES)
    jittered = small("train", num_examples=64).columns["mask"]
    assert len(np.unique(jittered.reshape(64, -1), axis=0)) > 56


BAD = [("split", "val"), ("num_examples", 0), ("num_classes", 1), ("num_classes", 9)]
BAD += [("image_size", 7), ("correlation", 1.1), ("correlation", -0.1), ("core_scale", 0.6)]
BAD += [("spurious_scale", 0.6), ("size_jitter", 1.5), ("color_jitter", 1.5)]
BAD += [("position_jitter", 0.6), ("noise_std", float("nan"))]


@pytest.mark.parametrize("name, value", BAD)
def test_dials_out_of_range_are_refused_by_name(name, value):
    refused(f"{name} = {value!r}", spurious_shapes, **{"split": "train"} | {name: value})


def test_cue_changes_swap_the_object_or_the_background_alone():
    core, spurious = cue_changes(24, image_size=16)
    source = small("train", num_examples=24, noise_std=0).columns
    masks = source["mask"]
    assert core.shape == spurious.shape == (24, 16, 16, 3)
    assert np.all(np.any(core != 0, axis=(1, 2, 3)) & np.any(spurious != 0, axis=(1, 2, 3)))
    assert not np.any(np.where(masks, spurious, 0))  # the object stays
    # Off the old object the image changes where the new one is, into one colour of its pixels.
    image = source["image"] / 255
    for i in range(24):
        swapped = image[i] + core[i]
        new = np.any(core[i] != 0, axis=-1) & ~masks[i, ..., 0]
        colors = {tuple(np.round(c, 2)) for c in image[i][masks[i, ..., 0]]}
        assert len(colors) == 1
        np.testing.assert_allclose(
            swapped[new], image[i][masks[i, ..., 0]][0] + 0 * swapped[new], atol=1.01 / 255
        )


def test_cue_changes_follow_the_dials():
    core, spurious = cue_changes(12, image_size=16, spurious_scale=0)
    assert np.any(core) and not np.any(spurious)
    core, spurious = cue_changes(12, image_size=16, object_size=0)
    assert not np.any(core) and np.any(spurious)
    one, two = (cue_changes(6, image_size=16, spurious_scale=s)[1] for s in (0.1, 0.2))
    np.testing.assert_allclose(two, 2 * one, atol=1e-12)
    again = cue_changes(12, image_size=16, spurious_scale=0.1)[1][:6]
    np.testing.assert_array_equal(again, one)  # of seed and index alone
    refused("num_classes", cue_changes, 4, num_classes=1)

"""The colour shift: counts by hand, nested minorities, nothing else changed."""

import math

import numpy as np
import pytest

from advspur.data import array_source, cifar10, inject_color_shift
from advspur.data.color_shift import clipped_share, read, shifted_table
from tests.refusals import refused

LABELS = np.repeat(np.arange(10), 1000)
IMAGES = np.random.default_rng(0).integers(0, 256, (10_000, 2, 2, 3), np.uint8)


def majority(rho, labels=LABELS, **options):
    images = np.zeros((len(labels), 1, 1, 3), np.uint8)
    return inject_color_shift(images, labels, rho=rho, **options)[1]


RHOS = (1, 2, 4, 9, 19, 99, math.inf)
MINORITIES = {5000: (2500, 1667, 1000, 500, 250, 50, 0), 1000: (500, 333, 200, 100, 50, 10, 0)}


@pytest.mark.parametrize("size", MINORITIES)
@pytest.mark.parametrize("place, rho", tuple(enumerate(RHOS)))
def test_minority_counts_of_every_class_are_those_of_the_protocol(size, place, rho):
    minority = MINORITIES[size][place]
    labels = np.repeat(np.arange(10), size)
    counts = np.bincount(labels, weights=~majority(rho, labels), minlength=10)
    np.testing.assert_array_equal(counts, minority)


def test_minorities_are_nested_and_depend_on_seed_and_split_and_on_nothing_else():
    first, large = majority(4.0), majority(19.0)
    assert np.all(large[first]) and large.sum() > first.sum()
    np.testing.assert_array_equal(first, majority(4.0))
    assert np.any(first != majority(4.0, seed=1)) and np.any(first != majority(4.0, split="test"))
    shuffled = np.random.default_rng(1).permutation(len(LABELS))
    counts = np.bincount(LABELS[shuffled], weights=majority(4.0, LABELS[shuffled]))
    np.testing.assert_array_equal(counts, 800)


@pytest.mark.parametrize("as_float", (False, True))
def test_one_channel_is_raised_and_clipped_and_nothing_else(as_float):
    images = (IMAGES / 255).astype(np.float32) if as_float else IMAGES
    before = images.copy()
    shifted, is_majority = inject_color_shift(images, LABELS, rho=4)
    assert shifted.dtype == images.dtype
    np.testing.assert_array_equal(images, before)
    for i in range(0, 10_000, 97):
        channel = 0 if (LABELS[i] < 5) == is_majority[i] else 1
        expected = (IMAGES[i] / 255).astype(float)
        expected[..., channel] = np.minimum(expected[..., channel] + 16 / 255, 1)
        found = shifted[i] if as_float else shifted[i] / 255
        np.testing.assert_allclose(found, expected, atol=1e-6)


def test_the_share_of_clipped_values_by_hand():
    images = np.full((4, 2, 2, 3), 200, np.uint8)
    images[:, 0, :, 0] = 250  # half of the red values are cut, of the green none
    labels, is_majority = np.array([0, 1, 7, 8]), np.array([True, False, True, False])
    # red: class 0 of the majority and class 8 of the minority
    assert clipped_share(images, labels, is_majority, shift=16 / 255) == 0.25


def test_a_table_keeps_its_groups():
    source = array_source(IMAGES, LABELS, num_classes=10)
    table = shifted_table(source, "test", rho=9.0, shift=16 / 255, seed=0)
    images, is_majority = inject_color_shift(IMAGES, LABELS, rho=9.0, split="test")
    np.testing.assert_array_equal(table.columns["image"], images)
    np.testing.assert_array_equal(table.columns["is_majority"], is_majority)
    np.testing.assert_array_equal(table.columns["group"], 2 * LABELS + is_majority)
    assert table.num_classes == 10 and table[3]["label"] == 0


def test_test_images_are_those_of_the_training_function_at_two_ratios(written):
    root = written / "cifar10"
    colors = {"rho": 4.0, "shift": 16 / 255, "seed": 3}
    parts = read(root, color_shift=colors, allow_partial=True)
    table = cifar10.read(root, allow_partial=True)["test"]
    images = np.stack([table[i]["image"] for i in range(60)])
    labels = np.array([table[i]["label"] for i in range(60)])
    assert list(parts) == ["test", "uncorrelated"]
    for part, rho in (("test", 4.0), ("uncorrelated", 1.0)):
        expected = inject_color_shift(images, labels, split="test", **colors | {"rho": rho})
        np.testing.assert_array_equal(parts[part].columns["image"], expected[0])
        np.testing.assert_array_equal(parts[part].columns["is_majority"], expected[1])
        assert np.sum(expected[1]) == 10 * (6 - round(6 / (rho + 1)))
    majority = parts["test"].columns["is_majority"]
    share = clipped_share(images, labels, majority, shift=16 / 255)
    assert parts["test"].facts == {"clipped_share": share} and parts["uncorrelated"].facts == {}
    assert parts["test"].digest != parts["uncorrelated"].digest
    refused("60 images, 10,000 are published", read, root)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"rho": 0.5}, "rho = 0.5: majority : minority must be >= 1"),
        ({"rho": math.nan}, "rho = nan"),
        ({"shift": 0.0}, "shift = 0.0: it must be in"),
        ({"shift": 0.05}, "shift = 0.05: for 8-bit images it must be a multiple of 1/255"),
        ({"seed": -1}, "seed = -1"),
        ({"split": "val"}, "split = 'val' is not known; allowed: 'train', 'test'"),
        ({"labels": LABELS[:3]}, "expected 10000 integers"),
        ({"labels": LABELS + 1}, r"labels are in \[1, 10\]; expected \[0, 9\]"),
        ({"images": IMAGES[0]}, "expected uint8 or floats"),
    ],
)
def test_bad_values_are_refused(change, message):
    call = {"images": IMAGES, "labels": LABELS, "rho": 2} | change
    refused(message, inject_color_shift, call.pop("images"), call.pop("labels"), **call)

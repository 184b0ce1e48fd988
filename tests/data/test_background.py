"""Changes of the background: by hand, on images that show what came from where."""

import itertools

import jax
import numpy as np
import pytest
from numpy.testing import assert_array_equal
from scipy import ndimage

from advspur.data import array_source, background, train_batches
from advspur.data.background import MASK_FAULTS, add_noise, mix_rests, spoil_masks
from advspur.data.layouts import SkippingUnreadable
from advspur.data.table import Table
from tests.refusals import refused

N, SIZE = 40, 12
RNG = np.random.default_rng(0)
IMAGES = RNG.integers(0, 256, (N, SIZE, SIZE, 3), np.uint8)
MASKS = np.zeros((N, SIZE, SIZE, 1), np.uint8)
for i, (top, left) in enumerate(RNG.integers(1, 6, (N, 2))):
    MASKS[i, top : top + 5, left : left + 4] = 255
OPTIONS = {"batch_size": 8, "image_size": SIZE, "augmentation": "none", "seed": 0}


def source(images=IMAGES, masks=MASKS, *, one_by_one=False):
    """A table of arrays, or of examples that are loaded one by one."""
    if one_by_one:
        return Table(N, image=list(images), mask=list(masks), label=np.arange(N))
    return array_source(images, np.arange(N), num_classes=N, mask=masks)


def take(count, of=None, **options):
    given = OPTIONS | {k: options.pop(k) for k in [*options] if k in (*OPTIONS, "start_step")}
    stream = train_batches(of or source(), background=options, **given)
    return list(itertools.islice(stream, count))


def join(batches):
    return (np.concatenate(arrays) for arrays in zip(*batches, strict=True))


# Masks made worse.


@pytest.mark.parametrize("pixels", (0, 1, 3))
def test_masks_are_dilated_and_eroded_by_a_square(pixels):
    soft = RNG.integers(0, 256, (3, 9, 11, 1), np.uint8)
    size = (1, 2 * pixels + 1, 2 * pixels + 1, 1)
    for fault, extreme in (("dilated", ndimage.maximum_filter), ("eroded", ndimage.minimum_filter)):
        expected = extreme(soft, size=size, mode="nearest")
        assert_array_equal(spoil_masks(soft, fault, pixels=pixels), expected)
    assert spoil_masks(soft, "none", pixels=pixels) is soft


def test_masks_are_shifted_so_far_and_nothing_comes_in():
    angles = np.deg2rad([0, 90, 180, 270, 37])
    shifted = spoil_masks(MASKS[:5], "shifted", pixels=3, angles=angles)
    ways = [(0, -3), (-3, 0), (0, 3), (3, 0), (-2, -2)]  # of the last: 3 sin, 3 cos, rounded
    for mask, got, way in zip(MASKS, shifted, ways, strict=False):
        assert_array_equal(got[..., 0], ndimage.shift(mask[..., 0], way, order=0))
    far = spoil_masks(MASKS[:5], "shifted", pixels=50, angles=angles)
    assert not far.any()


# The rest of another image, and noise.


def test_a_rest_comes_from_another_image_and_its_hole_is_filled_from_that_rest():
    """Left half object, right half rest in both; the other's object shows through nowhere."""
    left = np.zeros((1, 8, 8, 1), np.uint8)
    left[:, :, :4] = 255
    image, other = (np.full((1, 8, 8, 3), value, np.uint8) for value in (10, 200))
    other[:, :, :4] = 77  # its object
    mixed = mix_rests(image, left, other, left)
    assert_array_equal(mixed[:, :, :4], 10)
    assert_array_equal(mixed[:, :, 4:], 200)
    right = 255 - left
    # Its rest, at the right, fills the left: rolled by half, or its mean.
    assert_array_equal(mix_rests(image, right, other, left)[:, :, :4], 200)
    assert_array_equal(mix_rests(image, left * 0, other, left), 200)
    wide = np.full((1, 8, 8, 1), 255, np.uint8)
    wide[:, :, 7] = 0  # the roll has object nearly everywhere too: the mean
    assert_array_equal(mix_rests(image, left * 0, other, wide), 200)


def test_a_roll_by_half_fills_a_hole_with_texture():
    texture = np.broadcast_to(np.arange(0, 240, 20)[:, None, None], (SIZE, SIZE, 3))
    other = np.uint8(texture)[None]
    hole = np.zeros((1, SIZE, SIZE, 1), np.uint8)
    hole[:, 1:5, 1:5] = 255
    filled = mix_rests(other * 0, hole * 0, other, hole)
    assert_array_equal(filled[0, 1:5, 1:5], other[0, 7:11, 7:11])
    outside = hole[..., 0] == 0
    assert_array_equal(filled[outside], other[outside])


def test_soft_masks_blend_and_an_image_that_is_all_object_has_no_rest_to_give():
    image, other = np.full((1, 4, 4, 3), 100, np.uint8), np.full((1, 4, 4, 3), 200, np.uint8)
    half, none, whole = (np.full((1, 4, 4, 1), value, np.uint8) for value in (51, 0, 255))
    assert_array_equal(mix_rests(image, half, other, none), 180)  # 1/5 of 100, 4/5 of 200
    assert_array_equal(mix_rests(image, none, other, whole), image)
    assert_array_equal(mix_rests(image, whole, other, none), image)


def test_noise_is_of_the_rest_and_clipped():
    noise = np.float32([0.1, -0.1, 9.0]).reshape(1, 1, 1, 3)
    image = np.full((3, 1, 1, 3), 100, np.uint8)
    masks = np.uint8([0, 255, 127]).reshape(3, 1, 1, 1)
    got = add_noise(image, masks, noise)
    assert_array_equal(got[0].ravel(), [126, 74, 255])  # 100 +- 25.5, to the even one
    assert_array_equal(got[1], image[1])
    assert_array_equal(got[2].ravel(), [113, 87, 255])  # +- 12.8


# Streams.


@pytest.mark.parametrize("one_by_one", (False, True))
def test_noise_has_its_size_and_its_share(one_by_one):
    """On grey images, far from the ends of the range."""
    grey = source(np.full_like(IMAGES, 128), one_by_one=one_by_one)
    images, labels, masks, _ = join(take(60, grey, noise_std=0.1, noise_share=0.3))
    rest = np.broadcast_to(masks == 0, images.shape)
    assert np.all(images[~rest] == 128)
    assert_array_equal(masks, MASKS[labels])
    is_noisy = (images != 128).any(axis=(1, 2, 3))
    assert abs(is_noisy.mean() - 0.3) < 4 * np.sqrt(0.21 / len(images))  # four standard errors
    deviations = (images[is_noisy].astype(float) - 128)[rest[is_noisy]] / 255
    assert abs(deviations.mean()) < 0.002 and deviations.std() == pytest.approx(0.1, rel=0.02)


@pytest.mark.parametrize("one_by_one", (False, True))
def test_rests_are_mixed_in_their_share_with_images_drawn_uniformly(one_by_one):
    """Each background has its own grey; all objects are white."""
    tones = np.uint8(5 * np.arange(N)).reshape(N, 1, 1, 1)
    images = np.where(MASKS > 0, np.uint8(255), np.broadcast_to(tones, IMAGES.shape))
    of = source(images, one_by_one=one_by_one)
    images, labels, masks, _ = join(take(100, of, mix_share=0.5))
    assert_array_equal(masks, MASKS[labels])
    assert np.all(images[np.broadcast_to(masks > 0, images.shape)] == 255)
    rests = [np.unique(image[mask[..., 0] == 0]) for image, mask in zip(images, masks, strict=True)]
    assert {len(rest) for rest in rests} == {1}  # without the other's object
    givers = np.concatenate(rests) // 5
    changed, expected = np.mean(givers != labels), 0.5 * (1 - 1 / N)
    assert abs(changed - expected) < 4 * np.sqrt(expected * (1 - expected) / len(labels))
    counts = np.bincount(givers[givers != labels], minlength=N)
    assert counts.min() > 0 and counts.max() < 4 * counts.mean()


@pytest.mark.parametrize("one_by_one", (False, True))
@pytest.mark.parametrize("fault", MASK_FAULTS)
def test_worse_masks_are_those_of_the_batch_and_of_the_noise(fault, one_by_one):
    grey = source(np.full_like(IMAGES, 128), one_by_one=one_by_one)
    given = {"mask_fault": fault, "fault_pixels": 2, "noise_std": 0.2, "noise_share": 1.0}
    images, labels, masks, _ = join(take(20, grey, **given))
    assert np.all(images[np.broadcast_to(masks > 0, images.shape)] == 128)
    right, size = MASKS[labels], 20
    area = (masks > 0).sum(axis=(1, 2, 3))
    if fault in ("dilated", "eroded", "none"):
        assert_array_equal(masks, spoil_masks(right, fault, pixels=2))
    elif fault == "shifted":
        assert np.all(area <= size) and np.mean(area == size) > 0.5
        assert not np.any(np.all(masks == right, axis=(1, 2, 3)))
    else:
        assert np.all(area == size)
        covered = np.mean(masks > 0, axis=0)  # by objects at random places
        expected = size / covered.size
        error = np.sqrt(expected * (1 - expected) / len(masks))
        assert np.abs(covered - expected).max() < 5 * error


EVERYTHING = {"noise_std": 0.1, "mix_share": 0.5, "fault_pixels": 1}


@pytest.mark.parametrize("one_by_one", (False, True))
@pytest.mark.parametrize("fault", ("shifted", "random"))
def test_the_stream_can_be_resumed_and_shared_by_processes(fault, one_by_one, in_processes):
    of = source(one_by_one=one_by_one)
    options = EVERYTHING | {"mask_fault": fault, "augmentation": "crop_flip"}
    whole = take(6, of, **options)
    jax.tree.map(assert_array_equal, whole[4:], take(2, of, start_step=4, **options))
    other_seed = take(6, of, seed=1, **options)
    assert np.any(other_seed[0].image != whole[0].image)
    shares = in_processes(2, lambda: take(6, of, **options))
    joined = jax.tree.map(lambda *arrays: np.concatenate(arrays), *shares)
    jax.tree.map(assert_array_equal, joined, whole)


@pytest.mark.parametrize("one_by_one", (False, True))
def test_no_change_leaves_the_stream_as_it_is(one_by_one):
    """With the keys of a config that asks for none."""
    of = source(one_by_one=one_by_one)
    stream = train_batches(of, **OPTIONS | {"augmentation": "cifar"})
    expected = list(itertools.islice(stream, 3))
    nothing = {"noise_share": 0.5, "fault_pixels": 2, "augmentation": "cifar"}
    jax.tree.map(assert_array_equal, expected, take(3, of, **nothing))


@pytest.mark.parametrize("of", (lambda table: table, SkippingUnreadable))
def test_data_without_masks_are_refused_in_one_line(of):
    bare = of(array_source(IMAGES, np.arange(N), num_classes=N))
    refused(r"background needs masks, and .* has none: ", take, 1, bare, noise_std=0.1)
    background.require_masks(of(source()), "the test")
    assert not background.changes_background(noise_share=1.0, fault_pixels=3)
    for options in ({"noise_std": 0.1}, {"mix_share": 0.1}, {"mask_fault": "random"}):
        assert background.changes_background(**options)

"""Augmentation: against direct Pillow calls, by hand, and the same whole as in parts."""

import numpy as np
import pytest
from PIL import Image

from advspur.data import augment
from advspur.data.augment import AUGMENTATIONS, CHANGES, GEOMETRY
from advspur.data.transforms import resize_and_crop

PHOTO = np.random.default_rng(0).integers(0, 256, (40, 60, 3), np.uint8)
IMAGES = np.random.default_rng(1).integers(0, 256, (50, 12, 12, 3), np.uint8)


def test_a_shift_is_a_crop_of_the_padded_image():
    offsets = np.random.default_rng(0).integers(9, size=(50, 2))
    padded = np.pad(IMAGES, ((0, 0), (4, 4), (4, 4), (0, 0)))
    expected = [p[t : t + 12, s : s + 12] for p, (t, s) in zip(padded, offsets, strict=True)]
    np.testing.assert_array_equal(augment.shift(IMAGES, offsets), expected)
    np.testing.assert_array_equal(augment.shift(IMAGES, np.full((50, 2), 4)), IMAGES)
    drawn = augment.draw(np.random.default_rng(0), 2000, "cifar")["shift"]
    assert {*drawn.ravel()} == set(range(9))


def test_flips_are_of_half_the_images():
    which = np.arange(50) % 3 == 0
    expected = [x[:, ::-1] if f else x for x, f in zip(IMAGES, which, strict=True)]
    np.testing.assert_array_equal(augment.flip(IMAGES, which), expected)
    drawn = augment.draw(np.random.default_rng(0), 2000, "flip")["flip"]
    assert abs(drawn.mean() - 0.5) < 4 * 0.5 / np.sqrt(2000)  # four standard errors


@pytest.mark.parametrize("largest", (2, 180))
def test_rotations_are_pillows(largest):
    """Pillow counts in 1/65536 pixels: a rare pixel on an edge goes to the other side."""
    images = np.random.default_rng(0).integers(0, 256, (200, 33, 32, 3), np.uint8)
    angles = np.random.default_rng(1).uniform(-largest, largest, 200)
    turned = zip(images, angles, strict=True)
    expected = np.stack([np.asarray(Image.fromarray(x).rotate(a)) for x, a in turned])
    assert np.mean(augment.rotate(images, angles) == expected) > 0.999
    np.testing.assert_array_equal(augment.rotate(images, np.zeros(200)), images)


def test_colour_jitter_by_hand():
    np.testing.assert_array_equal(augment.jitter_colors(IMAGES, np.ones((50, 3))), IMAGES)
    scales = np.array([[1.2, 0.9, 1.1]])
    pixels = np.clip(1.2 * IMAGES[0].astype(float), 0, 255)
    weights = np.array([0.299, 0.587, 0.114])
    mean = (pixels @ weights).mean()
    pixels = np.clip(mean + 0.9 * (pixels - mean), 0, 255)
    grey = (pixels @ weights)[..., None]
    expected = np.clip(grey + 1.1 * (pixels - grey), 0, 255)
    jittered = augment.jitter_colors(IMAGES[:1], scales)[0]
    np.testing.assert_allclose(jittered, expected, atol=0.5 + 1e-3)


@pytest.mark.parametrize("kind", CHANGES)
def test_a_batch_in_parts_is_changed_as_the_whole(kind):
    values = augment.draw(np.random.default_rng(3), 50, kind)
    whole = augment.change(IMAGES, values)
    assert whole.dtype == np.uint8 and whole.shape == IMAGES.shape
    for rows in (slice(0, 20), slice(20, 50)):
        part = augment.change(IMAGES[rows], {name: v[rows] for name, v in values.items()})
        np.testing.assert_array_equal(part, whole[rows])
    assert (kind == "none") == np.array_equal(whole, IMAGES)


# (height, width), then the crop of torchvision's RandomResizedCrop after ten failed tries, (top,
# left, height, width), for areas of 0.8 to 1 and ratios of 3/4 to 5/4. By hand from its rule: the
# whole side that is too short, and round(side * ratio) or round(side / ratio) of the other.
FALLBACKS = {
    (281, 500): (0, 74, 281, 351),  # round(281 * 5 / 4) = 351
    (500, 281): (62, 0, 375, 281),  # round(281 / (3 / 4)) = 375
    (1, 400): (0, 199, 1, 1),
    (400, 1): (199, 0, 1, 1),
    (100, 200): (0, 37, 100, 125),
    (200, 100): (33, 0, 133, 100),
    (90, 160): (0, 24, 90, 112),
    (3, 4000): (0, 1998, 3, 4),
}


@pytest.mark.parametrize("size", FALLBACKS)
def test_a_crop_that_finds_no_place_is_torchvisions_central_one(size):
    """As its authors have it in 1,000 of 1,000 draws for images of 500 x 281."""
    image = np.random.default_rng(0).integers(0, 256, (*size, 3), np.uint8)
    top, left, height, width = FALLBACKS[size]
    crop = Image.fromarray(image[top : top + height, left : left + width])
    expected = np.asarray(crop.resize((8, 8), Image.Resampling.BILINEAR))
    for seed in range(5):
        rng = np.random.default_rng(seed)
        box = augment._crop_box(image, rng, area=(0.8, 1), aspect=(3 / 4, 5 / 4))
        np.testing.assert_array_equal(augment._cropped(image, box, 8), expected)
    near = image[:40, :50]  # its ratio is allowed, and no area fits: the whole
    box = augment._crop_box(near, np.random.default_rng(0), area=(1.5, 2), aspect=(1e-9, 1e9))
    whole = Image.fromarray(near).resize((8, 8), Image.Resampling.BILINEAR)
    np.testing.assert_array_equal(augment._cropped(near, box, 8), np.asarray(whole))


def test_a_crop_is_resized_alone():
    """Pixels beside the crop do not matter."""
    image = np.random.default_rng(0).integers(0, 256, (40, 60, 3), np.uint8)
    for seed in range(20):
        found = augment._cropped(image, augment._crop_box(image, np.random.default_rng(seed)), 8)
        rng = np.random.default_rng(seed)
        while True:  # the same draws
            pixels = 2400 * rng.uniform(0.08, 1)
            ratio = np.exp(rng.uniform(*np.log([3 / 4, 4 / 3])))
            width, height = round(np.sqrt(pixels * ratio)), round(np.sqrt(pixels / ratio))
            if width <= 60 and height <= 40:
                break
        left, top = rng.integers(60 - width + 1), rng.integers(40 - height + 1)
        box = (left, top, left + width, top + height)
        crop = Image.fromarray(image).crop(box).resize((8, 8), Image.Resampling.BILINEAR)
        np.testing.assert_array_equal(found, np.asarray(crop))


@pytest.mark.parametrize("kind", AUGMENTATIONS)
def test_augmentations_give_uint8_of_the_size(kind):
    for seed in range(5):
        image, _ = augment.augment(PHOTO, None, np.random.default_rng(seed), kind=kind, size=16)
        assert image.shape == (16, 16, 3) and image.dtype == np.uint8
    again, _ = augment.augment(PHOTO, None, np.random.default_rng(4), kind=kind, size=16)
    np.testing.assert_array_equal(image, again)
    if kind == "none":
        np.testing.assert_array_equal(image, resize_and_crop(PHOTO, 16))


# Images whose pixels are their masks: after a change of geometry alone, they still are.

MASKS = np.random.default_rng(2).integers(0, 256, (50, 12, 12, 1), np.uint8)


def no_colors(patch):
    """Draw the same numbers, but leave the colours alone."""
    patch.setattr("advspur.data.augment.jitter_colors", lambda images, _: images)
    patch.setattr("advspur.data.augment.PCA_VALUES", np.zeros(3))


@pytest.mark.parametrize("kind", AUGMENTATIONS)
@pytest.mark.parametrize("size", (16, 40))
def test_a_mask_goes_with_its_image(kind, size, monkeypatch):
    """With several channels, with (16) and without (40) a resize."""
    no_colors(monkeypatch)
    photo = PHOTO[:, :40] if size == 40 else PHOTO
    for seed in range(20):
        rngs = [np.random.default_rng(seed) for _ in range(2)]
        image, mask = augment.augment(photo, photo[..., :2], rngs[0], kind=kind, size=size)
        np.testing.assert_array_equal(image[..., :2], mask)
        assert mask.dtype == np.uint8
        alone, none = augment.augment(photo, None, rngs[1], kind=kind, size=size)
        np.testing.assert_array_equal(alone, image)  # a mask takes no random number
        assert none is None and rngs[0].random() == rngs[1].random()


@pytest.mark.parametrize("kind", AUGMENTATIONS)
def test_colours_do_not_change_a_mask(kind):
    object_mask = np.full((40, 60, 1), 255, np.uint8)
    for seed in range(5):
        rng = np.random.default_rng(seed)
        _, mask = augment.augment(PHOTO, object_mask, rng, kind=kind, size=40)
        assert {*np.unique(mask)} <= {0, 255}  # 0 in padding, and in the corners of rotations
        assert kind in ("crop_flip", "cifar") or np.all(mask == 255)


@pytest.mark.parametrize("kind", CHANGES)
def test_masks_of_a_batch_go_with_its_images(kind):
    values = augment.draw(np.random.default_rng(3), 50, kind)
    geometry = {name: v for name, v in values.items() if name in GEOMETRY}
    images = augment.change(np.repeat(MASKS, 3, axis=-1), geometry)
    masks = augment.change_masks(MASKS, values)
    np.testing.assert_array_equal(images[..., :1], masks)
    assert (kind == "none") == np.array_equal(masks, MASKS)

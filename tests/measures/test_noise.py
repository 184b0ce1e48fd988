"""Noise on a region: confined, of its size, the same for all regions, batches and subsets."""

import numpy as np
import pytest

from advspur.data import array_source
from advspur.measures.regions import correct_under_noise, gaussian_noise, region_noise
from advspur.predict import for_each_example
from tests.measures.linear import linear

SIZE, NUMBERS = 16, np.arange(8)
GREY = np.full((8, SIZE, SIZE, 3), 128, np.uint8)
DISC = np.hypot(*(np.indices((SIZE, SIZE)) - 6)) < 5
MASKS = np.broadcast_to(DISC[None, :, :, None], (8, SIZE, SIZE, 1)).astype(np.float32)


def noise_on(region, numbers, key, *, family):
    z = gaussian_noise(GREY[: len(numbers)], numbers, key)
    return region_noise(z, region, family=family)


@pytest.mark.parametrize("inverted", (False, True))
def test_noise_is_confined_to_its_region_and_has_its_size(inverted, key):
    region = 1 - MASKS if inverted else MASKS
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
        return {"z": gaussian_noise(batch.image, numbers, key)}

    gaussian_noise.clear_cache()  # another test may have compiled one batch size with other flags
    whole = for_each_example(noise, table, batch_size=4)["z"]
    some = for_each_example(noise, table.subset(rows), batch_size=4)["z"]
    fewer = for_each_example(noise, table.subset(rows).subset([2, 4]), batch_size=8)["z"]
    np.testing.assert_array_equal(some, whole[rows])
    np.testing.assert_array_equal(fewer, whole[[3, 0]])
    assert len(np.unique(whole.reshape(8, -1), axis=0)) == 8


def test_noisy_pixels_are_clipped_to_the_box():
    """Black and white images, whose noise leads out of the box, stay what they are.

    Of a mean brightness m the logits are 0.3, -m and m - 0.9: the first is largest for 0 and 1, one
    of the others for -1/2 and 3/2.
    """
    images = np.stack([np.zeros_like(GREY[0]), np.full_like(GREY[0], 255)] * 4)
    noise = np.where(images == 0, -1.0, 1.0).astype(np.float32)
    mean = np.full((SIZE, SIZE, 3), 1 / GREY[0].size)
    model = linear(np.stack([0 * mean, -mean, mean], axis=-1), [0.3, 0, -0.9])
    right = correct_under_noise(model, images, np.zeros(8, int), noise, 0.5)
    np.testing.assert_array_equal(right, np.ones(8))

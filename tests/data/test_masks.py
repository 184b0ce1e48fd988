"""The two regions of an image from its masks: kinds of cores, the dilation, what the rest is."""

import jax.numpy as jnp
import numpy as np
import pytest
from scipy import ndimage

from advspur.data.masks import check_masks, dilate, mask_regions
from tests.refusals import refused

CROSS = np.array([[abs(x) * abs(y) == 0 for x in range(-2, 3)] for y in range(-2, 3)])


def dilated(mask, rounds):
    """SciPy's grey dilation with the cross, divided by the maximum."""
    for _ in range(rounds):
        mask = ndimage.grey_dilation(mask, footprint=CROSS, mode="constant", cval=0)
    return mask / mask.max()


CORES = {"soft": np.array([0, 1, 127, 128, 255]) / 255}
CORES |= {"threshold": np.array([0, 0, 0, 1, 1]), "nonzero": np.array([0, 1, 1, 1, 1])}


@pytest.mark.parametrize("kind", CORES)
def test_cores_are_soft_or_cut(kind):
    masks = jnp.asarray([0, 1, 127, 128, 255], jnp.uint8).reshape(1, 5, 1, 1)
    got, rest = mask_regions(masks, mask=kind)
    np.testing.assert_allclose(np.ravel(got), CORES[kind], rtol=0, atol=1e-6)
    np.testing.assert_allclose(np.ravel(rest), 1 - CORES[kind], rtol=0, atol=1e-6)


def test_no_rest_is_left_where_all_is_core():
    """1 - 255 / 255 need not be 0 in compiled code, and l2 noise on it would have full length."""
    core, rest = mask_regions(jnp.full((2, 9, 9, 1), 255, jnp.uint8))
    assert np.all(np.asarray(core) == 1) and not np.any(rest)


@pytest.mark.parametrize("rounds", (0, 3))
def test_the_rest_is_the_complement_of_the_dilated_core(rounds):
    masks = np.random.default_rng(0).integers(0, 200, (3, 30, 20, 1), np.uint8)
    core, rest = map(np.asarray, mask_regions(jnp.asarray(masks), dilation_rounds=rounds))
    for mask, got, other in zip(masks[..., 0] / 255, core[..., 0], rest[..., 0], strict=True):
        expected = dilated(mask, rounds) if rounds else mask
        np.testing.assert_allclose(got, expected, rtol=1e-6, atol=1e-7)
        np.testing.assert_allclose(other, 1 - expected, rtol=0, atol=1e-6)


def test_the_rest_may_be_the_spurious_masks_of_the_images_that_have_them():
    """Without a spurious mask an image has no core; of the others neither mask is changed."""
    masks = np.random.default_rng(0).integers(1, 256, (3, 8, 8, 2), np.uint8)
    masks[1, ..., 1] = 0
    core, rest = mask_regions(jnp.asarray(masks), spurious_region="masks")
    expected = masks / 255
    expected[1] = 0
    np.testing.assert_allclose(core, expected[..., :1], atol=1e-7)
    np.testing.assert_allclose(rest, expected[..., 1:], atol=1e-7)
    core, rest = mask_regions(jnp.asarray(masks))  # of the first kind alone
    np.testing.assert_allclose(core, masks[..., :1] / 255, atol=1e-7)
    np.testing.assert_allclose(rest, 1 - masks[..., :1] / 255, atol=1e-6)


def test_fifteen_rounds_reach_1801_pixels_from_a_point():
    """{ceil(|x| / 2) + ceil(|y| / 2) <= 15}: 1 + 2 * 60 + 16 * 105, not a diamond's 1,861."""
    mask = np.zeros((1, 224, 224, 1), np.float32)
    mask[0, 100, 90] = 0.5
    got = np.asarray(dilate(jnp.asarray(mask), 15))[0, ..., 0]
    y, x = np.indices((224, 224)) - np.array([100, 90])[:, None, None]
    expected = (np.abs(x) + 1) // 2 + (np.abs(y) + 1) // 2 <= 15
    assert expected.sum() == 1 + 2 * 60 + 16 * 105 == 1801
    np.testing.assert_array_equal(got, expected)


def test_the_maximum_is_of_the_image_and_not_of_the_batch():
    masks = np.zeros((3, 30, 30, 1), np.float32)
    masks[0, 10, 10], masks[1, 10, 10] = 0.2, 1
    got = np.asarray(dilate(jnp.asarray(masks), 2))
    np.testing.assert_array_equal(got[0], got[1])
    assert got[0].max() == 1 and not got[2].any()


def test_options_are_refused_by_name():
    options = {"mask": "soft", "dilation_rounds": 0, "spurious_region": "complement"}
    for name, value in {"mask": "hard", "spurious_region": "rest", "dilation_rounds": -1}.items():
        refused(f"{name} = {value!r}", check_masks, **options | {name: value})

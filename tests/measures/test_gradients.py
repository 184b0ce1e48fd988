"""Deep NFS: the share of the input gradient on a region, against the theory's for linear models."""

import dataclasses

import jax
import numpy as np
import pytest

from advspur import theory
from advspur.measures.regions import gradient_share
from tests.measures.linear import of_two_classes

SIZE, NUM = 8, 13
RNG = np.random.default_rng(0)
IMAGES = RNG.integers(60, 196, (NUM, SIZE, SIZE, 3), np.uint8)
LABELS = RNG.integers(0, 2, NUM)
WEIGHT = RNG.normal(0, 1, (SIZE, SIZE, 3))
REST = RNG.random((NUM, SIZE, SIZE, 1)) < np.linspace(0, 1, NUM)[:, None, None, None]
REST[0], REST[-1] = False, True


@pytest.mark.parametrize("scale", (1.0, 1e-25, 1e25))
def test_deep_nfs_of_a_linear_model_is_the_theorys(scale):
    """Squares of gradients of 1e-25 and 1e25 are no float32 numbers."""
    is_spurious = np.broadcast_to(REST, IMAGES.shape).reshape(NUM, -1)
    expected = [theory.norm_fraction_spurious(WEIGHT.ravel(), s) for s in is_spurious]
    by_hand = [np.sum(WEIGHT.ravel()[s] ** 2) / np.sum(WEIGHT**2) for s in is_spurious]
    model = of_two_classes(scale * WEIGHT, 0.1)
    got, has_share = gradient_share(model, IMAGES, LABELS, REST.astype(np.float32))
    assert np.all(has_share) and (got[0], got[-1]) == (0, 1) and 0 < got[5] < 1
    np.testing.assert_allclose(got, expected, rtol=1e-5, atol=1e-7)
    np.testing.assert_allclose(got, by_hand, rtol=1e-5, atol=1e-7)


def test_the_margin_is_to_the_largest_of_the_others():
    """Of three classes: the gradient of the label's weight minus that of the runner-up."""
    weights = RNG.normal(0, 1, (SIZE, SIZE, 3, 3))
    model = dataclasses.replace(
        of_two_classes(WEIGHT, 0.1), params=(np.float32(weights), np.zeros(3, "float32")),
        num_classes=3,
    )  # fmt: skip
    scores = np.tensordot(IMAGES / 255, weights, axes=3)
    scores[np.arange(NUM), LABELS] = -np.inf
    grads = weights[..., LABELS] - weights[..., scores.argmax(axis=1)]
    energy = np.moveaxis(grads, -1, 0) ** 2
    expected = np.sum(energy * REST, axis=(1, 2, 3)) / np.sum(energy, axis=(1, 2, 3))
    got, _ = gradient_share(model, IMAGES, LABELS, REST.astype(np.float32))
    np.testing.assert_allclose(got, expected, rtol=1e-5, atol=1e-7)


def sighted(params, images):
    """Sees images whose first pixel is bright, of the others nothing."""
    weights, bias = params
    logits = jax.numpy.tensordot(images, weights, axes=3) + bias
    return logits * (images[:, :1, 0, 0] > 0.5), None


def test_where_the_gradient_is_0_there_is_no_share():
    model = dataclasses.replace(of_two_classes(WEIGHT, 0.1), forward=sighted)
    _, has_share = gradient_share(model, IMAGES, LABELS, REST.astype(np.float32))
    bright = IMAGES[:, 0, 0, 0] / 255 > 0.5
    assert has_share.tolist() == bright.tolist() and 0 < bright.sum() < NUM

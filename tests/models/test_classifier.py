"""Classifier: one compilation for many models, normalisation inside, pixels at 0 and 1."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from advspur._checks import InputError
from advspur.models import Classifier

PIXELS = np.random.default_rng(0).random((8, 16, 16, 3), np.float32)


def scaled(classifier, factor):
    """Another model of the same architecture."""
    return classifier.replace(
        variables=jax.tree.map(lambda leaf: leaf * factor, classifier.variables)
    )


def test_models_of_one_architecture_share_a_compilation(tiny_classifier):
    traces = []

    @jax.jit
    def logits(classifier, images):
        traces.append(classifier)
        return classifier.logits(images)

    one = logits(tiny_classifier, PIXELS)
    other = logits(scaled(tiny_classifier, 1.1), PIXELS)
    assert len(traces) == 1
    assert np.abs(one - other).max() > 1e-3
    logits(tiny_classifier.replace(mean=(0.4,) * 3), PIXELS)
    assert len(traces) == 2  # the normalisation is static


def test_leaves_are_the_variables_alone(tiny_classifier):
    assert len(jax.tree.leaves(tiny_classifier)) == len(jax.tree.leaves(tiny_classifier.variables))
    assert tiny_classifier.num_classes == 8


def test_normalisation_is_inside(tiny_classifier):
    mean, std = (0.4, 0.5, 0.6), (0.2, 0.25, 0.3)
    classifier = Classifier(tiny_classifier.variables, tiny_classifier.network, mean, std)
    normalized = (PIXELS - np.float32(mean)) / np.float32(std)
    logits, features = classifier.network.apply(classifier.variables, normalized)
    np.testing.assert_allclose(classifier.logits(PIXELS), logits, rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(classifier.features(PIXELS), features, rtol=1e-4, atol=1e-4)
    assert classifier.features(PIXELS).shape == (8, 16)


def test_the_gradient_at_pixels_of_0_and_1_is_whole(tiny_classifier):
    """d logits / d pixel = (d logits / d normalised pixel) / std, at the corners as inside."""
    images = np.rint(PIXELS)  # every pixel is exactly 0 or 1
    got = jax.grad(lambda x: tiny_classifier.logits(x).std())(jnp.asarray(images))
    through = jax.grad(
        lambda z: tiny_classifier.network.apply(tiny_classifier.variables, z)[0].std()
    )((images - 0.5) / 0.25)
    expected = np.asarray(through) / 0.25
    assert np.abs(expected).max() > 1e-4
    np.testing.assert_allclose(got, expected, rtol=1e-3, atol=1e-3 * np.abs(expected).max())


@pytest.mark.parametrize(
    "images, message",
    [
        (PIXELS * 255, r"images lie in .*the model owns its normalisation"),
        (PIXELS - 0.5, "images lie in"),
        (np.where(PIXELS > 0.5, np.nan, PIXELS), "images contain NaN"),
        (np.zeros((8, 16, 16, 3), np.uint8), "images have dtype uint8"),
        (PIXELS[0], "images have shape"),
    ],
)
def test_bad_images_are_refused(tiny_classifier, images, message):
    for method in (tiny_classifier.logits, tiny_classifier.features):
        with pytest.raises(InputError, match=message):
            method(images)

"""Classifier: one compilation for many models, normalisation inside, pixels at 0 and 1."""

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from advspur._checks import InputError
from advspur.models import Classifier, PooledClassifier, with_head

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


@flax.struct.dataclass
class Stored:
    """Logits that are given."""

    rows: jax.Array

    def logits(self, images):
        return self.rows


ROWS = np.random.default_rng(1).normal(-5, 2, (40, 9)).astype(np.float32)  # most are negative
GROUPS = np.array([2, -1, 0, 0, 2, -1, 3, 0, 3])  # group 1 has no class


def test_a_pooled_prediction_is_the_group_of_the_prediction():
    pooled = PooledClassifier(Stored(ROWS), jnp.asarray(GROUPS), 4)
    logits = np.asarray(pooled.logits(None))
    assert pooled.num_classes == 5 and logits.shape == (40, 5) and logits.dtype == np.float32
    groups = GROUPS[ROWS.argmax(axis=1)]
    np.testing.assert_array_equal(logits.argmax(axis=1), np.where(groups < 0, 4, groups))
    assert set(groups) == {-1, 0, 2, 3}
    for group, classes in ((0, [2, 3, 7]), (2, [0, 4]), (3, [6, 8]), (4, [1, 5])):
        np.testing.assert_array_equal(logits[:, group], ROWS[:, classes].max(axis=1))


def test_without_the_rest_the_other_classes_are_no_choice():
    pooled = PooledClassifier(Stored(ROWS), jnp.asarray(GROUPS), 4, with_rest=False)
    logits = np.asarray(pooled.logits(None))
    assert pooled.num_classes == 4 and logits.shape == (40, 4)
    among = np.where(GROUPS < 0, -np.inf, ROWS).argmax(axis=1)
    np.testing.assert_array_equal(logits.argmax(axis=1), GROUPS[among])
    assert np.any(GROUPS[ROWS.argmax(axis=1)] < 0)  # the two scorings differ


@pytest.mark.parametrize("with_rest", (True, False))
def test_gradients_go_to_the_largest_class_of_a_group(with_rest):
    """Group 1 is empty: its logit is -inf, and must not make a gradient NaN."""

    def loss(rows):
        pooled = PooledClassifier(Stored(rows), jnp.asarray(GROUPS), 4, with_rest=with_rest)
        log_p = jax.nn.log_softmax(pooled.logits(None))
        return -jnp.sum(log_p[:, 0])

    grad = np.asarray(jax.grad(loss)(jnp.asarray(ROWS)))
    expected = np.zeros_like(ROWS)
    parts = [(0, [2, 3, 7]), (2, [0, 4]), (3, [6, 8])] + [(4, [1, 5])] * with_rest
    for i, row in enumerate(ROWS):
        largest = {group: classes[np.argmax(row[classes])] for group, classes in parts}
        shares = np.exp([row[k] for k in largest.values()])
        for (group, k), share in zip(largest.items(), shares / shares.sum(), strict=True):
            expected[i, k] = share - (group == 0)
    np.testing.assert_allclose(grad, expected, atol=1e-6)


def test_pooled_models_of_one_architecture_share_a_compilation(tiny_classifier):
    traces = []

    @jax.jit
    def logits(classifier, images):
        traces.append(classifier)
        return classifier.logits(images)

    groups = jnp.asarray([0, 0, 1, 1, -1, 2, 2, 2])
    for classifier in (tiny_classifier, scaled(tiny_classifier, 1.1)):
        found = logits(PooledClassifier(classifier, groups, 3), PIXELS)
        whole = np.asarray(classifier.logits(PIXELS))
        np.testing.assert_allclose(found[:, 1], whole[:, 2:4].max(axis=1), rtol=1e-5)
    assert len(traces) == 1


def test_another_head_reads_the_same_features(tiny_classifier):
    rng = np.random.default_rng(0)
    kernel, bias = rng.normal(size=(16, 3)).astype("float32"), rng.normal(size=3).astype("float32")
    before = jax.tree.map(np.array, tiny_classifier.variables)
    changed = with_head(tiny_classifier, kernel, bias)
    assert changed.num_classes == changed.network.num_classes == 3
    features = tiny_classifier.features(PIXELS)
    np.testing.assert_allclose(changed.features(PIXELS), features, rtol=1e-5)
    expected = np.float64(features) @ kernel + bias
    np.testing.assert_allclose(changed.logits(PIXELS), expected, rtol=1e-4, atol=1e-4)
    # The model it was made of is as it was.
    assert tiny_classifier.num_classes == 8
    jax.tree.map(np.testing.assert_array_equal, before, tiny_classifier.variables)

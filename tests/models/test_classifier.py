"""Classifier: one compilation for many models, normalisation inside, pixels at 0 and 1."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from advspur.models import Classifier, from_resnet, pool, with_class_map, with_head
from tests.refusals import refused

PIXELS = np.random.default_rng(0).random((8, 16, 16, 3), np.float32)


def scaled(classifier, factor):
    """Another model of the same architecture."""
    params = jax.tree.map(lambda leaf: leaf * factor, classifier.params)
    return dataclasses.replace(classifier, params=params)


def test_models_of_one_architecture_share_a_compilation(tiny_classifier, traced_logits):
    logits, traces = traced_logits
    one = logits(tiny_classifier, PIXELS)
    other = logits(scaled(tiny_classifier, 1.1), PIXELS)
    assert len(traces) == 1
    assert np.abs(one - other).max() > 1e-3
    network, variables = tiny_classifier.forward.network, tiny_classifier.params
    logits(from_resnet(network, variables, mean=(0.4,) * 3, std=(0.25,) * 3), PIXELS)
    assert len(traces) == 2  # the normalisation is static
    assert len(jax.tree.leaves(tiny_classifier)) == len(jax.tree.leaves(tiny_classifier.params))
    groups = jnp.asarray([0, 0, 1, 1, -1, 2, 2, 2])
    for classifier in (tiny_classifier, scaled(tiny_classifier, 1.1)):
        pooled = with_class_map(classifier, groups, 3)
        assert pooled.num_classes == 4
        whole = np.asarray(classifier.logits(PIXELS))
        found = logits(pooled, PIXELS)
        np.testing.assert_allclose(found[:, 1], whole[:, 2:4].max(axis=1), rtol=1e-5)
    assert len(traces) == 3


def test_normalisation_is_inside(tiny_classifier):
    mean, std = (0.4, 0.5, 0.6), (0.2, 0.25, 0.3)
    network, variables = tiny_classifier.forward.network, tiny_classifier.params
    classifier = from_resnet(network, variables, mean=mean, std=std)
    normalized = (PIXELS - np.float32(mean)) / np.float32(std)
    logits, features = jax.jit(network.apply)(variables, normalized)
    np.testing.assert_allclose(classifier.logits(PIXELS), logits, rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(classifier.features(PIXELS), features, rtol=1e-4, atol=1e-4)
    assert classifier.features(PIXELS).shape == (8, 16)


def test_the_gradient_at_pixels_of_0_and_1_is_whole(tiny_classifier):
    """d logits / d pixel = (d logits / d normalised pixel) / std, at the corners as inside."""
    images = np.rint(PIXELS)  # every pixel is exactly 0 or 1
    network, variables = tiny_classifier.forward.network, tiny_classifier.params
    inside = jax.jit(jax.grad(lambda z: network.apply(variables, z)[0].std()))
    got = jax.jit(jax.grad(lambda x: tiny_classifier.logits(x).std()))(images)
    through = inside((images - 0.5) / 0.25)
    expected = np.asarray(through) / 0.25
    assert np.abs(expected).max() > 1e-4
    np.testing.assert_allclose(got, expected, rtol=1e-3, atol=1e-3 * np.abs(expected).max())


def test_bad_images_are_refused(tiny_classifier):
    """As attacks refuse them, where each message is tested."""
    for method in (tiny_classifier.logits, tiny_classifier.features):
        refused("images are in .*the model owns its normalisation", method, PIXELS * 255)


ROWS = np.random.default_rng(1).normal(-5, 2, (40, 9)).astype(np.float32)  # most are negative
GROUPS = np.array([2, -1, 0, 0, 2, -1, 3, 0, 3])  # group 1 has no class
PARTS = (0, [2, 3, 7]), (2, [0, 4]), (3, [6, 8]), (4, [1, 5])  # the last is the rest


def test_a_pooled_prediction_is_the_group_of_the_prediction():
    logits = np.asarray(pool(ROWS, jnp.asarray(GROUPS), 4))
    assert logits.shape == (40, 5) and logits.dtype == np.float32
    groups = GROUPS[ROWS.argmax(axis=1)]
    np.testing.assert_array_equal(logits.argmax(axis=1), np.where(groups < 0, 4, groups))
    assert set(groups) == {-1, 0, 2, 3}
    for group, classes in PARTS:
        np.testing.assert_array_equal(logits[:, group], ROWS[:, classes].max(axis=1))
    mapped = np.asarray(pool(ROWS, jnp.asarray(GROUPS), 4, with_rest=False))
    np.testing.assert_array_equal(mapped, logits[:, :4])  # the other classes are no choice


@pytest.mark.parametrize("with_rest", (True, False))
def test_gradients_go_to_the_largest_class_of_a_group(with_rest):
    """Group 1 is empty: its logit is -inf, and must not make a gradient NaN."""

    def loss(rows):
        log_p = jax.nn.log_softmax(pool(rows, jnp.asarray(GROUPS), 4, with_rest=with_rest))
        return -jnp.sum(log_p[:, 0])

    grad = np.asarray(jax.jit(jax.grad(loss))(ROWS))
    expected = np.zeros_like(ROWS)
    for i, row in enumerate(ROWS):
        parts = PARTS[: 3 + with_rest]
        largest = {group: classes[np.argmax(row[classes])] for group, classes in parts}
        shares = np.exp([row[k] for k in largest.values()])
        for (group, k), share in zip(largest.items(), shares / shares.sum(), strict=True):
            expected[i, k] = share - (group == 0)
    np.testing.assert_allclose(grad, expected, atol=1e-6)


def test_a_head_outside_the_network_equals_one_inside(tiny_classifier):
    """To the last bit: which of the two a model has must not move its numbers."""
    jax.clear_caches()  # of programs that other modules compiled without optimisation
    head = tiny_classifier.params["params"]["fc"]
    outside = with_head(tiny_classifier, head["kernel"], head["bias"])
    np.testing.assert_array_equal(outside.logits(PIXELS), tiny_classifier.logits(PIXELS))
    np.testing.assert_array_equal(outside.features(PIXELS), tiny_classifier.features(PIXELS))
    gradient = jax.jit(jax.grad(lambda x, model: model.logits(x).std()))
    np.testing.assert_array_equal(gradient(PIXELS, outside), gradient(PIXELS, tiny_classifier))
    three = with_head(tiny_classifier, head["kernel"][:, 2:5], head["bias"][2:5])
    assert (three.num_classes, tiny_classifier.num_classes) == (3, 8)
    expected = tiny_classifier.logits(PIXELS)[:, 2:5]
    np.testing.assert_allclose(three.logits(PIXELS), expected, rtol=1e-4, atol=1e-4)


def test_a_digest_tells_models_apart(tiny_classifier):
    named = dataclasses.replace(tiny_classifier, name="another name")
    assert named.digest == tiny_classifier.digest
    network, variables = tiny_classifier.forward.network, tiny_classifier.params
    others = [
        scaled(tiny_classifier, 1.001),
        from_resnet(network, variables, mean=(0.4,) * 3, std=(0.25,) * 3),
        from_resnet(network.clone(stem="cifar"), variables, mean=(0.5,) * 3, std=(0.25,) * 3),
        with_class_map(tiny_classifier, np.arange(8) % 3, 3),
        with_class_map(tiny_classifier, np.arange(8) % 3, 3, with_rest=False),
        with_head(tiny_classifier, np.zeros((16, 2), "float32"), np.zeros(2, "float32")),
        dataclasses.replace(tiny_classifier, code="other code"),
    ]
    assert len({tiny_classifier.digest, *(m.digest for m in others)}) == len(others) + 1
    assert dataclasses.replace(tiny_classifier, code=None).digest is None


def test_a_model_without_features_is_refused_if_they_are_needed():
    plain = Classifier({}, lambda params, x: (x.mean((1, 2)), None), 3, has_features=False)
    assert plain.logits(PIXELS).shape == (8, 3)
    refused("the model has no features", plain.features, PIXELS)
    refused("has no features for a head", with_head, plain, np.zeros((3, 2)), np.zeros(2))

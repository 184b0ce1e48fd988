"""from_function: what a model is at least, one program for many, and every mistake in one line."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from advspur import attacks, models
from advspur.models import check_is_model, check_model, from_function
from tests.refusals import refused

IMAGES = np.random.default_rng(0).random((4, 8, 8, 3), np.float32)
KERNEL = np.random.default_rng(1).normal(size=(192, 5)).astype(np.float32)


def flat(images):
    return images.reshape(len(images), -1)


def linear(weights, images):
    return flat(images) @ weights


def linear_model(weights=KERNEL, **options):
    return from_function(linear, params=weights, num_classes=5, name="linear", **options)


def test_logits_and_features_are_those_of_the_function():
    names = tuple("abcde")
    options = {"image_size": 8, "class_names": names}
    model = linear_model(features=lambda weights, images: images.mean((1, 2)), **options)
    np.testing.assert_allclose(model.logits(IMAGES), IMAGES.reshape(4, -1) @ KERNEL, rtol=1e-4)
    np.testing.assert_allclose(model.features(IMAGES), IMAGES.mean((1, 2)), rtol=1e-5)
    assert (model.num_classes, model.image_size, model.name) == (5, 8, "linear")
    assert model.class_names == names
    headed = models.with_head(model, np.eye(3, dtype="float32"), np.zeros(3, "float32"))
    np.testing.assert_allclose(headed.logits(IMAGES), IMAGES.mean((1, 2)), rtol=1e-5)
    plain = from_function(lambda x: flat(x)[:, :2], num_classes=2, name="plain")
    np.testing.assert_array_equal(plain.logits(IMAGES), IMAGES.reshape(4, -1)[:, :2])
    refused("plain has no features", plain.features, IMAGES)


def test_models_of_one_function_share_a_program_and_keep_their_weights(traced_logits):
    logits, traces = traced_logits
    for _ in range(2):  # in turn
        for weights in (KERNEL, -2 * KERNEL):
            got = logits(linear_model(weights), IMAGES)
            np.testing.assert_allclose(got, IMAGES.reshape(4, -1) @ weights, rtol=1e-4)
    assert len(traces) == 1
    for scale in (1, 3):  # two functions of the same shapes
        other = from_function(lambda x, s=scale: s * flat(x)[:, :5], num_classes=5, name="f")
        np.testing.assert_allclose(logits(other, IMAGES), scale * IMAGES.reshape(4, -1)[:, :5])
    assert len(traces) == 3


def test_weights_are_no_constants_of_the_program():
    model = linear_model()
    traced = jax.make_jaxpr(lambda model, x: model.logits(x))(model, IMAGES)
    assert not traced.consts and "192,5" in str(traced.in_avals)


@pytest.mark.parametrize(
    "logits, options, message",
    [
        (lambda x: flat(x)[:, :4], {}, "logits of f have 4 columns, but num_classes = 5"),
        (lambda x: flat(x)[:1, :5], {}, r"logits of f have shape \(1, 5\) for 2 images; expected"),
        (lambda x: x, {}, "logits of f have shape"),
        (lambda x: flat(x)[:, :5].astype(int), {}, "logits of f are a int32 array; expected an a"),
        (lambda x: (flat(x), 1), {}, "are a tuple; expected an array of floats"),
        (
            lambda x: x.any_name,
            {},
            r"f fails \(.*function.py, line \d+\): AttributeError: JAX array",
        ),
        (lambda x: np.asarray(x)[:, 0], {}, "needs the values of its images, as NumPy and PyTorch"),
        (lambda x: flat(x)[:, : int(x.sum())], {}, "needs the values of its images"),
        (lambda p, x: flat(x), {}, "TypeError: .* missing 1 required positional argument"),
        (lambda x: flat(x)[:, :5], {"features": lambda x: x}, "features of f have shape"),
        ([1], {}, "logits is a list; give a function of images"),
        (np.poly1d([1]), {}, "has no hash: give a function"),
        (lambda x: flat(x)[:, :5], {"class_names": "ab"}, "class_names has 2 names, f 5 outputs"),
        (flat, {"num_classes": 1}, "num_classes = 1: it must be a whole number >= 2"),
        (flat, {"image_size": 0}, "image_size = 0"),
    ],
)
def test_mistakes_are_refused_in_one_line(logits, options, message):
    options = {"num_classes": 5, "image_size": 8, "name": "f"} | options
    refused(message, from_function, logits, **options)


def test_images_of_a_different_size_are_refused():
    model, images = linear_model(image_size=8), np.full((2, 6, 8, 3), 0.5, "float32")
    message, given = "linear takes 8 x 8 images, got 6 x 8", (images, np.zeros(2, int))
    refused(message, model.logits, images)
    refused(message, jax.jit(lambda m, x: m.logits(x)), model, images)
    refused(message, attacks.square, model.logits, *given, jax.random.key(0), p=2, epsilon=1)


def test_a_model_is_checked_before_it_is_measured():
    check_model(linear_model(image_size=8))
    check_model(linear_model(), image_size=8)
    nan = from_function(lambda x: jnp.log(flat(x)[:, :5] - 2), num_classes=5, name="nan")
    message = "the logits of nan are not finite for 2 of 2 images"
    refused(message, check_model, nan, image_size=8)
    noise = iter(range(9))

    def random(images):
        shape = jax.ShapeDtypeStruct((len(images), 5), "float32")
        return jax.pure_callback(lambda: np.full(shape.shape, next(noise), "float32"), shape)

    noisy = from_function(random, num_classes=5, name="noisy")
    message = "noisy is random: two calls on the same images differ"
    refused(message, check_model, noisy, image_size=8)


def test_the_refusal_of_what_is_not_a_model_names_the_constructor():
    from flax import linen, nnx

    for thing, name in (
        (flat, "from_function"),
        (linen.Dense(3), r"from_flax\(module, variables"),
        (nnx.Linear(2, 3, rngs=nnx.Rngs(0)), r"from_flax\(module, mean"),
        ({}, "load.*from_function.*from_flax.*from_torch"),
    ):
        refused(f"is not a model; make one with advspur.models.{name}", check_is_model, thing)
        refused("is not a model", models.with_head, thing, np.eye(3), np.zeros(3))
    check_is_model(linear_model())

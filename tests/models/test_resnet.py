"""ResNets: published parameter counts, geometry, padding against NumPy, batch statistics."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from numpy.lib.stride_tricks import sliding_window_view

from advspur.models import build_network, resnet18, resnet50, resnet_small
from tests.refusals import refused

CAPTURE = {"capture_intermediates": True, "mutable": ["intermediates"]}


def describe(network, size):
    """(variables, intermediates) as shapes, nothing computed."""

    def initialize(x):
        variables = network.init(jax.random.key(0), x)
        return variables, network.apply(variables, x, **CAPTURE)[1]["intermediates"]

    return jax.eval_shape(initialize, jax.ShapeDtypeStruct((2, size, size, 3), jnp.float32))


def spatial(intermediates, name):
    return intermediates[name]["__call__"][0].shape[1:]


PUBLISHED = ("resnet18", 11_689_512, 512), ("resnet50", 25_557_032, 2048)
PUBLISHED += (("wide_resnet50_2", 68_883_240, 2048),)


@pytest.mark.parametrize("arch, num_parameters, width", PUBLISHED)
def test_parameter_counts_and_feature_sizes_are_the_published_ones(arch, num_parameters, width):
    variables, intermediates = describe(build_network(arch, 1000, stem="imagenet"), 224)
    logits, features = intermediates["__call__"][0]
    assert sum(leaf.size for leaf in jax.tree.leaves(variables["params"])) == num_parameters
    assert features.shape == (2, width) and logits.shape == (2, 1000)
    assert spatial(intermediates, "bn1") == (112, 112, 64)
    if arch == "resnet18":
        assert spatial(intermediates, "layer4_1_bn2") == (7, 7, width)
    else:  # the stride of a bottleneck is on its 3x3 convolution
        assert spatial(intermediates, "layer4_2_bn3") == (7, 7, width)
        assert spatial(intermediates, "layer2_0_conv1")[:2] == (56, 56)
        assert spatial(intermediates, "layer2_0_conv2")[:2] == (28, 28)


@pytest.mark.parametrize(
    "stem, first, second", (("imagenet", 16, 8), ("cifar", 32, 32), ("small", 16, 16))
)
def test_stems_have_their_geometry(stem, first, second):
    variables, intermediates = describe(resnet18(10, stem=stem), 32)
    assert spatial(intermediates, "conv1") == (first, first, 64)
    assert spatial(intermediates, "layer1_1_bn2") == (second, second, 64)
    assert spatial(intermediates, "layer4_1_bn2") == (second // 8, second // 8, 512)
    side = 7 if stem == "imagenet" else 3
    assert variables["params"]["conv1"]["kernel"].shape == (side, side, 3, 64)


def test_outputs_are_float32_and_parameters_too_under_bfloat16():
    network = resnet_small(8, width=4, stem="cifar", dtype=jnp.bfloat16)
    variables, intermediates = describe(network, 16)
    logits, features = intermediates["__call__"][0]
    assert intermediates["layer1_0_conv1"]["__call__"][0].dtype == jnp.bfloat16
    assert {leaf.dtype for leaf in jax.tree.leaves(variables)} == {jnp.dtype("float32")}
    assert logits.dtype == features.dtype == jnp.float32


def pad(x, amount, value=0.0):
    return np.pad(x, ((0, 0), (amount, amount), (amount, amount), (0, 0)), constant_values=value)


def windows(x, side, stride):
    """[n, h, w, c, side, side]"""
    return sliding_window_view(x, (side, side), axis=(1, 2))[:, ::stride, ::stride]


def check_conv(output, x, kernel, *, stride, padding):
    """Raise unless `output` is the convolution in NumPy, and return that."""
    patches = windows(pad(np.asarray(x, np.float64), padding), kernel.shape[0], stride)
    expected = np.einsum("nhwcij,ijco->nhwo", patches, np.asarray(kernel, np.float64))
    np.testing.assert_allclose(output, expected, rtol=1e-4, atol=1e-4)
    return expected


@functools.cache
def small_forward(stem):
    network = resnet_small(8, width=4, stem=stem)
    x = jax.random.normal(jax.random.key(1), (2, 16, 16, 3))

    @jax.jit
    def forward(x):
        variables = network.init(jax.random.key(0), x)
        out, state = network.apply(variables, x, **CAPTURE)
        return variables, out, state["intermediates"]

    variables, out, intermediates = forward(x)
    modules = {k: v for k, v in intermediates.items() if isinstance(v, dict)}
    layers = {k: np.asarray(v["__call__"][0]) for k, v in modules.items()}
    return network, x, variables, out, layers


def test_strided_3x3_convolutions_pad_both_sides_and_features_are_the_last_averages():
    _, x, variables, (logits, features), layers = small_forward("small")
    params = variables["params"]
    check_conv(layers["conv1"], x, params["conv1"]["kernel"], stride=2, padding=1)
    before = np.maximum(layers["layer2_0_bn2"] + layers["layer2_0_downsample_bn"], 0)
    kernel = params["layer3_0_conv1"]["kernel"]
    check_conv(layers["layer3_0_conv1"], before, kernel, stride=2, padding=1)
    last = np.maximum(layers["layer3_0_bn2"] + layers["layer3_0_downsample_bn"], 0)
    np.testing.assert_allclose(features, last.mean(axis=(1, 2)), rtol=1e-5, atol=1e-6)
    head = params["fc"]
    expected = np.asarray(features) @ np.asarray(head["kernel"]) + np.asarray(head["bias"])
    np.testing.assert_allclose(logits, expected, rtol=1e-5, atol=1e-5)


def test_the_imagenet_stem_pads_convolution_and_pooling_on_both_sides():
    _, x, variables, _, layers = small_forward("imagenet")
    params = variables["params"]
    check_conv(layers["conv1"], x, params["conv1"]["kernel"], stride=2, padding=3)
    pooled = windows(pad(np.maximum(layers["bn1"], 0), 1, -np.inf), 3, 2).max(axis=(-2, -1))
    kernel = params["layer1_0_conv1"]["kernel"]
    check_conv(layers["layer1_0_conv1"], pooled, kernel, stride=1, padding=1)


def test_batch_statistics_move_under_training_only():
    network, x, variables, (logits, _), layers = small_forward("small")
    apply = functools.partial(network.apply, mutable=["batch_stats"])
    apply = jax.jit(apply, static_argnames="train")
    (frozen, _), state = apply(variables, x, train=False)
    np.testing.assert_allclose(frozen, logits, rtol=1e-5, atol=1e-5)
    jax.tree.map(np.testing.assert_array_equal, state["batch_stats"], variables["batch_stats"])
    (trained, _), state = apply(variables, x, train=True)
    assert np.abs(trained - frozen).max() > 1e-3
    # One step of momentum 0.9 from mean 0 and variance 1.
    kernel = variables["params"]["conv1"]["kernel"]
    output = check_conv(layers["conv1"], x, kernel, stride=2, padding=1)
    mean, variance = 0.1 * output.mean((0, 1, 2)), 0.9 + 0.1 * output.var((0, 1, 2))
    stats = state["batch_stats"]["bn1"]
    np.testing.assert_allclose(stats["mean"], mean, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(stats["var"], variance, rtol=1e-4, atol=1e-5)


def test_networks_are_built_by_name():
    assert build_network("resnet18", 10, stem="cifar") == resnet18(10, stem="cifar")
    assert build_network("resnet_small", 4, stem="small", dtype="bfloat16").dtype == jnp.bfloat16
    message = "arch = 'vgg' is not known; allowed: 'resnet18'"
    refused(message, build_network, "vgg", 10, stem="cifar")
    refused("stem = 'tiny' is not known", build_network, "resnet18", 10, stem="tiny")
    refused("num_classes = 1", resnet50, 1)

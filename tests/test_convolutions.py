"""Convolutions reordered for loops: the same values, and no slow order in the program."""

import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from advspur._convolutions import convolve, for_loops

FAST = "b01f_01io->b01f"
RNG = np.random.default_rng(0)
NHWC = ("NHWC", "HWIO", "NHWC")
NCHW = ("NCHW", "OIHW", "NCHW")


def array(*shape):
    return RNG.normal(size=shape).astype(np.float32)


def same_values(function, *args):
    expected, got = jax.jit(function)(*args), jax.jit(for_loops(function))(*args)
    assert jax.tree.structure(got) == jax.tree.structure(expected)
    for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(expected), strict=True):
        assert a.dtype == b.dtype and a.shape == b.shape
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4)


def conv(x, kernel, strides=(1, 1), padding="SAME", dimensions=NHWC, **options):
    return lax.conv_general_dilated(
        x, kernel, strides, padding, dimension_numbers=dimensions, **options
    )


IMAGES, KERNEL = array(2, 7, 6, 4), array(3, 2, 4, 6)
SIDES = {"padding": ((1, 1), (1, 1))}
CUT = {"strides": (2, 2), "padding": ((-1, 1), (0, -2))}  # some pixels are cut off
LINE, CUBE = ("NWC", "WIO", "NWC"), ("NDHWC", "DHWIO", "NDHWC")
MIXED = ("HNCW", "IWOH", "CWHN")
CASES = [  # shapes of images and kernel, options
    ((2, 7, 6, 4), (3, 2, 4, 6), {"strides": (2, 3), "padding": "VALID"}),
    ((2, 7, 6, 4), (3, 2, 4, 6), {"padding": ((2, 1), (0, 3))}),
    ((2, 7, 6, 4), (3, 2, 4, 6), {"rhs_dilation": (2, 1)}),
    ((2, 7, 6, 4), (3, 2, 4, 6), {"lhs_dilation": (2, 2), "rhs_dilation": (1, 2)} | SIDES),
    ((2, 7, 6, 4), (3, 3, 2, 6), {"strides": (2, 2), "feature_group_count": 2}),
    ((2, 7, 6, 4), (2, 2, 4, 6), {"batch_group_count": 2} | SIDES),
    ((2, 7, 6, 4), (2, 2, 4, 6), {"batch_group_count": 2, "lhs_dilation": (2, 2)} | SIDES),
    ((2, 4, 7, 6), (6, 4, 3, 2), {"dimensions": NCHW} | SIDES),
    ((7, 2, 4, 6), (4, 2, 6, 3), {"dimensions": MIXED} | SIDES),
    ((7, 2, 4, 6), (4, 2, 6, 3), {"dimensions": MIXED, "strides": (2, 2)} | SIDES),
    ((2, 4, 7, 6), (6, 4, 3, 2), {"dimensions": NCHW, "lhs_dilation": (1, 2)} | SIDES),
    ((2, 9, 3), (4, 3, 2), {"dimensions": LINE, "strides": (2,)}),
    ((2, 4, 4, 4, 2), (2, 2, 2, 2, 3), {"dimensions": CUBE, "strides": (2, 2, 2)}),
    ((2, 3, 5, 3), (4, 4, 3, 5), {"strides": (2, 2), "padding": "VALID"}),  # no result
    # Sides that the strides divide: patches.
    ((2, 8, 8, 6), (2, 2, 6, 5), {"strides": (2, 2), "padding": "VALID"}),
    ((2, 9, 7, 6), (4, 2, 6, 5), {"strides": (2, 2)}),
    ((2, 9, 10, 6), (3, 6, 6, 5), {"strides": (1, 3)}),
    # Few channels: patches.
    ((2, 11, 12, 3), (7, 7, 3, 5), {"strides": (2, 2), "padding": ((3, 3), (3, 3))}),
    ((2, 8, 9, 3), (3, 3, 3, 5), {"strides": (2, 2)}),
    ((2, 8, 9, 3), (1, 1, 3, 5), {"strides": (2, 2), "padding": "VALID"}),  # smaller than a stride
    ((2, 10, 10, 1), (2, 3, 1, 5), {"strides": (4, 2), "padding": "VALID"}),
    ((2, 8, 9, 2), (3, 3, 2, 5), {"strides": (2, 2), "padding": ((0, 4), (5, 0))}),  # many zeros
    ((2, 9, 9, 2), (4, 4, 2, 5), CUT),
    ((2, 8, 8, 6), (3, 3, 6, 5), {"strides": (2, 2)}),  # neither
]
PRODUCTS = [  # few channels, and sides that the strides divide
    ((2, 8, 8, 3), (4, 4, 3, 5), {"strides": (2, 2)} | SIDES),
    ((2, 9, 12, 3), (2, 6, 3, 5), {"strides": (2, 3)}),
    ((2, 9, 7, 3), (2, 4, 3, 5), {"strides": (1, 2), "padding": "VALID"}),  # a row is left over
    ((2, 8, 8, 3), (4, 4, 3, 5), {"strides": (4, 4), "padding": "VALID"}),
    ((2, 9, 9, 3), (4, 2, 3, 5), CUT),
    ((2, 6, 7, 3), (2, 2, 3, 5), {"strides": (2, 2), "padding": ((5, 0), (0, 4))}),  # many zeros
    # Many channels: tiles.
    ((11, 4, 5, 128), (3, 3, 128, 129), {}),
    ((32, 6, 3, 129), (3, 3, 129, 128), {"padding": ((-1, 1), (1, 0))}),
    ((64, 3, 3, 128), (3, 3, 128, 128), {"padding": "VALID"}),
]


@pytest.mark.parametrize("images, kernel, options", CASES + PRODUCTS)
def test_convolutions_and_their_gradients_agree_with_jax(images, kernel, options):
    def values(*arrays):
        loss = jax.grad(lambda *a: jnp.sum(jnp.sin(conv(*a, **options))), argnums=(0, 1))
        return conv(*arrays, **options), loss(*arrays)

    x, kernel = array(*images), array(*kernel)
    kernel *= 10 / kernel.size**0.5  # results of order 1 to 10
    same_values(values, x, kernel)
    if (images, kernel.shape, options) in PRODUCTS:
        text = str(jax.make_jaxpr(for_loops(lambda x: conv(x, kernel, **options)))(x))
        assert "conv_general_dilated" not in text


@pytest.mark.parametrize(
    "n, channels, dtype, options, are_used",
    (
        (64, 128, "float32", {}, True),
        (63, 128, "float32", {}, False),
        (64, 127, "float32", {}, False),
        (64, 128, "bfloat16", {}, False),
        (64, 128, "float64", {}, False),
        (64, 128, "float32", {"preferred_element_type": "float64"}, False),
        (64, 128, "float32", {"rhs_dilation": (2, 2)}, False),
        (64, 256, "float32", {"feature_group_count": 2}, False),
    ),
)
def test_tiles_are_for_many_channels_and_pixels_in_float32(
    n, channels, dtype, options, are_used, x64
):
    """From shapes alone."""
    before = channels // options.get("feature_group_count", 1)
    x = jax.ShapeDtypeStruct((n, 2, 2, channels), dtype)
    kernel = jax.ShapeDtypeStruct((3, 3, before, channels), dtype)
    function = for_loops(lambda x, k: conv(x, k, **options))
    text = str(jax.make_jaxpr(function)(x, kernel))
    assert ("conv_general_dilated" not in text) == are_used


def test_strided_gradients_are_products_of_matrices():
    """A 2 x 2 kernel with stride 2 leaves no convolution of an image with zeros."""
    x, kernel = array(2, 8, 8, 6), array(2, 2, 6, 5)

    def gradient(x):
        return jax.grad(lambda x: jnp.sum(jnp.sin(conv(x, kernel, (2, 2), "VALID"))))(x)

    texts = [str(jax.make_jaxpr(function)(x)) for function in (gradient, for_loops(gradient))]
    assert [text.count("lhs_dilation=(2, 2)") for text in texts] == [1, 0]


def test_bodies_of_calls_are_reordered():
    """Nested jit, relu (custom_jvp) and a custom_vjp each have a slow convolution."""
    kernel = KERNEL.transpose(3, 2, 0, 1)

    @jax.custom_vjp
    def doubled(x):
        return 2 * conv(x, kernel, dimensions=NCHW)

    doubled.defvjp(lambda x: (doubled(x), None), lambda _, g: (g[:, :4],))

    @jax.custom_jvp
    def tripled(x):
        return 3 * conv(x, kernel, dimensions=NCHW)

    tripled.defjvp(lambda x, t: (tripled(*x), tripled(*t)))

    def function(x):
        inner = jax.jit(lambda y: conv(y, kernel, dimensions=NCHW))
        return inner(x), jax.nn.relu(doubled(x)), tripled(x), jax.jit(jax.jit(inner))(2 * x)

    x = IMAGES.transpose(0, 3, 1, 2)
    same_values(function, x)
    text = str(jax.make_jaxpr(for_loops(function))(x))
    assert "lhs_spec=(0, 3, 1, 2)" in text and "lhs_spec=(0, 1, 2, 3)" not in text


def test_control_flow_is_left_unchanged():
    def function(x, flag):
        y = lax.cond(flag, lambda x: conv(x, KERNEL), lambda x: jnp.zeros((2, 7, 6, 6)), x)
        z, seen = lax.scan(lambda c, t: (c * t, conv(c, KERNEL)), x, jnp.arange(3.0))
        return y, z, seen, lax.while_loop(lambda i: i < 4, lambda i: i + 1, 0)

    same_values(function, IMAGES, True)
    same_values(function, IMAGES, False)


def test_pytrees_constants_and_unused_results_pass():
    def function(tree, scale):
        x = tree["x"] * scale
        unused = conv(x, KERNEL)
        del unused
        return {"y": (conv(x, tree["k"][0]), x), "one": 1.0, "none": None, "given": tree["k"][1]}

    same_values(function, {"x": IMAGES, "k": [KERNEL, jnp.arange(3)]}, 2.0)


def test_traced_values_of_the_surrounding_function_may_be_used():
    """An attack's loss uses the weights that jit was given in the same way."""

    def outer(x, kernel, prepare):
        return jax.vmap(prepare(lambda row: conv(row[None], kernel)[0] * kernel.sum()))(x)

    expected = jax.jit(functools.partial(outer, prepare=lambda f: f))(IMAGES, KERNEL)
    got = jax.jit(functools.partial(outer, prepare=for_loops))(IMAGES, KERNEL)
    np.testing.assert_allclose(got, expected, rtol=1e-4, atol=1e-4)
    got, expected = for_loops(lambda x: conv(x, KERNEL))(IMAGES), conv(IMAGES, KERNEL)
    np.testing.assert_allclose(got, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("lhs_dilation", [(1, 1), (2, 2)])
def test_the_type_of_the_result_is_kept(lhs_dilation):
    half = IMAGES.astype(jnp.bfloat16), KERNEL[..., :2].astype(jnp.bfloat16)
    options = {"lhs_dilation": lhs_dilation, "preferred_element_type": jnp.float32} | SIDES
    same_values(lambda x, k: conv(x, k, **options), *half)


@pytest.mark.skipif(jax.__version_info__ >= (0, 11), reason="only jax 0.10 is slow there")
def test_narrow_convolutions_avoid_the_library_that_uses_one_thread():
    """Only their results become larger than their images, not those of wide or tiny ones."""

    def results(*channels):
        x, kernel = array(2, 6, 6, channels[0]), array(3, 3, *channels)
        text = str(jax.make_jaxpr(for_loops(lambda x: conv(x, kernel)))(x))
        return re.findall(r":f32\[2,(\d),6,\d+\] = conv_general_dilated", text)

    assert results(5, 64) == results(17, 3) == ["7"]
    assert results(5, 65) == results(16, 16) == ["6"]
    kernel = array(3, 2, 4, 20)
    for padding in ("VALID", ((5, 0), (0, 3)), ((-1, 0), (0, 0))):
        same_values(lambda x, k, p=padding: conv(x, k, padding=p), IMAGES, kernel)
    same_values(lambda x, k: conv(x, k, padding="VALID", rhs_dilation=(2, 1)), IMAGES, kernel)


def orders_in_a_loop(prepare):
    """The orders of axes in the compiled gradient steps of a small network."""
    kernels = array(3, 3, 3, 8), array(3, 3, 8, 8), array(3, 3, 8, 8), array(1, 1, 8, 4)

    def loss(x):
        for kernel, stride in zip(kernels, (1, 2, 1, 2), strict=True):
            x = jax.nn.relu(conv(x, kernel, (stride, stride)))
        return jnp.sum(x)

    gradient = prepare(jax.grad(loss))

    def steps(x):
        return lax.scan(lambda x, _: (x + 0.1 * gradient(x), None), x, length=3)[0]

    text = jax.jit(steps).lower(array(2, 8, 8, 3)).compile().as_text()
    return set(re.findall(r"dim_labels=([\w>-]+)", text))


@pytest.mark.skipif(jax.default_backend() != "cpu", reason="the order matters on CPU")
def test_no_slow_convolution_is_left_in_a_loop():
    assert orders_in_a_loop(for_loops) == {FAST}
    assert orders_in_a_loop(lambda f: f) - {FAST}  # else this test could not fail


@pytest.mark.parametrize("stride", (1, 2))
@pytest.mark.parametrize(
    ("side", "padding"), ((1, "SAME"), (1, ((0, 0), (0, 0))), (1, ((1, 1), (0, 2))), (3, "SAME"))
)
def test_convolve_and_its_gradients_agree_with_lax(side, padding, stride):
    """Sizes are odd, so that strides leave out pixels."""
    images, kernel = jnp.asarray(array(2, 7, 5, 3)), jnp.asarray(array(side, side, 3, 4))
    options = {"dimension_numbers": NHWC, "feature_group_count": 1}

    def results(function):
        def value(images, kernel):
            return function(images, kernel, (stride, stride), padding, **options)

        weights = jnp.asarray(np.random.default_rng(1).normal(size=value(images, kernel).shape))
        loss = jax.grad(lambda *x: jnp.sum(weights * value(*x)), argnums=(0, 1))
        return value(images, kernel), *loss(images, kernel)

    for found, expected in zip(results(convolve), results(lax.conv_general_dilated), strict=True):
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)

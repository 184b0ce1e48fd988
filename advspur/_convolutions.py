"""Convolutions that are as fast inside a compiled loop as outside, on CPU.

XLA's CPU backend calls its fast convolution (Eigen) for only one order of axes: batch, space,
channels, and kernels as space, in, out. It reorders other convolutions only outside loops; inside
a loop they are several times slower (JAX issue 12868), the gradient with respect to the input
always. `for_loops` reorders them.

A convolution with a kernel of one pixel is a matrix product, inside and outside loops: `convolve`.

A strided convolution is a product with the patches of the image if that is faster (measured): for
few channels, and strides that divide the kernel's sides. Its gradient, the convolution of an image
with zeros between its pixels, is then a sum of overlapping patches, which a product gives.

A 3 x 3 convolution of many channels is Winograd's F(2 x 2, 3 x 3) (Lavin and Gray, CVPR 2016, arXiv
1509.09308): 2 x 2 pixels of the result come from 4 x 4 pixels of the image by 16 products instead
of 36, equal up to float32 rounding. With fewer channels, the sums around the products cost what
they save; with few pixels, the sums of the kernel do. Tiles take the memory of five images.

jax 0.10 passes convolutions to a library (YNNPACK) that runs those to few channels on one thread,
unless their result is larger than their image. They therefore get an extra row.
"""

import math

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend import core
from jax.extend.core.primitives import conv_general_dilated_p

FEW_CHANNELS, MANY_CHANNELS, MANY_TILES = 4, 128, 64  # measured: docs/measurements.md
HAS_ONE_THREAD = jax.__version_info__ < (0, 11)
# Calls whose bodies are reordered; those of other primitives stay as they are.
CALLS = {
    "jit": "jaxpr",
    "pjit": "jaxpr",
    "custom_jvp_call": "call_jaxpr",
    "custom_vjp_call": "call_jaxpr",
}


def convolve(images, kernel, strides, padding, *, dimension_numbers, precision=None, **options):
    """Do `jax.lax.conv_general_dilated` of images [n, h, w, c], as `flax.linen.Conv` calls it.

    On CPU, a kernel of one pixel without options becomes a matrix product, and so do the gradients,
    which is faster (docs/measurements.md).
    """
    is_whole = padding in ("SAME", "VALID") or not np.any(padding)
    is_plain = all(np.all(np.equal(value, 1)) for value in options.values())
    is_product = {*kernel.shape[:2]} == {1} and is_whole and is_plain
    if jax.default_backend() != "cpu" or not is_product:
        options |= {"dimension_numbers": dimension_numbers, "precision": precision}
        return jax.lax.conv_general_dilated(images, kernel, strides, padding, **options)
    down, right = strides
    return jnp.einsum(
        "nhwc,co->nhwo", images[:, ::down, ::right], kernel[0, 0], precision=precision
    )


def for_loops(function):
    """Return `function` with the convolutions that are fast inside a loop on CPU.

    Values are the same; on other backends it is `function` itself. Do not differentiate the result:
    apply `for_loops` to the gradient.
    """
    if jax.default_backend() != "cpu":
        return function

    def ordered(*args):
        closed, shape = jax.make_jaxpr(function, return_shape=True)(*args)
        results = _evaluate(closed, jax.tree.leaves(args))
        return jax.tree.unflatten(jax.tree.structure(shape), results)

    return ordered


def _evaluate(closed, args):
    jaxpr = closed.jaxpr
    values = dict(zip([*jaxpr.constvars, *jaxpr.invars], [*closed.consts, *args], strict=True))

    def read(variable):
        return variable.val if isinstance(variable, core.Literal) else values[variable]

    for equation in jaxpr.eqns:
        inputs = list(map(read, equation.invars))
        body = equation.params.get(CALLS.get(equation.primitive.name))
        if equation.primitive is conv_general_dilated_p:
            results = [_convolution(*inputs, **equation.params)]
        elif body is not None:
            results = _evaluate(body, inputs)
        else:
            needed = {v: values[v] for v in equation.invars if not isinstance(v, core.Literal)}
            info = jaxpr.debug_info.with_unknown_names()
            alone = core.Jaxpr((), list(needed), equation.outvars, [equation], debug_info=info)
            results = core.jaxpr_as_fun(core.ClosedJaxpr(alone, ()))(*needed.values())
        values.update(zip(equation.outvars, results, strict=True))
    return list(map(read, jaxpr.outvars))


def _convolution(images, kernel, *, dimension_numbers, **params):
    (n, c, *space), (c_out, c_in, *window), (n_new, c_new, *space_new) = dimension_numbers
    rank = len(dimension_numbers[0])
    last, between = rank - 1, tuple(range(1, rank - 1))
    images, kernel = images.transpose(n, *space, c), kernel.transpose(*window, c_in, c_out)
    product = _faster_product(images, kernel, **params)
    if product is not None:
        result = product(images, kernel, **params)
    else:
        params["dimension_numbers"] = jax.lax.ConvDimensionNumbers(
            (0, last, *between), (last, last - 1, *range(rank - 2)), (0, last, *between)
        )
        result = _on_all_threads(images, kernel, **params)
    place = {axis: i for i, axis in enumerate((n_new, *space_new, c_new))}
    return result.transpose([place[axis] for axis in range(rank)])


def _on_all_threads(images, kernel, *, padding, **params):
    """Do the convolution of images [n, h, w, c], with an extra row if it would use one thread."""
    size, side = images.shape[1], kernel.shape[0]
    *_, channels, channels_after = kernel.shape
    strides, dilations = (params[name] for name in ("window_strides", "rhs_dilation"))
    rows = size + sum(padding[0]) - dilations[0] * (side - 1)
    is_slow = HAS_ONE_THREAD and kernel.ndim == 4 and {*strides, *params["lhs_dilation"]} == {1}
    is_slow &= max(channels, channels_after) > 16 and channels_after <= 64  # XLA's limit; measured
    missing = max(size + 1 - rows, 0) if is_slow else 0
    (low, high), *others = padding
    padding = ((low, high + missing), *others)
    result = conv_general_dilated_p.bind(images, kernel, padding=padding, **params)
    return result[:, :rows] if missing else result


def _faster_product(images, kernel, *, window_strides, lhs_dilation, rhs_dilation, **params):
    """Return the function that is faster than the convolution, or None."""
    *sides, channels, channels_after = kernel.shape
    strides = [max(pair) for pair in zip(window_strides, lhs_dilation, strict=True)]
    is_plain = params["feature_group_count"] == params["batch_group_count"] == 1
    is_plain &= len(sides) == 2 and {*rhs_dilation} == {1}
    if is_plain and max(strides) == 1:
        is_wide = sides == [3, 3] and min(channels, channels_after) >= MANY_CHANNELS
        num_tiles = len(images) * math.prod(_tile_counts(images, params["padding"]))
        # Narrower types lose digits in the sums; float64 was not measured.
        preferred = params["preferred_element_type"]
        is_single = kernel.dtype == jnp.float32 and (preferred is None or preferred == jnp.float32)
        return _by_tiles if is_wide and is_single and num_tiles >= MANY_TILES else None
    divides = all(side % stride == 0 for side, stride in zip(sides, strides, strict=True))
    if is_plain and {*lhs_dilation} == {1} and divides and channels <= FEW_CHANNELS:
        return _gather_patches
    if is_plain and {*window_strides} == {1} and (divides or channels_after <= FEW_CHANNELS):
        return _add_patches
    return None


def _gather_patches(images, kernel, *, window_strides, padding, **params):
    """Do a convolution whose strides divide the sides of its kernel."""
    n, *sizes, channels = images.shape
    *sides, _, channels_after = kernel.shape
    results, edges = [], []
    for size, stride, side, (before, after) in zip(
        sizes, window_strides, sides, padding, strict=True
    ):
        results.append(max((before + size + after - side) // stride + 1, 0))
        used = (results[-1] - 1) * stride + side
        edges.append((before, used - before - size))
    images = _pad(images, edges)
    (s, t), (height, width) = window_strides, results
    down, right = sides[0] // s, sides[1] // t
    tiles = images.reshape(n, height - 1 + down, s, width - 1 + right, t, channels).swapaxes(2, 3)
    tiles = tiles.reshape(*tiles.shape[:3], s * t * channels)
    patches = [tiles[:, i : i + height, j : j + width] for i in range(down) for j in range(right)]
    kernel = kernel.reshape(down, s, right, t, channels, channels_after).swapaxes(1, 2)
    return _product(jnp.concatenate(patches, axis=-1), kernel.reshape(-1, channels_after), params)


def _add_patches(images, kernel, *, lhs_dilation, padding, **params):
    """Do the convolution of images with lhs_dilation - 1 zeros between their pixels."""
    strides = lhs_dilation
    n, *sizes, _ = images.shape
    *sides, _, channels = kernel.shape
    blocks = [-(-side // stride) for side, stride in zip(sides, strides, strict=True)]
    whole = [(0, b * s - k) for b, s, k in zip(blocks, strides, sides, strict=True)]
    kernel = jnp.pad(kernel[::-1, ::-1], (*whole, (0, 0), (0, 0)))
    patches = _product(images, kernel, params, axis=2)
    (down, right), (s, t) = blocks, strides
    patches = patches.reshape(n, *sizes, down, s, right, t, channels)
    total = sum(
        jnp.pad(
            patches[:, :, :, i, :, j],
            ((0, 0), (i, down - 1 - i), (j, right - 1 - j), (0, 0), (0, 0), (0, 0)),
        )
        for i in range(down)
        for j in range(right)
    )
    lengths = [(m + b - 1) * t for m, b, t in zip(sizes, blocks, strides, strict=True)]
    total = total.swapaxes(2, 3).reshape(n, *lengths, channels)
    edges = []
    for size, stride, side, (before, after), length in zip(
        sizes, strides, sides, padding, lengths, strict=True
    ):
        first = side - 1 - before
        result_size = max((size - 1) * stride + 1, 0) + before + after - side + 1
        edges.append((-first, first + result_size - length))
    return _pad(total, edges)


def _by_tiles(images, kernel, *, padding, **params):
    """Convolve tiles d with a 3 x 3 kernel g: A' [(G g G') * (B' d B)] A (Winograd).

    Each of the 16 products is a matrix product that sums over the channels.
    """
    n, *sizes, channels = images.shape
    down, right = counts = _tile_counts(images, padding)
    edges = [
        (before, 2 * count + 2 - before - size)
        for size, count, (before, _) in zip(sizes, counts, padding, strict=True)
    ]
    pairs = _pad(images, edges).reshape(n, down + 1, 2, right + 1, 2, channels)
    tiles = [
        _tile_sums([row[:, :, j // 2 : j // 2 + right, j % 2] for j in range(4)])
        for row in _tile_sums([pairs[:, i // 2 : i // 2 + down, i % 2] for i in range(4)])
    ]
    weights = map(_kernel_sums, _kernel_sums(kernel))
    products = [
        [_product(a, b, params) for a, b in zip(*row, strict=True)]
        for row in zip(tiles, weights, strict=True)
    ]
    columns = [_result_sums(column) for column in zip(*products, strict=True)]
    pixels = [jnp.stack(_result_sums(row), axis=3) for row in zip(*columns, strict=True)]
    result = jnp.stack(pixels, axis=2).reshape(n, 2 * down, 2 * right, kernel.shape[-1])
    height, width = (size + sum(pads) - 2 for size, pads in zip(sizes, padding, strict=True))
    return result[:, :height, :width]


def _pad(images, edges):
    """Add (before, after) zeros at both ends of each axis of space; cut pixels off if negative."""
    edges = (0, 0, 0), *((*ends, 0) for ends in edges), (0, 0, 0)
    return jax.lax.pad(images, jnp.zeros((), images.dtype), edges)


def _product(images, kernel, params, axis=0):
    """Sum over the channels: the last axis of images [n, h, w, c] and this axis of the kernel."""
    options = {name: params[name] for name in ("precision", "preferred_element_type")}
    return jax.lax.dot_general(images, kernel, (((3,), (axis,)), ((), ())), **options)


def _tile_counts(images, padding):
    """Count the tiles of 2 x 2 pixels in the result of a 3 x 3 convolution, down and right."""
    sizes = images.shape[1:-1]
    return [max(size + sum(pads) - 1, 0) // 2 for size, pads in zip(sizes, padding, strict=True)]


def _tile_sums(d):
    """B' d along one axis."""
    return d[0] - d[2], d[1] + d[2], d[2] - d[1], d[1] - d[3]


def _kernel_sums(g):
    """G g along the first axis."""
    ends = g[0] + g[2]
    return g[0], (ends + g[1]) / 2, (ends - g[1]) / 2, g[2]


def _result_sums(m):
    """A' m along one axis."""
    return m[0] + m[1] + m[2], m[1] - m[2] - m[3]

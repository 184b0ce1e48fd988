"""Convolutions as fast inside a compiled loop as outside of one, on CPU.

XLA's CPU backend calls its fast convolution (Eigen) only for one order of axes: batch, space,
channels, and kernels as space, in, out. It brings others into that order, but outside of loops
only; inside a loop they take a naive path, several times slower (JAX issue 12868). The gradient
with respect to the input is always among those. So what goes into a loop is ordered here.

The gradient of a strided convolution is one of an image with zeros between its pixels. Where that
is faster (measured: kernels whose side the stride divides, or few channels), it is done as a matrix
product instead, whose results, a patch a pixel, are added where they overlap.
"""

import jax
import jax.numpy as jnp
from jax.extend import core
from jax.extend.core.primitives import conv_general_dilated_p

FEW_CHANNELS = 4
# Calls whose body is looked into; a body under any other primitive is left as it is.
CALLS = {
    "jit": "jaxpr",
    "pjit": "jaxpr",
    "custom_jvp_call": "call_jaxpr",
    "custom_vjp_call": "call_jaxpr",
}


def for_loops(function):
    """`function` with its convolutions in the order of axes that is fast inside a loop on CPU.

    Same values; on other backends `function` itself. Not to be differentiated: apply it to the
    gradient.
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
        given = list(map(read, equation.invars))
        body = equation.params.get(CALLS.get(equation.primitive.name))
        if equation.primitive is conv_general_dilated_p:
            results = [_convolution(*given, **equation.params)]
        elif body is not None:
            results = _evaluate(body, given)
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
    if _is_faster_by_patches(kernel, **params):
        result = _add_patches(images, kernel, **params)
    else:
        order = jax.lax.ConvDimensionNumbers(
            (0, last, *between), (last, last - 1, *range(rank - 2)), (0, last, *between)
        )
        result = conv_general_dilated_p.bind(images, kernel, dimension_numbers=order, **params)
    place = {axis: i for i, axis in enumerate((n_new, *space_new, c_new))}
    return result.transpose([place[axis] for axis in range(rank)])


def _is_faster_by_patches(kernel, *, window_strides, lhs_dilation, rhs_dilation, **groups):
    *sides, _, channels = kernel.shape
    is_plain = groups["feature_group_count"] == groups["batch_group_count"] == 1
    is_plain &= len(sides) == 2 and {*window_strides, *rhs_dilation} == {1}
    divides = all(side % stride == 0 for side, stride in zip(sides, lhs_dilation, strict=True))
    return is_plain and max(lhs_dilation) > 1 and (divides or channels <= FEW_CHANNELS)


def _add_patches(
    images, kernel, *, lhs_dilation, padding, precision, preferred_element_type, **_
):  # fmt: skip
    """The convolution of `images` with lhs_dilation - 1 zeros between their pixels."""
    strides = lhs_dilation
    n, *sizes, _ = images.shape
    *sides, _, channels = kernel.shape
    blocks = [-(-side // stride) for side, stride in zip(sides, strides, strict=True)]
    whole = [(0, b * s - k) for b, s, k in zip(blocks, strides, sides, strict=True)]
    kernel = jnp.pad(kernel[::-1, ::-1], (*whole, (0, 0), (0, 0)))
    patches = jax.lax.dot_general(
        images,
        kernel,
        (((3,), (2,)), ((), ())),
        precision=precision,
        preferred_element_type=preferred_element_type,
    )
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
    crop = [(0, 0, 0)]
    for size, stride, side, (before, after), length in zip(
        sizes, strides, sides, padding, lengths, strict=True
    ):
        first = side - 1 - before
        wanted = (size - 1) * stride + 1 + before + after - side + 1
        crop.append((-first, first + wanted - length, 0))
    return jax.lax.pad(total, jnp.zeros((), total.dtype), (*crop, (0, 0, 0)))

"""Convolutions as fast inside a compiled loop as outside of one, on CPU.

XLA's CPU backend calls its fast convolution (Eigen) only for one order of axes: batch, space,
channels, and kernels as space, in, out. It brings others into that order, but outside of loops
only; inside a loop they take a naive path, several times slower (JAX issue 12868). The gradient
with respect to the input is always among those. So what goes into a loop is ordered here.
"""

import jax
from jax.extend import core
from jax.extend.core.primitives import conv_general_dilated_p

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
    order = jax.lax.ConvDimensionNumbers(
        (0, last, *between), (last, last - 1, *range(rank - 2)), (0, last, *between)
    )
    result = conv_general_dilated_p.bind(
        images.transpose(n, *space, c),
        kernel.transpose(*window, c_in, c_out),
        dimension_numbers=order,
        **params,
    )
    place = {axis: i for i, axis in enumerate((n_new, *space_new, c_new))}
    return result.transpose([place[axis] for axis in range(rank)])

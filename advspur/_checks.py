"""Checks at the public boundary: one line with what is wrong, what is allowed, how to fix it.

They run in Python, before tracing. The values of tracers are not known, so only their shapes and
dtypes are checked.
"""

import math
import numbers
import warnings

import jax
import jax.numpy as jnp
import numpy as np

IMAGE_NORMS = (1.0, 2.0, math.inf)


class InputError(ValueError):
    """A mistake in the user's input; scripts print it as one line and exit with 2."""


def is_concrete(x):
    """Return whether the values of `x` are known (it is not being traced)."""
    return not isinstance(x, jax.core.Tracer)


def require(condition, message):
    """Raise InputError(message) unless `condition` holds."""
    if not condition:
        raise InputError(message)


def require_finite(what, rows, *arrays, images="images", name=str):
    """Raise InputError unless all numbers of the arrays [n, ...] are finite.

    Args:
      what: name of the arrays' content, at the start of the message.
      rows: [n], numbers of the images that the arrays belong to.
      images: what is counted.
      name: row -> its name in the message.
    """
    bad = np.zeros(len(rows), bool)
    for array in map(np.asarray, arrays):
        bad |= ~np.isfinite(array).all(axis=tuple(range(1, array.ndim)))
    if bad.any():
        raise InputError(
            f"{what} are not finite for {bad.sum()} of {len(bad)} {images}, first image "
            f"{name(rows[int(np.argmax(bad))])}: check the model's weights and dtype"
        )


def check_choice(name, value, allowed):
    """Check that `value` is one of `allowed`."""
    names = ", ".join(map(repr, allowed))
    require(value in allowed, f"{name} = {value!r} is not known; allowed: {names}")


def check_norm(p, allowed=None):
    """Check that `p` is a number >= 1 (inf included) and, if given, one of `allowed`."""
    number = isinstance(p, numbers.Real) and not isinstance(p, bool)
    if allowed is None:
        require(number and p >= 1, f"p = {p!r}: the norm must be a number in [1, inf]")
    else:
        names = ", ".join(norm_name(q)[1:] for q in allowed)
        require(number and p in allowed, f"p = {p!r}: the norm must be one of {names}")


def check_nonnegative(name, value):
    """Check that `value` (a number or an array) is finite and not negative."""
    if is_concrete(value):
        value = np.asarray(value)
        require(value.dtype.kind in "iuf", f"{name} = {value.tolist()!r}: it must be a number")
        is_valid = np.all(np.isfinite(value)) and np.all(value >= 0)
        require(is_valid, f"{name} = {value}: it must be finite and >= 0")


def check_count(name, value, least=1):
    """Check that `value` is a whole number, at least `least`."""
    is_whole = isinstance(value, numbers.Integral) and value >= least
    require(is_whole, f"{name} = {value!r}: it must be a whole number >= {least}")


def check_numbers(name, values):
    """Check that `values` is a list of numbers, each finite and not negative."""
    are_numbers = isinstance(values, (tuple, list)) and all(
        isinstance(v, numbers.Real) and not isinstance(v, bool) for v in values
    )
    require(are_numbers, f"{name} = {values!r}: give a list of numbers, or () for none")
    check_nonnegative(name, np.asarray(values, float))


def check_seed(name, value):
    """Check that `value` is a seed for JAX, NumPy and Grain."""
    is_seed = isinstance(value, numbers.Integral) and 0 <= value < 2**31
    require(is_seed, f"{name} = {value!r}: it must be a whole number from 0 to 2^31 - 1")


def check_epsilon(epsilon, p, bounds=(0.0, 1.0), *, num_pixels=None):
    """Check that the attack budget is finite and >= 0; warn if it looks like 0-255 units.

    For finite p the warning needs `num_pixels`, the number of values of an image.
    """
    check_nonnegative("epsilon", epsilon)
    if is_concrete(epsilon) and (p == math.inf or num_pixels):
        largest = float(np.max(epsilon))
        diameter = (bounds[1] - bounds[0]) * (num_pixels ** (1 / p) if p < math.inf else 1)
        if largest > (0.05 if p == 1 else 0.31) * diameter:  # 79/255 in linf
            warnings.warn(
                f"epsilon = {largest:g} for {norm_name(p)} is large: images in [{bounds[0]:g}, "
                f"{bounds[1]:g}] are at most {diameter:g} apart; it is in units of the images: "
                f"if you mean {largest:g}/255, write {largest:g}/255 = {largest / 255:.5f}",
                stacklevel=4,
            )


def check_images(images, bounds=(0.0, 1.0)):
    """Check that images are [n, h, w, c] floats inside `bounds`, without NaN."""
    are_bounds = len(bounds) == 2 and -math.inf < bounds[0] < bounds[1] < math.inf
    require(are_bounds, f"bounds = {bounds}: give the smallest and the largest pixel value")
    fault = f"images have shape {np.shape(images)}; expected [n, height, width, channels]"
    require(getattr(images, "ndim", None) == 4, fault)
    are_floats = np.issubdtype(images.dtype, np.floating) or images.dtype == "bfloat16"
    advice = "expected floats in [0, 1] (divide 8-bit pixels by 255)"
    require(are_floats, f"images have dtype {images.dtype}; {advice}")
    if is_concrete(images) and images.size:
        pixels = np.asarray(images)  # under jit, even a constant's own .min() would be traced
        low, high = float(pixels.min()), float(pixels.max())
        require(not math.isnan(low + high), "images contain NaN")
        require(
            bounds[0] <= low and high <= bounds[1],
            f"images are in [{low:.4g}, {high:.4g}]; expected [{bounds[0]:g}, {bounds[1]:g}]: "
            "give raw pixels, the model owns its normalisation",
        )


def check_labels(labels, num_examples, *, name="labels"):
    """Check that labels are [num_examples] integers."""
    labels = labels if hasattr(labels, "dtype") else np.asarray(labels)
    are_labels = np.shape(labels) == (num_examples,) and np.issubdtype(labels.dtype, np.integer)
    fault = f"{name} have shape {np.shape(labels)} and dtype {labels.dtype}"
    require(are_labels, f"{fault}; expected {num_examples} integers")


def check_targets(targets, labels, num_classes):
    """Check that targets are one class per image, in range, different from its label."""
    check_labels(targets, len(labels), name="targets")
    if is_concrete(targets) and is_concrete(labels):
        t = np.asarray(targets)
        are_targets = np.all((t >= 0) & (t < num_classes) & (t != np.asarray(labels)))
        fault = f"targets must be classes from 0 to {num_classes - 1}, and not the labels"
        require(are_targets, fault)


def check_attack(images, labels, *, p, epsilon, bounds):
    """Check the arguments of every attack: images, labels and a ball."""
    check_norm(p, IMAGE_NORMS)
    check_images(images, bounds)
    check_epsilon(epsilon, p, bounds, num_pixels=math.prod(images.shape[1:]))
    check_labels(labels, images.shape[0])


def attack_arrays(images, labels, *, p, epsilon, bounds):
    """Return (images, labels, epsilon [n]), checked, as arrays; 16-bit images become float32."""
    check_attack(images, labels, p=p, epsilon=epsilon, bounds=bounds)
    images, labels = jnp.asarray(images), jnp.asarray(labels)
    images = images.astype(jnp.promote_types(images.dtype, jnp.float32))
    size, each = np.shape(epsilon), (len(images),)
    fault = f"epsilon has shape {size}: give one budget, or one per image, {each}"
    require(size in ((), each), fault)
    return images, labels, jnp.broadcast_to(jnp.asarray(epsilon, images.dtype), len(images))


def norm_name(p):
    """Return the norm's name in files and tables: l1, l2, linf."""
    return f"l{p:g}"


def first_line(error):
    """Return the first line of an error's text, cut to a readable length."""
    return (str(error).strip().splitlines() or [repr(error)])[0][:300]

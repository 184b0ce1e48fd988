"""Checks of an attack's result, and of whether a model can be attacked."""

import math

import jax
import jax.numpy as jnp
import numpy as np

from advspur._checks import (
    IMAGE_NORMS,
    InputError,
    check_norm,
    first_line,
    norm_name,
    require,
    require_finite,
)

SEE = "See docs/attacks.md."


def check_perturbation(adversarial, images, *, p, epsilon, bounds=(0.0, 1.0), budget_weights=None):
    """Raise unless every adversarial image is finite, in the box and within epsilon (1 + 1e-6).

    This is the post-condition of every attack, checked on the host in float64. `epsilon` is a
    number or [n]; with `budget_weights` w, ||delta / w||_p must be within it (see `pgd`).
    """
    adversarial, images = np.asarray(adversarial, np.float64), np.asarray(images, np.float64)
    check_norm(p, IMAGE_NORMS)
    require(
        adversarial.shape == images.shape,
        f"adversarial images have shape {adversarial.shape}, images {images.shape}",
    )
    require_finite("the pixels returned by the attack", range(len(images)), adversarial)
    low, high = adversarial.min(initial=bounds[0]), adversarial.max(initial=bounds[1])
    require(
        bounds[0] <= low and high <= bounds[1],
        f"the attack left the box: pixels in [{low}, {high}], allowed {list(bounds)}",
    )
    norms = perturbation_norms(adversarial, images, p=p, budget_weights=budget_weights)
    budgets = np.broadcast_to(epsilon, norms.shape)
    excess = norms - budgets * (1 + 1e-6)
    if np.any(excess > 0):
        worst = np.argmax(excess)
        raise InputError(
            f"the attack left the {norm_name(p)} ball: the perturbation of image {worst} is "
            f"{norms[worst]:.8g}, its epsilon {budgets[worst]:.8g}"
        )


def perturbation_norms(adversarial, images, *, p, budget_weights=None):
    """Return ||adversarial - image||_p, [n] in float64; of the difference over weights, if any."""
    difference = np.asarray(adversarial, np.float64) - np.asarray(images, np.float64)
    if budget_weights is not None:
        weights = np.broadcast_to(np.asarray(budget_weights, np.float64), difference.shape)
        allowed = np.where(difference == 0, 0, math.inf)  # where the weight is 0
        difference = np.divide(difference, weights, out=allowed, where=weights > 0)
    flat = difference.reshape(len(difference), math.prod(difference.shape[1:]))
    return np.linalg.norm(flat, ord=p, axis=1)


def check_logits_fn(logits_fn, images, *sample):
    """Check that an attack can use `logits_fn`, from shapes alone; return the number of classes."""
    require(
        callable(logits_fn),
        f"logits_fn has type {type(logits_fn).__name__}; give a function of images, such as "
        "classifier.logits",
    )
    is_torch = any(c.__module__.startswith("torch.") for c in type(logits_fn).__mro__)
    require(not is_torch, "logits_fn is a torch module: give models.from_torch(module, ...).logits")
    try:
        logits = jax.eval_shape(logits_fn, images, *sample)
    except TypeError as error:
        # JAX names its tracers, and so does PyTorch when given one.
        is_traced = isinstance(error, jax.errors.JAXTypeError) or "Tracer" in str(error)
        if not is_traced and "not a valid JAX type" not in str(error):
            raise
        raise InputError(
            "logits_fn is not a JAX function of its images: it needs their values, as NumPy and "
            f"PyTorch do, or returns no JAX array; write it with jax.numpy ({first_line(error)})"
        ) from error
    require(
        isinstance(logits, jax.ShapeDtypeStruct),
        f"logits_fn returns a value of type {type(logits).__name__}; it must return only the "
        "logits, as in lambda images: model(images)[0]",
    )
    count = len(images)
    require(
        logits.ndim == 2 and logits.shape[0] == count and logits.shape[1] >= 2,
        f"the logits of {count} images have shape {logits.shape}; expected [{count}, num_classes] "
        "with 2 or more classes",
    )
    is_float = jnp.issubdtype(logits.dtype, jnp.floating)
    require(is_float, f"the logits have dtype {logits.dtype}; expected floats")
    return logits.shape[1]


def vanished_text(number, name):
    """Return AutoAttack's warning about points without a gradient to follow."""
    return f"there are {number} points with zero gradient (or NaN) in {name}."


def model_warnings(logits, again, *, is_random):
    """Return AutoAttack's warnings about clean logits [n, k]; `again` repeats the first of them."""
    warnings = []
    if not is_random:
        first = logits[: len(again)]
        changed = np.sum(np.argmax(first, axis=1) != np.argmax(again, axis=1))
        require(
            changed == 0,
            f"the model is random: two calls predict different classes for {changed} of "
            f"{len(again)} images; use version='rand' and logits_fn(images, key)",
        )
        scale = np.linalg.norm(first, axis=1) + 1e-10
        if np.max(np.linalg.norm(first - again, axis=1) / scale, initial=0) > 1e-4:
            warnings.append(
                f"two calls give different logits: it seems to be a randomized defense! {SEE}"
            )
    is_distribution = np.abs(logits.sum(axis=1) - 1) < 1e-5
    if logits.min() > -1e-5 and logits.max() < 1 + 1e-5 and is_distribution.all():
        warnings.append(
            f"it seems that the output is a probability distribution, not logits! {SEE}"
        )
    return warnings

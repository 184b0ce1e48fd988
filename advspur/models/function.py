"""Models that somebody else wrote: what their constructors share, and from_function."""

import dataclasses
from collections.abc import Callable

import jax
import numpy as np

from advspur._checks import InputError, check_count, require
from advspur.models.checks import checked_outputs, foreign_code
from advspur.models.classifier import Classifier


@dataclasses.dataclass(frozen=True)
class ForeignForward:
    """The forward of a model of somebody else's; a subclass has its `outputs`."""

    num_classes: int | None
    image_size: int | None
    arch: str
    name: str = dataclasses.field(compare=False, repr=False)

    @property
    def what(self):
        """How messages call the code."""
        return f"the module {self.arch}"

    def __call__(self, params, images):
        """(logits, features), checked."""
        height, width = images.shape[1:3]
        size = self.image_size
        require(
            size is None or (height, width) == (size, size),
            f"{self.name} takes {size} x {size} images, got {height} x {width}: resize them, or "
            "make the model with another image_size",
        )
        with foreign_code(self.what):
            logits, features = self.outputs(params, images)
        return checked_outputs(self.name, images, self.num_classes, logits, features)


def foreign_classifier(forward, params, *, has_features, class_names, note="", channels=3):
    """The Classifier of a ForeignForward, tried on images as shapes where it says their size."""
    if forward.num_classes is not None:
        check_count("num_classes", forward.num_classes, least=2)
    if forward.image_size is not None:
        check_count("image_size", forward.image_size)
        images = jax.ShapeDtypeStruct((2, *[forward.image_size] * 2, channels), "float32")
        number = jax.eval_shape(forward, params, images)[0].shape[1]
        forward = dataclasses.replace(forward, num_classes=number)
    require(
        len(class_names) in (0, forward.num_classes),
        f"class_names has {len(class_names)} names, {forward.name} {forward.num_classes} outputs",
    )
    return Classifier(
        params,
        forward,
        forward.num_classes,
        has_features=has_features,
        image_size=forward.image_size,
        class_names=tuple(class_names),
        name=forward.name,
        note=note,
    )


def checked_channels(mean, std):
    """(mean, std) as tuples of floats, as many of each."""
    mean, std = (tuple(map(float, np.atleast_1d(values))) for values in (mean, std))
    is_valid = len(mean) == len(std) > 0 and min(std) > 0
    require(is_valid, f"mean = {mean} and std = {std}: give a deviation above 0 for each channel")
    return mean, std


@dataclasses.dataclass(frozen=True)
class FunctionForward(ForeignForward):
    """The forward of a model that is a function; equal for all models of that function."""

    logits: Callable = dataclasses.field(repr=False)
    features: Callable | None = dataclasses.field(repr=False)
    takes_params: bool

    @property
    def what(self):
        """How messages call the code."""
        return f"the function of {self.name}"

    def outputs(self, params, images):
        """(logits, features or None)."""
        args = (params, images) if self.takes_params else (images,)
        return self.logits(*args), None if self.features is None else self.features(*args)


def from_function(
    logits, *, num_classes, params=None, features=None, image_size=None, class_names=(), name
):
    """The Classifier of a JAX function.

    Args:
      logits: images [n, h, w, 3] in [0, 1] -> [n, num_classes]; (params, images) -> the same where
        `params` are given. It normalises the images itself.
      num_classes: length of a row of logits.
      params: a pytree of arrays. Models of one function are then compiled once, and their weights
        are no constants of the program.
      features: a function of the same arguments -> [n, d]; None: the model has no features, and no
        probe can be fitted on them.
      image_size: the side of the images it takes; None: any.
      class_names: of its outputs, in order.
      name: how records and messages call it.
    Raises: InputError where the function does not do what is said here: now if there is an
      image_size, else when images come.

    >>> def logits(weights, images):
    ...     return images.mean((1, 2)) @ weights
    >>> model = from_function(logits, params=jax.numpy.eye(3), num_classes=3, name="channels")
    >>> model.logits(jax.numpy.full((2, 8, 8, 3), 0.5)).shape
    (2, 3)
    """
    _check_function("logits", logits)
    if features is not None:
        _check_function("features", features)
    about = num_classes, image_size, "function", str(name)
    forward = FunctionForward(*about, logits, features, params is not None)
    params, has_features = {} if params is None else params, features is not None
    return foreign_classifier(forward, params, has_features=has_features, class_names=class_names)


def _check_function(what, function):
    kind = type(function).__name__
    require(
        callable(function),
        f"{what} is a {kind}; give a function of images; for a torch or Flax module there are "
        "models.from_torch and models.from_flax",
    )
    try:
        hash(function)
    except TypeError as error:
        raise InputError(
            f"{what} is a {kind}, which has no hash: give a function (params, images), and the "
            "arrays as params"
        ) from error

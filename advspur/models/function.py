"""from_function: the smallest model, a function of images and a number of classes."""

import dataclasses
from collections.abc import Callable

import jax

from advspur._checks import InputError, check_count, require
from advspur.models.checks import check_size, checked_outputs, foreign_code
from advspur.models.classifier import Classifier


@dataclasses.dataclass(frozen=True)
class FunctionForward:
    """The forward of a model that is a function; equal for all models of that function."""

    logits: Callable = dataclasses.field(repr=False)
    features: Callable | None = dataclasses.field(repr=False)
    takes_params: bool
    num_classes: int
    image_size: int | None
    name: str = dataclasses.field(compare=False, repr=False)
    arch = "function"

    def __call__(self, params, images):
        """(logits, features), checked."""
        check_size(self.name, self.image_size, images)
        args = (params, images) if self.takes_params else (images,)
        with foreign_code(f"the function of {self.name}"):
            logits = self.logits(*args)
            features = None if self.features is None else self.features(*args)
        return checked_outputs(self.name, images, self.num_classes, logits, features)


def from_function(logits, *, num_classes, params=None, features=None, image_size=None, name):
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
      name: how records and messages call it.
    Raises: InputError where the function does not do what is said here: now if there is an
      image_size, else when images come.

    >>> def logits(weights, images):
    ...     return images.mean((1, 2)) @ weights
    >>> model = from_function(logits, params=jax.numpy.eye(3), num_classes=3, name="channels")
    >>> model.logits(jax.numpy.full((2, 8, 8, 3), 0.5)).shape
    (2, 3)
    """
    check_count("num_classes", num_classes, least=2)
    if image_size is not None:
        check_count("image_size", image_size)
    for what, function in (("logits", logits), ("features", features)):
        _check_function(what, function, optional=what == "features")
    forward = FunctionForward(
        logits, features, params is not None, num_classes, image_size, str(name)
    )
    model = Classifier(
        {} if params is None else params,
        forward,
        num_classes,
        has_features=features is not None,
        image_size=image_size,
        name=str(name),
    )
    if image_size is not None:
        images = jax.ShapeDtypeStruct((2, image_size, image_size, 3), "float32")
        jax.eval_shape(forward, model.params, images)
    return model


def _check_function(what, function, *, optional):
    if function is None and optional:
        return
    from_module = "for a torch or Flax module there are models.from_torch and models.from_flax"
    require(
        callable(function),
        f"{what} is a {type(function).__name__}; give a function of images; {from_module}",
    )
    try:
        hash(function)
    except TypeError as error:
        raise InputError(
            f"{what} is a {type(function).__name__}, which has no hash: give a function "
            "(params, images), and the arrays as params"
        ) from error

"""from_function, and what it shares with the constructors for Flax and torch modules."""

import contextlib
import dataclasses
import re
import traceback
import warnings
from collections.abc import Callable
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from advspur._checks import InputError, check_count, first_line, require, require_finite
from advspur.models.classifier import Classifier, check_is_model

LIBRARIES = (str(Path(__file__).parents[1]), "<frozen", str(Path(contextlib.__file__).parent))


@contextlib.contextmanager
def foreign_code(what):
    """Turn an error of the user's code `what` into an InputError of one line with its place."""
    try:
        yield
    except (InputError, MemoryError, jax.errors.JaxRuntimeError):
        raise
    except (Exception, SystemExit) as error:
        text = f"{type(error).__name__}: {first_line(error)}"
        is_traced = isinstance(error, TypeError) and "Tracer" in str(error)
        text = re.sub(r"\w*Tracer\b", "JAX array", text)
        if is_traced or isinstance(error, jax.errors.JAXTypeError):
            text = (
                "it needs the values of its images, as NumPy and PyTorch do; write it with "
                f"jax.numpy, or use models.from_torch for a torch module ({text})"
            )
        raise InputError(f"{what} fails{_place(error)}: {text}") from error


def _place(error):
    """Return " (file, line N)" of the last line of the user's code, or ""."""
    if isinstance(error, SyntaxError) and error.filename:
        return f" ({error.filename}, line {error.lineno})"
    frames = traceback.extract_tb(error.__traceback__)
    for frame in reversed(frames):
        file = frame.filename
        if "site-packages" not in file and not file.startswith(LIBRARIES):
            return f" ({file}, line {frame.lineno})"
    return ""


def pick(what, output, key, argument):
    """Return the output of a module, or its item `key` if it is a tuple or dict."""
    if isinstance(output, (tuple, list, dict)):
        several = f"a {type(output).__name__} of {len(output)}"
        if isinstance(output, dict):
            several += f" ({', '.join(map(repr, output))})"
        require(key is not None, f"{what} returns {several}: choose one by {argument}=...")
        try:
            return output[key]
        except (KeyError, IndexError, TypeError) as error:
            raise InputError(f"{what} returns {several}: no {argument} = {key!r}") from error
    require(key is None, f"{what} returns one {type(output).__name__}: no {argument} = {key!r}")
    return output


def checked_outputs(name, images, num_classes, logits, features=None):
    """Check and return (logits [n, num_classes or any], features [n, d] or None) in float32."""
    expected = "one number per class" if num_classes is None else num_classes
    _check_rows(f"the logits of {name}", images, logits, expected)
    width = logits.shape[1]
    require(width >= 2, f"the logits of {name} have {width} column: at least two are needed")
    require(
        num_classes in (None, width),
        f"the logits of {name} have {width} columns, but num_classes = {num_classes}",
    )
    if features is None:
        return logits.astype(jnp.float32), None
    _check_rows(f"the features of {name}", images, features, "d numbers (flatten or pool them)")
    return logits.astype(jnp.float32), features.astype(jnp.float32)


def _check_rows(what, images, array, expected):
    kind = f"{array.dtype} array" if hasattr(array, "dtype") else type(array).__name__
    is_float = hasattr(array, "dtype") and jnp.issubdtype(array.dtype, jnp.floating)
    require(is_float, f"{what} are a {kind}; expected an array of floats")
    require(
        array.ndim == 2 and len(array) == len(images),
        f"{what} have shape {array.shape} for {len(images)} images; expected {len(images)} rows of "
        f"{expected}",
    )


@dataclasses.dataclass(frozen=True)
class ForeignForward:
    """The forward of a user's model; subclasses define `outputs(params, images)`."""

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
            "make the model with a different image_size",
        )
        with foreign_code(self.what):
            logits, features = self.outputs(params, images)
        return checked_outputs(self.name, images, self.num_classes, logits, features)


def foreign_classifier(forward, params, *, has_features, class_names, note="", channels=3):
    """The Classifier of a ForeignForward, traced on abstract images if it has an image_size."""
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
    """Return (mean, std) as tuples of floats, equally long."""
    mean, std = (tuple(map(float, np.atleast_1d(values))) for values in (mean, std))
    is_valid = len(mean) == len(std) > 0 and min(std) > 0
    require(is_valid, f"mean = {mean} and std = {std}: give a deviation above 0 for each channel")
    return mean, std


@dataclasses.dataclass(frozen=True)
class FunctionForward(ForeignForward):
    """The forward of a function; equal for all models of that function."""

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
    """Make a Classifier from a JAX function.

    Args:
      logits: images [n, h, w, 3] in [0, 1] -> [n, num_classes], or (params, images) -> the same if
        `params` are given. It normalises the images itself.
      num_classes: length of a row of logits.
      params: a pytree of arrays: models of one function then share a compiled program, in which
        their weights are not constants.
      features: a function of the same arguments -> [n, d], for probes; None: no features.
      image_size: side of the images it takes; None: any.
      class_names: names of its outputs, in order.
      name: its name in records and messages.
    Raises: InputError if the function does not return such arrays: now if there is an image_size,
      else at its first call.

    >>> def logits(weights, images):
    ...     return images.mean((1, 2)) @ weights
    >>> model = from_function(logits, params=jax.numpy.eye(3), num_classes=3, name="channels")
    >>> model.logits(jax.numpy.full((2, 8, 8, 3), 0.5)).shape
    (2, 3)
    """
    _check_function("logits", logits)
    if features is not None:
        _check_function("features", features)
    forward = FunctionForward(
        num_classes, image_size, "function", str(name), logits, features, params is not None
    )
    params, has_features = {} if params is None else params, features is not None
    return foreign_classifier(forward, params, has_features=has_features, class_names=class_names)


def _check_function(what, function):
    kind = type(function).__name__
    require(
        callable(function),
        f"{what} is a {kind}; give a function of images, or use models.from_torch or "
        "models.from_flax for a module",
    )
    try:
        hash(function)
    except TypeError as error:
        raise InputError(
            f"{what} is a {kind}, which has no hash: give a function (params, images), and its "
            "arrays as params"
        ) from error


def check_model(model, *, image_size=None):
    """Raise InputError unless two calls on two images give the same finite logits.

    Args:
      image_size: side of the images; None: the model's, or 224 if it takes any.
    """
    check_is_model(model)
    name, size = model.name or "the model", image_size or model.image_size or 224
    images = np.random.default_rng(0).random((2, size, size, 3), np.float32)
    first, again = (np.asarray(model.logits(images)) for _ in range(2))
    require(
        first.shape == (2, model.num_classes),
        f"the logits of {name} have shape {first.shape}; expected {(2, model.num_classes)}",
    )
    require_finite(f"the logits of {name}", np.arange(2), first)
    scale = np.abs(first).max(initial=1e-6)
    require(
        np.abs(first - again).max() <= 1e-4 * scale,
        f"{name} is random: two calls on the same images differ; set it to evaluation mode, "
        "without dropout and noise",
    )
    grad = jax.grad(lambda x: jnp.sum(model.logits(x)[:, 0]))(images)
    if not np.any(grad):
        warnings.warn(
            f"the gradient of {name} is 0: PGD and deep NFS cannot measure anything", stacklevel=2
        )

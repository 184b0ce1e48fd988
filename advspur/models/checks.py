"""What is asked of a model that somebody else wrote, and what is said where it is otherwise."""

import contextlib
import re
import traceback
import warnings
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from advspur._checks import InputError, first_line, require, require_finite
from advspur.models.classifier import check_is_model

PACKAGE = str(Path(__file__).parents[1])


@contextlib.contextmanager
def foreign_code(what):
    """Whatever `what` raises in here, as an InputError of one line that says where."""
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
                "it needs the values of its images, as NumPy and PyTorch do: write it with "
                f"jax.numpy, or give a torch module to models.from_torch ({text})"
            )
        raise InputError(f"{what} fails{_place(error)}: {text}") from error


def _place(error):
    """(file, line N) of the last line that is neither ours nor of an installed package."""
    if isinstance(error, SyntaxError) and error.filename:
        return f" ({error.filename}, line {error.lineno})"
    frames = traceback.extract_tb(error.__traceback__)
    own = [f for f in frames if "site-packages" not in f.filename and not _is_library(f.filename)]
    return f" ({own[-1].filename}, line {own[-1].lineno})" if own else ""


def _is_library(file):
    return file.startswith((PACKAGE, "<frozen", str(Path(contextlib.__file__).parent)))


def pick(what, output, key, argument):
    """The array of a module's output: itself, or what `key` names of a tuple or dict."""
    if isinstance(output, (tuple, list, dict)):
        several = f"a {type(output).__name__} of {len(output)}"
        if isinstance(output, dict):
            several += f" ({', '.join(map(repr, output))})"
        require(key is not None, f"{what} returns {several}: say which by {argument}=...")
        try:
            return output[key]
        except (KeyError, IndexError, TypeError) as error:
            raise InputError(f"{what} returns {several}: no {argument} = {key!r}") from error
    require(key is None, f"{what} returns one {type(output).__name__}: no {argument} = {key!r}")
    return output


def checked_outputs(name, images, num_classes, logits, features=None):
    """(logits [n, num_classes], features [n, d] or None) in float32; num_classes None: any."""
    wanted = "as many numbers as there are classes" if num_classes is None else num_classes
    _check_rows(f"the logits of {name}", images, logits, wanted)
    found = logits.shape[1]
    require(found >= 2, f"the logits of {name} have {found} column: at least two are needed")
    require(
        num_classes in (None, found),
        f"the logits of {name} have {found} columns, but num_classes = {num_classes}",
    )
    if features is None:
        return logits.astype(jnp.float32), None
    _check_rows(f"the features of {name}", images, features, "d numbers (flatten or pool them)")
    return logits.astype(jnp.float32), features.astype(jnp.float32)


def _check_rows(what, images, array, wanted):
    is_float = hasattr(array, "dtype") and jnp.issubdtype(array.dtype, jnp.floating)
    require(is_float, f"{what} are no array of floats but a {_described(array)}")
    require(
        array.ndim == 2 and len(array) == len(images),
        f"{what} have shape {array.shape} for {len(images)} images; expected {len(images)} rows of "
        f"{wanted}",
    )


def _described(value):
    kind = type(value).__name__
    return f"{value.dtype} array" if hasattr(value, "dtype") else kind


def check_model(model, *, image_size=None):
    """Raise InputError unless a Classifier answers, finitely and twice the same, to two images.

    Args:
      image_size: side of the images; None: the model's own, 224 where it takes any.
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
        f"{name} is random: two calls with the same images differ; set it to evaluation mode, "
        "without dropout and noise",
    )
    grad = jax.grad(lambda x: jnp.sum(model.logits(x)[:, 0]))(images)
    if not np.any(grad):
        warnings.warn(
            f"no gradient of {name} reaches the images: PGD and deep NFS find nothing", stacklevel=2
        )

"""What `load` takes beside files and names: a function in a file or package, timm, torchvision."""

import contextlib
import dataclasses
import difflib
import functools
import hashlib
import importlib
import importlib.util
import inspect
import sys
from pathlib import Path

import flax
import jax
import numpy as np

from advspur._checks import InputError, first_line, require
from advspur._files import file_checksum
from advspur.models.classifier import check_is_model
from advspur.models.convert import convert_state
from advspur.models.function import foreign_code
from advspur.models.torch import TorchForward, from_torch

FORMS = "FILE.py:FUNCTION, PACKAGE.MODULE:FUNCTION, timm:NAME, torchvision:NAME"


def is_spec(name):
    """Whether `load` is asked for one of FORMS."""
    return ":" in str(name) and not Path(name).expanduser().exists()


def load_spec(spec, *, pretrained=True, mean=None, std=None):
    """The Classifier of one of FORMS; see `load`."""
    library, _, name = str(spec).partition(":")
    if library in ("timm", "torchvision") and name:
        model = _of_library(library, name, pretrained, mean, std)
        return dataclasses.replace(model, name=str(spec))
    where, _, what = str(spec).rpartition(":")
    require(where and what, f"{str(spec)!r}: a model of somebody else's is {FORMS}")
    require(
        mean is None and std is None and pretrained,
        f"{spec}: the function makes the model with its normalisation and weights; mean, std and "
        "pretrained are not for it",
    )
    return _of_function(spec, where, what)


def _of_function(spec, where, what):
    """The Classifier that a user's function returns."""
    is_file = where.endswith(".py") or "/" in where
    folder = Path(where).expanduser().parent if is_file else Path()
    with _importable(folder.absolute()):
        if is_file:
            module = _module_of_file(Path(where).expanduser())
        else:
            with foreign_code(f"importing {where}"):
                module = importlib.import_module(where)
        function = getattr(module, what, None)
        functions = inspect.getmembers(module, inspect.isfunction)
        own = [n for n, f in functions if f.__module__ == module.__name__ and n[0] != "_"]
        require(
            callable(function),
            f"{where} has no function {what!r}; it has {', '.join(own) or 'none'}",
        )
        with foreign_code(f"{spec}, called without arguments,"):
            model = function()
    try:
        check_is_model(model)
    except InputError as error:
        raise InputError(f"{spec} returns no model: {error}") from error
    if model.code is None:
        model = dataclasses.replace(model, code=_code(model, getattr(module, "__file__", None)))
    is_named = model.name not in ("", getattr(model.forward, "arch", ""))
    return model if is_named else dataclasses.replace(model, name=what)


@contextlib.contextmanager
def _importable(folder):
    sys.path.insert(0, str(folder))
    try:
        yield
    finally:
        with contextlib.suppress(ValueError):
            sys.path.remove(str(folder))


def _module_of_file(path):
    require(path.is_file(), f"no file {path}: a model in a file is PATH/FILE.py:FUNCTION")
    require(path.suffix == ".py", f"{path} is no Python file: a model is PATH/FILE.py:FUNCTION")
    return _executed(path.absolute(), file_checksum(path))


@functools.cache  # of one file, so that models of one function share their programs
def _executed(path, checksum):
    name = f"advspur_models_{path.stem}_{checksum[:8]}"
    spec = importlib.util.spec_from_file_location(name, path)
    module = sys.modules[name] = importlib.util.module_from_spec(spec)
    try:
        with foreign_code(f"the file {path}"):
            spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
    return module


def _code(model, file):
    """What identifies the code of a user's model; None where it cannot be traced."""
    parts = [file_checksum(file) if file else "", jax.__version__, flax.__version__]
    if isinstance(model.forward, TorchForward):  # which holds a digest of weights and layers
        return " ".join([*parts, sys.modules["torch"].__version__])
    size = model.image_size or 224
    images = jax.ShapeDtypeStruct((2, size, size, 3), "float32")
    try:
        program = jax.jit(lambda p, x: model.forward(p, x)).lower(model.params, images).as_text()
    except InputError:
        return None
    if "callback" in program:  # of Python code that nobody sees
        return None
    return " ".join([*parts, hashlib.sha256(program.encode()).hexdigest()])


def _of_library(library, name, pretrained, mean, std):
    """A model of timm or torchvision: in Flax where it is a ResNet that we have, else in torch."""
    try:
        import torch

        package = importlib.import_module(library)
    except ImportError as error:
        raise InputError(
            f"{library}:{name} needs torch and {library}: pip install 'advspur[torch]' "
            f"({first_line(error)})"
        ) from error
    is_timm, known = library == "timm", {}
    models = package if is_timm else package.models
    names = package.list_models() if is_timm else models.list_models(module=models)
    asked = name.split(".")[0]
    close = ", ".join(difflib.get_close_matches(asked, names, 5)) or ", ".join(names[:5])
    is_there = asked in names or (is_timm and "/" in name)
    require(is_there, f"{library} has no model {asked!r}; near it: {close}")
    place = "https://huggingface.co, kept in $HF_HOME (~/.cache/huggingface)"
    if not is_timm:
        weights = models.get_model_weights(name).DEFAULT
        crop = weights.transforms()
        known = {"mean": crop.mean, "std": crop.std, "image_size": crop.crop_size[0]}
        known["class_names"] = weights.meta["categories"]
        place = f"{weights.url}, kept in {torch.hub.get_dir()}/checkpoints"
    try:
        with torch.random.fork_rng():
            torch.manual_seed(0)  # random weights are the same each time
            if is_timm:
                module = models.create_model(name, pretrained=pretrained)
            else:
                module = models.get_model(name, weights=weights if pretrained else None)
    except Exception as error:  # of the hub, the network, the files
        raise InputError(
            f"the weights of {library}:{name} cannot be had from {place}: {type(error).__name__}: "
            f"{first_line(error)}; pretrained=False takes random ones"
        ) from error
    for key, value in (("mean", mean), ("std", std)):
        known[key] = known.get(key) if value is None else value
    model = from_torch(module, **known)
    code = f"{library} {package.__version__} torch {torch.__version__}"
    return _in_flax(module, model) or dataclasses.replace(model, code=code)


def _in_flax(module, model):
    """The same model in Flax, where its weights and answers are those of one of our ResNets."""
    network = model.forward.network
    mean, std = (values.flatten().tolist() for values in (network.mean, network.std))
    state = {name: tensor.cpu().numpy() for name, tensor in module.state_dict().items()}
    try:
        conversion = convert_state(state, mean=mean, std=std)
    except InputError:
        return None
    images = np.random.default_rng(0).random((2, 64, 64, 3), np.float32)
    ours = np.asarray(conversion.classifier.logits(images))
    theirs = network.forward(images)[0]
    if not np.allclose(ours, theirs, rtol=1e-3, atol=1e-3 * np.abs(theirs).max()):
        return None  # the same names, another function
    return dataclasses.replace(
        conversion.classifier,
        image_size=model.image_size,
        class_names=model.class_names,
        note=f"{conversion.arch} runs in Flax: its weights are converted from torch",
    )

"""Models that `load` takes from a function in a file or package, from timm and torchvision."""

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
    """Whether `name` is one of FORMS, and not a path that exists."""
    return ":" in str(name) and not Path(name).expanduser().exists()


def load_spec(spec, *, pretrained=True, mean=None, std=None):
    """The Classifier of one of FORMS; see `load`."""
    spec = str(spec)
    library, _, name = spec.partition(":")
    if library in ("timm", "torchvision") and name:
        model = _load_from_library(library, name, pretrained, mean, std)
        return dataclasses.replace(model, name=spec)
    place, _, name = spec.rpartition(":")
    require(place and name, f"{spec!r} names no model: give {FORMS}")
    require(
        mean is None and std is None and pretrained,
        f"{spec}: mean, std and pretrained are not for models from a function, which sets them",
    )
    return _load_from_function(spec, place, name)


def _load_from_function(spec, place, name):
    is_file = place.endswith(".py") or "/" in place
    path = Path(place).expanduser()
    folder = str(path.parent.absolute() if is_file else Path().absolute())
    sys.path.insert(0, folder)
    try:
        if is_file:
            require(path.is_file(), f"no file {path}: a model in a file is PATH/FILE.py:FUNCTION")
            require(path.suffix == ".py", f"{path} is not a Python file (PATH/FILE.py:FUNCTION)")
            module = _execute(path.absolute(), file_checksum(path))
        else:
            with foreign_code(f"importing {place}"):
                module = importlib.import_module(place)
        function = getattr(module, name, None)
        functions = inspect.getmembers(module, inspect.isfunction)
        names = [n for n, f in functions if f.__module__ == module.__name__ and n[0] != "_"]
        require(
            callable(function),
            f"{place} has no function {name!r}; it has {', '.join(names) or 'none'}",
        )
        with foreign_code(f"{spec}, called without arguments,"):
            model = function()
    finally:
        with contextlib.suppress(ValueError):
            sys.path.remove(folder)
    try:
        check_is_model(model)
    except InputError as error:
        raise InputError(f"{spec} returns no model: {error}") from error
    if model.code is None:
        model = dataclasses.replace(model, code=_code(model, getattr(module, "__file__", None)))
    is_named = model.name not in ("", getattr(model.forward, "arch", ""))
    return model if is_named else dataclasses.replace(model, name=name)


@functools.cache  # models of one function share their programs
def _execute(path, checksum):
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
    """Return a text that identifies the code of a user's model; None if it cannot be traced."""
    parts = [file_checksum(file) if file else "", jax.__version__, flax.__version__]
    if isinstance(model.forward, TorchForward):  # its repr has a digest of weights and layers
        return " ".join([*parts, sys.modules["torch"].__version__])
    size = model.image_size or 224
    images = jax.ShapeDtypeStruct((2, size, size, 3), "float32")
    try:
        program = jax.jit(lambda p, x: model.forward(p, x)).lower(model.params, images).as_text()
    except InputError:
        return None
    if "callback" in program:  # Python code that the program does not show
        return None
    return " ".join([*parts, hashlib.sha256(program.encode()).hexdigest()])


def _load_from_library(library, name, pretrained, mean, std):
    """A model of timm or torchvision: in Flax if it is a ResNet that we have, else in torch."""
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
    arch = name.split(".")[0]
    close = ", ".join(difflib.get_close_matches(arch, names, 5) or names[:5])
    is_known = arch in names or (is_timm and "/" in name)
    require(is_known, f"{library} has no model {arch!r}; near it: {close}")
    source = "https://huggingface.co, kept in $HF_HOME (~/.cache/huggingface)"
    if not is_timm:
        weights = models.get_model_weights(name).DEFAULT
        crop = weights.transforms()
        known = {"mean": crop.mean, "std": crop.std, "image_size": crop.crop_size[0]}
        known["class_names"] = weights.meta["categories"]
        source = f"{weights.url}, kept in {torch.hub.get_dir()}/checkpoints"
    try:
        with torch.random.fork_rng():
            torch.manual_seed(0)  # random weights are the same each time
            if is_timm:
                module = models.create_model(name, pretrained=pretrained)
            else:
                module = models.get_model(name, weights=weights if pretrained else None)
    except Exception as error:  # of the hub, the network, the files
        raise InputError(
            f"the weights of {library}:{name} cannot be read from {source}: "
            f"{type(error).__name__}: {first_line(error)}; pretrained=False takes random ones"
        ) from error
    known |= {key: x for key, x in (("mean", mean), ("std", std)) if x is not None}
    model = from_torch(module, **known)
    code = f"{library} {package.__version__} torch {torch.__version__}"
    return _in_flax(module, model) or dataclasses.replace(model, code=code)


def _in_flax(module, model):
    """The same model in Flax if it has the weights and answers of one of our ResNets, else None."""
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
        return None  # the same names, a different function
    return dataclasses.replace(
        conversion.classifier,
        image_size=model.image_size,
        class_names=model.class_names,
        note=f"{conversion.arch} runs in Flax: its weights are converted from torch",
    )

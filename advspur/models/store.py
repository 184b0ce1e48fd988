"""models.load: classifiers from training runs, converted models, checkpoint files and code.

A training run is a directory with model.json and checkpoints, a converted model one with
model.safetensors and model.json. Only timm and torchvision download.
"""

import dataclasses
import json
import math
import os
import tempfile
import warnings
from pathlib import Path

import flax.traverse_util
import jax
import jax.numpy as jnp
import numpy as np

from advspur import __version__
from advspur._checks import InputError, check_choice, first_line, require
from advspur._files import file_checksum, read_json, tree_digest
from advspur.models.convert import ASSUMED, convert, warn_of_assumed
from advspur.models.resnet import build_network, from_resnet, variable_shapes
from advspur.models.spec import FORMS, is_spec, load_spec
from advspur.models.suite import PUBLISHED_AT, SUITE, published_model
from advspur.models.torch_checkpoint import read_safetensors

WEIGHTS = "model.safetensors"
NEEDED = ("arch", "stem", "num_classes", "train_p", "train_epsilon", "seed")
DTYPES = ("float32", "bfloat16", "float16")


def load(name, *, weights="raw", step=None, models_dir=None, mean=None, std=None, pretrained=True):
    """Load a Classifier by name or path.

    Args:
      name: a model of the paper's suite ("resnet50_l2_eps3"); a directory that
        `training.train` or scripts/convert_checkpoint.py wrote; a checkpoint file;
        "path/file.py:function" or "package.module:function", which is executed and returns a
        Classifier when it is called without arguments; "timm:NAME" or "torchvision:NAME".
      weights: for a run: "raw", or "ema" for averaged weights (ema_decay > 0).
      step: for a run: the step of a checkpoint, "best" (by best_metric), or None: the latest.
      models_dir: where the suite's models are; default $ADVSPUR_MODELS.
      mean, std: normalisation for a checkpoint file that holds none (default: ImageNet's, with a
        warning), or instead of the one that timm or torchvision gives.
      pretrained: whether timm's and torchvision's models get their weights or random ones.
    Raises: InputError for a model that is not found (naming what was looked for and where it is
      published) or whose file is damaged.
    """
    require(
        pretrained or is_spec(name),
        f"pretrained=False is for timm:NAME and torchvision:NAME, not for {name}",
    )
    path = find_model(name, models_dir=models_dir)
    is_run = path.is_dir() and not (path / WEIGHTS).is_file()
    require(
        is_run or (weights == "raw" and step is None),
        f"{path} is not a training run: it has neither averaged weights nor steps",
    )
    if is_spec(name):
        return load_spec(name, pretrained=pretrained, mean=mean, std=std)
    if path.is_file():
        return convert(path, mean=mean, std=std).classifier
    require(
        mean is None and std is None,
        f"{path} has its normalisation already: mean and std are for checkpoint files",
    )
    facts = directory_facts(path)
    network = build_network(
        facts["arch"], facts["num_classes"], stem=facts["stem"], dtype=facts["dtype"]
    )
    shapes = variable_shapes(network)
    if is_run:
        saved = _read_run(path, facts, weights, step)
    else:
        saved = _read_converted(path, facts, shapes)
    # Copied, so that no array shares memory with the reader, which is closed by now.
    variables = jax.tree.map(lambda t, a: jnp.array(a, t.dtype), shapes, saved)
    classifier = from_resnet(network, variables, mean=facts["mean"], std=facts["std"])
    return dataclasses.replace(classifier, class_names=tuple(facts.get("class_names", ())))


def find_model(name, *, models_dir=None):
    """Return the directory or file that `load` reads for `name`; `name` itself for code."""
    if is_spec(name):
        return Path(name)
    path, model = Path(name).expanduser(), published_model(str(name))
    if (path / "model.json").is_file() or path.is_file():
        return path
    require(
        model is not None or not path.is_dir(),
        f"{path} is neither a training run nor a converted model: {path / 'model.json'} is missing",
    )
    require(
        model is not None,
        f"no model {str(name)!r}: neither a directory or file, nor a name such as "
        f"{SUITE[4].name} or {SUITE[-1].name} (all: advspur.models.SUITE), nor {FORMS}",
    )
    root = models_dir or os.environ.get("ADVSPUR_MODELS")
    names = [file.removesuffix(".ckpt") for file in model.files]
    wanted = f"{' or '.join(model.files)}, or {names[0]} from scripts/convert_checkpoint.py"
    get = f"it is published at {PUBLISHED_AT}"
    require(root, f"{name}: set $ADVSPUR_MODELS or models_dir to the folder of {wanted}; {get}")
    root = Path(root).expanduser()
    for path in (root / candidate for candidate in (*names, *model.files)):
        if (path / "model.json").is_file() or path.is_file():
            return path
    raise InputError(f"{name} is not in {root}: looked for {wanted}; {get}")


def model_facts(name, *, models_dir=None):
    """Return the facts of a run, converted model or checkpoint file, with its checksum."""
    path = find_model(name, models_dir=models_dir)
    if not path.is_dir():
        return describe(path, convert(path, is_filled=False)) | {"model": path.stem, "step": 0}
    facts = directory_facts(path)
    if (path / WEIGHTS).is_file():
        return facts | {"step": 0}
    step = latest_step(path)
    return facts | {"step": step, "checksum": _saved_digest(_checkpoint(path, step))}


def directory_facts(path):
    """Return the model's name and its model.json, checked: arch, num_classes, mean, std, ..."""
    file = Path(path) / "model.json"
    require(file.is_file(), f"{path} is not a training run: {file} is missing")
    facts = read_json(file)
    num_classes, names = facts.get("num_classes"), facts.get("class_names", [])
    are_names = isinstance(names, list) and all(isinstance(name, str) for name in names)
    is_valid = {name: name in facts for name in NEEDED} | {
        "mean and std of three channels": all(
            isinstance(x, list) and len(x) == 3 and all(isinstance(v, (int, float)) for v in x)
            for x in (facts.get("mean"), facts.get("std"))
        ),
        "an integer num_classes": isinstance(num_classes, int),
        "class_names for its num_classes": are_names and len(names) in (0, num_classes),
        f"a dtype of {', '.join(DTYPES)}": facts.get("dtype") in DTYPES,
    }
    missing = [name for name, valid in is_valid.items() if not valid]
    require(not missing, f"{file} is damaged: it lacks {', '.join(missing)}")
    return {"model": Path(path).name} | facts


def latest_step(path):
    """The step of the latest checkpoint of a run."""
    return _steps(path)[-1]


def save_converted(conversion, source, directory, *, train_p=None, train_epsilon=None):
    """Write a Conversion of the file `source` as a directory that `load` reads; return its Path.

    The directory is whole or absent, and replaces only an earlier conversion. `train_p` and
    `train_epsilon` (0: standard) say how it was trained if the file's name does not.
    """
    from safetensors.numpy import save

    directory = Path(directory)
    content = describe(source, conversion, train_p=train_p, train_epsilon=train_epsilon)
    require(
        not directory.exists() or (directory / WEIGHTS).is_file(),
        f"{directory} exists and is not a converted model: name a different --out",
    )
    directory.parent.mkdir(parents=True, exist_ok=True)
    variables = conversion.classifier.params
    flat = flax.traverse_util.flatten_dict(variables, sep="/")
    content["checksum"] = tree_digest(variables)
    with tempfile.TemporaryDirectory(prefix=f".{directory.name}.", dir=directory.parent) as folder:
        new, before = Path(folder) / "new", Path(folder) / "before"
        new.mkdir()
        (new / WEIGHTS).write_bytes(save({name: np.asarray(leaf) for name, leaf in flat.items()}))
        (new / "model.json").write_text(json.dumps(content, indent=1) + "\n")
        if directory.exists():
            directory.rename(before)
        try:
            new.rename(directory)
        except BaseException:
            if before.exists():
                before.rename(directory)
            raise
    return directory


def describe(source, conversion, *, train_p=None, train_epsilon=None):
    """Return the content of model.json for a converted checkpoint."""
    forward, published = conversion.classifier.forward, published_model(Path(source).stem)
    network, checksum = forward.network, file_checksum(source)
    if train_epsilon is None and published is not None:
        train_p, train_epsilon = published.train_p, published.train_epsilon
    if train_epsilon is None:
        warnings.warn(
            f"{source}: cannot tell from the name how it was trained, so records leave it open; "
            "convert it with scripts/convert_checkpoint.py --train_p=P --train_epsilon=EPSILON (0 "
            "if standard)",
            stacklevel=3,
        )
    return {
        "arch": conversion.arch,
        "stem": network.stem,
        "dtype": "float32",
        "num_classes": network.num_classes,
        "image_size": 224 if network.stem == "imagenet" else 32,
        "mean": forward.mean,
        "std": forward.std,
        "dataset": "imagenet" if network.num_classes == 1000 else "unknown",
        "shapes": {},
        "train_p": "inf" if train_p == math.inf else train_p,
        "train_epsilon": train_epsilon,
        "seed": 0,
        "checksum": checksum,
        "source": {
            "file": Path(source).name,
            "sha256": checksum,
            "container": conversion.container,
            "normalization": conversion.normalization,
            "dropped": len(conversion.dropped),
            "inert": conversion.inert,
            "advspur": __version__,
        },
    }


def _read_converted(path, facts, shapes):
    """The variables of a converted model."""
    if facts.get("source", {}).get("normalization") == ASSUMED:
        warn_of_assumed(path, facts["num_classes"])
    try:
        variables = flax.traverse_util.unflatten_dict(read_safetensors(path / WEIGHTS), sep="/")
    except InputError as error:
        raise InputError(f"{path / WEIGHTS} is damaged: {error}; convert it again") from error
    has_shapes, expected = (jax.tree.map(lambda x: x.shape, t) for t in (variables, shapes))
    require(
        has_shapes == expected and tree_digest(variables) == facts.get("checksum"),
        f"{path / WEIGHTS} is damaged: it does not match model.json; convert it again",
    )
    return variables


def _read_run(path, facts, weights, step):
    """The variables of a checkpoint of a run."""
    import orbax.checkpoint as ocp

    check_choice("weights", weights, ("raw", "ema"))
    steps = _steps(path)
    if step is None:
        step = steps[-1]
    elif step == "best":
        step = _best_step(path, steps, facts["best_metric"])
    require(step in steps, f"{path} has no checkpoint of step {step}; it has {steps}")
    directory = _checkpoint(path, step)
    try:
        with ocp.Checkpointer(ocp.StandardCheckpointHandler()) as checkpointer:
            saved = checkpointer.restore(directory / "model")
        require(tree_digest(saved) == _saved_digest(directory), "its checksum does not match")
    except MemoryError:
        raise
    except Exception as error:  # orbax and tensorstore raise many kinds for damage
        raise InputError(f"checkpoint {directory} cannot be read: {first_line(error)}") from error
    require(saved[weights], f"{path} has no averaged weights (ema_decay was 0)")
    return saved[weights]


def _checkpoint(path, step):
    return Path(path).absolute() / "checkpoints" / str(step)


def _saved_digest(directory):
    """The checksum of a checkpoint's weights."""
    return read_json(directory / "facts" / "metadata")["model"]


def _best_step(path, steps, metric):
    files = {step: _checkpoint(path, step) / "metrics" / "metrics" for step in steps}
    scores = {s: read_json(file).get(metric) for s, file in files.items() if file.is_file()}
    scores = {step: score for step, score in scores.items() if score is not None}
    require(scores, f"{path} has no validated checkpoint: none holds {metric}")
    return max(scores, key=scores.get)


def _steps(path):
    folders = (Path(path) / "checkpoints").glob("*")
    steps = sorted(int(folder.name) for folder in folders if folder.name.isdigit())
    require(steps, f"{path} has no checkpoint yet")
    return steps

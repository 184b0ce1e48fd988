"""models.load: classifiers by name, from runs, converted models, checkpoint files and code.

A training run is a directory with model.json and checkpoints, a converted model one with
model.safetensors and model.json. Nothing is fetched from the network.
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
    """A Classifier by name or path; its `note` says where it runs, if that is not plain.

    Args:
      name: a model of the paper's suite ("resnet50_l2_eps3"); a directory that
        `training.train` or scripts/convert_checkpoint.py wrote; a checkpoint file;
        "path/file.py:function" or "package.module:function", which is executed and returns a
        Classifier when it is called without arguments; "timm:NAME" or "torchvision:NAME".
      weights: of a run: "raw", or "ema" for the averages of one with ema_decay > 0.
      step: of a run: which checkpoint: a number, "best" (by the run's best_metric), None: the
        latest.
      models_dir: where the suite's models are; default $ADVSPUR_MODELS.
      mean, std: of a checkpoint file: the normalisation that it was trained with, where it holds
        none; None: ImageNet's is assumed, with a warning. Of timm's and torchvision's models:
        instead of that of their configuration.
      pretrained: whether timm's and torchvision's models get their weights, or random ones.
    Raises: InputError where there is no such model (saying what was looked for, and where it is
      published), or where its file is not what it should be.
    """
    is_code = is_spec(name)
    require(
        pretrained or is_code,
        f"pretrained=False is for timm:NAME and torchvision:NAME, not for {name}",
    )
    path = find_model(name, models_dir=models_dir)
    is_run = path.is_dir() and not (path / WEIGHTS).is_file()
    require(
        is_run or (weights == "raw" and step is None),
        f"{path} is no training run: it has neither averaged weights nor steps",
    )
    if is_code:
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
    saved = _of_run(path, facts, weights, step) if is_run else _converted(path, facts, shapes)
    # Copied, so that no array shares memory with the reader that is closed by now.
    variables = jax.tree.map(lambda t, a: jnp.array(a, t.dtype), shapes, saved)
    classifier = from_resnet(network, variables, mean=facts["mean"], std=facts["std"])
    return dataclasses.replace(classifier, class_names=tuple(facts.get("class_names", ())))


def find_model(name, *, models_dir=None):
    """The directory or checkpoint file that `load` reads for `name`; it itself if it names code."""
    if is_spec(name):
        return Path(name)
    path, model = Path(name).expanduser(), published_model(str(name))
    if (path / "model.json").is_file() or path.is_file():
        return path
    require(
        model is not None or not path.is_dir(),
        f"{path} is no training run and no converted model: {path / 'model.json'} is missing",
    )
    require(
        model is not None,
        f"no model {str(name)!r}: neither a directory or file, nor a name such as "
        f"{SUITE[4].name} or {SUITE[-1].name} (all are in advspur.models.SUITE), nor {FORMS}",
    )
    root = models_dir or os.environ.get("ADVSPUR_MODELS")
    names = [file.removesuffix(".ckpt") for file in model.files]
    wanted = f"{' or '.join(model.files)}, or a directory {names[0]} that"
    wanted += " scripts/convert_checkpoint.py wrote"
    get = f"it is published at {PUBLISHED_AT}"
    require(
        root, f"{name}: set $ADVSPUR_MODELS or models_dir to the folder that holds {wanted}; {get}"
    )
    root = Path(root).expanduser()
    for path in (root / candidate for candidate in (*names, *model.files)):
        if (path / "model.json").is_file() or path.is_file():
            return path
    raise InputError(f"{name} is not in {root}: looked for {wanted}; {get}")


def model_facts(name, *, models_dir=None):
    """What is known of a model of ours beside its weights; its checksum tells it from others."""
    path = find_model(name, models_dir=models_dir)
    if not path.is_dir():
        return describe(path, convert(path, is_filled=False)) | {"model": path.stem, "step": 0}
    facts = directory_facts(path)
    if (path / WEIGHTS).is_file():
        return facts | {"step": 0}
    step = latest_step(path)
    return facts | {"step": step, "checksum": _saved_digest(_checkpoint(path, step))}


def directory_facts(path):
    """The model's name and what its model.json says: arch, num_classes, normalisation, ..."""
    file = Path(path) / "model.json"
    require(file.is_file(), f"{path} is no training run: {file} is missing")
    facts = read_json(file)
    are_channels = all(
        isinstance(x, list) and len(x) == 3 and all(isinstance(v, (int, float)) for v in x)
        for x in (facts.get("mean"), facts.get("std"))
    )
    wrong = [name for name in NEEDED if name not in facts]
    wrong += [] if are_channels else ["mean and std of three channels"]
    wrong += [] if isinstance(facts.get("num_classes"), int) else ["a whole num_classes"]
    names = facts.get("class_names", [])  # of the models' own data; absent in older runs
    are_names = isinstance(names, list) and all(isinstance(name, str) for name in names)
    is_named = are_names and len(names) in (0, facts.get("num_classes"))
    wrong += [] if is_named else ["class_names of its num_classes"]
    wrong += [] if facts.get("dtype") in DTYPES else [f"a dtype of {', '.join(DTYPES)}"]
    require(not wrong, f"{file} is damaged: it lacks {', '.join(wrong)}")
    return {"model": Path(path).name} | facts


def latest_step(path):
    """The step of the latest checkpoint of a run."""
    return _steps(path)[-1]


def save_converted(conversion, source, directory, *, train_p=None, train_epsilon=None):
    """Write a Conversion of the file `source` as a directory that `load` reads; return its Path.

    Whole or not at all, in place of an earlier conversion only. `train_p` and `train_epsilon` (0:
    standard) say how it was trained, where the name of the source is not the release's.
    """
    from safetensors.numpy import save

    directory = Path(directory)
    content = describe(source, conversion, train_p=train_p, train_epsilon=train_epsilon)
    require(
        not directory.exists() or (directory / WEIGHTS).is_file(),
        f"{directory} exists and holds no converted model: name another --out",
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
    """The content of model.json for a converted checkpoint."""
    forward, published = conversion.classifier.forward, published_model(Path(source).stem)
    network = forward.network
    if train_epsilon is None and published is not None:
        train_p, train_epsilon = published.train_p, published.train_epsilon
    if train_epsilon is None:
        warnings.warn(
            f"{source}: the name does not tell what it was trained with, so records leave it open; "
            "convert it with scripts/convert_checkpoint.py --train_p=P --train_epsilon=EPSILON (0 "
            "if standard) to say it",
            stacklevel=3,
        )
    checksum = file_checksum(source)
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


def _converted(path, facts, shapes):
    """The variables of a converted model."""
    if facts.get("source", {}).get("normalization") == ASSUMED:
        warn_of_assumed(path, facts["num_classes"])
    try:
        variables = flax.traverse_util.unflatten_dict(read_safetensors(path / WEIGHTS), sep="/")
    except InputError as error:
        raise InputError(f"{path / WEIGHTS} is damaged: {error}; convert it again") from error
    found, wanted = (jax.tree.map(lambda x: x.shape, tree) for tree in (variables, shapes))
    require(
        found == wanted and tree_digest(variables) == facts.get("checksum"),
        f"{path / WEIGHTS} is damaged: it is not what model.json says; convert it again",
    )
    return variables


def _of_run(path, facts, weights, step):
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
    """The checksum of a checkpoint's weights: two runs of one name differ in it."""
    return read_json(directory / "facts" / "metadata")["model"]


def _best_step(path, steps, metric):
    scores = {}
    for step in steps:
        file = _checkpoint(path, step) / "metrics" / "metrics"
        scores[step] = read_json(file).get(metric) if file.is_file() else None
    scores = {step: score for step, score in scores.items() if score is not None}
    require(scores, f"{path} has no validated checkpoint: none holds {metric}")
    return max(scores, key=scores.get)


def _steps(path):
    found = [d.name for d in (Path(path) / "checkpoints").glob("*") if d.name.isdigit()]
    require(found, f"{path} has no checkpoint yet")
    return sorted(map(int, found))

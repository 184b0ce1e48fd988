"""models.load: classifiers by name, from converted directories, original files and own runs.

A converted directory holds model.safetensors and model.json; a training run model.json and
checkpoints. Nothing is fetched from the network.
"""

import json
import math
import os
import shutil
import tempfile
import warnings
from pathlib import Path

import flax.traverse_util
import jax
import jax.numpy as jnp
import numpy as np

from advspur import __version__
from advspur._checks import InputError, require
from advspur._files import file_checksum, tree_digest
from advspur.models.array_files import read_safetensors
from advspur.models.convert import ASSUMED, convert, warn_of_assumed
from advspur.models.resnet import from_resnet, variable_shapes
from advspur.models.runs import described_network, latest_step, load_run, run_checksum, run_facts
from advspur.models.spec import FORMS, is_spec, load_spec
from advspur.models.suite import PUBLISHED_AT, SUITE, published_model

WEIGHTS = "model.safetensors"


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
      models_dir: where the suite's models lie; default $ADVSPUR_MODELS.
      mean, std: of a checkpoint file: the normalisation that it was trained with, where it holds
        none; None: ImageNet's is assumed, with a warning. Of timm's and torchvision's models:
        instead of that of their configuration.
      pretrained: whether timm's and torchvision's models get their weights, or random ones.
    Raises: InputError where there is no such model (saying what was looked for, and where it is
      published), or where its file is not what it should be.
    """
    if is_spec(name):
        of_run = weights == "raw" and step is None
        require(of_run, f"{name} is no training run: it has neither averaged weights nor steps")
        return load_spec(name, pretrained=pretrained, mean=mean, std=std)
    require(pretrained, f"pretrained=False is for timm:NAME and torchvision:NAME, not for {name}")
    path = find_model(name, models_dir=models_dir)
    require(
        path.is_file() or (mean is None and std is None),
        f"{path} has its normalisation already: mean and std are for checkpoint files",
    )
    if path.is_dir() and not (path / WEIGHTS).is_file():
        return load_run(path, weights=weights, step=step)
    require(
        weights == "raw" and step is None,
        f"{path} is no training run: it has neither averaged weights nor steps",
    )
    return _load_converted(path) if path.is_dir() else convert(path, mean=mean, std=std).classifier


def find_model(name, *, models_dir=None):
    """The directory or checkpoint file that `load` reads for `name`; it itself if it names code."""
    if is_spec(name):
        return Path(name)
    path = Path(name).expanduser()
    if (path / "model.json").is_file() or path.is_file():
        return path
    model = published_model(str(name))
    if model is None:
        require(
            not path.is_dir(),
            f"{path} is no training run and no converted model: {path / 'model.json'} is missing",
        )
        raise InputError(
            f"no model {str(name)!r}: neither a directory or file, nor a name such as "
            f"{SUITE[4].name} or {SUITE[-1].name} (all are in advspur.models.SUITE), nor {FORMS}"
        )
    root = models_dir or os.environ.get("ADVSPUR_MODELS")
    names = [file.removesuffix(".ckpt") for file in model.files]
    wanted = f"{' or '.join(model.files)}, or a directory {names[0]} that"
    wanted += " scripts/convert_checkpoint.py wrote"
    get = f"it is published at {PUBLISHED_AT}"
    require(
        root,
        f"{name}: say where the published models lie by $ADVSPUR_MODELS or models_dir; looked for "
        f"is {wanted}; {get}",
    )
    root = Path(root).expanduser()
    for candidate in names:
        if (root / candidate / "model.json").is_file():
            return root / candidate
    for file in model.files:
        if (root / file).is_file():
            return root / file
    raise InputError(f"{name} is not in {root}: looked for {wanted}; {get}")


def model_facts(name, *, models_dir=None):
    """What is known of a model of ours beside its weights, which are not read: a dict.

    model (its name), arch, num_classes, train_p, train_epsilon, ..., step, and checksum, which
    tells two models of one name apart.
    """
    path = find_model(name, models_dir=models_dir)
    if not path.is_dir():
        return describe(path, convert(path, is_filled=False)) | {"model": path.stem, "step": 0}
    if (path / WEIGHTS).is_file():
        return run_facts(path) | {"step": 0}
    return run_facts(path) | {"step": latest_step(path), "checksum": run_checksum(path)}


def classifier_facts(classifier):
    """What is known of a model that was loaded or made; how it was trained is not."""
    return {
        "model": classifier.name,
        "arch": getattr(classifier.forward, "arch", type(classifier.forward).__name__),
        "num_classes": classifier.num_classes,
        "image_size": classifier.image_size,
        "class_names": classifier.class_names,
        "has_features": classifier.has_features,
        "dataset": "unknown",
        "shapes": {},
        "train_p": None,
        "train_epsilon": None,
        "seed": 0,
        "step": 0,
        "checksum": classifier.digest,
    }


def save_converted(conversion, source, directory, *, train_p=None, train_epsilon=None):
    """Write a Conversion as a directory that `load` reads, whole or not at all.

    Args:
      conversion: of `convert`.
      source: the file it came from.
      directory: to write; it must not exist, or hold an earlier conversion.
      train_p: norm of the attack it was trained with, where the name of the source is not the
        release's.
      train_epsilon: its budget, 0 for a standard model.
    Returns: the Path of the directory.
    """
    from safetensors.numpy import save_file

    directory = Path(directory)
    content = describe(source, conversion, train_p=train_p, train_epsilon=train_epsilon)
    require(
        not directory.exists() or (directory / WEIGHTS).is_file(),
        f"{directory} exists and holds no converted model: name another --out",
    )
    directory.parent.mkdir(parents=True, exist_ok=True)
    part = Path(tempfile.mkdtemp(prefix=f".{directory.name}.", dir=directory.parent))
    before = part.with_name(f"{part.name}.before")
    try:
        part.chmod(0o755)
        variables = conversion.classifier.params
        flat = flax.traverse_util.flatten_dict(variables, sep="/")
        save_file({name: np.asarray(leaf) for name, leaf in flat.items()}, part / WEIGHTS)
        (part / WEIGHTS).chmod(0o644)  # it is written for its owner alone
        content["checksum"] = tree_digest(variables)
        (part / "model.json").write_text(json.dumps(content, indent=1) + "\n")
        if directory.exists():
            directory.rename(before)
        part.rename(directory)
    except BaseException:
        if before.exists() and not directory.exists():
            before.rename(directory)
        shutil.rmtree(part, ignore_errors=True)
        raise
    shutil.rmtree(before, ignore_errors=True)
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
    elif train_p is None:
        train_p = 2.0
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


def _load_converted(path):
    facts = run_facts(path)
    if facts.get("source", {}).get("normalization") == ASSUMED:
        warn_of_assumed(path, facts["num_classes"])
    network = described_network(facts)
    try:
        flat = read_safetensors(path / WEIGHTS)
    except InputError as error:
        raise InputError(f"{path / WEIGHTS} is damaged: {error}; convert it again") from error
    variables = flax.traverse_util.unflatten_dict(flat, sep="/")
    shapes = [
        jax.tree.map(lambda x: x.shape, tree) for tree in (variables, variable_shapes(network))
    ]
    require(
        shapes[0] == shapes[1] and tree_digest(variables) == facts.get("checksum"),
        f"{path / WEIGHTS} is damaged: it is not what model.json says; convert it again",
    )
    variables = jax.tree.map(jnp.array, variables)
    return from_resnet(network, variables, mean=facts["mean"], std=facts["std"])

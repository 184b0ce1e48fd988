"""Classifiers from the directories that training runs write."""

from pathlib import Path

import jax
import jax.numpy as jnp

from advspur._checks import InputError, check_choice, first_line, require
from advspur._files import read_json, tree_digest
from advspur.models.resnet import build_network, from_resnet, variable_shapes

NEEDED = ("arch", "stem", "num_classes", "train_p", "train_epsilon", "seed")
DTYPES = ("float32", "bfloat16", "float16")


def run_facts(path):
    """The model's name and what its model.json says: arch, num_classes, normalisation, ..."""
    file = Path(path) / "model.json"
    require(file.is_file(), f"{path} is no training run: {file} is missing")
    facts = read_json(file)
    numbers = (facts.get("mean"), facts.get("std"))
    are_channels = all(
        isinstance(x, list) and len(x) == 3 and all(isinstance(v, (int, float)) for v in x)
        for x in numbers
    )
    wrong = [name for name in NEEDED if name not in facts]
    wrong += [] if are_channels else ["mean and std of three channels"]
    wrong += [] if isinstance(facts.get("num_classes"), int) else ["a whole num_classes"]
    wrong += [] if facts.get("dtype") in DTYPES else [f"a dtype of {', '.join(DTYPES)}"]
    require(not wrong, f"{file} is damaged: it lacks {', '.join(wrong)}")
    return {"model": Path(path).name} | facts


def described_network(facts):
    """The network that the facts of a model.json describe."""
    return build_network(
        facts["arch"], facts["num_classes"], stem=facts["stem"], dtype=facts["dtype"]
    )


def record_facts(facts):
    """The fields of a `Record` that say which model it is about."""
    return {k: facts[k] for k in ("model", "arch", "train_p", "train_epsilon", "seed")}


def latest_step(path):
    """The step of the latest checkpoint of a run."""
    return _steps(path)[-1]


def run_checksum(path):
    """The checksum of the latest checkpoint's weights: two runs of one name differ in it."""
    return _saved_facts(_checkpoint(path, latest_step(path)))["model"]


def load_run(path, *, weights="raw", step=None):
    """The Classifier of a run directory.

    Args:
      path: directory written by ``training.train``.
      weights: "raw", or "ema" for the averaged weights of a run with ema_decay > 0.
      step: which checkpoint: a number, "best" (by the run's best_metric), None: the latest.
    Raises: InputError where there is no run, no such checkpoint, or no averaged weights.
    """
    import orbax.checkpoint as ocp

    check_choice("weights", weights, ("raw", "ema"))
    facts, steps = run_facts(path), _steps(path)
    if step is None:
        step = steps[-1]
    elif step == "best":
        step = _best_step(path, steps, facts["best_metric"])
    require(step in steps, f"{path} has no checkpoint of step {step}; it has {steps}")
    network = described_network(facts)
    directory = _checkpoint(path, step)
    try:
        with ocp.Checkpointer(ocp.StandardCheckpointHandler()) as checkpointer:
            saved = checkpointer.restore(directory / "model")
        matches = tree_digest(saved) == _saved_facts(directory)["model"]
        require(matches, "its checksum does not match")
    except MemoryError:
        raise
    except Exception as error:  # orbax and tensorstore raise many kinds for damage
        raise InputError(f"checkpoint {directory} cannot be read: {first_line(error)}") from error
    require(saved[weights], f"{path} has no averaged weights (ema_decay was 0)")
    # Copied, so that no array shares memory with the reader that is closed by now.
    shapes = variable_shapes(network)
    variables = jax.tree.map(lambda t, a: jnp.array(a, t.dtype), shapes, saved[weights])
    return from_resnet(network, variables, mean=facts["mean"], std=facts["std"])


def _checkpoint(path, step):
    return Path(path).absolute() / "checkpoints" / str(step)


def _saved_facts(directory):
    return read_json(directory / "facts" / "metadata")


def _best_step(path, steps, metric):
    scores = {}
    for step in steps:
        file = _checkpoint(path, step) / "metrics" / "metrics"
        scores[step] = read_json(file).get(metric) if file.is_file() else None
    validated = [step for step in steps if scores[step] is not None]
    require(validated, f"{path} has no validated checkpoint: none holds {metric}")
    return max(validated, key=scores.get)


def _steps(path):
    found = [d.name for d in (Path(path) / "checkpoints").glob("*") if d.name.isdigit()]
    require(found, f"{path} has no checkpoint yet")
    return sorted(map(int, found))

"""One model on one benchmark -> records.jsonl, once."""

import functools
import inspect
import json
import time
from pathlib import Path
from typing import NamedTuple

import jax
import numpy as np
from jax.experimental import multihost_utils

from advspur import __version__, models
from advspur._checks import check_choice, require
from advspur._devices import replicate
from advspur._files import file_checksum
from advspur.benchmarks.cifar_color_shift import ROBUST_BUDGETS
from advspur.data.layouts import load_options
from advspur.intervals import Estimate, wilson
from advspur.models import record_facts
from advspur.records import COMPLETE, append_records, read_records, record

# Options that say how an evaluation is run, and those whose effect the records show by themselves.
RUNNING = frozenset(
    "batch_size allow_partial skip_unreadable image_dir regions shapes num_examples num_attacked "
    "l1_epsilons l2_epsilons linf_epsilons attack_steps num_images image_list version "
    "color_shift".split()
)


class Model(NamedTuple):
    """A model to evaluate: what is known of it, and a function that loads it (once)."""

    facts: dict
    weights: str
    classifier: object


def open_model(run, *, weights="raw", models_dir=None):
    """The Model that `run` names; its weights are read when a benchmark first needs them.

    Args:
      run: what `models.load` takes: a directory that `training.train` or
        scripts/convert_checkpoint.py wrote, a checkpoint file, or a name of the paper's suite.
      weights: "raw" or "ema".
      models_dir: where the suite's models lie; default $ADVSPUR_MODELS.
    """

    @functools.cache
    def classifier():
        loaded = models.load(run, weights=weights, models_dir=models_dir)
        leaves = map(np.asarray, jax.tree.leaves(loaded.variables))
        require(
            all(np.all(np.isfinite(leaf.astype(np.float32))) for leaf in leaves),
            f"{run} has weights that are NaN or infinite",
        )
        return replicate(loaded)

    return Model(models.model_facts(run, models_dir=models_dir), weights, classifier)


def check_names(benchmark, options):
    """Raise InputError for options that a benchmark does not have."""
    from advspur.benchmarks import BENCHMARKS

    module = BENCHMARKS[benchmark]
    functions = (module.load, module.evaluate)
    known = {name for f in functions for name in inspect.signature(f).parameters}
    unknown = sorted(options.keys() - known)
    require(
        not unknown,
        f"{benchmark} has no option {', '.join(unknown)}; its options: {', '.join(sorted(known))}",
    )


def misfit(model, benchmark):
    """Why a model cannot be measured on a benchmark; "" where it can."""
    from advspur.benchmarks import BENCHMARKS

    facts, allowed = model.facts, BENCHMARKS[benchmark].NUM_CLASSES
    dataset = getattr(BENCHMARKS[benchmark], "DATASET", "") or facts["dataset"]
    if is_of_shapes(benchmark) != bool(facts["shapes"]) or facts["dataset"] != dataset:
        return f"it was trained on {facts['dataset']}"
    if is_of_color_shift(benchmark) and not facts.get("color_shift"):
        return f"it was trained on {facts['dataset']} without a colour shift"
    if allowed and facts["num_classes"] not in allowed:
        return f"it has {facts['num_classes']} classes, not {' or '.join(map(str, allowed))}"
    return ""


def is_of_shapes(benchmark):
    """Whether a benchmark is on the embedded data, for models trained on them."""
    return benchmark.endswith("spurious_shapes")


def is_of_color_shift(benchmark):
    """Whether a benchmark is on CIFAR-10 with a colour shift, for models trained on it."""
    return benchmark.endswith("cifar_color_shift")


def evaluate_model(
    model, benchmark, *, path, data_dir=None, seed=0, options, cache_dir=None, progress=None
):
    """Measure a Model and append the records, unless they are there already.

    Args:
      model: of `open_model`.
      benchmark: a key of BENCHMARKS.
      path: the records.jsonl to append to.
      data_dir: where the benchmark's data lie.
      seed: of the benchmark's random numbers.
      options: dict, keyword options of the benchmark's `evaluate` (batch_size among them).
      cache_dir: where features are kept.
      progress: advanced by the forward passes over an image.
    Returns: the records measured; [] where all were there before.
    """
    from advspur.benchmarks import BENCHMARKS

    check_choice("benchmark", benchmark, tuple(BENCHMARKS))
    fault = misfit(model, benchmark)
    require(not fault, f"{model.facts['model']} cannot be measured on {benchmark}: {fault}")
    module, options = BENCHMARKS[benchmark], _all_options(model, benchmark, options)
    parts = module.load(data_dir, **load_options(module.load, options))
    marker = _marker(model, parts, seed, options)
    if _is_recorded(record_facts(*model[:2])["model"], benchmark, marker, path):
        return []
    start = time.monotonic()
    measured = module.evaluate(
        model.classifier(),
        data_dir,
        key=jax.random.key(seed),
        progress=progress,
        cache_dir=cache_dir,
        **options,
    )
    choices = _choices(module, options)
    measured += [
        record("unreadable_share", wilson(t.skipped, len(t) + t.skipped), options={"part": part})
        for part, t in parts.items()
        if t.skipped
    ]
    measured = [r._replace(options=choices | r.options) for r in measured]
    count, seconds = len(measured), time.monotonic() - start
    end = record(COMPLETE, Estimate(count, count, count, count), options=marker, seconds=seconds)
    about = record_facts(*model[:2]) | {"benchmark": benchmark}
    measured = [r._replace(**about) for r in measured]
    if jax.process_index() == 0:
        append_records(path, [*measured, end._replace(**about)])
    return measured


def _is_recorded(name, benchmark, marker, path):
    found = any(
        (r.metric, r.model, r.benchmark, r.options) == (COMPLETE, name, benchmark, marker)
        for r in read_records(path)
    )
    if jax.process_count() > 1:  # the processes take the jobs in step: as the first one sees it
        found = multihost_utils.broadcast_one_to_all(np.array(found)).item()
    return found


def _all_options(model, benchmark, options):
    """The options, and those that depend on what the model was trained on and against."""
    facts = model.facts
    if is_of_shapes(benchmark):
        return options | {"shapes": facts["shapes"]}
    if not is_of_color_shift(benchmark):
        return options
    options = options | {"color_shift": facts["color_shift"]}
    p, epsilon = float(facts["train_p"]), facts["train_epsilon"]
    if epsilon:  # the budgets of standard models would find nothing
        own = tuple(epsilon * factor for factor in ROBUST_BUDGETS)
        options |= {"l2_epsilons": own if p == 2 else (), "linf_epsilons": own if p > 2 else ()}
    return options


def _choices(module, options):
    """The options of a protocol that are not the default ones: every record carries them."""
    defaults = {
        name: parameter.default
        for function in (module.load, module.evaluate)
        for name, parameter in inspect.signature(function).parameters.items()
    }
    chosen = {name: value for name, value in options.items() if name not in RUNNING}
    chosen |= {name: options.get("color_shift", {}).get(name) for name in ("rho", "shift")}
    return _as_json({name: v for name, v in chosen.items() if v != defaults.get(name)})


def _marker(model, parts, seed, options):
    """The options of the record that says all is measured: with what, on what, of which weights."""
    measured_on = {name: model.facts[name] for name in ("step", "checksum")} | {
        "seed": seed,
        "advspur": __version__,
        "examples": sum(map(len, parts.values())),
        "skipped": sum(table.skipped for table in parts.values()),
    }
    if options.get("image_list"):  # what it names may change
        measured_on["image_list"] = file_checksum(Path(options["image_list"]).expanduser())
    return _as_json({k: v for k, v in options.items() if k != "batch_size"} | measured_on)


def _as_json(options):
    return json.loads(json.dumps(options))  # tuples become lists, as in the file

"""Models x rows -> records.jsonl: what is there, what is left to do, and one pass over it."""

import dataclasses
import functools
import hashlib
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple
from urllib.parse import quote

import jax
import numpy as np

from advspur import __version__, models
from advspur._checks import InputError, first_line, require
from advspur._devices import OUT_OF_MEMORY, replicate
from advspur.benchmarks.row import Benchmark, merged
from advspur.data.files import read_bytes
from advspur.data.image_lists import NAMED
from advspur.data.layouts import MissingData
from advspur.intervals import Estimate
from advspur.models.classifier import classifier_facts, record_facts
from advspur.models.store import model_facts
from advspur.records import COMPLETE, DETAILS, append_records, read_records, record

BY_BUDGET = ("pgd_accuracy", "autoattack_accuracy")
HEADLINES = (  # beside the sensitivities; what is printed of the many numbers
    "accuracy",
    "worst_group_accuracy",
    "majority_minority_gap",
    "background_gap",
    "mean_corruption_accuracy",
    "challenge_accuracy",
    "norm_fraction_spurious",
    "spurious_area",
    *BY_BUDGET,
)
UNTOLD = ("levels", "epsilons", "num_steps", "images")  # options of the protocol, in the records


class OpenModel(NamedTuple):
    """A model to evaluate: what is known of it, and a function that loads it (once)."""

    facts: dict
    classifier: Callable
    note: str = ""

    @property
    def name(self):
        return self.facts["model"]


def open_model(spec, *, weights="raw", models_dir=None, pretrained=True):
    """The OpenModel of what `models.load` takes; `pretrained`: of timm:NAME and torchvision:NAME.

    The weights of our own models are read when they are first needed; a model of somebody else's is
    made at once, and asked for two images.
    """
    if models.is_spec(spec):
        of_library = str(spec).startswith(("timm:", "torchvision:"))
        made = models.load(spec, weights=weights, pretrained=pretrained or not of_library)
        models.check_model(made)
        opened = functools.cache(lambda: _replicated(made))
        return OpenModel(classifier_facts(made), opened, made.note)

    @functools.cache
    def classifier():
        loaded = models.load(spec, weights=weights, models_dir=models_dir)
        leaves = map(np.asarray, jax.tree.leaves(loaded.params))
        require(
            all(np.all(np.isfinite(leaf.astype(np.float32))) for leaf in leaves),
            f"{spec} has weights that are NaN or infinite",
        )
        return _replicated(loaded)

    facts = model_facts(spec, models_dir=models_dir)
    if weights != "raw":
        facts["model"] += f"@{weights}"
    return OpenModel(facts, classifier)


def _replicated(classifier):
    """On every local device, where the batches are split over."""
    return dataclasses.replace(classifier, params=replicate(classifier.params))


def evaluate_model(
    model,
    row,
    *,
    path,
    directory=None,
    measures=(),
    seed=0,
    batch_size,
    options=None,
    cache_dir=None,
    progress=None,
):
    """Measure an OpenModel and append the records of each measure, unless they are there already.

    Args:
      row: a Benchmark.
      path: the records.jsonl to append to.
      seed: of heads, noise and attacks.
      options: nested as `Benchmark.defaults`; this and the others as in `Benchmark.evaluate`.
    Returns: the records measured; [] where all were there before.
    """
    fault, of_model = row.fits(model.facts)
    require(not fault, f"{model.name} cannot be measured on {row.name}: {fault}")
    options = merged(of_model, row.changed(options or {}))
    plan = row.plan(directory, measures or row.measures, options)
    marks = {name: _identity(model, plan, name, seed) for name in plan.measures}
    known = [(r.model, r.benchmark, r.options) for r in read_records(path) if r.metric == COMPLETE]
    is_known = model.facts.get("checksum") is not None  # else another model may have the name
    left = [n for n, m in marks.items() if not (is_known and (model.name, row.name, m) in known)]
    if not left:
        return []
    start, measured = time.monotonic(), []
    running = {"batch_size": batch_size, "cache_dir": cache_dir, "progress": progress}
    about = record_facts(model.facts) | {"benchmark": row.name}
    names = [quote(name, safe="@ ") for name in (row.name, f"{model.name}.npz")]
    examples = Path(path).parent.joinpath("examples", *names)
    call = {"key": jax.random.key(seed), "running": running, "examples": examples}
    steps = row.steps(model.classifier(), plan, left, **call)
    for name, found in steps:
        seconds, start = round(time.monotonic() - start, 3), time.monotonic()
        count = Estimate(len(found), len(found), len(found), len(found))
        end = record(COMPLETE, count, options=marks[name], seconds=seconds)
        found = [r._replace(seconds=r.seconds or seconds, **about) for r in found]
        append_records(path, [*found, end._replace(measure=name, **about)])
        measured += found
    return measured


def _identity(model, plan, measure, seed):
    """What a measurement depends on, as JSON has it: with the same, it is not made again."""
    digests = [f"{part} {table.digest}" for part, table in plan.parts.items()]
    same = {"measure": measure} | {g: plan.options[g] for g in ("data", "head", measure)}
    same |= {key: model.facts.get(key) for key in ("step", "checksum", "mean", "std", "dtype")}
    same["content"] = hashlib.sha256("\n".join(digests).encode()).hexdigest()
    same |= {"seed": seed, "advspur": __version__}
    images = plan.options[measure].get("images", "first")
    if images not in NAMED:  # a file of names, which may change under its own
        same["list"] = hashlib.sha256(read_bytes(Path(images).expanduser())).hexdigest()
    return json.loads(json.dumps(same))


class Job(NamedTuple):
    """A model to be measured on a row: where the data are, and forward passes over an image."""

    model: OpenModel
    row: Benchmark
    options: dict
    directory: Path | None
    passes: int


def plan_jobs(opened, rows, options, *, measures, data_dir, directories, required, line):
    """([Job] of each model on each row that fits it and is there, whether one is damaged).

    Args:
      opened: OpenModels.
      rows: Benchmarks.
      options: {row's name: its options}.
      measures: names of measures; (): those of each row.
      data_dir: the folder with the data sets' folders, named as their readers' `directories`.
      directories: {row's name: directory} of those that are elsewhere.
      required: whether a missing data set is an error.
      line: function of a text that says what is there, what is missing, and what a model cannot be
        measured on.
    """
    jobs, damaged = [], False
    for row in rows:
        fitting, left_out = [], {}
        for model in opened:
            fault, _ = row.fits(model.facts)
            if not fault:
                fitting.append(model)
            elif row.reader.directories:
                left_out.setdefault(fault, []).append(model.name)
        for fault, names in left_out.items():
            who = ", ".join(names) if len(names) < 4 else f"{len(names)} models"
            line(f"{row.name} is left out for {who}: {fault}")
        if not fitting:
            continue
        places = [Path(data_dir, folder) for folder in row.reader.directories if data_dir]
        if given := directories.get(row.name):
            places = [Path(given)]
            is_there = places[0].expanduser().is_dir()
            require(is_there, f"directories.{row.name} = {given}: no such folder")
        places = [place.expanduser() for place in places]
        directory = next(filter(Path.is_dir, places), next(iter(places), None))
        try:
            if directory is None and row.reader.directories:
                raise MissingData("no folder is given: set $ADVSPUR_DATA or --config.data_dir=DIR")
            plan = row.plan(directory, measures or row.measures, options[row.name])
        except MissingData as error:
            require(not required, f"{row.name}: {error}")
            line(f"{row.name} is skipped: {error}")
        except InputError as error:
            damaged = True
            line(f"error: {row.name}: {error}")
        else:
            passes = sum(plan.passes.values())
            where = f" in {directory}" if directory else ""
            line(f"{row.name}: {passes:,} forward passes a model{where}")
            jobs += [Job(model, row, options[row.name], directory, passes) for model in fitting]
    return sorted(jobs, key=lambda job: opened.index(job.model)), damaged


def run_jobs(jobs, *, path, progress_of, **call):
    """Measure what is not recorded yet; whether all could be measured.

    A line tells of each job of `plan_jobs`; one that fails is skipped. `progress_of`: total -> a
    Progress; `call`: other arguments of `evaluate_model`.
    """
    complete, last = True, None
    with progress_of(sum(job.passes for job in jobs)) as progress:
        for model, row, options, directory, passes in jobs:
            if last is not None and last is not model:
                last.classifier.cache_clear()  # its weights are not needed any more
            last, title, start = model, f"{model.name} on {row.name}", time.monotonic()
            part = progress.part(title, total=passes)
            call |= {"directory": directory, "options": options, "progress": part}
            try:
                found = evaluate_model(model, row, path=path, **call)
            except (InputError, jax.errors.JaxRuntimeError) as error:
                text = first_line(error)
                if OUT_OF_MEMORY in str(error):
                    text += "; lower --config.batch_size"
                elif "callback" in str(error).lower():  # code of somebody else's
                    text = f"the model fails: {str(error).strip().splitlines()[-1]}"
                elif not isinstance(error, InputError):
                    raise
                complete = False
                progress.line(f"error: {title}: {text}")
            else:
                for text in _headlines(found):
                    progress.line(f"  {text}")
                seconds = f"{len(found)} new numbers in {path} ({time.monotonic() - start:.1f} s)"
                progress.line(f"{title}: {seconds if found else f'already measured, see {path}'}")
            part.skip_rest()
    return complete


def _headlines(records):
    """accuracy (scoring full): 45.10% [44.38%, 45.82%] (n = 18,574), of the main numbers."""
    per_metric = {}
    for r in records:
        is_part = DETAILS & r.options.keys() and r.metric not in BY_BUDGET
        is_of_levels = r.metric.startswith("relative_") and r.metric.endswith("_sensitivity")
        if (r.metric in HEADLINES or is_of_levels) and not (is_part or "after" in r.options):
            per_metric.setdefault(r.metric, []).append(r)
    for found in per_metric.values():
        for r in found if len(found) <= 12 else ():  # more are the cells of a mean
            about = ", ".join(f"{k} {_short(v)}" for k, v in r.options.items() if k not in UNTOLD)
            value, low, high = (f"{100 * x:.2f}%" for x in r[1:4])
            about = f" ({about})" if about else ""
            yield f"{r.metric}{about}: {value} [{low}, {high}] (n = {r.num_examples:,})"


def _short(value):
    return f"{value:.4g}" if isinstance(value, float) else value

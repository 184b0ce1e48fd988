"""Models x rows -> records.jsonl: what is there, what is left to do, and one pass over it."""

import dataclasses
import functools
import hashlib
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import jax
import numpy as np

from advspur import __version__, models
from advspur._checks import InputError, first_line, require
from advspur._devices import OUT_OF_MEMORY, replicate
from advspur.benchmarks.row import Benchmark
from advspur.data.files import read_bytes
from advspur.data.image_lists import NAMED
from advspur.data.layouts import MissingData
from advspur.intervals import Estimate
from advspur.measures.examples import file_stem
from advspur.models.classifier import classifier_facts, record_facts
from advspur.models.store import model_facts
from advspur.records import COMPLETE, DETAILS, append_records, read_records, record

BY_BUDGET = ("pgd_accuracy", "autoattack_accuracy")
# Numbers that are printed, with the sensitivities; the others are in the records only.
HEADLINES = frozenset(
    "accuracy worst_group_accuracy majority_minority_gap background_gap mean_corruption_accuracy "
    "challenge_accuracy norm_fraction_spurious spurious_area".split()
).union(BY_BUDGET)
NOT_PRINTED = ("levels", "epsilons", "num_steps", "images")  # options


class OpenModel(NamedTuple):
    """A model to evaluate: the facts about it, and a function that loads it (once)."""

    facts: dict
    classifier: Callable
    note: str = ""

    @property
    def name(self):
        return self.facts["model"]


def open_model(spec, *, weights="raw", models_dir=None, pretrained=True):
    """Return the OpenModel of a spec of `models.load`.

    The weights of our own models are read when they are first needed. Models from functions or
    libraries are made at once, and checked on two images. `pretrained`: for timm:NAME and
    torchvision:NAME.
    """
    if models.is_spec(spec):
        of_library = str(spec).startswith(("timm:", "torchvision:"))
        made = models.load(spec, weights=weights, pretrained=pretrained or not of_library)
        models.check_model(made)
        facts, note = classifier_facts(made), made.note
        return OpenModel(facts, functools.cache(lambda: _replicated(made)), note)

    @functools.cache
    def classifier():
        loaded = models.load(spec, weights=weights, models_dir=models_dir)
        leaves = (np.asarray(leaf).astype(np.float32) for leaf in jax.tree.leaves(loaded.params))
        are_finite = all(np.all(np.isfinite(leaf)) for leaf in leaves)
        require(are_finite, f"{spec} has weights that are NaN or infinite")
        return _replicated(loaded)

    facts = model_facts(spec, models_dir=models_dir)
    if weights != "raw":
        facts["model"] += f"@{weights}"
    return OpenModel(facts, classifier)


def _replicated(classifier):
    """Put a Classifier on every local device, since batches are split over them."""
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
    """Measure an OpenModel and append the records of each measure that is not recorded yet.

    Args:
      row: a Benchmark.
      path: the records.jsonl to append to.
      seed: of heads, noise and attacks.
      options: nested as `Benchmark.defaults`; this and the others as in `Benchmark.evaluate`.
    Returns: the new records; [] if all were there before.
    """
    fault, options = row.options_for(model.facts, options or {})
    require(not fault, f"{model.name} cannot be measured on {row.name}: {fault}")
    plan = row.plan(directory, measures or row.measures, options)
    marks = {name: _identity(model, plan, name, seed) for name in plan.measures}
    known = [(r.model, r.benchmark, r.options) for r in read_records(path) if r.metric == COMPLETE]
    if model.facts.get("checksum") is None:  # a different model may have the same name
        known = []
    missing = [name for name, mark in marks.items() if (model.name, row.name, mark) not in known]
    if not missing:
        return []
    start, measured = time.monotonic(), []
    fields = record_facts(model.facts) | {"benchmark": row.name}
    steps = row.steps(
        model.classifier(),
        plan,
        missing,
        key=jax.random.key(seed),
        running={"batch_size": batch_size, "cache_dir": cache_dir, "progress": progress},
        examples=(Path(path).parent / "examples" / file_stem(row.name), model.name),
    )
    for name, records in steps:
        seconds, start = round(time.monotonic() - start, 3), time.monotonic()
        count = Estimate(len(records), len(records), len(records), len(records))
        end = record(COMPLETE, count, options=marks[name], seconds=seconds)
        records = [r._replace(seconds=r.seconds or seconds, **fields) for r in records]
        append_records(path, [*records, end._replace(measure=name, **fields)])
        measured += records
    return measured


def _identity(model, plan, measure, seed):
    """Return all that a measurement depends on, as in JSON; it is not repeated for an equal one."""
    digests = [f"{part} {table.digest}" for part, table in plan.parts.items()]
    same = {"measure": measure} | {g: plan.options[g] for g in ("data", "head", measure)}
    same |= {key: model.facts.get(key) for key in ("step", "checksum", "mean", "std", "dtype")}
    same["content"] = hashlib.sha256("\n".join(digests).encode()).hexdigest()
    same |= {"seed": seed, "advspur": __version__}
    images = plan.options[measure].get("images", "first")
    if images not in NAMED:  # a file that lists images, whose content may change
        same["list"] = hashlib.sha256(read_bytes(Path(images).expanduser())).hexdigest()
    return json.loads(json.dumps(same))


class Job(NamedTuple):
    """A model to measure on a row."""

    model: OpenModel
    row: Benchmark
    options: dict
    directory: Path | None  # of the data
    passes: int  # single-image forward passes


def plan_jobs(opened, rows, options, *, measures, data_dir, directories, required, line):
    """Return ([Job] for each model and each row that fits it and has its data, is one damaged).

    Args:
      opened: OpenModels.
      rows: Benchmarks.
      options: {row's name: its options}.
      measures: names of measures; (): those of each row.
      data_dir: the folder of the data sets' folders, which have the names in `Reader.directories`.
      directories: {row's name: directory} for data sets that are elsewhere.
      required: whether a missing data set is an error.
      line: function that prints a line: what is there, what is missing, which models do not fit.
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
        chosen, folders = directories.get(row.name), row.reader.directories
        places = [Path(chosen)] if chosen else [Path(data_dir, f) for f in folders if data_dir]
        places = [place.expanduser() for place in places]
        fault = f"directories.{row.name} = {chosen}: no such folder"
        require(not chosen or places[0].is_dir(), fault)
        directory = next(filter(Path.is_dir, places), next(iter(places), None))
        try:
            if directory is None and folders:
                raise MissingData("no folder is given: set $ADVSPUR_DATA or --config.data_dir=DIR")
            plan = row.plan(directory, measures or row.measures, options[row.name])
        except MissingData as error:
            require(not required, f"{row.name}: {error}")
            line(f"{row.name} is skipped: {error}")
        except InputError as error:
            damaged = True
            line(f"error: {row.name}: {error}")
        else:
            passes, where = sum(plan.passes.values()), f" in {directory}" if directory else ""
            line(f"{row.name}: {passes:,} forward passes per model{where}")
            rest = row, options[row.name], directory, passes
            jobs += [Job(model, *rest) for model in fitting]
    return sorted(jobs, key=lambda job: opened.index(job.model)), damaged


def run_jobs(jobs, *, path, progress_of, **call):
    """Measure what is not recorded yet; return whether all jobs of `plan_jobs` succeeded.

    Prints a line for each job; one that fails is skipped.

    Args:
      path: the records.jsonl to append to.
      progress_of: total -> a Progress.
      call: other arguments of `evaluate_model`.
    """
    complete, last = True, None
    with progress_of(sum(job.passes for job in jobs)) as progress:
        for model, row, options, directory, passes in jobs:
            if last is not None and last is not model:
                last.classifier.cache_clear()  # free its weights
            last, title, start = model, f"{model.name} on {row.name}", time.monotonic()
            part = progress.part(title, total=passes)
            call |= {"directory": directory, "options": options, "progress": part}
            try:
                records = evaluate_model(model, row, path=path, **call)
            except (InputError, jax.errors.JaxRuntimeError) as error:
                text = first_line(error)
                if OUT_OF_MEMORY in str(error):
                    text += "; lower --config.batch_size"
                elif "callback" in str(error).lower():  # a user's code
                    text = f"the model fails: {str(error).strip().splitlines()[-1]}"
                elif not isinstance(error, InputError):
                    raise
                complete = False
                progress.line(f"error: {title}: {text}")
            else:
                for text in _headlines(records):
                    progress.line(f"  {text}")
                count = f"{len(records)} new numbers in {path} ({time.monotonic() - start:.1f} s)"
                progress.line(f"{title}: {count if records else f'already measured, see {path}'}")
            part.skip_rest()
    return complete


def _headlines(records):
    """Yield lines such as "accuracy (scoring full): 45.10% [44.38%, 45.82%] (n = 18,574)"."""
    per_metric = {}
    for r in records:
        is_detail = DETAILS & r.options.keys() and r.metric not in BY_BUDGET
        of_levels = r.metric.startswith("relative_") and r.metric.endswith("_sensitivity")
        if (r.metric in HEADLINES or of_levels) and not (is_detail or "after" in r.options):
            per_metric.setdefault(r.metric, []).append(r)
    for of_metric in per_metric.values():
        for r in of_metric if len(of_metric) <= 12 else ():  # more are the cells of a mean
            options = ", ".join(
                f"{name} {f'{value:.4g}' if isinstance(value, float) else value}"
                for name, value in r.options.items()
                if name not in NOT_PRINTED
            )
            value, low, high = (f"{100 * x:.2f}%" for x in r[1:4])
            options = f" ({options})" if options else ""
            yield f"{r.metric}{options}: {value} [{low}, {high}] (n = {r.num_examples:,})"

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
from advspur.benchmarks.row import merged
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


class OpenModel(NamedTuple):
    """A model to evaluate: what is known of it, and a function that loads it (once)."""

    facts: dict
    classifier: Callable
    note: str = ""

    @property
    def name(self):
        """As records call it."""
        return self.facts["model"]


def open_model(spec, *, weights="raw", models_dir=None, pretrained=True):
    """The OpenModel of what `models.load` takes.

    The weights of our own models are read when they are first needed; a model of somebody else's is
    made at once, and asked for two images.

    Args:
      spec: as `models.load` takes it.
      weights: "raw" or "ema".
      models_dir: where the suite's models are; default $ADVSPUR_MODELS.
      pretrained: False: random weights for timm:NAME and torchvision:NAME.
    """
    if models.is_spec(spec):
        of_library = str(spec).startswith(("timm:", "torchvision:"))
        made = models.load(spec, weights=weights, pretrained=pretrained or not of_library)
        models.check_model(made)
        facts, opened = classifier_facts(made), functools.partial(_replicated, made)
        return OpenModel(facts, functools.cache(opened), made.note)

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
      directory: where the row's data are.
      measures: names of measures; (): those of the row.
      seed: of heads, noise and attacks.
      options: of the row, see `Benchmark.defaults`.
      cache_dir: where outcomes of single images are kept.
      progress: advanced by the forward passes over an image.
    Returns: the records measured; [] where all were there before.
    """
    fault, of_model = row.fits(model.facts)
    require(not fault, f"{model.name} cannot be measured on {row.name}: {fault}")
    options = merged(of_model, row.changed(options or {}))
    full, measures = row.complete(options), tuple(measures or row.measures)
    parts = row.load(directory, full["data"])
    digests = [f"{part} {table.digest}" for part, table in parts.items()]
    data = hashlib.sha256("\n".join(digests).encode()).hexdigest()
    marks = {}
    for name in measures:
        groups = {group: full[group] for group in ("data", "head", name)}
        known = {key: model.facts.get(key) for key in ("step", "checksum", "mean", "std", "dtype")}
        same = known | {"content": data, "seed": seed, "advspur": __version__}
        images = full[name].get("images", "first")
        if images not in NAMED:  # a file of names, which may change under its own
            listed = read_bytes(Path(images).expanduser())
            same["list"] = hashlib.sha256(listed).hexdigest()
        marks[name] = json.loads(json.dumps({"measure": name} | groups | same))
    known = [(r.model, r.benchmark, r.options) for r in read_records(path) if r.metric == COMPLETE]
    is_known = model.facts.get("checksum") is not None  # else another model may have the name
    left = [
        name for name in measures if not (is_known and (model.name, row.name, marks[name]) in known)
    ]
    if not left:
        return []
    start, measured = time.monotonic(), []
    running = {"batch_size": batch_size, "cache_dir": cache_dir, "progress": progress}
    key, loaded = jax.random.key(seed), model.classifier()
    about = record_facts(model.facts) | {"benchmark": row.name}
    for name, found in row.steps(loaded, directory, left, options, key=key, running=running):
        seconds, start = round(time.monotonic() - start, 3), time.monotonic()
        count = Estimate(len(found), len(found), len(found), len(found))
        end = record(COMPLETE, count, options=marks[name], seconds=seconds)
        found = [r._replace(seconds=r.seconds or seconds, **about) for r in found]
        append_records(path, [*found, end._replace(measure=name, **about)])
        measured += found
    return measured


def find_data(rows, options, *, measures, data_dir, directories, required, line):
    """({row's name: its directory}, {row's name: forward passes}, whether one is damaged).

    Args:
      rows: the Benchmarks that are wanted.
      options: {row's name: its options}.
      measures: names of measures; (): those of each row.
      data_dir: the folder with the data sets' folders, named as their readers' `directories`.
      directories: {row's name: directory} of those that are elsewhere.
      required: whether a missing data set is an error; else `line` is told of it.
      line: function of a text.
    """
    found, passes, damaged = {}, {}, False
    for row in rows:
        name, known = row.name, row.reader.directories
        places = [Path(data_dir).expanduser() / folder for folder in known] if data_dir else []
        if directories.get(name):
            places = [Path(directories[name]).expanduser()]
            require(places[0].is_dir(), f"directories.{name} = {directories[name]}: no such folder")
        directory = next((p for p in places if p.is_dir()), next(iter(places), None))
        try:
            if directory is None and known:
                raise MissingData("no folder is given: set $ADVSPUR_DATA or --config.data_dir=DIR")
            planned = row.plan(directory, measures or row.measures, options[name])
            passes[name], found[name] = sum(planned.values()), directory
            where = f" in {directory}" if directory else ""
            line(f"{name}: {passes[name]:,} forward passes a model{where}")
        except MissingData as error:
            require(not required, f"{name}: {error}")
            line(f"{name} is skipped: {error}")
        except InputError as error:
            damaged = True
            line(f"error: {name}: {error}")
    return found, passes, damaged


def evaluate_matrix(
    opened,
    rows,
    directories,
    passes,
    options,
    *,
    measures,
    path,
    seed,
    batch_size,
    cache_dir,
    progress_of,
    line,
):
    """Measure every model on every row that fits it; whether all could be measured.

    A line tells of each job; one that fails is skipped. What is recorded is not measured again.

    Args:
      opened: OpenModels.
      rows: {name: Benchmark}.
      directories, passes: of `find_data`.
      options: {row's name: its options}.
      measures: names of measures; (): those of each row.
      progress_of: total -> a Progress.
      line: function of a text, before there is a Progress.
    """
    jobs = []
    for model in opened:
        for name in directories:
            fault, _ = rows[name].fits(model.facts)
            if not fault:
                jobs.append((model, name))
            elif rows[name].reader.directories:
                line(f"{model.name} is not measured on {name}: {fault}")
    require(jobs, "nothing to evaluate: no model fits a data set that was found")
    complete, last = True, None
    with progress_of(sum(passes[name] for _, name in jobs)) as progress:
        for model, name in jobs:
            if last is not None and last is not model:
                last.classifier.cache_clear()  # its weights are not needed any more
            last, title = model, f"{model.name} on {name}"
            start, end = time.monotonic(), progress.done + passes[name]
            try:
                found = evaluate_model(
                    model,
                    rows[name],
                    path=path,
                    directory=directories[name],
                    measures=measures,
                    seed=seed,
                    batch_size=batch_size,
                    options=options[name],
                    cache_dir=cache_dir,
                    progress=progress.part(title, total=passes[name]),
                )
            except (InputError, jax.errors.JaxRuntimeError) as error:
                text = first_line(error)
                if OUT_OF_MEMORY in str(error):
                    text += "; lower --config.batch_size"
                elif "callback" in str(error).lower():  # code of somebody else's
                    text = f"the model fails: {str(error).strip().splitlines()[-1]}"
                elif not isinstance(error, InputError):
                    raise
                complete, found = False, []
                progress.line(f"error: {title}: {text}")
            else:
                for text in _headlines(found):
                    progress.line(f"  {text}")
                seconds = f"{len(found)} new numbers in {path} ({time.monotonic() - start:.1f} s)"
                progress.line(f"{title}: {seconds if found else f'already measured, see {path}'}")
            (progress.advance if found else progress.skip)(max(end - progress.done, 0))
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
            about = ", ".join(f"{k} {_short(v)}" for k, v in r.options.items() if k[-1] != "s")
            value, low, high = (f"{100 * x:.2f}%" for x in r[1:4])
            about = f" ({about})" if about else ""
            yield f"{r.metric}{about}: {value} [{low}, {high}] (n = {r.num_examples:,})"


def _short(value):
    return f"{value:.4g}" if isinstance(value, float) else value

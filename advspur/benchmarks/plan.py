"""Models x benchmarks: what is at hand, what is left to do, and one pass over it."""

import math
import time
from pathlib import Path

import jax

from advspur._checks import InputError, first_line, require
from advspur.benchmarks.run import check_names, evaluate_model, is_of_shapes, misfit
from advspur.data.layouts import MissingData
from advspur.models import described_network, record_facts, variable_shapes
from advspur.records import COUNTS, DETAILS


def find_data(names, options, *, data_dir, directories, required, line):
    """({benchmark: its directory}, {benchmark: forward passes}, whether one is damaged).

    Args:
      names: the benchmarks that are wanted.
      options: {benchmark: options of its `evaluate`}.
      data_dir: the folder with the data sets' folders, named as each benchmark's DIRECTORIES.
      directories: {benchmark: directory} of those that lie elsewhere; AutoAttack's data lie where
        those of the benchmark of the same name do.
      required: whether a missing data set is an error; else `line` is told of it.
      line: function of a text.
    """
    from advspur.benchmarks import BENCHMARKS

    found, passes, damaged = {}, {}, False
    for name in names:
        module = BENCHMARKS[name]
        root = Path(data_dir).expanduser()
        places = [root / folder for folder in module.DIRECTORIES] if data_dir else []
        key = name.removeprefix("autoattack_")
        if directories.get(key):
            places = [Path(directories[key]).expanduser()]
            require(places[0].is_dir(), f"directories.{key} = {directories[key]}: no such folder")
        directory = next((p for p in places if p.is_dir()), next(iter(places), None))
        try:
            if directory is None and module.DIRECTORIES:
                raise MissingData("no folder is given: set $ADVSPUR_DATA or --config.data_dir=DIR")
            check_names(name, options[name])
            options_of = {k: v for k, v in options[name].items() if k != "batch_size"}
            passes[name] = module.num_passes(directory, **options_of)
            found[name] = directory
            where = f" over {directory}" if directory else ""
            line(f"{name}: {passes[name]:,} forward passes a model{where}")
        except MissingData as error:
            require(not required, f"{name}: {error}")
            line(f"{name} is passed over: {error}")
        except InputError as error:
            damaged = True
            line(f"error: {name}: {error}")
    return found, passes, damaged


def evaluate_matrix(
    models, directories, passes, options, *, path, seed, cache_dir, progress_of, line
):
    """Measure every model on every benchmark that fits it; whether all could be measured.

    A line tells of each job; one that fails is passed over. What is recorded is not measured again.

    Args:
      models: Models of `open_model`.
      directories, passes: of `find_data`.
      options: {benchmark: options of its `evaluate`}.
      path: the records.jsonl to append to.
      cache_dir: where features are kept.
      progress_of: total -> a Progress.
      line: function of a text, before there is a Progress.
    """
    for model in models:
        for name in directories:
            if (reason := misfit(model, name)) and not is_of_shapes(name):
                line(f"{model.facts['model']} is not measured on {name}: {reason}")
    jobs = [[name for name in directories if not misfit(model, name)] for model in models]
    require(any(jobs), "nothing to evaluate: no model fits a benchmark whose data are at hand")
    sizes = list(map(_size, models))  # an image costs about as many operations
    total = sum(passes[n] * size for names, size in zip(jobs, sizes, strict=True) for n in names)
    complete = True
    with progress_of(total) as progress:
        for model, names, size in zip(models, jobs, sizes, strict=True):
            for name in names:
                title = f"{record_facts(*model[:2])['model']} on {name}"
                start, end = time.monotonic(), progress.done + passes[name] * size
                try:
                    measured = evaluate_model(
                        model,
                        name,
                        path=path,
                        data_dir=directories[name],
                        seed=seed,
                        options=options[name],
                        cache_dir=cache_dir,
                        progress=progress.part(title, size),
                    )
                except (InputError, jax.errors.JaxRuntimeError) as error:
                    if not isinstance(error, InputError) and "RESOURCE_EXHAUSTED" not in str(error):
                        raise
                    more = "" if isinstance(error, InputError) else "; lower --config.batch_size"
                    complete, measured = False, []
                    progress.line(f"error: {title}: {first_line(error)}{more}")
                else:
                    for text in map(_summary, filter(_is_headline, measured)):
                        progress.line(f"  {text}")
                    seconds = f"(total time {time.monotonic() - start:.1f} s)"
                    found = f"{len(measured)} new numbers in {path} {seconds}"
                    found = found if measured else f"no new numbers, all are in {path}"
                    progress.line(f"{title}: {found}")
                (progress.advance if measured else progress.skip)(max(end - progress.done, 0))
            model.classifier.cache_clear()  # its weights are not needed any more
    return complete


def _is_headline(record):
    is_variant = record.metric.startswith(("mean_relative", "mean_adversarial"))
    is_variant |= record.metric in COUNTS
    return not is_variant and not (DETAILS - {"epsilon"}) & record.options.keys()


def _summary(record):
    """accuracy (scoring full): 45.10% [44.38%, 45.82%] (n = 18,574)."""
    about = ", ".join(f"{k} {v}" for k, v in record.options.items() if not isinstance(v, list))
    value, low, high = (f"{100 * x:.2f}%" for x in record[1:4])
    about = f" ({about})" if about else ""
    return f"{record.metric}{about}: {value} [{low}, {high}] (n = {record.num_examples:,})"


def _size(model):
    """Millions of parameters."""
    shapes = jax.tree.leaves(variable_shapes(described_network(model.facts)))
    return sum(math.prod(x.shape) for x in shapes) / 1e6

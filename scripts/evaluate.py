"""Evaluate models: python scripts/evaluate.py --config configs/evaluate.py [MODEL ...]

A MODEL is a training run, a converted checkpoint, a checkpoint file, a name of the paper's suite,
file.py:function, package.module:function, timm:NAME or torchvision:NAME; default: those of the
config. Measures them on the benchmarks of the config that fit them, or on your own data with
--data=PATH, and appends to <workdir>/records.jsonl what is not recorded yet.

--plan prints what would be measured, and stops. A missing data set or model of the config is
skipped with one line, or is an error with --require; after any error the exit code is 2.
"""

import functools
import os
import sys

import _cli
from absl import flags

flags.DEFINE_string("data", "", "Your own data: class folders, a manifest.csv, a metadata.csv.")
flags.DEFINE_bool("plan", False, "Print what would be measured, and stop.")
flags.DEFINE_bool("require", False, "Missing data sets and models are errors.")


def main(flags, *runs):
    from advspur._checks import check_choice, check_count, check_seed, require
    from advspur._files import locked, read_json
    from advspur._progress import Progress
    from advspur.benchmarks import BENCHMARKS, open_model
    from advspur.benchmarks.runner import plan_jobs, run_jobs
    from advspur.measures import MEASURES
    from advspur.training import record_training
    from advspur.training.run_dir import environment, write_json

    config, workdir = flags.config, _cli.workdir()
    check_count("batch_size", config.batch_size)
    check_seed("seed", config.seed)
    path, file = workdir / "records.jsonl", workdir / "config.json"
    is_free = not file.exists() or "benchmarks" in read_json(file).get("config", ())
    require(is_free, f"{workdir} contains a run, not an evaluation: choose a different --workdir")
    words = {name: _cli.words(config[name]) for name in ("weights", "benchmarks", "measures")}
    allowed = {"weights": ("raw", "ema"), "benchmarks": BENCHMARKS, "measures": MEASURES}
    for name, chosen in words.items():
        for word in chosen:
            check_choice(name, word, tuple(allowed[name]))
    rows = {name: BENCHMARKS[name] for name in words["benchmarks"]}

    line = functools.partial(print, file=sys.stderr, flush=True)
    specs = runs or _cli.words(config.models)
    paths = find_models(specs, config.models_dir, required=runs or flags.require, line=line)
    call = {"models_dir": config.models_dir, "pretrained": config.pretrained}
    models = [open_model(m, weights=which, **call) for m in paths for which in words["weights"]]
    for model in models:
        if model.note:
            line(f"{model.name}: {model.note}")
    names = {model.name for model in models}
    require(len(names) == len(models), "two of the models have the same name: rename one")
    reading = {name: True for name in ("allow_partial", "skip_unreadable") if config[name]}
    options = config.options.to_dict()
    for name, row in rows.items():
        options[name]["data"] |= reading if row.reader.directories else {}
    for of_row in options.values():
        _cli.split_heads(of_row)
    if flags.data:
        rows, options = own_row(flags.data, config, reading, models, line)
        words["measures"] = words["measures"] or rows[next(iter(rows))].measures
    jobs, damaged = plan_jobs(
        models,
        rows.values(),
        options,
        measures=words["measures"],
        data_dir=config.data_dir or os.environ.get("ADVSPUR_DATA", ""),
        directories=config.directories,
        required=flags.require,
        line=line,
    )
    require(jobs, "nothing to measure; see the messages above")
    if flags.plan:
        require(not damaged, "some data cannot be measured; see the messages above")
        return
    with locked(workdir):
        write_json(file, {"config": config.to_dict(), "environment": environment()})
        for run in filter(None, paths.values()):
            if (run / "metrics.jsonl").is_file():
                record_training(run, path)
        _cli.use_compile_cache(workdir)
        complete = run_jobs(
            jobs,
            measures=words["measures"],
            path=path,
            seed=config.seed,
            batch_size=config.batch_size,
            cache_dir=workdir / "outcomes",
            progress_of=lambda total: Progress(total, "evaluate"),
        )
    require(complete and not damaged, "some measurements failed; see the messages above")


def own_row(path, config, reading, models, line):
    """Return ({name: row of a user's data}, {name: its options}); print what the data have."""
    from advspur.benchmarks import own_benchmark
    from advspur.benchmarks.own import choose_head, measured

    row, options = own_benchmark(path, name=config.data_name), config.own.to_dict()
    columns = {role: name for role, name in config.columns.items() if name}
    if "attributes" in columns:
        columns["attributes"] = _cli.words(columns["attributes"])
    majority = [name.strip() for text in config.majority for name in text.split(";")]
    options["data"] |= {"columns": columns, "majority": majority, **reading}
    options["head"]["class_names"] = _cli.words(options["head"]["class_names"])
    _cli.split_heads(options)
    names = {column: _cli.words(words) for column, words in options["data"]["names"].items()}
    options["data"]["names"] = {column: words for column, words in names.items() if words} or None
    for name in ("image_size", "num_classes"):
        options["data"][name] or options["data"].pop(name)  # 0: that of the model, of the data
    known = row.complete(options)["data"] | {"look_for_files": config.allow_partial}
    parts = row.load(None, known)
    measures, lines = measured(row, parts, options)
    for text in row.reader.read.lines(**known) + lines:
        line(text)
    for model in models:
        head = options["head"]
        _, text = choose_head(model.facts, parts, head["head"], head["class_names"])
        line(f"{model.name}: {text}")
    row = row._replace(measures=measures)
    return {row.name: row}, {row.name: options}


def find_models(names, models_dir, *, required, line):
    """Return {name: path, or None for code} of the models that exist; print which are missing.

    A missing model is an InputError if `required`, or if none exists.
    """
    from advspur._checks import InputError, require
    from advspur.models import is_spec, published_model
    from advspur.models.store import find_model

    paths, absent = {}, []
    for name in names:
        try:
            paths[name] = None if is_spec(name) else find_model(name, models_dir=models_dir)
        except InputError as error:
            if required:
                raise
            if published_model(name) is None:
                line(f"skipped: {error}")
            else:
                absent.append(name)
    root = models_dir or os.environ.get("ADVSPUR_MODELS")
    where = f"in {root}" if root else "found"
    missing = f"none of the {len(absent)} published models is {where}" if absent else "no model"
    require(
        paths,
        f"{missing}: set $ADVSPUR_MODELS (or --config.models_dir) to the folder with the released "
        "files, such as resnet50_l2_eps3.ckpt, or name your own models on the command line",
    )
    if absent:
        line(f"skipped: {len(absent)} of {len(names)} models are not {where}: {', '.join(absent)}")
    return paths


if __name__ == "__main__":
    _cli.run(main, config="evaluation", workdir=True, arguments=True)

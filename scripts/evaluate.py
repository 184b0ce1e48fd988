"""Evaluate models: python scripts/evaluate.py --config configs/evaluate.py [MODEL ...]

A MODEL is a training run, a converted checkpoint, a checkpoint file, a name of the paper's suite,
file.py:function, package.module:function, timm:NAME or torchvision:NAME; without one, those of the
config. Measures them on the benchmarks of the config that fit them, or on your own data with
--data=PATH, and appends to <workdir>/records.jsonl; what is recorded already is not measured again.

--plan says what would be measured, and stops. A data set, or a model of the config, that is missing
is skipped with one line, or is an error with --require; after any error the exit code is 2.
"""

import os
import sys

import _cli
from absl import flags

flags.DEFINE_string("data", "", "Your own data: class folders, a manifest.csv, a metadata.csv.")
flags.DEFINE_bool("plan", False, "Say what would be measured, and stop.")
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
    require(
        not file.exists() or "benchmarks" in read_json(file).get("config", ()),
        f"{workdir} holds a run, not an evaluation: name another directory with --workdir=DIR",
    )
    words = {name: _cli.words(config[name]) for name in ("weights", "benchmarks", "measures")}
    allowed = {"weights": ("raw", "ema"), "benchmarks": BENCHMARKS, "measures": MEASURES}
    for name, chosen in words.items():
        for word in chosen:
            check_choice(name, word, tuple(allowed[name]))
    rows = {name: BENCHMARKS[name] for name in words["benchmarks"]}

    def line(text):
        print(text, file=sys.stderr, flush=True)

    wanted = runs or _cli.words(config.models)
    found = find_models(wanted, config.models_dir, required=runs or flags.require, line=line)
    call = {"models_dir": config.models_dir, "pretrained": config.pretrained}
    models = [open_model(m, weights=which, **call) for m in found for which in words["weights"]]
    for model in (model for model in models if model.note):
        line(f"{model.name}: {model.note}")
    names = [model.name for model in models]
    require(len(names) == len(set(names)), "two of the models have the same name: rename one")

    reading = {"allow_partial": config.allow_partial, "skip_unreadable": config.skip_unreadable}
    reading = {name: value for name, value in reading.items() if value}
    options = config.options.to_dict()
    for name in (name for name, row in rows.items() if row.reader.directories):
        options[name]["data"] |= reading
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
    require(jobs, "nothing to measure; lines above say why")
    if flags.plan:
        require(not damaged, "the data cannot be measured; lines above say why")
        return
    with locked(workdir):
        write_json(file, {"config": config.to_dict(), "environment": environment()})
        for run in found.values():
            if run and (run / "metrics.jsonl").is_file():
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
    require(complete and not damaged, "not all could be measured; lines above say what and why")


def own_row(path, config, reading, models, line):
    """({its name: the row of users' own data}, {its name: options}); says what was found."""
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
        options["data"][name] or options["data"].pop(name)  # 0: the model's, those of the data
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
    """{name: its path, None of code} of the models that are there; lines say which are not.

    Where they are `required`, or where none is there, that is an error.
    """
    from advspur._checks import InputError, require
    from advspur.models import is_spec, published_model
    from advspur.models.store import find_model

    found, absent = {}, []
    for name in names:
        try:
            found[name] = None if is_spec(name) else find_model(name, models_dir=models_dir)
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
        found,
        f"{missing}: set $ADVSPUR_MODELS (or --config.models_dir) to the folder with the released "
        "files, such as resnet50_l2_eps3.ckpt, or name your own models on the command line",
    )
    if absent:
        line(f"skipped: {len(absent)} of {len(names)} models are not {where}: {', '.join(absent)}")
    return found


if __name__ == "__main__":
    _cli.run(main, config="evaluation", workdir=True, arguments=True)

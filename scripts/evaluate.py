"""Evaluate models: python scripts/evaluate.py --config configs/evaluate.py [MODEL ...]

A MODEL is a run directory, a converted one, a checkpoint file, or a name of the paper's suite; none
given, those of the config. Measures them on every benchmark of the config that fits them and
appends to <workdir>/records.jsonl; numbers that are recorded already are not measured again.

A data set, or a model of the config, that is not at hand is passed over with one line; with
--require it is an error. What fails is passed over too, and the exit code is 2 then.
"""

import contextlib
import os

import _cli
from absl import flags

flags.DEFINE_bool("require", False, "Data sets and models that are not at hand are errors.")


def main(flags, *runs):
    from advspur._checks import check_choice, check_count, check_seed, require
    from advspur._devices import is_first_process, talking_stream, together
    from advspur._files import locked, read_json
    from advspur._progress import Progress
    from advspur.benchmarks import AUTOATTACK, BENCHMARKS, open_model
    from advspur.benchmarks.matrix import evaluate_matrix, find_data
    from advspur.benchmarks.run import misfit
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
    groups, weights = {"autoattack": tuple(AUTOATTACK)}, _cli.words(config.weights)
    benchmarks = [n for word in _cli.words(config.benchmarks) for n in groups.get(word, (word,))]
    unknown = [name for name in benchmarks if name not in BENCHMARKS]
    require(not unknown, f"benchmarks has {unknown}; allowed: {', '.join([*BENCHMARKS, *groups])}")
    for which in weights:
        check_choice("weights", which, ("raw", "ema"))
    stream = talking_stream()

    def line(text):
        print(text, file=stream, flush=True)

    wanted = runs or _cli.words(config.models)
    found = find_models(wanted, config.models_dir, required=runs or flags.require, line=line)
    names = {p.stem if p.is_file() else p.name for p in found.values()}
    require(len(names) == len(found), "two of the models have the same name: rename one")
    models = [
        open_model(run, weights=which, models_dir=config.models_dir)
        for run in found
        for which in weights
    ]

    common = {"batch_size": config.batch_size}
    reading = {"allow_partial": config.allow_partial, "skip_unreadable": config.skip_unreadable}
    options = {
        name: common
        | (reading if BENCHMARKS[name].DIRECTORIES else {})
        | dict(config.options.to_dict().get(name, {}))
        for name in benchmarks
    }
    directories, passes, damaged = find_data(
        [name for name in benchmarks if any(not misfit(m, name) for m in models)],
        options,
        data_dir=config.data_dir or os.environ.get("ADVSPUR_DATA", ""),
        directories=config.directories,
        required=flags.require,
        line=line,
    )
    with contextlib.ExitStack() as stack:
        with together():
            if is_first_process():
                stack.enter_context(locked(workdir))
                write_json(file, {"config": config.to_dict(), "environment": environment()})
                for run in found.values():
                    if (run / "metrics.jsonl").is_file():
                        record_training(run, path)
        _cli.use_compile_cache(workdir)
        complete = evaluate_matrix(
            models,
            directories,
            passes,
            options,
            path=path,
            seed=config.seed,
            cache_dir=workdir / "features",
            progress_of=lambda total: Progress(total, "evaluate", stream=stream),
            line=line,
        )
    require(complete and not damaged, "not all could be measured; lines above say what and why")


def find_models(names, models_dir, *, required, line):
    """{name: its path} of the models that are there; a line says which of the others are not.

    Where they are `required`, or where none is there, that is an error.
    """
    from advspur._checks import InputError, require
    from advspur.models import find_model, published_model

    found, absent = {}, []
    for name in names:
        try:
            found[name] = find_model(name, models_dir=models_dir)
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
    _cli.run(main, config="evaluation", workdir=True, arguments=True, processes=True)

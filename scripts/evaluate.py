"""Evaluate models: python scripts/evaluate.py --config configs/evaluate.py [MODEL ...]

A MODEL is a run directory, a converted one, a checkpoint file, or a name of the paper's suite; none
given, those of the config. Measures them on every benchmark of the config and appends to
<workdir>/records.jsonl; numbers that are recorded already are not measured again.
"""

from pathlib import Path

import _cli


def main(flags, *runs):
    from advspur._checks import require
    from advspur._progress import Progress
    from advspur.benchmarks import evaluate_run
    from advspur.models import find_model
    from advspur.models.runs import read_json
    from advspur.training import record_training
    from advspur.training.run_dir import environment, write_json

    config, workdir = flags.config, _cli.workdir()
    runs = runs or tuple(config.models)
    found = [find_model(run, models_dir=config.models_dir) for run in runs]
    names = {path.stem if path.is_file() else path.name for path in found}
    require(len(names) == len(found), "two of the models have the same name: rename one")
    path, file = workdir / "records.jsonl", workdir / "config.json"
    require(
        not file.exists() or "benchmarks" in read_json(file)["config"],
        f"{workdir} holds a run, not an evaluation: name another directory with --workdir=DIR",
    )
    workdir.mkdir(parents=True, exist_ok=True)
    write_json(file, {"config": config.to_dict(), "environment": environment()})
    jobs = [(m, b, w) for m in runs for b in config.benchmarks for w in config.weights]
    with Progress(len(jobs), "evaluate") as progress:
        for run, benchmark, weights in jobs:
            count = evaluate_run(
                run,
                benchmark,
                path=path,
                weights=weights,
                models_dir=config.models_dir,
                data_dir=config.data_dir,
                seed=config.seed,
                options=config.evaluation.to_dict(),
            )
            if (Path(run) / "metrics.jsonl").is_file():
                record_training(run, path)
            progress.line(f"{run} on {benchmark}: {count or 'no'} new numbers in {path}")
            progress.advance()


if __name__ == "__main__":
    _cli.run(main, config=True, workdir=True, arguments=True)

"""Evaluate trained models: python scripts/evaluate.py --config configs/evaluate.py RUN [RUN ...]

Measures the run directories on every benchmark of the config and appends to
<workdir>/records.jsonl; numbers that are recorded already are not measured again.
"""

import _cli


def main(flags, *runs):
    from advspur._checks import require
    from advspur._progress import Progress
    from advspur.benchmarks import evaluate_run
    from advspur.training import record_training
    from advspur.training.run_dir import environment, write_json

    require(runs, "name the run directories to evaluate, after the flags")
    config, workdir = flags.config, _cli.workdir()
    workdir.mkdir(parents=True, exist_ok=True)
    path = workdir / "records.jsonl"
    write_json(workdir / "config.json", {"config": config.to_dict(), "environment": environment()})
    jobs = [(m, b, w) for m in runs for b in config.benchmarks for w in config.weights]
    with Progress(len(jobs), "evaluate") as progress:
        for run, benchmark, weights in jobs:
            count = evaluate_run(
                run,
                benchmark,
                path=path,
                weights=weights,
                data_dir=config.data_dir,
                seed=config.seed,
                options=config.evaluation.to_dict(),
            )
            record_training(run, path)
            progress.line(f"{run} on {benchmark}: {count or 'no'} new numbers in {path}")
            progress.advance()


if __name__ == "__main__":
    _cli.run(main, config=True, workdir=True, arguments=True)

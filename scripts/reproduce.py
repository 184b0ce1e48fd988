"""Train a suite of models, evaluate it, sweep the linear theory, write the report.

python scripts/reproduce.py --config configs/quickstart.py

Everything goes to --workdir (runs/<config name>): one run directory a model, records.jsonl,
figures/, report.html. A second call goes on where the first was stopped.
"""

import copy
import importlib
import math

import _cli


def main(flags):
    from advspur._checks import norm_name, require
    from advspur._progress import Progress
    from advspur.benchmarks import evaluate_model, open_model, spurious_shapes
    from advspur.report import write_report
    from advspur.training import record_training, train
    from advspur.training.run_dir import FREE_KEYS, check_config, open_run

    config, workdir = flags.config, _cli.workdir()
    require("suite" in config, "the config has no `suite`: use configs/quickstart.py or derive it")
    require(config.dataset == "spurious_shapes", "a suite is evaluated on spurious_shapes only")
    _cli.use_compile_cache(workdir)
    path, evaluation = workdir / "records.jsonl", config.evaluation.to_dict()

    runs = []
    budgets = [(2.0, 0.0), *((2.0, e) for e in config.suite.l2_epsilons)]
    budgets += [(math.inf, e) for e in config.suite.linf_epsilons]
    for seed in config.suite.seeds:
        for p, epsilon in budgets:
            model = copy.deepcopy(config)
            model.seed, model.attack.p, model.attack.epsilon = seed, p, epsilon
            size = f"{epsilon * 255:g}_255" if p == math.inf else f"{epsilon:g}"
            name = f"{norm_name(p)}_eps{size}" if epsilon else "standard"
            runs.append((workdir / f"{name}_seed{seed}", model))

    for _, model in runs:
        check_config(model)
    for name in ("batch_size", "num_examples", "num_attacked", "attack_steps"):
        require(evaluation[name] >= 1, f"evaluation.{name} = {evaluation[name]}: it must be >= 1")

    open_run(config.to_dict(), workdir, free=(*FREE_KEYS, "suite"))

    # Units of progress: forward passes over an image; a gradient counts as three.
    steps = {run: 3 + 3 * m.attack.num_steps * bool(m.attack.epsilon) for run, m in runs}
    evaluate = spurious_shapes.num_passes(**evaluation)
    total = sum(m.num_steps * m.batch_size * steps[run] + evaluate for run, m in runs)
    measured = 0
    with Progress(total, workdir.name) as progress:
        for run, model in runs:
            part = progress.part(run.name, model.batch_size * steps[run])
            train(model, run, progress=part)
            record_training(run, path)
            trained = open_model(run)
            count = len(evaluate_model(trained, "spurious_shapes", path=path, options=evaluation))
            if count:
                progress.advance(evaluate, f"{run.name} evaluated")
            else:
                progress.skip(evaluate)
            measured += count
    sweeps = [sweep_theory(name, workdir) for name in config.suite.theory]
    page = workdir / "report.html"
    if not page.exists() or any(page.stat().st_mtime < p.stat().st_mtime for p in (path, *sweeps)):
        write_report(workdir)
    print(f"{page}: {len(runs)} models, {measured or 'no'} new numbers")


def sweep_theory(name, workdir):
    """The file of configs/theory_<name>.py in `workdir`, swept now if it is not there."""
    import jax

    from advspur.theory.run import run_sweeps

    config = importlib.import_module(f"configs.theory_{name}").get_config()
    path = workdir / f"theory_{name}.npz"
    if path.exists():
        return path
    with jax.enable_x64(config.dtype == "float64"):
        return run_sweeps(config, workdir)


if __name__ == "__main__":
    _cli.run(main, config=True, workdir=True)

"""Train a suite of models, evaluate it, sweep the linear theory, write the report.

python scripts/reproduce.py --config configs/quickstart.py

Everything goes to --workdir (runs/<config name>): one run directory a model, records.jsonl,
figures/, report.html. A second call goes on where the first was stopped.
"""

import copy
import importlib
import math
import os
from pathlib import Path

import _cli

BENCHMARK_OF = {"spurious_shapes": "spurious_shapes", "cifar10": "cifar_color_shift"}


def main(flags):
    import jax

    jax.config.update("jax_num_cpu_devices", os.cpu_count())  # each trains models of its own
    from advspur._checks import require
    from advspur._progress import Progress
    from advspur.benchmarks import BENCHMARKS, evaluate_model, open_model
    from advspur.report import write_report
    from advspur.training import record_training, train_suite
    from advspur.training.parts import open_training_data
    from advspur.training.run_dir import FREE_KEYS, check_config, open_run
    from advspur.training.state import count_steps

    config, workdir = flags.config, _cli.workdir()
    require("suite" in config, "the config has no `suite`: use configs/quickstart.py or derive it")
    require(config.dataset in BENCHMARK_OF, f"a suite is of {' or '.join(BENCHMARK_OF)}")
    _cli.use_compile_cache(workdir)
    path, evaluation = workdir / "records.jsonl", config.evaluation.to_dict()
    runs = {workdir / name: model for name, model in suite_configs(config)}
    for model in runs.values():
        check_config(model)
    for name in ("batch_size", "num_attacked", "attack_steps"):
        require(evaluation[name] >= 1, f"evaluation.{name} = {evaluation[name]}: it must be >= 1")
    data_dir = None
    if config.dataset == "cifar10":
        data_dir = Path(config.data_dir or os.environ.get("TFDS_DATA_DIR", ""), "cifar10")
    dataset = open_training_data(config)
    num_steps = count_steps(config, len(dataset.train))

    with open_run(config.to_dict(), workdir, free=(*FREE_KEYS, "suite")):
        # Units of progress: forward passes over an image; a gradient counts as three.
        weights = {
            run: m.batch_size * (3 + 3 * m.attack.num_steps * bool(m.attack.epsilon))
            for run, m in runs.items()
        }
        jobs = {run: evaluations(config, model) for run, model in runs.items()}
        passes = {
            run: [BENCHMARKS[name].num_passes(data_dir, **options) for name, options in of_run]
            for run, of_run in jobs.items()
        }
        total = sum(num_steps * weights[run] + sum(passes[run]) for run in runs)
        measured = 0
        with Progress(total, workdir.name) as progress:
            train_suite(
                runs,
                per_device=config.suite.per_device or None,
                progress={run: progress.part(run.name, weights[run]) for run in runs},
            )
            for run in runs:
                record_training(run, path)
                trained = open_model(run)
                for (name, options), size in zip(jobs[run], passes[run], strict=True):
                    end = progress.done + size
                    call = {"path": path, "data_dir": data_dir, "options": options}
                    call |= {"cache_dir": workdir / "attacks"}
                    count = len(evaluate_model(trained, name, **call))
                    (progress.advance if count else progress.skip)(end - progress.done)
                    measured += count
        sweeps = [sweep_theory(name, workdir) for name in config.suite.theory]
        page = workdir / "report.html"
        newest = max(p.stat().st_mtime for p in (path, *sweeps))
        if not page.exists() or page.stat().st_mtime < newest:
            write_report(workdir)
    print(f"{page}: {len(runs)} models, {measured or 'no'} new numbers")


def suite_configs(config):
    """(name, config) of each model of the suite."""
    from advspur._checks import norm_name

    budgets = [(2.0, 0.0), *((2.0, e) for e in config.suite.l2_epsilons)]
    budgets += [(math.inf, e) for e in config.suite.linf_epsilons]
    for seed in config.suite.seeds:
        for rho in config.suite.get("rhos", (0.0,)):
            for p, epsilon in budgets:
                model = copy.deepcopy(config)
                model.seed, model.attack.p, model.attack.epsilon = seed, p, epsilon
                model.color_shift.rho = rho
                size = f"{epsilon * 255:g}_255" if p == math.inf else f"{epsilon:g}"
                name = f"{norm_name(p)}_eps{size}" if epsilon else "standard"
                yield f"{name}{f'_rho{rho:g}' if rho else ''}_seed{seed}", model


def evaluations(config):
    """[(benchmark, options)] of every model of the suite."""
    found = [(BENCHMARK_OF[config.dataset], config.evaluation.to_dict())]
    if "autoattack" in config and config.autoattack.num_images:
        same = ("l2_epsilons", "linf_epsilons", "allow_partial")
        options = config.autoattack.to_dict() | {name: config.evaluation[name] for name in same}
        found.append((f"autoattack_{BENCHMARK_OF[config.dataset]}", options))
    return found


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

"""Train a suite of models, evaluate it, sweep the linear theory, write the report.

python scripts/reproduce.py --config configs/quickstart.py

Everything goes to --workdir (runs/<config name>): one run directory a model, records.jsonl,
figures/, report.html. Run the same command again to resume. A suite with several settings of the
data has a directory for each, and predictions.json, written before it trains.
"""

import copy
import importlib
import itertools
import math

import _cli
import _predictions

BENCHMARK_OF = {"spurious_shapes": "spurious_shapes", "cifar10": "cifar_color_shift"}


def main(flags):
    import jax
    from markupsafe import escape  # as in the page

    jax.config.update("jax_num_cpu_devices", _cli.num_cores())  # each trains its own models
    from advspur._checks import check_choice, check_count, require
    from advspur._progress import Progress
    from advspur.benchmarks import BENCHMARKS, evaluate_model, open_model
    from advspur.data.datasets import data_root
    from advspur.report import write_report
    from advspur.theory.run import FIGURES
    from advspur.training import parts, record_training, train_suite
    from advspur.training.run_dir import FREE_KEYS, open_run
    from advspur.training.state import count_steps
    from advspur.training.suite import check_suite

    config, workdir = flags.config, _cli.workdir()
    check_choice("dataset", config.dataset, BENCHMARK_OF)
    _cli.use_compile_cache(workdir)
    evaluation = config.evaluation.to_dict()
    _cli.split_heads(evaluation)
    runs = {workdir / name: model for name, model in suite_configs(config)}
    require(runs, "the suite has no model: suite.seeds or suite.settings is empty")
    check_suite(runs.values())
    figures = _cli.words(config.suite.theory)
    for name in figures:
        check_choice("suite.theory", name, FIGURES)
    batch_size, measures = evaluation.pop("batch_size"), _cli.words(evaluation.pop("measures"))
    check_count("evaluation.batch_size", batch_size)
    row = BENCHMARKS[BENCHMARK_OF[config.dataset]]
    data_dir = data_root(config.data_dir) / "cifar10" if config.dataset == "cifar10" else None
    first = next(iter(runs.values()))
    num_steps = count_steps(first, len(parts.training_data(first).train))
    passes = sum(row.plan(data_dir, measures, evaluation).passes.values())

    with open_run(config.to_dict(), workdir, free=(*FREE_KEYS, "suite")):
        if config.suite.get("dials"):
            every = list(suite_configs(config, settings=tuple(config.suite.dials)))
            predicted = _predictions.predictions(every)
            _predictions.write("predictions.json", predicted, every, workdir)
        if config.suite.get("recipes") and config.dataset == "spurious_shapes":
            every = list(suite_configs(config, trained=tuple(config.suite.recipes)))
            predicted = _predictions.prescription(every)
            _predictions.write("prescription.json", predicted, every, workdir)
        name_of = {run: str(run.relative_to(workdir)) for run in runs}
        weights = {run: model.batch_size * parts.step_passes(model) for run, model in runs.items()}
        total = sum(num_steps * weight + passes for weight in weights.values())
        num_records = 0
        with Progress(total, workdir.name) as progress:  # in forward passes over an image
            faults = train_suite(
                runs,
                per_device=config.suite.per_device or None,
                progress={run: progress.part(name_of[run], weights[run]) for run in runs},
            )
            for run in (run for run in runs if run not in faults):
                path = run.parent / "records.jsonl"
                record_training(run, path)
                part = progress.part(f"{name_of[run]} on {row.name}", total=passes)
                records = evaluate_model(
                    open_model(run),
                    row,
                    path=path,
                    directory=data_dir,
                    measures=measures,
                    batch_size=batch_size,
                    options=evaluation,
                    cache_dir=workdir / "outcomes",
                    progress=part,
                )
                part.skip_rest()
                num_records += len(records)
        sweeps = [sweep_theory(name, workdir) for name in figures]
        page = workdir / "report.html"
        inputs = {run.parent / "records.jsonl" for run in runs} | set(sweeps)
        newest = max((path.stat().st_mtime for path in inputs if path.exists()), default=0)
        is_old = not page.exists() or page.stat().st_mtime < newest
        note = f'<meta name="note" content="{escape(config.note)}">'
        if is_old or note not in page.read_text():
            write_report(workdir)
    print(f"{page}: {len(runs) - len(faults)} models, {num_records or 'no'} new numbers")
    require(not faults, "; ".join(f"{run}: {fault}" for run, fault in faults.items()))


def suite_configs(config, settings=None, trained=None):
    """Yield (name, config) of each model of the suite; "<setting>/<model>" if it has settings.

    `settings` and `trained` (recipes): None: those of the config.
    """
    from advspur._checks import InputError, check_choice, first_line, norm_name, require

    def drop_empty(values):
        return [value for value in values if value != ""]  # --config.KEY= is ("",)

    budgets = [(2.0, 0.0), *((2.0, e) for e in drop_empty(config.suite.l2_epsilons))]
    budgets += [(math.inf, e) for e in drop_empty(config.suite.linf_epsilons)]
    kinds = {}  # {name: its changes of the config}
    for p, epsilon in budgets:
        size = f"{epsilon * 255:g}_255" if p == math.inf else f"{epsilon:g}"
        name = f"{norm_name(p)}_eps{size}" if epsilon else "standard"
        kinds[name] = {"attack": {"p": p, "epsilon": epsilon}}
    recipes = config.suite.get("recipes", {})
    for name in _cli.words(config.suite.get("trained", ())) if trained is None else trained:
        check_choice("suite.trained", name, tuple(recipes))
        kinds[name] = recipes[name].to_dict()
    dials = config.suite.get("dials", {"": {}})
    rhos = config.suite.get("rhos", (0.0,))
    if settings is None:
        settings = ("",) if "" in dials else _cli.words(config.suite.settings)
    for setting in settings:
        check_choice("suite.settings", setting, tuple(dials))
        for name, value in dials[setting].items():
            check_choice(f"a dial of suite.dials.{setting}", name, tuple(config.shapes))
            kind = type(config.shapes[name])
            fault = f"suite.dials.{setting}.{name} = {value!r}: expected {kind.__name__}"
            require(isinstance(value, kind), fault)
    is_shapes = "" in dials or config.dataset == "spurious_shapes"
    require(is_shapes, "suite.dials change spurious_shapes: set dataset = 'spurious_shapes'")
    seeds, rhos = drop_empty(config.suite.seeds), drop_empty(rhos)
    for setting, seed, rho in itertools.product(settings, seeds, rhos):
        for name, changes in kinds.items():
            model = copy.deepcopy(config)
            model.seed, model.color_shift.rho = seed, rho
            model.shapes.update(dials[setting])
            try:
                model.update(changes)
            except (AttributeError, KeyError, TypeError, ValueError) as error:
                raise InputError(
                    f"suite.recipes.{name} = {changes}: {first_line(error)}"
                ) from error
            name += f"{f'_rho{rho:g}' if rho else ''}_seed{seed}"
            yield f"{setting}/{name}" if setting else name, model


def sweep_theory(name, workdir):
    """Return the file of configs/theory_<name>.py in `workdir`; sweep if it is absent."""
    import jax

    from advspur.theory.run import run_sweeps

    config = importlib.import_module(f"configs.theory_{name}").get_config()
    path = workdir / f"theory_{name}.npz"
    if path.exists():
        return path
    with jax.enable_x64(config.dtype == "float64"):
        return run_sweeps(config, workdir)


if __name__ == "__main__":
    _cli.run(main, config="suite", workdir=True)

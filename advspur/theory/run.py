"""Run the sweep of a config and write theory_<figure>.npz: nfs, scale, shift or weights.

Each file contains its axes and arrays; `advspur.report` draws them.
"""

import functools
import math
from pathlib import Path

import jax
import numpy as np

from advspur._checks import check_choice, check_count, check_nonnegative, check_seed, require
from advspur.theory import limits, sweeps
from advspur.theory.linear_model import gaussian_linear_model, restrict_to_core
from advspur.theory.prescription import sweep_budget_weights
from advspur.theory.shift import READINGS


def run_sweeps(config, directory, progress=None):
    """Run the sweep of a config (configs/theory_*.py) and return the path of its file.

    progress.advance receives the number of problems solved.
    """
    check_config(config)
    arrays = FIGURES[config.figure](config, progress)
    missed = np.argwhere(~np.asarray(arrays["converged"]))
    require(
        not len(missed),
        f"{len(missed)} cells are not certified, the first at {missed[:1].tolist()}; nothing is "
        "written. Use float64, or budgets further from 0",
    )
    facts = {name: config[name] for name in ("theta_opt", "noise_std")}
    path = Path(directory) / f"theory_{config.figure}.npz"
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_suffix(".part.npz")
    np.savez(part, **arrays, **facts, is_spurious=np.arange(5) >= 2)
    part.replace(path)
    return path


def check_config(config):
    """Raise InputError if the config has invalid values."""
    check_choice("figure", config.figure, FIGURES)
    for name, value in config.items():
        if isinstance(value, tuple):
            numbers = all(isinstance(x, (int, float)) and not math.isnan(x) for x in value)
            require(value and numbers, f"{name} = {value}: it must be a list of numbers")
    check_count("num_epsilons", config.num_epsilons, 2)
    check_nonnegative("noise_std", config.noise_std)
    ranges = {}  # (from, to, how many)
    if config.figure == "scale":
        ranges = {"scales": config.scales, **{f"phase.{k}": v for k, v in config.phase.items()}}
    elif config.figure == "weights":
        ranges = {"weights": config.weights}
        require(config.weights[0] > 0, f"weights = {config.weights}: from and to must be > 0")
    elif config.figure == "shift":
        ranges = {"shift_stds": config.shift_stds}
        check_count("num_draws", config.num_draws, 2)
        check_seed("seed", config.seed)
    if config.figure in ("shift", "weights"):
        norms, scales = len(config.norms), len(config.scales)
        require(norms == scales, f"{norms} norms and {scales} scales: give one scale for each norm")
    for name, value in ranges.items():
        is_range = len(value) == 3 and value[2] == int(value[2]) >= 1
        require(is_range, f"{name} = {value}: give (from, to, how many)")


def num_problems(config):
    """Return the number of minimisers in the sweep, the units of its progress."""
    if config.figure == "scale":
        return len(config.etas) * config.scales[2] * config.num_epsilons
    rows = 2
    if config.figure == "nfs":
        rows = len(config.etas)
    elif config.figure == "weights":
        rows = len(_weight_axis(config))
    return len(config.norms) * rows * config.num_epsilons


def _nfs(config, progress):
    etas, scale, facts = config.etas, config.spurious_scale, _facts(config)
    models = sweeps.paper_models(etas, [scale] * len(etas), **facts)
    facts |= {"spurious_scale": scale, "progress": progress}
    parts = []
    for p in config.norms:
        sweep = sweeps.sweep_nfs(etas, _budgets(config, models, p), p=p, **facts)
        limit = jax.jit(jax.vmap(functools.partial(limits.limit_nfs, p=p)))(models)
        parts.append(sweep._asdict() | {"limit_nfs": limit})
    onset = jax.jit(jax.vmap(limits.plateau_onset))(models)
    known = {"norms": config.norms, "etas": etas, "plateau_onset": onset}
    return _stack(parts) | known | {"spurious_scale": scale}


def _scale(config, progress):
    facts = _facts(config)
    scales = np.linspace(*config.scales)
    etas, cells = np.array(config.etas), len(config.etas) * len(scales)
    models = sweeps.paper_models(np.repeat(etas, len(scales)), np.resize(scales, cells), **facts)
    epsilons = _budgets(config, models, math.inf)
    parts = [
        sweeps.sweep_nfs_over_scale(scales, epsilons, eta=eta, progress=progress, **facts)._asdict()
        for eta in config.etas
    ]
    a, b = len(etas), len(scales)
    phase_etas, phase_scales = np.linspace(*config.phase.etas), np.linspace(*config.phase.scales)
    both = limits.phase_diagram(  # in one call, which costs less to compile than two
        np.append(etas, phase_etas), np.append(scales, phase_scales), **facts
    )
    return _stack(parts) | {
        "norm": math.inf,
        "etas": etas,
        "scales": scales,
        "epsilons": epsilons,
        "critical_scale": both["critical_scale"][:a],
        "epsilon_of_nfs_one": both["one_from"][:a, :b],
        "phase_etas": phase_etas,
        "phase_scales": phase_scales,
        "phase_critical_scale": both.pop("critical_scale")[a:],
        **{f"phase_{name}": values[a:, b:] for name, values in both.items()},
    }


def _shift(config, progress):
    facts, key = _facts(config), jax.random.key(config.seed)
    stds = np.linspace(*config.shift_stds)
    options = facts | {"eta": config.eta, "num_draws": config.num_draws}
    readings = []
    for number, reading in enumerate(READINGS):
        parts = []
        for i, (p, scale) in enumerate(zip(config.norms, config.scales, strict=True)):
            budgets = _budgets(config, sweeps.paper_models([config.eta], [scale], **facts), p)
            options |= {"key": jax.random.fold_in(key, 10 * number + i), "reading": reading}
            share = budgets * config.largest_share
            sweep = sweeps.sweep_distribution_shift(
                share, stds, p=p, spurious_scale=scale, **options
            )
            parts.append(sweep._asdict())
            if progress is not None and number == 0:
                progress.advance(2 * config.num_epsilons)
        readings.append(_stack(parts))
    by_reading = _stack(readings)
    return {
        **{name: readings[0][name] for name in ("epsilons", "theta", "converged")},
        **{name: config[name] for name in ("norms", "scales", "eta")},
        "shift_stds": stds,
        "readings": READINGS,
        "models": ("core", "total"),
        **{name: config[name] for name in ("num_draws", "seed")},
        **{name: by_reading[name] for name in ("loss", "improved")},
        **{f"mc_{name}": by_reading[name] for name in ("mean", "error", "low", "high")},
    }


def _weights(config, progress):
    weights, parts = _weight_axis(config), []
    for p, scale in zip(config.norms, config.scales, strict=True):
        model = gaussian_linear_model(config.eta, spurious_scale=scale, **_facts(config))
        radius = float(limits.collapse_radius(restrict_to_core(model), p=p))
        epsilons = np.linspace(0, radius, config.num_epsilons + 1)[1:]
        parts.append(sweep_budget_weights(model, weights, epsilons, p=p, progress=progress))
    known = {name: config[name] for name in ("norms", "scales", "eta")}
    return _stack([part._asdict() for part in parts]) | known | {"weights": weights}


def _weight_axis(config):
    """Return the weights of the config, with 1 and inf added."""
    low, high, count = config.weights
    return np.append(np.unique(np.append(np.geomspace(low, high, int(count)), 1)), math.inf)


FIGURES = {"nfs": _nfs, "scale": _scale, "shift": _shift, "weights": _weights}


def _facts(config):
    return {"noise_std": config.noise_std, "theta_opt": tuple(config.theta_opt)}


def _budgets(config, models, p):
    """Return num_epsilons budgets from 0 to the largest collapse radius of the models."""
    return np.linspace(0, float(sweeps.radii(models, p=p).max()), config.num_epsilons)


def _stack(parts):
    return {name: np.stack([np.asarray(part[name]) for part in parts]) for name in parts[0]}

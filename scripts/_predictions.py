"""predictions.json, prescription.json: what the linear theory says of a suite before training."""

import json
import math

NUM_IMAGES = 500  # whose cues are measured
DIGITS = 6  # kept of a number
ROUNDING = {"rel_tol": 1e-4, "abs_tol": 1e-6}  # between machines and versions of libraries


def write(name, found, every, workdir):
    """Write `workdir`/`name` before the first network of the suite is there.

    `found` is of (name, config) of all that may be run, so that more can be run later. A file that
    is there must say the same: it is never rewritten.
    """
    from advspur._checks import require
    from advspur._files import read_json, write_whole

    path = workdir / name
    if path.exists():
        require(
            _agree(read_json(path), found),
            f"{path} says something else than would be predicted now: predictions are not changed "
            "afterwards; start again with --workdir=DIR",
        )
    else:
        early = [workdir / name for name, _ in every if (workdir / name).exists()]
        require(
            not early,
            f"{path} is missing, but {early[0] if early else ''} is there: a prediction comes "
            "first; start again with --workdir=DIR",
        )
        write_whole(path, json.dumps(found, indent=1) + "\n")


def prescription(every):
    """What the theory says of attacks with region weights: the reliance at each kind's budget.

    Of (name, config) of every model. `protective_weight` w*: what the budget on the background must
    be times for the model to leave it; null where no finite one does.
    """
    import jax

    from advspur.theory import predict_reliance
    from advspur.training.run_dir import jsonable

    kinds, given = {}, {}
    for _, config in every:
        attack, given = config.attack, given or _cues(config)
        kind = attack.p, attack.epsilon, tuple(attack.region_weights)
        if not attack.epsilon or kind in kinds:
            continue
        with jax.enable_x64(True):
            found = predict_reliance(
                epsilons=[attack.epsilon], p=attack.p, region_weights=kind[-1], **given
            )
        names = "nfs", "gradient_share", "protective_weight"
        said = {name: _short(float(getattr(found, name)[0])) for name in names}
        kinds[kind] = dict(zip(("p", "epsilon", "region_weights"), kind, strict=True)) | said
    return jsonable({"models": list(kinds.values())})


def predictions(every):
    """What the file says: the dials of each setting, the reliance of each kind of training."""
    import jax
    import numpy as np

    from advspur.theory import predict_reliance
    from advspur.training.run_dir import jsonable

    by_setting, found = {}, {}
    for name, config in every:
        models = by_setting.setdefault(name.split("/")[0], {})
        models[config.attack.p, config.attack.epsilon] = config
    for setting, models in by_setting.items():
        config = next(iter(models.values()))
        dials, given = _dials(config), _cues(config)
        facts = found[setting] = {"dials": dials, "norms": [], "models": []}
        for p in dict.fromkeys(p for p, _ in models):
            epsilons = [epsilon for q, epsilon in models if q == p]
            with jax.enable_x64(True):
                of_norm = predict_reliance(epsilons=np.array(epsilons), p=p, **given)
            radius, half = map(_short, (of_norm.collapse_radius, of_norm.half_budget))
            facts["norms"].append({"p": p, "collapse_radius": radius, "half_budget": half})
            for epsilon, nfs, share in zip(
                epsilons, of_norm.nfs, of_norm.gradient_share, strict=True
            ):
                model = {"p": p, "epsilon": epsilon, "nfs": _short(nfs)}
                facts["models"].append(model | {"gradient_share": _short(share)})
    return jsonable({"settings": found})


def _dials(config):
    """The looks of the shapes of a config."""
    dials = config.shapes.to_dict()
    del dials["num_train"], dials["num_validation"]
    return dials


def _cues(config):
    """What `predict_reliance` takes of the data of a config."""
    from advspur.data.spurious_shapes import cue_changes

    dials = _dials(config)
    core, spurious = cue_changes(NUM_IMAGES, **dials)
    options = {name: dials[name] for name in ("noise_std", "correlation", "num_classes")}
    return {"core": core, "spurious": spurious} | options


def _agree(a, b):
    """Whether two contents are equal up to rounding."""
    if isinstance(a, dict) and isinstance(b, dict):
        return a.keys() == b.keys() and all(_agree(a[key], b[key]) for key in a)
    if isinstance(a, list) and isinstance(b, list):
        return len(a) == len(b) and all(map(_agree, a, b))
    if isinstance(a, float) and isinstance(b, float):
        return math.isclose(a, b, **ROUNDING)
    return a == b


def _short(value):
    """A number of DIGITS digits; None where it is NaN or infinite."""
    return float(f"{value:.{DIGITS}g}") if math.isfinite(value) else None

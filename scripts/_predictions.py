"""predictions.json: what the linear theory says of a suite, written before it is trained."""

import json
import math

NUM_IMAGES = 500  # whose cues are measured
DIGITS = 6  # kept of a number
ROUNDING = {"rel_tol": 1e-4, "abs_tol": 1e-6}  # between machines and versions of libraries


def write(every, workdir):
    """Write `workdir`/predictions.json before the first network of the suite is there.

    It is of (name, config) of every setting, so that more can be run later. A file that is there
    must say the same: it is never rewritten.
    """
    from advspur._checks import require
    from advspur._files import read_json, write_whole

    every, path = list(every), workdir / "predictions.json"
    found = predictions(every)
    if path.exists():
        require(
            _agree(read_json(path), found),
            f"{path} says something else than would be predicted now: predictions are not changed "
            "afterwards; begin anew with --workdir=DIR",
        )
    else:
        early = [workdir / name for name, _ in every if (workdir / name).exists()]
        require(
            not early,
            f"{path} is missing, but {early[0] if early else ''} is there: a prediction comes "
            "first; begin anew with --workdir=DIR",
        )
        write_whole(path, json.dumps(found, indent=1) + "\n")


def predictions(every):
    """What the file says: the dials of each setting, the reliance of each kind of training."""
    import jax
    import numpy as np

    from advspur.data.spurious_shapes import cue_changes
    from advspur.theory import predict_reliance
    from advspur.training.run_dir import jsonable

    by_setting, found = {}, {}
    for name, config in every:
        models = by_setting.setdefault(name.split("/")[0], {})
        models[config.attack.p, config.attack.epsilon] = config
    for setting, models in by_setting.items():
        dials = next(iter(models.values())).shapes.to_dict()
        options = {name: dials[name] for name in ("noise_std", "correlation", "num_classes")}
        del dials["num_train"], dials["num_validation"]
        changes = cue_changes(NUM_IMAGES, **dials)
        facts = found[setting] = {"dials": dials, "norms": [], "models": []}
        for p in dict.fromkeys(p for p, _ in models):
            epsilons = [epsilon for q, epsilon in models if q == p]
            with jax.enable_x64(True):
                of_norm = predict_reliance(*changes, np.array(epsilons), p=p, **options)
            radius, half = map(_short, (of_norm.collapse_radius, of_norm.half_budget))
            facts["norms"].append({"p": p, "collapse_radius": radius, "half_budget": half})
            for epsilon, nfs, share in zip(
                epsilons, of_norm.nfs, of_norm.gradient_share, strict=True
            ):
                model = {"p": p, "epsilon": epsilon, "nfs": _short(nfs)}
                facts["models"].append(model | {"gradient_share": _short(share)})
    return jsonable({"settings": found})


def _agree(a, b):
    """Whether two contents are the same but for rounding."""
    if isinstance(a, dict) and isinstance(b, dict):
        return a.keys() == b.keys() and all(_agree(a[key], b[key]) for key in a)
    if isinstance(a, list) and isinstance(b, list):
        return len(a) == len(b) and all(map(_agree, a, b))
    if isinstance(a, float) and isinstance(b, float):
        return math.isclose(a, b, **ROUNDING)
    return a == b


def _short(value):
    """A number of DIGITS digits; None where it is NaN."""
    return float(f"{value:.{DIGITS}g}") if value == value else None

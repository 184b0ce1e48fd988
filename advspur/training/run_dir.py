"""The run directory: checked config, config.json, metrics.jsonl and TensorBoard events."""

import contextlib
import json
import math
import numbers
import os
import platform
import shlex
import subprocess
import sys
import time
from pathlib import Path

import jax

import advspur
from advspur._checks import (
    IMAGE_NORMS,
    check_choice,
    check_epsilon,
    check_norm,
    check_seed,
    norm_name,
    require,
)
from advspur._files import locked, read_json, write_whole
from advspur.attacks.losses import LOSSES
from advspur.attacks.pgd import RANDOM_STARTS
from advspur.data.augment import AUGMENTATIONS
from advspur.data.background import MASK_FAULTS
from advspur.data.color_shift import check_color_shift
from advspur.models.classifier import record_facts
from advspur.models.resnet import ARCHITECTURES, STEMS
from advspur.models.store import directory_facts
from advspur.records import Record, append_records, read_records
from advspur.training.attack import FGSM_METHODS, METHODS, UNIFORM
from advspur.training.state import SCHEDULES

# Keys that say where and how fast, not what: a run may resume with other values of them.
FREE_KEYS = ("data_dir", "num_workers", "log_every_steps", "note")
# Keys of a suite's config, which a single run takes no notice of.
SUITE_KEYS = ("suite", "evaluation", "note")
METRICS = tuple(f"val_{kind}_accuracy" for kind in ("clean", "pgd", "ema_clean", "ema_pgd"))
# What values of a config may be.
CHOICES = {
    "arch": ARCHITECTURES,
    "stem": STEMS,
    "dtype": ("float32", "bfloat16"),
    "schedule": SCHEDULES,
    "augmentation": ("auto", *AUGMENTATIONS),
    "background.mask_fault": MASK_FAULTS,
    "attack.method": METHODS,
    "attack.random_start": RANDOM_STARTS,
    "attack.loss": (*LOSSES, "kl"),
}
POSITIVE = (
    "batch_size accumulation_steps keep_last decay_epochs log_every_steps checkpoint_every_steps "
    "attack.num_steps validation.every_steps validation.num_steps"
).split()
NOT_NEGATIVE = (
    "num_steps num_epochs warmup_epochs early_stopping num_workers learning_rate decay_factor "
    "weight_decay gradient_clip trades_beta attack.epsilon attack.relative_step_size "
    "validation.num_examples background.noise_std background.fault_pixels"
).split()


def check_config(config, *, num_devices=1):
    """Raise InputError for a value that no run can use whose batches `num_devices` share."""
    attack, validation, values = config.attack, config.validation, _flatten(config.to_dict())
    check_norm(attack.p, IMAGE_NORMS)
    check_seed("seed", config.seed)
    metrics = METRICS if config.ema_decay else METRICS[:2]
    for name, allowed in (CHOICES | {"best_metric": metrics}).items():
        check_choice(name, values[name], allowed)
    for name in POSITIVE:
        require(values[name] > 0, f"{name} = {values[name]}: it must be > 0")
    for name in NOT_NEGATIVE:
        value = values[name]
        require(0 <= value < math.inf, f"{name} = {value}: it must be finite and >= 0")
    for name, value in (("ema_decay", config.ema_decay), ("momentum", config.momentum)):
        require(0 <= value < 1, f"{name} = {value}: it must be in [0, 1)")
    for name in ("background.noise_share", "background.mix_share"):
        require(0 <= values[name] <= 1, f"{name} = {values[name]}: it must be in [0, 1]")
    require(
        math.isfinite(validation.epsilon),
        f"validation.epsilon = {validation.epsilon}: a budget, or negative for the training one",
    )
    require(config.num_steps or config.num_epochs > 0, "num_epochs must be > 0")
    parts = num_devices * config.accumulation_steps
    in_steps = f" of {config.accumulation_steps} steps" if config.accumulation_steps > 1 else ""
    require(
        config.batch_size % parts == 0,
        f"batch_size = {config.batch_size} does not divide by {num_devices} devices{in_steps}; the "
        f"nearest below is {config.batch_size // parts * parts}",
    )
    is_random = attack.method in FGSM_METHODS or attack.random_start != "none"
    require(
        not attack.epsilon or attack.loss != "kl" or is_random,
        "attack.loss = 'kl' is 0 at the image and so is its gradient: set attack.random_start",
    )
    require(
        attack.p != 1 or attack.method == "pgd",
        f"attack.method = {attack.method!r} is not for l1, where the steepest step moves a single "
        "value: set attack.method = 'pgd'",
    )
    is_plain = attack.loss == "cross_entropy" and not config.trades_beta
    weights = tuple(attack.region_weights)
    are_numbers = len(weights) == 2 and all(isinstance(w, numbers.Real) for w in weights)
    require(
        are_numbers and all(0 <= w < math.inf for w in weights) and max(weights) > 0,
        f"attack.region_weights = {weights}: give two finite numbers >= 0, of the core and of the "
        "rest, not both 0 (inf is not needed: 1 / epsilon allows every pixel value)",
    )
    require(
        attack.method != "free" or weights == UNIFORM,
        f"attack.method = 'free' has one budget for all pixels, not region_weights = {weights}",
    )
    require(
        attack.method != "free" or (is_plain and config.accumulation_steps == 1),
        "attack.method = 'free' takes its gradients in one pass: attack.loss must be "
        "'cross_entropy', trades_beta 0 and accumulation_steps 1",
    )
    if config.color_shift.rho:
        check_color_shift(**config.color_shift)
    for epsilon in {attack.epsilon, max(validation.epsilon, 0.0)}:
        check_epsilon(epsilon, attack.p)  # warns where it looks like 0-255 units


def describe_attack(p, epsilon, method="pgd", region_weights=UNIFORM, **_):
    """The threat model with its unit, as logged at the start: "linf, epsilon = 8/255 = ..."."""
    if not epsilon:
        return "standard training (epsilon = 0)"
    size = f"{epsilon * 255:g}/255 = {epsilon:.5f}" if p == math.inf else f"{epsilon:g}"
    by = "" if method == "pgd" else f" by {method}"
    if tuple(region_weights) != UNIFORM:
        by += ", times {:g} on the core and {:g} on the rest".format(*region_weights)
    return f"{norm_name(p)}, epsilon = {size} in [0, 1] pixel units{by}"


@contextlib.contextmanager
def open_run(config, workdir, *, free=FREE_KEYS):
    """Make `workdir`, or see that it holds a run of this very config; write config.json.

    A context manager that holds the directory's lock, and gives the `environment` of the call that
    began the run. `free` are top-level keys of the config, a dict, that may differ from before.
    Raises InputError with the differences, or where another process writes to the directory.
    """
    workdir = Path(workdir)
    require(
        workdir.is_dir() or not workdir.exists(), f"workdir {workdir} is a file; name a directory"
    )
    with locked(workdir):
        new, path = jsonable(config), workdir / "config.json"
        if path.exists():
            before = read_json(path)
            require({"environment", "config"} <= before.keys(), f"{path} is damaged")
            began_in = before["environment"]
            a, b = _flatten(before["config"]), _flatten(new)
            changed = [
                f"{key}: {a.get(key, '(absent)')} there, {b.get(key, '(absent)')} now"
                for key in sorted({*a, *b})
                if a.get(key) != b.get(key) and key.split(".")[0] not in free
            ]
            require(
                not changed,
                f"{workdir} holds a run of another config ({'; '.join(changed)}): name another "
                "directory with --workdir=DIR, or restore the old config",
            )
        else:
            began_in = environment()
        write_json(path, {"config": new, "environment": began_in})
        yield began_in


def environment():
    """What a result depends on beside the config: versions, devices, git commit."""
    root = Path(advspur.__file__).parent.parent
    git = subprocess.run(
        ["git", "-C", str(root), "rev-parse", "HEAD"], capture_output=True, text=True, check=False
    )
    return {
        "command": shlex.join(["python", *sys.argv]),
        "date": time.strftime("%Y-%m-%d %H:%M:%S"),
        "advspur": advspur.__version__,
        "jax": jax.__version__,
        "python": platform.python_version(),
        "devices": [str(d.device_kind) for d in jax.devices()],
        "cpus": os.cpu_count(),
        "git_commit": git.stdout.strip() or None,
    }


def write_json(path, value):
    """Write a JSON file, whole or not at all."""
    write_whole(path, json.dumps(jsonable(value), indent=2) + "\n")


def jsonable(value):
    """`value` with infinities as the string "inf", which strict JSON lacks."""
    if isinstance(value, dict):
        return {key: jsonable(v) for key, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [jsonable(v) for v in value]
    return "inf" if value == math.inf else value


@contextlib.contextmanager
def metrics_log(workdir, step):
    """A function (step, **numbers) that appends a line to metrics.jsonl, and to TensorBoard.

    Lines past `step`, of an earlier call, are cut.
    """
    from tensorboardX import SummaryWriter

    path = Path(workdir) / "metrics.jsonl"
    if path.exists():
        kept = [line for line in read_metrics(workdir) if line["step"] <= step]
        write_whole(path, "".join(json.dumps(line) + "\n" for line in kept))

    def write(step, **values):
        with path.open("a") as file:
            file.write(json.dumps({"step": step, **values}) + "\n")
        for name, value in values.items():
            events.add_scalar(name, value, step)

    folder = str(Path(workdir) / "tensorboard")
    with SummaryWriter(folder, purge_step=step + 1, flush_secs=10) as events:
        yield write


def read_metrics(workdir):
    """The lines of metrics.jsonl, as dicts, but for the half-written last one of a killed run."""
    path, found = Path(workdir) / "metrics.jsonl", []
    for line in path.read_text().splitlines() if path.exists() else ():
        with contextlib.suppress(json.JSONDecodeError):
            found.append(json.loads(line))
    return found


def record_training(workdir, path):
    """Append what a run cost so far to a records.jsonl that lacks it: seconds, peak_memory_mb."""
    last = {k: v for line in read_metrics(workdir) for k, v in line.items()}
    about = {"benchmark": "training", **record_facts(directory_facts(workdir))}
    recorded = {r.identity for r in read_records(path)}
    for name in ("seconds", "peak_memory_mb"):
        new = Record(name, *[last[name]] * 3, 1, {"step": last["step"]}, **about)
        if new.identity not in recorded:
            append_records(path, [new])


def _flatten(tree, prefix=""):
    flat = {}
    for key, value in tree.items():
        if isinstance(value, dict):
            flat.update(_flatten(value, f"{prefix}{key}."))
        else:
            flat[prefix + key] = value
    return flat

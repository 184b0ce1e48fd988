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
from flax.traverse_util import flatten_dict

import advspur
from advspur import _checks
from advspur._checks import norm_name, require
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

# Keys that say where and how fast, not what, to train: they may differ when a run resumes.
FREE_KEYS = ("data_dir", "num_workers", "log_every_steps", "note")
# Keys of a suite's config that a single run ignores.
SUITE_KEYS = ("suite", "evaluation", "note")
METRICS = tuple(f"val_{kind}_accuracy" for kind in ("clean", "pgd", "ema_clean", "ema_pgd"))
# The values that keys of a config may have.
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
    """Raise InputError for a value that no run on `num_devices` devices can use."""
    attack, validation = config.attack, config.validation
    values = flatten_dict(config.to_dict(), sep=".")
    _checks.check_norm(attack.p, _checks.IMAGE_NORMS)
    _checks.check_seed("seed", config.seed)
    metrics = METRICS if config.ema_decay else METRICS[:2]
    for name, allowed in (CHOICES | {"best_metric": metrics}).items():
        _checks.check_choice(name, values[name], allowed)
    for name in POSITIVE:
        require(values[name] > 0, f"{name} = {values[name]}: it must be > 0")
    for name in NOT_NEGATIVE:
        _checks.check_nonnegative(name, values[name])
    for name in ("ema_decay", "momentum"):
        require(0 <= values[name] < 1, f"{name} = {values[name]}: it must be in [0, 1)")
    for name in ("background.noise_share", "background.mix_share"):
        require(0 <= values[name] <= 1, f"{name} = {values[name]}: it must be in [0, 1]")
    require(
        math.isfinite(validation.epsilon),
        f"validation.epsilon = {validation.epsilon}: give a budget, or -1 for that of training",
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
        "attack.loss = 'kl' and its gradient are 0 at the image: set attack.random_start",
    )
    require(
        attack.p != 1 or attack.method == "pgd",
        f"attack.method = {attack.method!r} is not for l1, whose steepest step moves one value: "
        "set attack.method = 'pgd'",
    )
    is_plain = attack.loss == "cross_entropy" and not config.trades_beta
    weights = tuple(attack.region_weights)
    are_numbers = len(weights) == 2 and all(isinstance(w, numbers.Real) for w in weights)
    require(
        are_numbers and all(0 <= w < math.inf for w in weights) and max(weights) > 0,
        f"attack.region_weights = {weights}: give two finite numbers >= 0, for the core and the "
        "rest, not both 0 (1 / epsilon allows every pixel value)",
    )
    require(
        attack.method != "free" or weights == UNIFORM,
        f"attack.method = 'free' has one budget for all pixels, no region_weights = {weights}",
    )
    require(
        attack.method != "free" or (is_plain and config.accumulation_steps == 1),
        "attack.method = 'free' takes its gradients in one pass: attack.loss must be "
        "'cross_entropy', trades_beta 0 and accumulation_steps 1",
    )
    if config.color_shift.rho:
        check_color_shift(**config.color_shift)
    for epsilon in {attack.epsilon, max(validation.epsilon, 0.0)}:
        _checks.check_epsilon(epsilon, attack.p)  # warns if it looks like 0-255 units


def describe_attack(p, epsilon, method="pgd", region_weights=UNIFORM, **_):
    """Return the threat model as text with its unit: "linf, epsilon = 8/255 = ..."."""
    if not epsilon:
        return "standard training (epsilon = 0)"
    size = f"{epsilon * 255:g}/255 = {epsilon:.5f}" if p == math.inf else f"{epsilon:g}"
    by = "" if method == "pgd" else f" by {method}"
    if tuple(region_weights) != UNIFORM:
        by += ", times {:g} on the core and {:g} on the rest".format(*region_weights)
    return f"{norm_name(p)}, epsilon = {size} in [0, 1] pixel units{by}"


@contextlib.contextmanager
def open_run(config, workdir, *, free=FREE_KEYS):
    """Make `workdir`, or check that it holds a run of the same config; write config.json.

    A context manager that holds the directory's lock and gives the `environment` in which the run
    started. `free` are top-level keys of the config, a dict, that may differ from before. Raises
    InputError with the differences, or if another process writes to the directory.
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
            started_in = before["environment"]
            a, b = (flatten_dict(tree, sep=".") for tree in (before["config"], new))
            changed = [
                f"{key}: {a.get(key, '(absent)')} there, {b.get(key, '(absent)')} now"
                for key in sorted({*a, *b})
                if a.get(key) != b.get(key) and key.split(".")[0] not in free
            ]
            require(
                not changed,
                f"{workdir} holds a run with a different config ({'; '.join(changed)}): choose "
                "another --workdir=DIR or restore the old config",
            )
        else:
            started_in = environment()
        write_json(path, {"config": new, "environment": started_in})
        yield started_in


def environment():
    """Return what a result depends on besides the config: versions, devices, git commit."""
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
    """Write a JSON file atomically."""
    write_whole(path, json.dumps(jsonable(value), indent=2) + "\n")


def jsonable(value):
    """Return `value` with infinities as the string "inf", since strict JSON has none."""
    if isinstance(value, dict):
        return {key: jsonable(v) for key, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [jsonable(v) for v in value]
    return "inf" if value == math.inf else value


@contextlib.contextmanager
def metrics_log(workdir, step):
    """Give a function (step, **numbers) that logs to metrics.jsonl and TensorBoard.

    Lines after `step`, from an earlier call, are removed.
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
    """Return the lines of metrics.jsonl as dicts, except a half-written last one."""
    path, lines = Path(workdir) / "metrics.jsonl", []
    for line in path.read_text().splitlines() if path.exists() else ():
        with contextlib.suppress(json.JSONDecodeError):
            lines.append(json.loads(line))
    return lines


def record_training(workdir, path):
    """Append a run's seconds and peak_memory_mb so far to a records.jsonl that lacks them."""
    last = {k: v for line in read_metrics(workdir) for k, v in line.items()}
    facts = {"benchmark": "training", **record_facts(directory_facts(workdir))}
    recorded = {r.identity for r in read_records(path)}
    for name in ("seconds", "peak_memory_mb"):
        new = Record(name, *[last[name]] * 3, 1, {"step": last["step"]}, **facts)
        if new.identity not in recorded:
            append_records(path, [new])

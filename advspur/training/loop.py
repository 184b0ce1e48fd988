"""train(config, workdir): the straight path from a config to a trained model on disk.

data source -> batches -> pmapped step with PGD inside -> checkpoints, metrics.jsonl, events.
A run that is called again goes on from its last checkpoint and ends with the same parameters,
bit for bit, as one that was never stopped (same machine, same number of devices).
"""

import contextlib
import math
import resource
import signal
import sys
import threading
import time
from pathlib import Path

import jax

from advspur._checks import require
from advspur._progress import Progress
from advspur.data import eval_batches, open_dataset, train_batches
from advspur.data.batches import shard
from advspur.models import build_network
from advspur.training.checkpoint import Checkpoints
from advspur.training.run_dir import (
    SUITE_KEYS,
    MetricsLog,
    check_config,
    describe_attack,
    open_run,
    write_json,
)
from advspur.training.state import count_steps, create_state, make_optimizer, make_schedule
from advspur.training.step import Attack, make_eval_step, make_train_step

AUTO_AUGMENTATION = {"imagenet2012": "imagenet", "cifar10": "cifar", "spurious_shapes": "none"}


class TrainingStopped(Exception):
    """The run was asked to stop (Ctrl-C, SIGTERM); it is saved and can go on."""


class TrainingDiverged(ArithmeticError):
    """A loss or gradient is not finite; the last good checkpoint is kept."""


def train(config, workdir, *, progress=None):
    """Train the model that `config` describes; return the final TrainState.

    Args:
      config: ConfigDict with the keys of configs/default.py.
      workdir: run directory; made, or gone on with if it holds this config.
      progress: a `Progress` to advance by 1 a step; None: one of its own on stderr.
    Raises:
      InputError: a value that cannot be used, missing data, a workdir of another config.
      TrainingDiverged: loss or gradient not finite.
      TrainingStopped: after SIGINT or SIGTERM; saved.
    """
    check_config(config)
    workdir = Path(workdir)
    dataset = open_dataset(config.dataset, data_dir=config.data_dir, shapes=config.shapes)
    num_train = len(dataset.train)
    num_steps = count_steps(config, num_train)
    require(num_steps > 0, "the run has no step: raise num_epochs or num_steps")
    open_run({k: v for k, v in config.to_dict().items() if k not in SUITE_KEYS}, workdir)
    write_json(workdir / "model.json", _model_facts(config, dataset))

    network = build_network(config.arch, dataset.num_classes, stem=config.stem, dtype=config.dtype)
    schedule = make_schedule(config, num_train)
    optimizer = make_optimizer(config, schedule)
    state = create_state(
        network,
        optimizer,
        image_size=dataset.image_size,
        seed=config.seed,
        ema_decay=config.ema_decay,
    )
    checkpoints = Checkpoints(
        workdir / "checkpoints", keep_last=config.keep_last, best_metric=config.best_metric
    )
    with contextlib.ExitStack() as stack:
        stack.callback(checkpoints.close)
        if progress is None:
            progress = stack.enter_context(
                Progress(num_steps, f"train {workdir.name}", unit="step")
            )
        state, seconds = checkpoints.restore(state, report=progress.line) or (state, 0.0)
        start = int(state.step)
        progress.skip(start)
        if start >= num_steps:
            return state
        progress.line(
            f"{workdir}: {config.arch} on {config.dataset}, "
            f"{describe_attack(config.attack.p, config.attack.epsilon)}, "
            + (f"going on at step {start} of {num_steps}" if start else f"{num_steps} steps")
        )
        log = MetricsLog(workdir, start)
        stack.callback(log.close)
        asked_to_stop = stack.enter_context(_signals())
        facts = {"mean": dataset.mean, "std": dataset.std}
        train_step = make_train_step(
            network,
            optimizer,
            attack=_train_attack(config),
            label_smoothing=config.label_smoothing,
            ema_decay=config.ema_decay,
            **facts,
        )
        validate = _make_validate(config, dataset, network, facts)
        batches = _train_batches(config, dataset, start)
        clock = time.monotonic() - seconds
        metrics, values, results = None, {}, {}

        for step in range(start + 1, num_steps + 1):
            batch = shard(next(batches), jax.local_device_count())
            if metrics is not None:  # one step late, so that the device is never waited for
                _check_finite(metrics, step - 1, workdir)
            state, metrics = train_step(state, batch, config.attack.epsilon)
            stop, is_last = bool(asked_to_stop), step == num_steps
            due = {
                "log": step % config.log_every_steps == 0 or is_last or stop,
                "validate": step % config.validation.every_steps == 0 or is_last,
                "save": step % config.checkpoint_every_steps == 0 or is_last or stop,
            }
            due["save"] |= due["validate"]  # the best can only be kept if it is saved
            if any(due.values()):
                _check_finite(metrics, step, workdir)
            seconds = time.monotonic() - clock
            if due["log"]:
                values = {name: float(value) for name, value in metrics.items()}
                log.write(
                    step,
                    learning_rate=float(schedule(step - 1)),
                    **values,
                    seconds=round(seconds, 3),
                    peak_memory_mb=round(peak_memory_mb()),
                )
            if due["validate"]:
                results = validate(state)
                seconds = time.monotonic() - clock
                log.write(step, **results, seconds=round(seconds, 3))
            if due["save"]:
                scores = results if due["validate"] else {}
                checkpoints.save(state, seconds=seconds, metrics=scores)
            progress.advance(1, _note(values, results))
            if stop or (asked_to_stop and is_last):
                raise TrainingStopped(
                    f"stopped and saved at step {step} of {num_steps} in {workdir}; the same "
                    "command goes on from there"
                )
        return state


def peak_memory_mb():
    """Peak memory so far: of the accelerator where it tells, else of this process."""
    stats = jax.local_devices()[0].memory_stats() or {}
    if "peak_bytes_in_use" in stats:
        return stats["peak_bytes_in_use"] / 2**20
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 2**20


def _model_facts(config, dataset):
    """What `models.load` rebuilds the classifier from, and what its records say of it."""
    shapes = config.shapes.to_dict() if config.dataset == "spurious_shapes" else {}
    return {
        "arch": config.arch,
        "stem": config.stem,
        "dtype": config.dtype,
        "num_classes": dataset.num_classes,
        "image_size": dataset.image_size,
        "mean": dataset.mean,
        "std": dataset.std,
        "dataset": config.dataset,
        "shapes": {k: v for k, v in shapes.items() if k not in ("num_train", "num_validation")},
        "train_p": config.attack.p,
        "train_epsilon": config.attack.epsilon,
        "seed": config.seed,
        "best_metric": config.best_metric,
    }


def _train_attack(config):
    if config.attack.epsilon == 0:
        return None
    return Attack(
        p=config.attack.p,
        num_steps=config.attack.num_steps,
        relative_step_size=config.attack.relative_step_size,
        random_start=config.attack.random_start,
        loss=config.attack.loss,
    )


def _train_batches(config, dataset, start):
    augmentation = config.augmentation
    if augmentation == "auto":
        augmentation = AUTO_AUGMENTATION[config.dataset]
    return train_batches(
        dataset.train,
        batch_size=config.batch_size // jax.process_count(),
        image_size=dataset.image_size,
        augmentation=augmentation,
        seed=config.seed,
        start_step=start,
        num_workers=config.num_workers,
    )


def _make_validate(config, dataset, network, facts):
    """A function of the state: clean and PGD accuracy of the raw and the averaged weights."""
    options = config.validation
    epsilon = config.attack.epsilon if options.epsilon < 0 else options.epsilon
    attack = Attack(config.attack.p, options.num_steps, 2.5 / options.num_steps)
    eval_step = make_eval_step(network, attack=attack if epsilon else None, **facts)

    def count(variables):
        total = {"clean": 0, "pgd": 0, "valid": 0}
        for batch in eval_batches(
            dataset.validation,
            batch_size=config.batch_size // jax.process_count(),
            image_size=dataset.image_size,
            limit=options.num_examples or None,
        ):
            counts = eval_step(variables, shard(batch, jax.local_device_count()), epsilon)
            total = {name: total[name] + int(counts[name]) for name in total}
        return total["clean"] / total["valid"], total["pgd"] / total["valid"]

    def validate(state):
        clean, robust = count(state.variables)
        results = {"val_clean_accuracy": clean, "val_pgd_accuracy": robust}
        if state.ema:
            clean, robust = count(state.ema)
            results |= {"val_ema_clean_accuracy": clean, "val_ema_pgd_accuracy": robust}
        return results

    return validate


def _check_finite(metrics, step, workdir):
    bad = {name: float(value) for name, value in metrics.items() if not math.isfinite(value)}
    if bad:
        raise TrainingDiverged(
            f"step {step}: {', '.join(f'{name} = {value}' for name, value in bad.items())}; "
            f"stopped, and the last good checkpoint in {workdir}/checkpoints is kept. Lower "
            "learning_rate or set gradient_clip, in a new workdir"
        )


def _note(values, results):
    """Accuracy on the batch trained on, then natural and adversarial accuracy at validation."""
    parts = ["batch {accuracy:.1%}".format(**values)] if values else []
    if results:
        parts.append("val clean {val_clean_accuracy:.1%}, pgd {val_pgd_accuracy:.1%}")
    return ", ".join(parts).format(**results)


@contextlib.contextmanager
def _signals():
    """A list that SIGINT and SIGTERM append to; a second one acts as it would without us."""
    asked = []
    if threading.current_thread() is not threading.main_thread():
        yield asked
        return
    old = {s: signal.getsignal(s) for s in (signal.SIGINT, signal.SIGTERM)}

    def on_signal(number, _frame):
        asked.append(number)
        for s, handler in old.items():
            signal.signal(s, handler)

    for s in old:
        signal.signal(s, on_signal)
    try:
        yield asked
    finally:
        for s, handler in old.items():
            signal.signal(s, handler)

"""train(config, workdir): the straight path from a config to a trained model on disk.

data source -> batches on the devices -> pmapped step with PGD inside -> checkpoints, metrics.jsonl,
events. A run that is called again goes on from its last checkpoint and ends with the same
parameters, bit for bit, as one that was never stopped (same machine, same number of devices).
"""

import contextlib
import signal
import threading
from pathlib import Path
from typing import NamedTuple

import jax
from flax.jax_utils import prefetch_to_device

from advspur._devices import gather, replicate, talking_stream, together
from advspur._progress import Progress
from advspur.data.batches import shard
from advspur.training.parts import (
    accuracies,
    build,
    first_state,
    open_training_data,
    step_options,
    train_attack,
    training_stream,
    validation_attack,
    validation_batches,
)
from advspur.training.run import Run, TrainingDiverged, peak_memory_mb
from advspur.training.run_dir import check_config
from advspur.training.state import count_steps, make_schedule
from advspur.training.step import make_eval_step, make_train_step


class TrainingStopped(Exception):
    """The run was asked to stop (Ctrl-C, SIGTERM); it is saved and can go on."""


class Program(NamedTuple):
    """What is compiled for runs that are trained together; `fit` is the same for one and for many.

    Each gives a list of what it gives of every run.
    """

    step: object  # (state, batch) -> (state, metrics)
    validate: object  # state -> [dict of accuracies]
    members: object  # a tree of the devices -> [the part of each run on the host]


def train(config, workdir, *, progress=None):
    """Train the model that `config` describes; return the final TrainState.

    Args:
      config: ConfigDict with the keys of configs/default.py.
      workdir: run directory; made, or gone on with if it holds this config.
      progress: a `Progress` to advance by 1 a step; None: one of its own on stderr.
    Raises:
      InputError: a value that cannot be used, missing data, a workdir of another config or in use.
      TrainingDiverged: loss or gradient not finite.
      TrainingStopped: after SIGINT or SIGTERM; saved.
    """
    with together():
        check_config(config, num_devices=jax.device_count())
        dataset = open_training_data(config)
    num_steps = count_steps(config, len(dataset.train))
    with contextlib.ExitStack() as stack:
        if progress is None:
            title = f"train {Path(workdir).name}"
            progress = Progress(num_steps, title, unit="step", stream=talking_stream())
            stack.enter_context(progress)
        run = stack.enter_context(Run(config, workdir, dataset))
        network, optimizer = build(config, dataset)
        state = first_state(config, dataset, network, optimizer)
        state = run.restore(state, report=progress.line)
        start = int(state.step)
        progress.skip(start)
        if start >= num_steps or run.is_stale:
            return state
        run.begin(start, num_steps, progress, devices=jax.device_count())
        attack, epsilon = train_attack(config)
        facts = {"mean": dataset.mean, "std": dataset.std}
        train_step = make_train_step(
            network, optimizer, attack=attack, **step_options(config), **facts
        )
        program = Program(
            step=lambda state, batch: train_step(state, batch, epsilon),
            validate=_make_validate(config, dataset, network, facts),
            members=lambda tree: [jax.device_get(tree)],
        )
        devices = jax.local_devices()
        batches = (shard(batch, len(devices)) for batch in training_stream(run, start))
        batches = prefetch_to_device(batches, 2, devices=devices, axis_name="batch")
        return fit([run], program, replicate(state), batches, (start, num_steps), progress.line)


def fit(runs, program, state, batches, steps, line):
    """The steps from the first to the second of `steps` of runs that are trained together.

    A run that diverges is left where it was last saved, and one that early stopping ends where it
    is then; the others continue.

    Returns: the state on the devices.
    """
    start, num_steps = steps
    config = runs[0].config
    schedule = make_schedule(config, len(runs[0].dataset.train))
    unchecked = None
    with _signals() as asked:
        for step in range(start + 1, num_steps + 1):
            # Step. Metrics are checked one step late: the devices never wait for the host.
            state, metrics = program.step(state, next(batches))
            if unchecked is not None:
                _check(runs, program.members(unchecked), step - 1, line)
            unchecked, is_last = metrics, step == num_steps
            is_log_due = step % config.log_every_steps == 0 or is_last
            stop = _agreed(asked, is_log_due)
            to_log = is_log_due or stop
            to_validate = step % config.validation.every_steps == 0 or is_last
            # The best can only be kept if it is saved.
            to_save = step % config.checkpoint_every_steps == 0 or stop or to_validate

            # Check and log.
            if to_log or to_save:
                values, unchecked = program.members(metrics), None
                _check(runs, values, step, line)
            if to_log:
                rate, memory = float(schedule(step - 1)), round(peak_memory_mb())
                for run, own in _going(runs, values):
                    run.values = {name: float(value) for name, value in own.items()}
                    run.log(step, learning_rate=rate, **run.values, peak_memory_mb=memory)

            # Validate.
            if to_validate:
                results = program.validate(state)
                _check(runs, results, step, line)
                for run, own in _going(runs, results):
                    run.validated(step, own)

            # Save, then see whether to stop.
            if to_save:
                for run, own in _going(runs, program.members(state)):
                    scores = run.results if to_validate else {}
                    run.checkpoints.save(own, seconds=run.seconds, metrics=scores)
            for run, _ in _going(runs, runs):
                run.advance(step)
                if to_validate and run.is_stale:
                    run.end()
                    line(
                        f"{run.workdir} ends at step {step}: {run.config.best_metric} was not "
                        f"better in {run.config.early_stopping} validations"
                    )
            if stop or all(run.has_ended for run in runs):
                break
    for run in runs:
        run.checkpoints.wait()
    if stop:
        saved = ", ".join(str(run.workdir) for run in runs if run.fault is None)
        raise TrainingStopped(
            f"stopped and saved at step {step} of {num_steps} in {saved}; the same command goes "
            "on from there"
        )
    return state


def _check(runs, metrics, step, line):
    """End the runs whose metrics are not finite; raise where no other goes on."""
    for run, own in _going(runs, metrics):
        try:
            run.check(step, own)
        except TrainingDiverged as error:
            if all(other.has_ended for other in runs if other is not run):
                run.fault = error
                raise
            run.end(error)
            line(f"{run.workdir}: {error}; the models trained with it go on")


def _going(runs, values):
    """(run, its value) of the runs that have not ended before the others."""
    return [(run, v) for run, v in zip(runs, values, strict=True) if not run.has_ended]


def _agreed(asked, is_due):
    """Whether to stop: of several processes, if any was asked to, and where all can agree on it."""
    if jax.process_count() == 1:
        return bool(asked)
    return is_due and any(gather(bool(asked)))


def _make_validate(config, dataset, network, facts):
    """A function of the state: clean and PGD accuracy of the raw and the averaged weights."""
    attack, epsilon = validation_attack(config)
    eval_step = make_eval_step(network, attack=attack, **facts)

    def count(variables):
        total = dict.fromkeys(("clean", "pgd", "finite", "valid"), 0)
        for batch in validation_batches(config, dataset):
            counts = eval_step(variables, shard(batch, jax.local_device_count()), epsilon)
            total = {name: total[name] + int(counts[name]) for name in total}
        return total

    def validate(state):
        results = accuracies(count(state.variables))
        return [results | (accuracies(count(state.ema), "val_ema") if state.ema else {})]

    return validate


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

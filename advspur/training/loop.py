"""train(config, workdir): the straight path from a config to a trained model on disk.

A run that is called again resumes from its last checkpoint and ends with the same parameters, bit
for bit, as one that was never stopped (same machine, same number of devices).
"""

import collections
import contextlib
import itertools
import signal
import threading
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import jax
import numpy as np

from advspur._devices import gather, log_stream, replicate, split_batch, together
from advspur._progress import Progress
from advspur.data.batches import shard
from advspur.training.parts import (
    accuracies,
    build,
    first_state,
    step_options,
    train_attack,
    training_batches,
    training_data,
    validation_attack,
    validation_batches,
)
from advspur.training.run import Run, TrainingDiverged, peak_memory_mb
from advspur.training.run_dir import check_config
from advspur.training.state import count_steps, make_schedule
from advspur.training.step import make_eval_step, make_train_step


class TrainingStopped(Exception):
    """The run was asked to stop (Ctrl-C, SIGTERM); it is saved and can be resumed."""


class Program(NamedTuple):
    """What is compiled for runs that are trained together; `fit` is the same for all."""

    step: Callable  # (state, batch) -> (state, metrics), all on the devices
    evaluate: Callable  # (variables, batch) -> the counts of `eval_step`
    place: Callable  # [a batch of each run] -> a batch on the devices
    fetch: Callable  # a tree on the devices -> [the tree of each run, on the host]


def train(config, workdir):
    """Train the model that `config` describes; return the final TrainState.

    Args:
      config: ConfigDict with the keys of configs/default.py.
      workdir: run directory; created, or resumed if it holds this config.
    Raises:
      InputError: a value that cannot be used, missing data, a workdir of another config or in use.
      TrainingDiverged: loss or gradient not finite.
      TrainingStopped: after SIGINT or SIGTERM; saved.
    """
    with together():
        check_config(config, num_devices=jax.device_count())
        dataset = training_data(config)
    num_steps, title = count_steps(config, len(dataset.train)), f"train {Path(workdir).name}"
    with (
        Progress(num_steps, title, unit="step", stream=log_stream()) as progress,
        Run(config, workdir, dataset, progress) as run,
    ):
        network, optimizer = build(config, dataset)
        state = run.restore(first_state(config, dataset, network, optimizer))
        progress.skip(run.start)
        if run.is_trained:
            return state
        run.begin(devices=jax.device_count())
        attack, budget = train_attack(config)
        eval_attack, eval_budget = validation_attack(config)
        facts = {"mean": dataset.mean, "std": dataset.std}
        train_step = make_train_step(
            network, optimizer, attack=attack, **step_options(config), **facts
        )
        eval_step = make_eval_step(network, attack=eval_attack, **facts)
        program = Program(
            step=lambda state, batch: train_step(state, batch, budget),
            evaluate=lambda variables, batch: eval_step(variables, batch, eval_budget),
            place=lambda batches: split_batch(shard(batches[0], jax.local_device_count())),
            fetch=lambda tree: [jax.device_get(tree)],
        )
        return fit([run], program, replicate(state))


def fit(runs, program, state):
    """Train runs that resume at the same step to their end; return the state on the devices.

    A run that diverges is left where it was last saved, and one that early stopping ends where it
    is then; the others continue.
    """
    config, start, num_steps = runs[0].config, runs[0].start, runs[0].num_steps
    schedule = make_schedule(config, len(runs[0].dataset.train))
    streams = _of_each(runs, training_batches, kind=_stream_of)
    batches = _ahead(map(program.place, streams))
    unchecked = []  # metrics are checked one step late: the devices never wait for the host
    with _signals() as asked:
        for step in range(start + 1, num_steps + 1):
            state, metrics = program.step(state, next(batches))
            is_last = step == num_steps
            is_log_due = step % config.log_every_steps == 0 or is_last
            stop = _agreed(asked, is_log_due)
            to_log = is_log_due or stop
            to_validate = step % config.validation.every_steps == 0 or is_last
            # The best can only be kept if it is saved.
            to_save = step % config.checkpoint_every_steps == 0 or stop or to_validate

            unchecked.append((step, metrics))
            while len(unchecked) > (0 if to_log or to_save else 1):
                number, metrics = unchecked.pop(0)
                values = program.fetch(metrics)
                _check(runs, values, number)
            if to_log:
                rate, memory = float(schedule(step - 1)), round(peak_memory_mb())
                for run, own in _active(runs, values):
                    run.values = {name: float(value) for name, value in own.items()}
                    run.log(step, learning_rate=rate, **run.values, peak_memory_mb=memory)
            if to_validate:
                results = _validate(runs, program, state)
                _check(runs, results, step)
                for run, own in _active(runs, results):
                    run.validated(step, own)
            if to_save:
                for run, own in _active(runs, program.fetch(state)):
                    scores = run.results if to_validate else {}
                    run.checkpoints.save(own, seconds=run.seconds, metrics=scores)
            for run, _ in _active(runs, runs):
                run.advance(step)
            if stop or all(run.has_ended for run in runs):
                break
    for run in runs:
        run.checkpoints.wait()
    if stop:
        saved = ", ".join(str(run.workdir) for run in runs if run.fault is None)
        raise TrainingStopped(
            f"stopped and saved at step {step} of {num_steps} in {saved}; run the same command "
            "to resume"
        )
    return state


def _check(runs, metrics, step):
    """End the runs whose metrics are not finite; raise if no other continues."""
    for run, own in _active(runs, metrics):
        try:
            run.check(step, own)
        except TrainingDiverged as error:
            run.end(error)
            if all(run.has_ended for run in runs):
                raise
            run.progress.line(f"{run.workdir}: {error}; the models trained with it continue")


def _active(runs, values):
    """(run, its value) of the runs that have not ended before the others."""
    return [(run, v) for run, v in zip(runs, values, strict=True) if not run.has_ended]


def _validate(runs, program, state):
    """[clean and PGD accuracy of each run]: of the raw weights and of the averaged ones."""

    def count(variables):
        total = 0
        streams = _of_each(runs, validation_batches, kind=lambda run: id(run.dataset))
        for batches in streams:
            counts = program.fetch(program.evaluate(variables, program.place(batches)))
            total = jax.tree.map(np.add, total, counts) if total else counts
        return total

    results = list(map(accuracies, count(state.variables)))
    if state.ema:
        averaged = [accuracies(counts, "val_ema") for counts in count(state.ema)]
        results = [raw | ema for raw, ema in zip(results, averaged, strict=True)]
    return results


def _of_each(runs, iterate, *, kind):
    """Lists of an item of each run, from one iterator for all runs of a kind."""
    iterators = {key: iterate(run) for key, run in {kind(run): run for run in runs}.items()}
    for items in zip(*iterators.values(), strict=True):
        item = dict(zip(iterators, items, strict=True))
        yield [item[kind(run)] for run in runs]


def _stream_of(run):
    """What the training batches of a run depend on; runs where it is equal share them."""
    return id(run.dataset), run.config.seed, *run.config.background.values()


def _ahead(iterator):
    """The items, two of them started before they are asked for."""
    ready = collections.deque(itertools.islice(iterator, 2))
    while ready:
        yield ready.popleft()
        ready.extend(itertools.islice(iterator, 1))


def _agreed(asked, is_due):
    """Whether to stop: of several processes, if any was asked to, and where all can agree on it."""
    if jax.process_count() == 1:
        return bool(asked)
    return is_due and any(gather(bool(asked)))


@contextlib.contextmanager
def _signals():
    """A list that SIGINT and SIGTERM append to; a second one acts as it would without us."""
    asked = []
    if threading.current_thread() is not threading.main_thread():
        yield asked
        return
    old = {s: signal.getsignal(s) for s in (signal.SIGINT, signal.SIGTERM)}

    def restore():
        for s, handler in old.items():
            signal.signal(s, handler)

    def on_signal(number, _frame):
        asked.append(number)
        restore()

    for s in old:
        signal.signal(s, on_signal)
    try:
        yield asked
    finally:
        restore()

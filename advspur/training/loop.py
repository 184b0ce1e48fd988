"""train(config, workdir): from a config to a trained model on disk.

A run that is stopped and started again resumes from its last checkpoint and ends with the same
parameters, bit for bit, as one that was never stopped (same machine, same number of devices).
"""

import collections
import contextlib
import itertools
import signal
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import jax

from advspur._devices import gather, log_stream, replicate, split_batch, together
from advspur._progress import Progress
from advspur.data.batches import shard
from advspur.training import parts
from advspur.training.run import Run
from advspur.training.run_dir import check_config
from advspur.training.state import count_steps
from advspur.training.step import make_eval_step, make_train_step


class TrainingStopped(Exception):
    """The run was asked to stop (Ctrl-C, SIGTERM); it is saved and can be resumed."""


class Program(NamedTuple):
    """The compiled steps of `fit` and the batches on the devices."""

    step: Callable  # (state, batch) -> (state, metrics)
    evaluate: Callable  # (variables, batch) -> the counts of `eval_step`
    batches: Iterator  # from the run's first step on
    validation_batches: Callable  # () -> the batches of one validation
    fetch: Callable  # a tree on the devices -> on the host, as the run's methods take it


def train(config, workdir):
    """Train the model that `config` describes; return the final TrainState.

    Args:
      config: ConfigDict with the keys of configs/default.py.
      workdir: run directory; created, or resumed if it holds this config.
    Raises:
      InputError: a value that cannot be used, missing data, a workdir in use or with a different
        config.
      TrainingDiverged: loss or gradient not finite.
      TrainingStopped: after SIGINT or SIGTERM; saved.
    """
    with together():
        check_config(config, num_devices=jax.device_count())
        dataset = parts.training_data(config)
    num_steps, title = count_steps(config, len(dataset.train)), f"train {Path(workdir).name}"
    with (
        Progress(num_steps, title, unit="step", stream=log_stream()) as progress,
        Run(config, workdir, dataset, progress) as run,
    ):
        network, optimizer = parts.build(config, dataset)
        state = run.restore(parts.first_state(config, dataset, network, optimizer))
        progress.skip(run.start)
        if run.is_trained:
            return state
        run.begin(devices=jax.device_count())
        attack, budget = parts.train_attack(config)
        eval_attack, eval_budget = parts.validation_attack(config)
        normalization = {"mean": dataset.mean, "std": dataset.std}
        options = parts.step_options(config) | normalization
        train_step = make_train_step(network, optimizer, attack=attack, **options)
        eval_step = make_eval_step(network, attack=eval_attack, **normalization)

        def place(batch):
            return split_batch(shard(batch, jax.local_device_count()))

        program = Program(
            step=lambda state, batch: train_step(state, batch, budget),
            evaluate=lambda variables, batch: eval_step(variables, batch, eval_budget),
            batches=map(place, parts.training_batches(run)),
            validation_batches=lambda: map(place, parts.validation_batches(run)),
            fetch=jax.device_get,
        )
        return fit(run, program, replicate(state))


def fit(run, program, state):
    """Train a `Run` to its last step or its early end; return the state on the devices."""
    config = run.config
    batches = _prefetch(program.batches)
    metrics = {}
    with _stop_signals() as signals:
        for step in range(run.start + 1, run.num_steps + 1):
            previous = metrics
            state, metrics = program.step(state, next(batches))
            is_last = step == run.num_steps
            to_log = is_last or step % config.log_every_steps == 0
            stop = _agree_to_stop(signals, to_log)
            to_validate = is_last or step % config.validation.every_steps == 0
            # The best can only be kept if it is saved.
            to_save = stop or to_validate or step % config.checkpoint_every_steps == 0

            # One step late, so that the devices wait for the host only if something is due.
            run.check(program.fetch(previous), step - 1)
            if to_log or to_save:
                values = program.fetch(metrics)
                run.check(values, step)
            if to_log or stop:
                run.log_step(values, step)
            if to_validate:
                run.validated(_validate(program, state), step)
            if to_save:
                run.save(program.fetch(state), to_validate)
            run.advance(step)
            if stop or run.has_ended:
                break
    if stop and not run.has_ended:
        raise TrainingStopped(
            f"stopped and saved at step {step} of {run.num_steps} in {run.workdir}; run the same "
            "command to resume"
        )
    return state


def _validate(program, state):
    """Clean and PGD accuracy of the raw weights and, if there are any, of the averaged ones."""
    results = {}
    for prefix, variables in (("val", state.variables), ("val_ema", state.ema)):
        if variables:
            batches = program.validation_batches()
            counts = [jax.device_get(program.evaluate(variables, batch)) for batch in batches]
            totals = {name: sum(batch[name] for batch in counts) for name in counts[0]}
            results |= parts.accuracies(totals, prefix)
    return program.fetch(results)


def _prefetch(iterator):
    """Yield the items, two of them fetched ahead."""
    ready = collections.deque(itertools.islice(iterator, 2))
    while ready:
        yield ready.popleft()
        ready.extend(itertools.islice(iterator, 1))


def _agree_to_stop(signals, is_due):
    """Whether to stop; several processes agree on it at the steps that `is_due` marks."""
    if jax.process_count() == 1:
        return bool(signals)
    return is_due and any(gather(bool(signals)))


@contextlib.contextmanager
def _stop_signals():
    """A list that SIGINT and SIGTERM append to; a second one acts as it would without us."""
    signals = []
    if threading.current_thread() is not threading.main_thread():
        yield signals
        return
    old = {s: signal.getsignal(s) for s in (signal.SIGINT, signal.SIGTERM)}

    def restore():
        for s, handler in old.items():
            signal.signal(s, handler)

    def on_signal(number, _frame):
        signals.append(number)
        restore()

    for s in old:
        signal.signal(s, on_signal)
    try:
        yield signals
    finally:
        restore()

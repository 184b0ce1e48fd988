"""One run while its model is trained: its directory, checkpoints, log, clock and last results."""

import contextlib
import math
import resource
import sys
from pathlib import Path
from typing import NamedTuple

import jax
import numpy as np

from advspur._devices import gather, is_first_process, together
from advspur.training.checkpoint import Checkpoints
from advspur.training.run_dir import (
    FALLBACK_FILE,
    SUITE_KEYS,
    MetricsLog,
    describe_attack,
    open_run,
    read_fallback,
    read_metrics,
    write_json,
)


class TrainingDiverged(ArithmeticError):
    """A loss or gradient is not finite; the last good checkpoint is kept."""


class PutBack(NamedTuple):
    """The run fitted its weights to its own attack and no other, and was put back to its best
    checkpoint: opened again, it goes on with PGD-2."""

    reason: str


class Run:
    """The run of `config` in `workdir`; a context manager that holds the directory's lock.

    Of several processes the first one writes; all save, as orbax wants it.

    Raises: InputError where the directory holds a run of another config, or is being written to.
    """

    def __init__(self, config, workdir, dataset):
        self.config, self.workdir, self.dataset = config, Path(workdir), dataset
        self.seconds, self.values, self.results = 0.0, {}, {}
        self._scores = []  # best_metric at every validation so far
        self.has_ended = False  # before the last step, while others go on
        self.fault = None  # the TrainingDiverged or PutBack that ended it
        self.fallback = None  # what `read_fallback` gives
        self._log, self._begun_on = None, None
        self._progress, self._done, self._num_steps = None, 0, 0
        with contextlib.ExitStack() as stack:
            with together():
                if is_first_process():
                    facts = {k: v for k, v in config.to_dict().items() if k not in SUITE_KEYS}
                    about = stack.enter_context(open_run(facts, self.workdir))
                    self._begun_on = (about or {}).get("devices")
                    write_json(self.workdir / "model.json", _model_facts(config, dataset))
                    self.fallback = read_fallback(self.workdir)
            self.fallback = gather(self.fallback)[0]
            self.checkpoints = Checkpoints(
                self.workdir / "checkpoints",
                keep_last=config.keep_last,
                best_metric=config.best_metric,
            )
            stack.callback(self.checkpoints.close)
            self._stack = stack.pop_all()

    def restore(self, state, *, report):
        """`state`, or that of the latest checkpoint if there is one."""
        found = self.checkpoints.restore(state, report=report)
        state, self.seconds = found or (state, 0.0)
        if self.fallback is not None and int(state.step) == self.fallback["step"]:
            self.seconds += self.fallback["seconds"]  # what was trained and thrown away
        lines = read_metrics(self.workdir) if is_first_process() else []
        name = self.config.best_metric
        scores = [x[name] for x in lines if name in x and x["step"] <= int(state.step)]
        self._scores = gather(scores)[0]
        return state

    def begin(self, start, num_steps, progress, *, devices=None):
        """Open the log and say what is about to be done.

        Args:
          progress: a `Progress` to advance by 1 a step.
          devices: how many the batches are split over, where that matters.
        """
        config, report = self.config, progress.line
        self._progress, self._done, self._num_steps = progress, start, num_steps
        if is_first_process():
            self._log = MetricsLog(self.workdir, start)
            self._stack.callback(self._log.close)
        report(
            f"{self.workdir}: {config.arch} on {config.dataset}, "
            f"{describe_attack(**config.attack)}, "
            + (f"going on at step {start} of {num_steps}" if start else f"{num_steps} steps")
        )
        if self.fallback is not None:
            report(f"{self.workdir} is trained with PGD-2 now: {self.fallback['reason']}")
        before = len(self._begun_on or ())
        if start and devices and before not in (0, devices):
            report(
                f"{self.workdir} was begun on {before} devices and goes on on {devices}: the same "
                "batches and attacks, but sums in another order, so the weights will not be the "
                "same to the last bit"
            )

    @property
    def is_stale(self):
        """Whether so many validations as `early_stopping` says have not been better."""
        patience, scores = self.config.early_stopping, self._scores
        return bool(patience) and len(scores) - 1 - int(np.argmax(scores or [0])) >= patience

    def validated(self, step, results):
        """Keep and log the results of a validation.

        Where PGD accuracy fell by more than overfitting_guard the run is put back, and ends.
        """
        self.results = results
        self._scores.append(results[self.config.best_metric])
        self.log(step, **results)
        best, found, most = max(self._scores), self._scores[-1], self.config.overfitting_guard
        is_watched = most and self.config.attack.epsilon and self.fallback is None
        if not is_watched or best - found <= most:
            return
        back, seconds = self.checkpoints.back_to_best(report=self._progress.line)
        reason = (
            f"at step {step}, {self.config.best_metric} fell from {best:.4f} to {found:.4f}; "
            f"put back to step {back}"
        )
        # Last: a run killed before goes on from there as it was, and is found out once more.
        with together():
            if is_first_process():
                lost = round(self.seconds - seconds, 3)
                about = {"step": back, "seconds": lost, "reason": reason}
                write_json(self.workdir / FALLBACK_FILE, about)
        self.end(PutBack(reason), skip_to=0)

    def check(self, step, metrics):
        """Raise TrainingDiverged where a number is not finite."""
        bad = {name: float(v) for name, v in metrics.items() if not math.isfinite(v)}
        if bad:
            raise TrainingDiverged(
                f"step {step}: {', '.join(f'{name} = {value}' for name, value in bad.items())}; "
                f"stopped, and the last good checkpoint in {self.workdir}/checkpoints is kept. "
                "Lower learning_rate or set gradient_clip, in a new workdir"
            )

    def log(self, step, **values):
        """One line of metrics.jsonl, with the seconds spent so far."""
        if self._log is not None:
            self._log.write(step, **values, seconds=round(self.seconds, 3))

    def advance(self, step):
        """The step is done."""
        self._progress.advance(1, self._note())
        self._done = step

    def end(self, fault=None, *, skip_to=None):
        """The run ends before others that are trained with it.

        Args:
          skip_to: the step that its progress then shows; None: the last one.
        """
        self.fault, self.has_ended = fault, True
        self._progress.skip((self._num_steps if skip_to is None else skip_to) - self._done)

    def _note(self):
        """Accuracy on the batch trained on, then clean and PGD accuracy at validation."""
        parts = ["batch {accuracy:.1%}".format(**self.values)] if self.values else []
        if self.results:
            parts.append("val clean {val_clean_accuracy:.1%}, pgd {val_pgd_accuracy:.1%}")
        return ", ".join(parts).format(**self.results)

    def __enter__(self):
        return self

    def __exit__(self, *exc):
        self._stack.close()


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
        "color_shift": config.color_shift.to_dict() if config.color_shift.rho else {},
        "train_p": config.attack.p,
        "train_epsilon": config.attack.epsilon,
        "seed": config.seed,
        "best_metric": config.best_metric,
    }

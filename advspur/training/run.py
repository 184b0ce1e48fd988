"""One run while its model is trained: its directory, checkpoints, log, clock and last results."""

import contextlib
import math
import resource
import sys
import time
from pathlib import Path

import jax
import numpy as np

from advspur._devices import gather, is_first_process, together
from advspur.training.attack import FGSM_METHODS
from advspur.training.checkpoint import Checkpoints
from advspur.training.run_dir import (
    SUITE_KEYS,
    MetricsLog,
    describe_attack,
    open_run,
    read_metrics,
    write_json,
)

COLLAPSE = 0.2  # drop of PGD accuracy that Wong et al. (ICLR 2020, arXiv 2001.03994) stop at


class TrainingDiverged(ArithmeticError):
    """A loss or gradient is not finite; the last good checkpoint is kept."""


class Run:
    """The run of `config` in `workdir`; a context manager that holds the directory's lock.

    Of several processes the first one writes; all save, as orbax wants it.

    Raises: InputError where the directory holds a run of another config, or is being written to.
    """

    def __init__(self, config, workdir, dataset):
        self.config, self.workdir, self.dataset = config, Path(workdir), dataset
        self.values, self.results = {}, {}
        self._validations = []  # the results of every validation so far
        self._may_collapse = _has_one_step(config)  # False once the user was warned
        self.has_ended = False  # before the last step, while others go on
        self.fault = None  # the TrainingDiverged that ended it
        self._clock, self._seconds_before = time.monotonic(), 0.0
        self._log, self._begun_on = None, None
        self._progress, self._done, self._num_steps = None, 0, 0
        with contextlib.ExitStack() as stack:
            with together():
                if is_first_process():
                    facts = {k: v for k, v in config.to_dict().items() if k not in SUITE_KEYS}
                    about = stack.enter_context(open_run(facts, self.workdir))
                    self._begun_on = (about or {}).get("devices")
                    write_json(self.workdir / "model.json", _model_facts(config, dataset))
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
        state, self._seconds_before = found or (state, 0.0)
        lines = read_metrics(self.workdir) if is_first_process() else []
        name, step = self.config.best_metric, int(state.step)
        self._validations = gather([x for x in lines if name in x and x["step"] <= step])[0]
        return state

    def begin(self, start, num_steps, progress, *, devices=None):
        """Open the log, start the clock and report what is about to be done.

        Args:
          progress: a `Progress` to advance by 1 a step.
          devices: how many the batches are split over, where that matters.
        """
        config, report = self.config, progress.line
        self._progress, self._done, self._num_steps = progress, start, num_steps
        self._clock = time.monotonic()
        if is_first_process():
            self._log = MetricsLog(self.workdir, start)
            self._stack.callback(self._log.close)
        report(
            f"{self.workdir}: {config.arch} on {config.dataset}, "
            f"{describe_attack(**config.attack)}, "
            + (f"going on at step {start} of {num_steps}" if start else f"{num_steps} steps")
        )
        before = len(self._begun_on or ())
        if start and devices and before not in (0, devices):
            report(
                f"{self.workdir} was begun on {before} devices and goes on on {devices}: the same "
                "batches and attacks, but sums in another order, so the weights will not be the "
                "same to the last bit"
            )

    @property
    def seconds(self):
        """The time spent on training so far, by this call and those before."""
        return self._seconds_before + time.monotonic() - self._clock

    @property
    def is_stale(self):
        """Whether so many validations as `early_stopping` says have not been better."""
        scores = [results[self.config.best_metric] for results in self._validations]
        patience = self.config.early_stopping
        return bool(patience) and len(scores) - 1 - int(np.argmax(scores or [0])) >= patience

    def validated(self, step, results):
        """Keep and log the results of a validation; warn once if PGD accuracy collapsed."""
        self.results = results
        self._validations.append(results)
        self.log(step, **results)
        accuracies = [old["val_pgd_accuracy"] for old in self._validations]
        best, last = max(accuracies), accuracies[-1]
        if self._may_collapse and best - last > COLLAPSE:
            self._may_collapse = False
            self._progress.line(
                f"{self.workdir}: val_pgd_accuracy fell from {best:.1%} to {last:.1%} at step "
                f"{step}: the model overfits to its one-step attack. In a new workdir, use more "
                "steps (attack.method = 'pgd', attack.num_steps = 2), attack.method = 'n_fgsm', or "
                "early_stopping"
            )

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

    def end(self, fault=None):
        """The run ends before others that are trained with it."""
        self.fault, self.has_ended = fault, True
        self._progress.skip(self._num_steps - self._done)

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


def _has_one_step(config):
    """Whether the training attack has one step and validation measures PGD accuracy."""
    attack = config.attack
    if not attack.epsilon or not config.validation.epsilon:
        return False
    return attack.method in FGSM_METHODS or (attack.method == "pgd" and attack.num_steps == 1)


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

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
from advspur.training.parts import recipe
from advspur.training.run_dir import (
    FREE_KEYS,
    SUITE_KEYS,
    describe_attack,
    metrics_log,
    open_run,
    read_metrics,
    write_json,
)
from advspur.training.state import count_steps

COLLAPSE = 0.2  # drop of PGD accuracy that Wong et al. (ICLR 2020, arXiv 2001.03994) stop at


class TrainingDiverged(ArithmeticError):
    """A loss or gradient is not finite; the last good checkpoint is kept."""


class Run:
    """The run of `config` in `workdir`; while it is entered, it holds the directory's lock.

    Of several processes the first one writes; all save, as orbax wants it. `progress` is advanced
    by 1 a step. Entering raises InputError as `open_run` does.
    """

    def __init__(self, config, workdir, dataset, progress):
        self.config, self.workdir, self.dataset = config, Path(workdir), dataset
        self.progress, self.num_steps = progress, count_steps(config, len(dataset.train))
        self.start, self._done, self._seconds_before = 0, 0, 0.0
        self.values, self.results = {}, {}  # of the last step logged, of the last validation
        self.has_ended = False  # before the last step, while others continue
        self.fault = None  # the TrainingDiverged that ended it
        self._validations = []  # the results of every validation so far
        self._may_collapse = _has_one_step(config)  # False once the user was warned
        self._log = None

    def __enter__(self):
        with contextlib.ExitStack() as stack:
            with together():
                if is_first_process():
                    shown = self.config.to_dict()
                    facts = {key: shown[key] for key in shown if key not in SUITE_KEYS}
                    # Own data are known by their place alone.
                    fixed = ("data_dir",) if self.config.dataset == "own" else ()
                    free = [key for key in FREE_KEYS if key not in fixed]
                    begun = open_run(facts, self.workdir, free=free)
                    self._environment = stack.enter_context(begun)
                    facts = self.workdir / "model.json"
                    if not facts.exists():  # a budget by masks takes reading images
                        write_json(facts, _model_facts(self))
            self.checkpoints = Checkpoints(
                self.workdir / "checkpoints",
                keep_last=self.config.keep_last,
                best_metric=self.config.best_metric,
            )
            stack.callback(self.checkpoints.close)
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *exc):
        self._stack.close()

    def restore(self, state):
        """`state`, or that of the latest checkpoint if there is one."""
        found = self.checkpoints.restore(state, report=self.progress.line)
        if found:
            state, self._seconds_before = found
            self.start = self._done = int(state.step)
        lines = read_metrics(self.workdir) if is_first_process() else []
        name = self.config.best_metric
        self._validations = gather([x for x in lines if name in x and x["step"] <= self.start])[0]
        return state

    @property
    def is_trained(self):
        """Whether a restored run has nothing left to do."""
        return self.start >= self.num_steps or self._is_stale

    @property
    def _is_stale(self):
        """Whether `early_stopping` validations in a row have not been better."""
        patience = self.config.early_stopping
        if not patience or not self._validations:
            return False
        scores = [results[self.config.best_metric] for results in self._validations]
        return len(scores) - 1 - int(np.argmax(scores)) >= patience

    def begin(self, *, devices=None):
        """Start the clock, open the log and say what is about to be done.

        `devices`: how many the batches are split over, where that matters.
        """
        config, steps = self.config, f"{self.num_steps} steps"
        self._clock = time.monotonic()
        if not is_first_process():
            return
        self._log = self._stack.enter_context(metrics_log(self.workdir, self.start))
        before = len(self._environment["devices"])
        if self.start:
            steps = f"resuming at step {self.start} of {self.num_steps}"
        attack = describe_attack(**config.attack)
        self.progress.line(f"{self.workdir}: {config.arch} on {config.dataset}, {attack}, {steps}")
        if self.start and devices and before != devices:
            self.progress.line(
                f"{self.workdir} started on {before} devices, resuming on {devices}: the same "
                "batches and attacks, but sums in another order, so the weights will not be the "
                "same to the last bit"
            )

    @property
    def seconds(self):
        """The time spent on training so far, by this call and those before."""
        return self._seconds_before + time.monotonic() - self._clock

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
            self._log(step, **values, seconds=round(self.seconds, 3))

    def validated(self, step, results):
        """Keep and log the results of a validation; warn once if PGD accuracy collapsed."""
        self.results = results
        self._validations.append(results)
        self.log(step, **results)
        accuracies = [old["val_pgd_accuracy"] for old in self._validations]
        best, last = max(accuracies), accuracies[-1]
        if self._may_collapse and best - last > COLLAPSE:
            self._may_collapse = False
            self.progress.line(
                f"{self.workdir}: val_pgd_accuracy fell from {best:.1%} to {last:.1%} at step "
                f"{step}: the model overfits to its one-step attack. In a new workdir, use more "
                "steps (attack.method = 'pgd', attack.num_steps = 2), attack.method = 'n_fgsm', or "
                "early_stopping"
            )

    def advance(self, step):
        """The step is done, and what is due was saved; the run may end here."""
        note = ["batch {accuracy:.1%}".format(**self.values)] if self.values else []
        if self.results:
            accuracies = "val clean {val_clean_accuracy:.1%}, pgd {val_pgd_accuracy:.1%}"
            note.append(accuracies.format(**self.results))
        self.progress.advance(1, ", ".join(note))
        self._done = step
        if self._is_stale:
            self.end()
            self.progress.line(
                f"{self.workdir} ends at step {step}: {self.config.best_metric} was not better in "
                f"{self.config.early_stopping} validations"
            )

    def end(self, fault=None):
        """The run ends before its last step."""
        self.fault, self.has_ended = fault, True
        self.progress.skip(self.num_steps - self._done)


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


def _model_facts(run):
    """What `models.load` rebuilds the classifier from, and what its records say of it."""
    config, dataset = run.config, run.dataset
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
        "class_names": dataset.train.names["label"] if config.dataset == "own" else (),
        "shapes": {k: v for k, v in shapes.items() if k not in ("num_train", "num_validation")},
        "color_shift": config.color_shift.to_dict() if config.color_shift.rho else {},
        "train_p": config.attack.p,
        "train_epsilon": config.attack.epsilon,
        "recipe": recipe(run),
        "seed": config.seed,
        "best_metric": config.best_metric,
    }

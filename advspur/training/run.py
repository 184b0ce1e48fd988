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
from advspur.training import run_dir
from advspur.training.checkpoint import Checkpoints
from advspur.training.overfitting import overfitting_warning
from advspur.training.parts import recipe
from advspur.training.state import count_steps, make_schedule


class TrainingDiverged(ArithmeticError):
    """A loss or gradient is not finite; the last good checkpoint is kept."""


class Run:
    """The run of `config` in `workdir`; while it is entered, it holds the directory's lock.

    All processes save, as orbax requires; the first one writes everything else. `progress` is
    advanced by 1 a step. Entering raises InputError as `open_run` does.
    """

    def __init__(self, config, workdir, dataset, progress):
        self.config, self.workdir, self.dataset = config, Path(workdir), dataset
        self.progress, self.num_steps = progress, count_steps(config, len(dataset.train))
        self.start, self._done, self._seconds_before = 0, 0, 0.0
        self.has_ended = False  # before the last step
        self._schedule = make_schedule(config, len(dataset.train))
        self._metrics, self._results = {}, {}  # of the last step logged, of the last validation
        self._validations = []  # the results of every validation so far
        self._log = lambda step, **values: None

    def __enter__(self):
        with contextlib.ExitStack() as stack:
            with together():
                if is_first_process():
                    config = self.config.to_dict()
                    # Own data are identified by their place alone.
                    fixed = ("data_dir",) if config["dataset"] == "own" else ()
                    opened = run_dir.open_run(
                        {k: v for k, v in config.items() if k not in run_dir.SUITE_KEYS},
                        self.workdir,
                        free=[key for key in run_dir.FREE_KEYS if key not in fixed],
                    )
                    self._environment = stack.enter_context(opened)
                    model = self.workdir / "model.json"
                    if not model.exists():  # the budget of region weights takes reading images
                        run_dir.write_json(model, _model_facts(self))
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
        restored = self.checkpoints.restore(state, report=self.progress.line)
        if restored:
            state, self._seconds_before = restored
            self.start = self._done = int(state.step)
        lines = run_dir.read_metrics(self.workdir) if is_first_process() else []
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
        """Start the clock, open the log and report what starts.

        `devices`: how many the batches are split over, if that matters.
        """
        config, steps = self.config, f"{self.num_steps} steps"
        self._clock = time.monotonic()
        if not is_first_process():
            return
        self._log = self._stack.enter_context(run_dir.metrics_log(self.workdir, self.start))
        before = len(self._environment["devices"])
        if self.start:
            steps = f"resuming at step {self.start} of {self.num_steps}"
        attack = run_dir.describe_attack(**config.attack)
        self.progress.line(f"{self.workdir}: {config.arch} on {config.dataset}, {attack}, {steps}")
        if self.start and devices and before != devices:
            self.progress.line(
                f"{self.workdir} started on {before} devices, resuming on {devices}: the same "
                "batches and attacks, but sums in another order, so the weights will not be the "
                "same to the last bit"
            )

    @property
    def seconds(self):
        """The time spent on training so far, in this call and earlier ones."""
        return self._seconds_before + time.monotonic() - self._clock

    def check(self, metrics, step):
        """Raise TrainingDiverged unless all numbers are finite."""
        bad = [f"{name} = {float(v)}" for name, v in metrics.items() if not math.isfinite(v)]
        if bad:
            raise TrainingDiverged(
                f"step {step}: {', '.join(bad)}; stopped, and the last good checkpoint in "
                f"{self.workdir}/checkpoints is kept. Lower learning_rate or set gradient_clip, in "
                "a new workdir"
            )

    def log_step(self, metrics, step):
        """Log the metrics of a step, its learning rate, the time and the memory."""
        self._metrics = {name: float(value) for name, value in metrics.items()}
        rate, memory = float(self._schedule(step - 1)), round(peak_memory_mb())
        values = {"learning_rate": rate, **self._metrics, "peak_memory_mb": memory}
        self._log(step, **values, seconds=round(self.seconds, 3))

    def validated(self, results, step):
        """Check, keep and log the results of a validation; warn once if PGD accuracy collapsed."""
        self.check(results, step)
        self._results = {name: float(value) for name, value in results.items()}
        self._validations.append(self._results)
        self._log(step, **self._results, seconds=round(self.seconds, 3))
        accuracies = [validation["val_pgd_accuracy"] for validation in self._validations]
        if warning := overfitting_warning(self.config, accuracies, step):
            self.progress.line(f"{self.workdir}: {warning}")

    def save(self, state, is_validated):
        """Begin to save a state on the host, with the last results if it `is_validated`."""
        metrics = self._results if is_validated else {}
        self.checkpoints.save(state, seconds=self.seconds, metrics=metrics)

    def advance(self, step):
        """The step is done, and what is due was saved; the run may end here."""
        note = ["batch {accuracy:.1%}".format(**self._metrics)] if self._metrics else []
        if self._results:
            accuracies = "val clean {val_clean_accuracy:.1%}, pgd {val_pgd_accuracy:.1%}"
            note.append(accuracies.format(**self._results))
        self.progress.advance(1, ", ".join(note))
        self._done = step
        if self._is_stale:
            self.end()
            self.progress.line(
                f"{self.workdir} ends at step {step}: {self.config.best_metric} was not better in "
                f"{self.config.early_stopping} validations"
            )

    def end(self):
        """End before the last step."""
        self.has_ended = True
        self.progress.skip(self.num_steps - self._done)


def peak_memory_mb():
    """Peak memory so far: of the accelerator if it reports it, else of this process."""
    stats = jax.local_devices()[0].memory_stats() or {}
    if "peak_bytes_in_use" in stats:
        return stats["peak_bytes_in_use"] / 2**20
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 2**20


def _model_facts(run):
    """Return what `models.load` and the records of the model need."""
    config, dataset = run.config, run.dataset
    shapes = config.shapes.to_dict() if config.dataset == "spurious_shapes" else {}
    from_config = ("arch", "stem", "dtype", "dataset", "seed", "best_metric")
    from_data = ("num_classes", "image_size", "mean", "std")
    return {
        **{key: config[key] for key in from_config},
        **{key: getattr(dataset, key) for key in from_data},
        "class_names": dataset.train.names["label"] if config.dataset == "own" else (),
        "shapes": {k: v for k, v in shapes.items() if k not in ("num_train", "num_validation")},
        "color_shift": config.color_shift.to_dict() if config.color_shift.rho else {},
        "train_p": config.attack.p,
        "train_epsilon": config.attack.epsilon,
        "recipe": recipe(run),
    }

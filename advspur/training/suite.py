"""Several small models trained at once by one program: each device trains its own models.

A model is the same, to rounding, as one that `train` makes alone: it sees the same batches, attacks
and keys. It has its own run directory, which either can resume.
"""

import contextlib
import functools
import itertools
import json
import math

import jax
import numpy as np

from advspur._checks import check_count, require
from advspur._devices import split_batch
from advspur.training import parts
from advspur.training.attack import UNIFORM, AnyAttack
from advspur.training.loop import Program, fit
from advspur.training.run import Run, TrainingDiverged
from advspur.training.run_dir import SUITE_KEYS, check_config, jsonable
from advspur.training.step import eval_step, over_models, train_step

DATA_KEYS = ("dataset", *parts.DATA_KEYS)
# Keys in which models trained by one program may differ, and keys of `shapes` in which not.
OWN_KEYS = ("seed", "attack", "background", "color_shift", "shapes", *SUITE_KEYS)
SIZES = ("num_train", "num_validation", "num_classes", "image_size")


def train_suite(configs, *, per_device=None, progress):
    """Train the models of several configs, as many at once as there is room for.

    One program trains the models that differ only in seed, attack, background changes, colour shift
    and the looks of their shapes. Models that are already trained are left alone.

    Args:
      configs: {run directory: ConfigDict}.
      per_device: models that a device trains at once; None: 1 on CPU, else all.
      progress: {run directory: a `Progress` to advance by 1 a step}.
    Returns: {run directory: the TrainingDiverged} of those that diverged; all others are trained.
    Raises: as `train`.
    """
    check_suite(configs.values())
    if per_device is not None:
        check_count("per_device", per_device)
    elif jax.default_backend() == "cpu":
        per_device = 1
    by_data, groups, faults = {_text(c, DATA_KEYS): c for c in configs.values()}, {}, {}
    data = {key: parts.training_data(config) for key, config in by_data.items()}
    for workdir, config in configs.items():
        run = Run(config, workdir, data[_text(config, DATA_KEYS)], progress[workdir])
        if not _is_trained(run):
            shared = _text(config, [key for key in config if key not in OWN_KEYS])
            groups.setdefault((shared, _text(config.shapes, SIZES)), []).append(run)
    for group in groups.values():
        faults |= _train_group(group, per_device)
    return faults


def check_suite(configs):
    """Raise InputError for configs that cannot be trained as a suite."""
    require(jax.process_count() == 1, "a suite trains in one process")
    for config in configs:
        check_config(config)
        require(
            config.attack.method != "free",
            "attack.method = 'free' is not for suites, whose models share a step: train it alone",
        )


def _text(config, keys):
    values = config.to_dict()
    return json.dumps(jsonable({key: values[key] for key in keys}), sort_keys=True)


def _is_trained(run):
    """Whether a run is trained; sets its start if it is not."""
    with run:
        if not run.checkpoints.steps():
            return False
        built = parts.build(run.config, run.dataset)
        run.restore(jax.eval_shape(lambda: parts.first_state(run.config, run.dataset, *built)))
    if run.is_trained:
        run.progress.skip(run.num_steps)
    return run.is_trained


class _Round:
    """Runs that one program trains, as the one run of `fit`; its values are lists, one per run.

    A run that ends early, or diverges (`faults`), is left at its last save; the others continue.
    On the devices, arrays have the axes `slots`: [devices, models a device].
    """

    def __init__(self, runs, slots):
        self.runs, self.slots, self.faults = runs, slots, {}
        self.config, self.start, self.num_steps = runs[0].config, runs[0].start, runs[0].num_steps

    @property
    def has_ended(self):
        return all(run.has_ended for run in self.runs)

    @property
    def workdir(self):
        """The directories of the runs that did not diverge, as text."""
        return ", ".join(str(r.workdir) for r in self.runs if r.workdir not in self.faults)

    def _each(self, method, values, *args):
        for run, value in zip(self.runs, values, strict=True):
            if run.has_ended:
                continue
            try:
                method(run, value, *args)
            except TrainingDiverged as error:
                # A traceback would keep the states of the whole round.
                self.faults[run.workdir] = error.with_traceback(None)
                run.end()
                if not self.has_ended:
                    run.progress.line(
                        f"{run.workdir}: {error}; the models trained with it continue"
                    )

    check = functools.partialmethod(_each, Run.check)
    log_step = functools.partialmethod(_each, Run.log_step)
    validated = functools.partialmethod(_each, Run.validated)
    save = functools.partialmethod(_each, Run.save)

    def advance(self, step):
        self._each(lambda run, _: run.advance(step), self.runs)

    def place(self, trees, filler=None):
        """A tree of each run on the devices; free slots hold `filler`, or a copy of the first."""
        trees = [*trees, *[filler or trees[0]] * (math.prod(self.slots) - len(trees))]

        def stack(*leaves):
            stacked = np.stack(leaves)
            return stacked.reshape(*self.slots, *stacked.shape[1:])

        return split_batch(jax.tree.map(stack, *trees), self.slots[0])

    def fetch(self, tree):
        """[the tree of each run], on the host."""
        tree, slots = jax.device_get(tree), np.ndindex(*self.slots)
        slots = itertools.islice(slots, len(self.runs))
        return [jax.tree.map(lambda x, at=at: x[at], tree) for at in slots]

    def place_budgets(self, attack, attack_of):
        """The budget of `AnyAttack` for each slot; free slots have no attack."""
        budgets = []
        for chosen, budget in (attack_of(run.config) for run in self.runs):
            epsilon, *weights = np.atleast_1d(np.float32(budget))
            budget = np.float32([epsilon, *(weights or UNIFORM)])
            budgets.append((np.int32(attack.attacks.index(chosen)), *budget))
        return self.place(budgets, filler=(np.int32(0), *np.zeros(3, np.float32)))

    def place_batches(self, iterate, key):
        """Batches of all runs, from one iterator for the runs whose `key` is equal."""
        keys = [key(run) for run in self.runs]
        iterators = {k: iterate(run) for k, run in dict(zip(keys, self.runs, strict=True)).items()}
        for batches in zip(*iterators.values(), strict=True):
            batch_of = dict(zip(iterators, batches, strict=True))
            yield self.place([batch_of[k] for k in keys])


def _train_group(runs, per_device):
    """Train runs that one program serves, as many at once as there are slots; return faults."""
    config, dataset = runs[0].config, runs[0].dataset
    network, optimizer = parts.build(config, dataset)
    num_devices = min(jax.local_device_count(), len(runs))
    slots = num_devices, per_device or math.ceil(len(runs) / num_devices)
    shared = {"network": network, "mean": dataset.mean, "std": dataset.std}
    attack, eval_attack = (
        AnyAttack(tuple(dict.fromkeys([None, *(attack_of(run.config)[0] for run in runs)])))
        for attack_of in (parts.train_attack, parts.validation_attack)
    )
    options = parts.step_options(config) | shared | {"attack": attack, "optimizer": optimizer}
    train = over_models(train_step, num_devices, donate_argnums=0, **options)
    evaluate = over_models(eval_step, num_devices, attack=eval_attack, **shared)

    def train_round(together):
        budget = together.place_budgets(attack, parts.train_attack)
        eval_budget = together.place_budgets(eval_attack, parts.validation_attack)
        program = Program(
            step=lambda state, batch: train(state, batch, budget),
            evaluate=lambda variables, batch: evaluate(variables, batch, eval_budget),
            batches=together.place_batches(parts.training_batches, _stream_key),
            validation_batches=lambda: together.place_batches(
                parts.validation_batches, lambda run: id(run.dataset)
            ),
            fetch=together.fetch,
        )
        with contextlib.ExitStack() as stack:
            states = []
            for run in together.runs:
                stack.enter_context(run)
                state = parts.first_state(run.config, run.dataset, network, optimizer)
                states.append(run.restore(state))
                run.progress.skip(run.start)
                run.begin()
            fit(together, program, together.place(states))
        return together.faults

    # The runs of a round resume at the same step; of similar cost, they end together.
    runs.sort(key=lambda run: (run.start, -parts.step_passes(run.config)))
    faults = {}
    for _, alike in itertools.groupby(runs, key=lambda run: run.start):
        alike = list(alike)
        for first in range(0, len(alike), math.prod(slots)):
            faults |= train_round(_Round(alike[first : first + math.prod(slots)], slots))
    return faults


def _stream_key(run):
    """Return what the training batches of a run depend on."""
    return id(run.dataset), run.config.seed, *run.config.background.values()

"""Several small models trained at once by one program: each device trains models of its own.

A model is the same, to rounding, as one that `train` makes alone: it sees the same batches, attacks
and keys, and has a run directory of its own, which either can resume.
"""

import contextlib
import itertools
import json
import math
from typing import NamedTuple

import jax
import numpy as np

from advspur._checks import check_count, require
from advspur._devices import split_batch
from advspur.training.attack import UNIFORM, AnyAttack
from advspur.training.loop import Program, fit
from advspur.training.parts import (
    build,
    first_state,
    step_options,
    step_passes,
    train_attack,
    training_data,
    validation_attack,
)
from advspur.training.run import Run, TrainingDiverged
from advspur.training.run_dir import SUITE_KEYS, check_config, jsonable
from advspur.training.step import eval_step, over_models, train_step

DATA_KEYS = ("dataset", "data_dir", "mask_dir", "own", "shapes", "color_shift", "skip_unreadable")
# Keys in which models may differ that one program trains, and of `shapes` those in which not.
OWN_KEYS = ("seed", "attack", "background", "color_shift", "shapes", *SUITE_KEYS)
SIZES = ("num_train", "num_validation", "num_classes", "image_size")


def train_suite(configs, *, per_device=None, progress):
    """Train the models of several configs, as many at once as there is room for.

    Models that differ in seed, attack, changes of the background, colour shift and the looks of
    their shapes only are trained by one program. Those that are trained already are left alone.

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
    by_data, groups = {_text(config, DATA_KEYS): config for config in configs.values()}, {}
    data = {text: training_data(config) for text, config in by_data.items()}
    for workdir, config in configs.items():
        run = Run(config, workdir, data[_text(config, DATA_KEYS)], progress[workdir])
        if not _is_trained(run):
            shared = _text(config, [key for key in config if key not in OWN_KEYS])
            groups.setdefault((shared, _text(config.shapes, SIZES)), []).append(run)
    for group in groups.values():
        _train_group(group, per_device)
    return {run.workdir: run.fault for group in groups.values() for run in group if run.fault}


def check_suite(configs):
    """Raise InputError for what no suite can be made of."""
    require(jax.process_count() == 1, "the models of a suite are trained by one process")
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
    """Whether a run is trained; if it is not, it has its start then."""
    with run:
        if not run.checkpoints.steps():
            return False
        built = build(run.config, run.dataset)
        run.restore(jax.eval_shape(lambda: first_state(run.config, run.dataset, *built)))
    if run.is_trained:
        run.progress.skip(run.num_steps)
    return run.is_trained


class _Slots(NamedTuple):
    """The places for the models of a round; arrays have the axes [devices, models a device]."""

    num_devices: int
    per_device: int

    def place(self, trees, filler=None):
        """Trees of models on the devices; free places hold `filler`, or the first once more."""
        free = math.prod(self) - len(trees)

        def stack(*leaves):
            stacked = np.stack(leaves)
            return stacked.reshape(*self, *stacked.shape[1:])

        trees = [*trees, *[filler or trees[0]] * free]
        return split_batch(jax.tree.map(stack, *trees), self.num_devices)

    def fetch(self, tree, number):
        """[the tree of each of the first `number` models], on the host."""
        tree, places = jax.device_get(tree), itertools.islice(np.ndindex(*self), number)
        return [jax.tree.map(lambda x, at=at: x[at], tree) for at in places]


def _train_group(runs, per_device):
    """Train runs that one program serves, as many at once as there are slots."""
    config, dataset = runs[0].config, runs[0].dataset
    network, optimizer = build(config, dataset)
    num_devices = min(jax.local_device_count(), len(runs))
    slots = _Slots(num_devices, per_device or math.ceil(len(runs) / num_devices))
    facts = {"network": network, "mean": dataset.mean, "std": dataset.std}
    attack, eval_attack = (
        AnyAttack(tuple(dict.fromkeys([None, *(attack_of(run.config)[0] for run in runs)])))
        for attack_of in (train_attack, validation_attack)
    )
    options = step_options(config) | facts | {"attack": attack, "optimizer": optimizer}
    train = over_models(train_step, num_devices, donate_argnums=0, **options)
    evaluate = over_models(eval_step, num_devices, attack=eval_attack, **facts)

    def train_round(members):
        budget = _budgets(members, slots, attack, train_attack)
        eval_budget = _budgets(members, slots, eval_attack, validation_attack)
        program = Program(
            step=lambda state, batch: train(state, batch, budget),
            evaluate=lambda variables, batch: evaluate(variables, batch, eval_budget),
            place=slots.place,
            fetch=lambda tree: slots.fetch(tree, len(members)),
        )
        with contextlib.ExitStack() as stack:
            states = []
            for run in members:
                stack.enter_context(run)
                state = first_state(run.config, run.dataset, network, optimizer)
                states.append(run.restore(state))
                run.progress.skip(run.start)
                run.begin()
            with contextlib.suppress(TrainingDiverged):  # kept as the runs' faults
                fit(members, program, slots.place(states))
        for run in members:
            if run.fault:
                run.fault.__traceback__ = None  # it holds the states of the whole round

    # Those of a round resume at the same step; of similar cost, they end together.
    runs.sort(key=lambda run: (run.start, -step_passes(run.config)))
    for _, alike in itertools.groupby(runs, key=lambda run: run.start):
        alike = list(alike)
        for first in range(0, len(alike), math.prod(slots)):
            train_round(alike[first : first + math.prod(slots)])


def _budgets(runs, slots, attack, attack_of):
    """The budget of `AnyAttack` for each slot on the devices; no attack where no run is left."""
    numbers = []
    for own, budget in (attack_of(run.config) for run in runs):
        epsilon, *weights = np.atleast_1d(np.float32(budget))
        budget = np.float32([epsilon, *(weights or UNIFORM)])
        numbers.append((np.int32(attack.attacks.index(own)), *budget))
    return slots.place(numbers, filler=(np.int32(0), *np.zeros(3, np.float32)))

"""Several small models trained at once by one program: each device trains models of its own.

A model is the same, to rounding, as one that `train` makes alone: it sees the same batches, attacks
and keys, and has a run directory of its own, which either can go on with.
"""

import collections
import contextlib
import itertools
import json
import math
from typing import NamedTuple

import jax
import numpy as np

from advspur._checks import check_count, require
from advspur._devices import split_batch
from advspur.training.attack import AnyAttack
from advspur.training.loop import Program, fit
from advspur.training.parts import (
    accuracies,
    build,
    first_state,
    open_training_data,
    step_options,
    step_passes,
    train_attack,
    training_stream,
    validation_attack,
    validation_batches,
)
from advspur.training.run import Run, TrainingDiverged
from advspur.training.run_dir import SUITE_KEYS, check_config, jsonable
from advspur.training.state import count_steps
from advspur.training.step import make_suite_eval_step, make_suite_step

DATA_KEYS = ("dataset", "data_dir", "shapes", "color_shift", "skip_unreadable")
# Keys in which models may differ that one program trains.
OWN_KEYS = ("seed", "attack", "color_shift", *SUITE_KEYS)


def train_suite(configs, *, per_device=None, progress):
    """Train the models of several configs, as many at once as there is room for.

    Models that differ in seed, attack and colour shift only are trained by one program. Those that
    are trained already are left alone.

    Args:
      configs: {run directory: ConfigDict}.
      per_device: how many models a device trains at once; None: 1 on CPU, else as many as there
        are.
      progress: {run directory: a `Progress` to advance by 1 a step}.
    Returns: {run directory: the TrainingDiverged} of those that diverged; all others are trained.
    Raises: as `train`.
    """
    check_suite(configs.values())
    if per_device is not None:
        check_count("per_device", per_device)
    data = {}
    for config in configs.values():
        if _text(config, DATA_KEYS) not in data:
            data[_text(config, DATA_KEYS)] = open_training_data(config)
    if per_device is None and jax.default_backend() == "cpu":
        per_device = 1
    groups, faults = {}, {}
    for workdir, config in configs.items():
        member = _Member(workdir, config, data[_text(config, DATA_KEYS)], progress[workdir])
        member = _find_start(member)
        if member is not None:
            shared = _text(config, [key for key in config if key not in OWN_KEYS])
            groups.setdefault(shared, []).append(member)
    for group in groups.values():
        faults |= _train_group(group, per_device)
    return faults


def check_suite(configs):
    """Raise InputError for what no suite can be made of."""
    require(jax.process_count() == 1, "the models of a suite are trained by one process")
    for config in configs:
        check_config(config)
        require(
            config.attack.method != "free",
            "attack.method = 'free' is not for suites, whose models share a step: train it alone",
        )


class _Member(NamedTuple):
    """A model to be trained, and the step that it resumes from."""

    workdir: object
    config: object
    dataset: object
    progress: object
    start: int = 0

    @property
    def num_steps(self):
        return count_steps(self.config, len(self.dataset.train))


def _text(config, keys):
    values = config.to_dict()
    return json.dumps(jsonable({key: values[key] for key in keys}), sort_keys=True)


def _find_start(member):
    """The member from its last checkpoint that can be read, if any, on; None: it is trained."""
    with Run(member.config, member.workdir, member.dataset) as run:
        if not run.checkpoints.steps():
            return member
        built = build(member.config, member.dataset)
        template = jax.eval_shape(lambda: first_state(member.config, member.dataset, *built))
        state = run.restore(template, report=member.progress.line)
        step = int(state.step)
        if step < member.num_steps and not run.is_stale:
            return member._replace(start=step)
    member.progress.skip(member.num_steps)
    return None


class _Steps(NamedTuple):
    """What is compiled for a group of models, once; trees have axes [devices, models a device]."""

    network: object
    optimizer: object
    num_devices: int
    train: object
    train_attacks: AnyAttack
    evaluate: object
    eval_attacks: AnyAttack


def _train_group(group, per_device):
    """Train _Members that share a program; {run directory: TrainingDiverged} of some."""
    config, dataset = group[0].config, group[0].dataset
    network, optimizer = build(config, dataset)
    devices = min(jax.local_device_count(), len(group))
    size = devices * (per_device or math.ceil(len(group) / devices))
    facts = {"mean": dataset.mean, "std": dataset.std, "num_devices": devices}
    train_attacks, eval_attacks = (
        AnyAttack(tuple(dict.fromkeys([None, *(attack_of(m)[0] for m in group)])))
        for attack_of in (_train_attack, _validation_attack)
    )
    train_step = make_suite_step(
        network, optimizer, attack=train_attacks, **step_options(config), **facts
    )
    eval_step = make_suite_eval_step(network, attack=eval_attacks, **facts)
    steps = _Steps(network, optimizer, devices, train_step, train_attacks, eval_step, eval_attacks)
    faults = {}
    # Those of a round go on at the same step; of similar cost, they end together.
    group.sort(key=lambda member: (member.start, -step_passes(member.config)))
    for _, alike in itertools.groupby(group, key=lambda member: member.start):
        alike = list(alike)
        for first in range(0, len(alike), size):
            faults |= _train_round(alike[first : first + size], steps, size)
    return faults


def _train_round(members, steps, num_slots):
    """Train as many models as there are slots; {run directory: TrainingDiverged} of some.

    Slots that no model is left for hold the first one once more, without an attack.
    """
    start, num_steps = members[0].start, members[0].num_steps
    fill = [0] * (num_slots - len(members))
    slots = [*range(len(members)), *fill]

    def grouped(values):
        """An array or a number of each slot, with the axes [devices, models a device]."""
        stacked = np.stack(values)
        return stacked.reshape(steps.num_devices, -1, *stacked.shape[1:])

    def on_devices(trees):
        """The trees of the runs, on the devices that train them."""
        stacked = jax.tree.map(lambda *x: grouped([x[i] for i in slots]), *trees)
        return split_batch(stacked, steps.num_devices)

    def of_members(tree):
        """The part of each run, on the host."""
        places = [divmod(i, num_slots // steps.num_devices) for i in range(len(members))]
        tree = jax.device_get(tree)
        return [jax.tree.map(lambda x, at=at: x[at], tree) for at in places]

    def budget_of(attacks, attack_of):
        """(which attack, epsilon) of the slots."""
        chosen = [(attacks.attacks.index(a), e) for a, e in map(attack_of, members)]
        which, epsilons = zip(*chosen, *[(0, 0.0)] * len(fill), strict=True)
        return grouped(which), grouped(np.float32(epsilons))

    with contextlib.ExitStack() as stack:
        runs = [stack.enter_context(Run(m.config, m.workdir, m.dataset)) for m in members]
        states = []
        for run, member in zip(runs, members, strict=True):
            state = first_state(run.config, run.dataset, steps.network, steps.optimizer)
            states.append(run.restore(state, report=member.progress.line))
            member.progress.skip(start)
            run.begin(start, num_steps, member.progress)
        budget = budget_of(steps.train_attacks, _train_attack)
        eval_budget = budget_of(steps.eval_attacks, _validation_attack)

        def of_each(iterate, key):
            """Lists of one item a run, from an iterator for each kind of run."""
            iterators = {}
            for run in runs:
                if key(run) not in iterators:
                    iterators[key(run)] = iterate(run)
            for items in zip(*iterators.values(), strict=True):
                item = dict(zip(iterators, items, strict=True))
                yield [item[key(run)] for run in runs]

        def count(variables):
            total = 0
            for batches in of_each(_validation, lambda run: id(run.dataset)):
                counts = of_members(steps.evaluate(variables, on_devices(batches), eval_budget))
                total = jax.tree.map(np.add, total, counts) if total else counts
            return total

        def validate(state):
            results = list(map(accuracies, count(state.variables)))
            if state.ema:
                averaged = (accuracies(counts, "val_ema") for counts in count(state.ema))
                results = [a | b for a, b in zip(results, averaged, strict=True)]
            return results

        program = Program(
            step=lambda state, batch: steps.train(state, batch, budget),
            validate=validate,
            members=of_members,
        )
        streams = of_each(
            lambda run: training_stream(run, start), lambda run: (id(run.dataset), run.config.seed)
        )
        batches = _ahead(map(on_devices, streams))
        line = members[0].progress.line
        with contextlib.suppress(TrainingDiverged):  # kept as the runs' faults
            fit(runs, program, on_devices(states), batches, (start, num_steps), line)
    faults = {run.workdir: run.fault for run in runs if run.fault}
    for fault in faults.values():
        fault.__traceback__ = None  # it holds the states of the whole round
    return faults


def _train_attack(member):
    return train_attack(member.config)


def _validation_attack(member):
    return validation_attack(member.config)


def _validation(run):
    return validation_batches(run.config, run.dataset)


def _ahead(iterator):
    """The items, two of them begun before they are asked for."""
    ready = collections.deque(itertools.islice(iterator, 2))
    while ready:
        yield ready.popleft()
        ready.extend(itertools.islice(iterator, 1))

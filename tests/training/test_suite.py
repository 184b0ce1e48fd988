"""Models trained together are those trained alone, whatever they are trained with."""

import copy
import json
import math

import jax.numpy as jnp
import pytest
from jax.flatten_util import ravel_pytree

from advspur import models
from advspur._checks import InputError
from advspur.training import TrainingDiverged, train, train_suite
from tests.training.tiny_config import get_config


class Silent:
    """A progress that counts."""

    def __init__(self):
        self.done, self.skipped, self.lines = 0, 0, []

    def advance(self, amount=1, note=""):
        self.done += amount

    def skip(self, amount):
        self.skipped += amount

    def line(self, text):
        self.lines.append(text)


def model(seed=0, p=2.0, epsilon=0.25, **change):
    config = get_config()
    config.seed, config.attack.p, config.attack.epsilon = seed, p, epsilon
    config.attack.random_start = "none"  # keys of random starts depend on the number of devices
    config.update_from_flattened_dict(change)
    return config


MODELS = {
    "standard": model(epsilon=0.0),
    "l2": model(seed=1),
    "linf": model(p=math.inf, epsilon=8 / 255),
    "l2_large": model(epsilon=1.0),
    "two_steps": model(seed=1, **{"attack.num_steps": 2}),
}


def make(folder, names=tuple(MODELS), change=None, **options):
    configs = {folder / name: copy.deepcopy(MODELS[name]) for name in names}
    for config in configs.values():
        config.update_from_flattened_dict(change or {})
    progress = {path: Silent() for path in configs}
    train_suite(configs, progress=progress, **options)
    return progress


def params(path):
    """All parameters of a run as one vector."""
    return ravel_pytree(models.load(path).variables["params"])[0]


def apart(a, b, start):
    """How far two trained models are apart, as a share of what training changed."""
    return float(jnp.linalg.norm(a - b) / jnp.linalg.norm(b - start))


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    """A folder of models trained one after another."""
    folder = tmp_path_factory.mktemp("alone")
    for name, config in MODELS.items():
        train(config, folder / name)
    return folder


@pytest.mark.parametrize("per_device", (1, 2))
def test_models_of_a_suite_are_those_trained_alone(alone, tmp_path, per_device):
    """Five on four devices; with one a device, a round of four and another of one.

    A ReLU or a sign within rounding of 0 may go either way: that much is allowed.
    """
    progress = make(tmp_path, per_device=per_device)
    for name in MODELS:
        start = params(alone / name.replace("two_steps", "l2"))
        assert apart(params(tmp_path / name), params(alone / name), 0 * start) < 0.02, name
        assert progress[tmp_path / name].done == 12
        lines = [(folder / name / "metrics.jsonl").read_text() for folder in (alone, tmp_path)]
        steps = [[json.loads(x)["step"] for x in text.splitlines()] for text in lines]
        assert steps[0] == steps[1]
    for other in ("l2", "linf", "l2_large"):  # of one seed or not, they are others
        assert apart(params(tmp_path / other), params(alone / "standard"), 0) > 0.04

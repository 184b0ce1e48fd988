"""Models trained together are those trained alone, whatever they are trained with."""

import copy
import json
import math
import shutil

import jax
import jax.numpy as jnp
import pytest
from jax.flatten_util import ravel_pytree

from advspur import models
from advspur._checks import InputError
from advspur.training import Attack, TrainingDiverged, parts, suite, train, train_suite
from tests.training.tiny_config import get_config

# orbax drops the tasks of a damaged checkpoint with their event loop: noise, but unraisable.
pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")


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
    config.validation.epsilon = -1.0
    config.update_from_flattened_dict({"num_steps": 3, "checkpoint_every_steps": 1, **change})
    return config


MODELS = {
    "standard": model(epsilon=0.0),
    "l2": model(seed=1),
    "linf": model(p=math.inf, epsilon=8 / 255),
    "l2_large": model(seed=1, epsilon=1.0, **{"background.noise_std": 0.3}),
    "linf_small": model(
        p=math.inf,
        epsilon=1 / 255,
        **{"background.mix_share": 0.5, "background.mask_fault": "random"},
    ),
    "rest": model(p=math.inf, epsilon=8 / 255, **{"attack.region_weights": (0.0, 8.0)}),
}


def make(folder, names=MODELS, **options):
    configs = {folder / name: copy.deepcopy(MODELS[name]) for name in names}
    progress = {path: Silent() for path in configs}
    assert train_suite(configs, progress=progress, **options) == {}
    return progress


def params(path):
    """All parameters of a run as one vector."""
    return ravel_pytree(models.load(path).params["params"])[0]


def before(name):
    """Its parameters before the first step."""
    config = MODELS[name]
    dataset = parts.training_data(config)
    state = parts.first_state(config, dataset, *parts.build(config, dataset))
    return ravel_pytree(state.variables["params"])[0]


def apart(one, other, name):
    """How far two models are apart, as a share of what training changed of the second one."""
    return float(jnp.linalg.norm(one - other) / jnp.linalg.norm(other - before(name)))


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    """A folder of models trained one after another."""
    folder = tmp_path_factory.mktemp("alone")
    for name, config in MODELS.items():
        train(config, folder / name)
    return folder


@pytest.mark.parametrize(
    ("per_device", "names"), [(1, MODELS), (2, ("standard", "l2", "l2_large"))]
)
def test_models_of_a_suite_are_those_trained_alone(alone, tmp_path, per_device, names):
    """Six on four devices, with one a device, are a round of four and one of two.

    A ReLU or a sign within rounding of 0 may go either way: so much is allowed.
    """
    progress = make(tmp_path, names, per_device=per_device)
    for name in names:
        assert apart(params(tmp_path / name), params(alone / name), name) < 0.1, name
        assert progress[tmp_path / name].done == 3
        lines = [(folder / name / "metrics.jsonl").read_text() for folder in (alone, tmp_path)]
        found, expected = ([json.loads(x) for x in text.splitlines()] for text in lines)
        for a, b in zip(found, expected, strict=True):
            assert a.keys() == b.keys() and a["step"] == b["step"]
            assert a.get("val_clean_accuracy") == pytest.approx(
                b.get("val_clean_accuracy"), abs=0.1
            )
    assert apart(params(tmp_path / "l2"), params(alone / "l2_large"), "l2_large") > 0.3
    if "rest" in names:  # other weights are another model
        assert apart(params(tmp_path / "rest"), params(alone / "linf"), "linf") > 0.3


def test_a_killed_suite_resumes_each_of_its_models(alone, tmp_path):
    """One model has no checkpoint; the last one of others is missing or damaged."""
    folder = tmp_path / "suite"
    shutil.copytree(alone, folder)
    shutil.rmtree(folder / "l2" / "checkpoints")
    for name in ("l2_large", "linf_small"):
        shutil.rmtree(folder / name / "checkpoints" / "3")
    for file in (folder / "linf" / "checkpoints" / "3").rglob("d/*"):
        file.write_bytes(b"")
    finished = (folder / "standard" / "metrics.jsonl").read_bytes()
    progress = make(folder)
    for name in MODELS:
        assert apart(params(folder / name), params(alone / name), name) < 0.1, name
    lines = {path.name: " ".join(p.lines) for path, p in progress.items()}
    assert "checkpoint" in lines["linf"] and "is damaged" in lines["linf"]
    for name in ("linf", "l2_large", "linf_small"):
        assert "resuming at step 2 of 3" in lines[name]
    assert lines["l2"].endswith("units, 3 steps") and not lines["standard"]
    assert (folder / "standard" / "metrics.jsonl").read_bytes() == finished
    again = make(folder)
    assert all(p.done == 0 and p.skipped == 3 and not p.lines for p in again.values())


@pytest.mark.parametrize("devices", (1, 4))
def test_a_model_that_diverges_does_not_stop_the_others(tmp_path, monkeypatch, devices):
    """With one device every model has a round of its own."""
    monkeypatch.setattr(jax, "local_device_count", lambda: devices)
    configs = {tmp_path / "bad": model(epsilon=2.0), tmp_path / "good": model()}
    progress = {path: Silent() for path in configs}

    def attack_of(config, attack_of=parts.train_attack):
        attack, epsilon = attack_of(config)
        return (Attack(2.0, 1, math.nan), 1.0) if epsilon == 2 else (attack, epsilon)

    monkeypatch.setattr(parts, "train_attack", attack_of)
    faults = train_suite(configs, progress=progress)
    assert list(faults) == [tmp_path / "bad"]
    assert isinstance(faults[tmp_path / "bad"], TrainingDiverged)
    assert "step 1: " in str(faults[tmp_path / "bad"])
    assert "gradient_norm = nan" in str(faults[tmp_path / "bad"])
    output = " ".join(line for p in progress.values() for line in p.lines)
    assert ("the models trained with it continue" in output) == (devices == 4)
    if devices == 4:
        assert all(p.done + p.skipped == 3 for p in progress.values())
    assert models.store.latest_step(tmp_path / "good") == 3
    assert not list((tmp_path / "bad" / "checkpoints").glob("[0-9]*"))


def test_models_that_differ_in_own_keys_alone_share_a_program(tmp_path, monkeypatch):
    groups, names = [], ("a", "b", "c", "slow")
    monkeypatch.setattr(suite, "_train_group", lambda group, _: groups.append(group) or {})
    noisy = {"background.noise_std": 0.1}
    models = (model(**noisy), model(seed=1), model(p=math.inf), model(learning_rate=0.01))
    configs = dict(zip((tmp_path / name for name in names), models, strict=True))
    assert train_suite(configs, progress={path: Silent() for path in configs}) == {}
    assert [[run.workdir.name for run in group] for group in groups] == [["a", "b", "c"], ["slow"]]


@pytest.mark.parametrize(
    ("change", "per_device", "message"),
    [
        ({"attack.p": 3.0}, None, "the norm must be one of"),
        ({}, 0, "per_device = 0"),
        ({"attack.method": "free"}, None, "'free' is not for suites"),
    ],
)
def test_bad_values_are_refused_before_anything_is_written(tmp_path, change, per_device, message):
    configs = {tmp_path / "a": model(), tmp_path / "b": model(**change)}
    with pytest.raises(InputError, match=message):
        train_suite(configs, per_device=per_device, progress={})
    assert not list(tmp_path.iterdir())

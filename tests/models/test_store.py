"""models.load by name, from converted directories and original files."""

import json
import os
import warnings
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from seeded import state_dict

from advspur import models
from advspur.benchmarks import open_model
from advspur.models import convert as converting
from advspur.models import store
from advspur.models.classifier import record_facts
from advspur.models.convert import convert
from tests.refusals import refused

NORMALISER = {"mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225)}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A models directory: resnet18_l2_eps3 converted, resnet18_linf_eps4.0 as its file.

    As `robustness` saves a model, without the attacker; their network is a small one.
    """
    folder = tmp_path_factory.mktemp("models")
    for name, seed in (("resnet18_l2_eps3", 0), ("resnet18_linf_eps4.0", 1)):
        state = state_dict("resnet_small", seed=seed, num_classes=10)
        state = {f"model.{name}": value for name, value in state.items()}
        for what, values in NORMALISER.items():
            state[f"normalizer.new_{what}"] = np.float32(values).reshape(3, 1, 1)
        with open(folder / f"{name}.ckpt", "wb") as file:
            np.savez(file, **state)
    source = folder / "resnet18_l2_eps3.ckpt"
    store.save_converted(convert(source), source, folder / "resnet18_l2_eps3")
    source.unlink()
    return folder


def leaves_equal(a, b):
    return all(map(np.array_equal, jax.tree.leaves(a.params), jax.tree.leaves(b.params)))


def test_names_find_directories_and_files(folder, monkeypatch):
    converted = models.load("resnet18_l2_eps3", models_dir=folder)
    assert leaves_equal(converted, models.load(folder / "resnet18_l2_eps3"))
    original = models.load("resnet18_linf_eps4", models_dir=folder)
    assert leaves_equal(original, models.load(folder / "resnet18_linf_eps4.0.ckpt"))
    assert not leaves_equal(converted, original)
    monkeypatch.setenv("ADVSPUR_MODELS", str(folder))
    assert leaves_equal(models.load("resnet18_l2_eps3.0"), converted)


def test_facts_say_what_a_record_needs(folder):
    facts = store.model_facts("resnet18_l2_eps3", models_dir=folder)
    expected = {"model": "resnet18_l2_eps3", "arch": "resnet_small", "seed": 0, "recipe": {}}
    assert record_facts(facts) == expected | {"train_p": 2.0, "train_epsilon": 3.0}
    assert facts["source"]["file"] == "resnet18_l2_eps3.ckpt" and len(facts["checksum"]) == 64
    facts = store.model_facts("resnet18_linf_eps4", models_dir=folder)
    assert (facts["model"], facts["train_p"]) == ("resnet18_linf_eps4.0", "inf")
    assert facts["train_epsilon"] == 4 / 255 and facts["step"] == 0


def test_models_of_one_architecture_cost_one_compilation(folder):
    compiled = []

    def listener(event, duration, **_):
        if event == "/jax/core/compile/backend_compile_duration":
            compiled.append(event)

    names = ("resnet18_l2_eps3", "resnet18_linf_eps4.0")
    classifiers = [models.load(name, models_dir=folder) for name in names]
    images = jnp.full((2, 8, 8, 3), 0.5)
    first = jax.block_until_ready(classifiers[0].logits(images))
    jax.monitoring.register_event_duration_secs_listener(listener)
    try:
        second = jax.block_until_ready(classifiers[1].logits(images))
    finally:
        jax.monitoring.unregister_event_duration_listener(listener)
    assert compiled == [] and not np.allclose(first, second)


def test_a_missing_model_is_named_with_its_source(folder, tmp_path, monkeypatch):
    (tmp_path / "notes.txt").write_text("x")
    half = {"mean": (0.5,) * 3, "std": (0.5,) * 3}
    get = rf"is not in {folder}: .*resnet50_linf_eps8.0.ckpt.*madrylab/robust-imagenet-models"
    for name, options, words in (
        ("resnet50_linf_eps8", {}, get),
        ("resnet51", {}, "neither a directory or file, nor a name such as"),
        (tmp_path, {}, "model.json is missing"),
        (tmp_path / "notes.txt", {}, "notes.txt cannot be read: it is neither"),
        ("resnet18_l2_eps3", {"weights": "ema"}, "not a training run: it has neither averaged"),
        (folder / "resnet18_l2_eps3", half, "has its normalisation already: mean and std"),
    ):
        refused(words, models.load, name, models_dir=folder, **options)
    monkeypatch.delenv("ADVSPUR_MODELS", raising=False)
    refused(r"\$ADVSPUR_MODELS or models_dir", models.load, "resnet50_linf_eps8")


def test_a_damaged_converted_model_is_refused(folder, tmp_path):
    directory = folder / "resnet18_l2_eps3"
    weights = (directory / "model.safetensors").read_bytes()
    middle = len(weights) // 2
    flipped = weights[:middle] + bytes([weights[middle] ^ 1]) + weights[middle + 1 :]
    facts = (directory / "model.json").read_text()
    other = json.dumps(json.loads(facts) | {"num_classes": 11})
    for content, text in ((flipped, facts), (weights[:middle], facts), (weights, other)):
        (tmp_path / "model.safetensors").write_bytes(content)
        (tmp_path / "model.json").write_text(text)
        refused("damaged: .*; convert it again", models.load, tmp_path)


def test_conversion_replaces_whole_or_not_at_all(folder, tmp_path, monkeypatch):
    source = folder / "resnet18_linf_eps4.0.ckpt"
    conversion = convert(source)
    out = store.save_converted(conversion, source, tmp_path / "m")
    before = (out / "model.json").read_bytes()
    store.save_converted(conversion, source, out, train_p=2.0, train_epsilon=1.0)
    assert store.model_facts(out)["train_epsilon"] == 1.0
    with monkeypatch.context() as patch, pytest.raises(ZeroDivisionError):
        patch.setattr(store.json, "dumps", lambda *_, **__: 1 / 0)
        store.save_converted(conversion, source, out)
    renames = []

    def fails_at_the_second(self, target):
        renames.append(target)
        if len(renames) == 2:
            raise OSError("no")
        return os.rename(self, target)

    with monkeypatch.context() as patch, pytest.raises(OSError, match="no"):
        patch.setattr(Path, "rename", fails_at_the_second)
        store.save_converted(conversion, source, out)
    assert models.load(out) and sorted(p.name for p in tmp_path.iterdir()) == ["m"]
    assert (out / "model.json").read_bytes() != before
    (tmp_path / "mine").mkdir()
    message = "exists and is not a converted model"
    refused(message, store.save_converted, conversion, source, tmp_path / "mine")


def test_a_damaged_description_is_named(tmp_path):
    for content in (b"[]", b"{}", b"\xff", b"[" * 100_000, b'{"arch": "resnet18", "mean": 3}'):
        (tmp_path / "model.json").write_bytes(content)
        refused("model.json is damaged", models.load, tmp_path)


def test_a_name_without_a_budget_leaves_it_open_with_a_warning(folder, tmp_path):
    path = tmp_path / "mine.npz"
    path.write_bytes((folder / "resnet18_linf_eps4.0.ckpt").read_bytes())
    assert models.load(path).num_classes == 10
    with pytest.warns(UserWarning, match="--train_p=P --train_epsilon=EPSILON"):
        store.save_converted(convert(path), path, tmp_path / "out")
    for name in (path, tmp_path / "out"):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)
            facts = record_facts(store.model_facts(name))
        assert facts["train_p"] is facts["train_epsilon"] is None


def test_a_checkpoint_file_is_converted_once_in_an_evaluation(folder, monkeypatch):
    """What is known of a model is read from names and shapes alone."""
    filled, path = [], folder / "resnet18_linf_eps4.0.ckpt"
    expected, leaf = models.load(path), converting._leaf

    def counted(name, *args):
        filled.append(name)
        return leaf(name, *args)

    monkeypatch.setattr(converting, "_leaf", counted)
    model = open_model(path)
    assert not filled and model.facts == store.model_facts(path)
    assert leaves_equal(model.classifier(), expected) and leaves_equal(model.classifier(), expected)
    assert len(filled) == len(set(filled)) == 47
    averaged = open_model(path, weights="ema")
    refused("is not a training run: it has neither averaged", averaged.classifier)


def test_an_assumed_normalisation_warns_at_every_load(tmp_path):
    source = tmp_path / "resnet18_l2_eps3.npz"
    np.savez(source, **state_dict("resnet_small", num_classes=10))
    told = pytest.warns(UserWarning, match="resnet18_l2_eps3.* holds no normaliser: Image")
    with told:
        models.load(source)
    with told:
        store.save_converted(convert(source), source, tmp_path / "resnet18_l2_eps3")
    with told:
        models.load(tmp_path / "resnet18_l2_eps3")

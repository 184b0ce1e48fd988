"""The colour shift's numbers for models whose answers are known, on the real file format."""

import importlib
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from prepare_data import prepare_arrays

from advspur.benchmarks import BENCHMARKS, evaluate_model
from advspur.benchmarks.runner import OpenModel
from advspur.models import Classifier
from advspur.records import COMPLETE, read_records
from tests.refusals import refused

NUM, SHIFT = 60, 16 / 255
LABELS = np.arange(NUM) % 10
COLORS = {"rho": 4.0, "shift": SHIFT, "seed": 0}
READING = {"allow_partial": True}
# Grey images: what the shift adds is all that red and green differ in.
LEVELS = np.random.default_rng(0).integers(40, 200, (NUM, 1, 1, 1), np.uint8)
IMAGES = np.broadcast_to(LEVELS, (NUM, 32, 32, 3))
ROW = BENCHMARKS["cifar_color_shift"]


def _by_colors(scale, images):
    """Red images are of class 0, green ones of class 5, to the extent of the mean difference."""
    red, green, _ = jnp.moveaxis(jnp.mean(images, axis=(1, 2)), -1, 0)
    base = jnp.full((len(images), 10), -1.0)
    red, green = scale * (red - green), scale * (green - red)
    return base.at[:, 0].set(red).at[:, 5].set(green), None


READER = Classifier(jnp.float32(40), _by_colors, 10, has_features=False, code="by colours")


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory):
    folder = tmp_path_factory.mktemp("color")
    arrays = {"train_images": IMAGES[:10], "train_labels": LABELS[:10]}
    np.savez(folder / "x.npz", **arrays, test_images=IMAGES, test_labels=LABELS)
    prepare_arrays(folder / "x.npz", "cifar10", folder, version="3.0.2")
    return folder / "cifar10"


def measure(data_dir, allow_partial=True, **change):
    pgd = {"l2_epsilons": (), "linf_epsilons": (6 / 255, 9 / 255), "num_steps": 3} | change
    reading = {"color_shift": COLORS, "allow_partial": allow_partial}
    call = {"batch_size": 16, "key": jax.random.key(0), "data": reading, "pgd": pgd}
    records = ROW.evaluate(READER, data_dir, **call)
    return {(r.metric, r.options["part"], r.options.get("epsilon")): r for r in records}


def parts_of(data_dir):
    return ROW.load(data_dir, {"color_shift": COLORS, **READING})


def test_numbers_of_a_reader_of_colours(data_dir):
    """It is right on classes 0 and 5 of the majority. The colours are 16/255 apart: an attack that
    moves red and green by less than 8/255 leaves them in order, one by more turns them round."""
    found = measure(data_dir)
    for split, rho in (("test", 4.0), ("uncorrelated", 1.0)):
        parts = parts_of(data_dir)
        labels, majority = (parts[split].columns[n] for n in ("label", "is_majority"))
        expected = np.isin(labels, (0, 5)) & majority
        assert majority.sum() == 10 * (6 - round(6 / (rho + 1)))
        for metric, epsilon in (("accuracy", None), ("pgd_accuracy", 6 / 255)):
            names = (metric, f"majority_{metric}", f"minority_{metric}")
            for name, of in zip(names, (slice(None), majority, ~majority), strict=True):
                record = found[name, split, epsilon]
                assert record.value == pytest.approx(expected[of].mean()), name
                assert record.num_examples == len(expected[of])
            name = "gap" if metric == "accuracy" else f"{metric}_gap"
            gap = found[f"majority_minority_{name}", split, epsilon]
            assert gap.value == pytest.approx(expected[majority].mean())
        assert found["pgd_accuracy", split, 9 / 255].value == 0


FACTS = {"dataset": "cifar10", "color_shift": COLORS, "shapes": {}, "num_classes": 10}


@pytest.mark.parametrize(("p", "epsilon"), ((2.0, 0.5), ("inf", 8 / 255)))
def test_robust_models_are_attacked_in_units_of_their_budget(p, epsilon):
    fault, options = ROW.fits(FACTS | {"train_p": p, "train_epsilon": epsilon})
    own = (epsilon / 2, epsilon, 2 * epsilon)
    for measure in ("pgd", "autoattack"):
        found = options[measure]["l2_epsilons"], options[measure]["linf_epsilons"]
        assert found == ((own, ()) if p == 2 else ((), own))
    assert not fault and options["data"] == {"color_shift": COLORS}
    _, options = ROW.fits(FACTS | {"train_p": p, "train_epsilon": 0.0})
    assert options == {"data": {"color_shift": COLORS}}


def test_budget_0_is_the_clean_accuracy_of_the_attacked_images(data_dir):
    found = measure(data_dir, num_attacked=7)
    record, whole = found["pgd_accuracy", "test", 0.0], found["accuracy", "test", None]
    table = parts_of(data_dir)["test"]
    labels, majority = (table.columns[n][:7] for n in ("label", "is_majority"))
    assert record.value == pytest.approx(np.mean(np.isin(labels, (0, 5)) & majority))
    assert (record.num_examples, whole.num_examples) == (7, NUM)


def test_records_say_the_ratio_and_the_shift_and_are_not_measured_twice(data_dir, tmp_path):
    facts = FACTS | {"model": "m", "arch": "reader", "train_p": math.inf, "train_epsilon": 0.0}
    facts |= {"seed": 3, "step": 1, "checksum": "x"}
    model = OpenModel(facts, lambda: READER)
    small = {"num_attacked": 4, "num_steps": 1}
    options = {"data": READING, "pgd": small}
    call = {"path": tmp_path / "records.jsonl", "directory": data_dir}
    call |= {"options": options, "batch_size": 16}
    measured = evaluate_model(model, ROW, **call)
    assert {(r.options["rho"], r.options["shift"]) for r in measured} == {(4.0, SHIFT)}
    (cut,) = (r for r in measured if r.metric == "clipped_share")
    assert cut.value == 0 and cut.num_examples == NUM
    ends = [r for r in read_records(call["path"]) if r.metric == COMPLETE]
    assert all(end.options["data"]["color_shift"] == COLORS for end in ends)
    assert evaluate_model(model, ROW, **call) == []
    other = model._replace(facts=model.facts | {"color_shift": COLORS | {"rho": 9.0}})
    assert len(evaluate_model(other, ROW, **call)) == len(measured)
    endless = model._replace(facts=model.facts | {"color_shift": COLORS | {"rho": "inf"}})
    found = evaluate_model(endless, ROW, **call)
    (minority, *_) = (r for r in found if r.metric == "minority_accuracy")
    assert minority.num_examples == 0 and minority.options["rho"] == "inf"
    assert "without a colour shift" in ROW.fits(facts | {"color_shift": None})[0]


def test_missing_data_are_refused(data_dir, tmp_path):
    refused("60 images, 10,000 are published", measure, data_dir, allow_partial=False)
    refused("no CIFAR-10 in", ROW.plan, tmp_path, ROW.measures, {"data": READING})


@pytest.mark.parametrize("config", ("evaluate", "cifar10_color_shift"))
def test_the_configs_leave_to_a_model_what_it_was_trained_with(data_dir, tmp_path, config):
    """A config has every option: its defaults must not hide the model's own shift and budgets."""
    loaded = importlib.import_module(f"configs.{config}").get_config()
    options = (loaded.options[ROW.name] if config == "evaluate" else loaded.evaluation).to_dict()
    options = {group: options[group] for group in ("data", "pgd")}
    options["data"]["allow_partial"] = True
    options["pgd"] |= {"num_attacked": 4, "num_steps": 1}
    facts = FACTS | {"model": "m", "arch": "reader", "train_p": "inf", "train_epsilon": 8 / 255}
    model = OpenModel(facts | {"seed": 0, "step": 1, "checksum": "x"}, lambda: READER)
    call = {"path": tmp_path / "records.jsonl", "directory": data_dir, "batch_size": 16}
    found = evaluate_model(model, ROW, measures=("pgd",), options=options, **call)
    assert {r.options["rho"] for r in found} == {4.0}
    budgets = {(r.options["p"], r.options["epsilon"]) for r in found}
    assert budgets == {("inf", e) for e in (0.0, 4 / 255, 8 / 255, 16 / 255)}

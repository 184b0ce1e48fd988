"""The colour shift's numbers: of models whose every answer is known, on the real file format."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import struct
from prepare_data import prepare_arrays

from advspur._checks import InputError
from advspur.benchmarks import BENCHMARKS, cifar_color_shift, evaluate_model
from advspur.benchmarks.run import Model, _all_options, misfit
from advspur.data import inject_color_shift
from advspur.records import COMPLETE, read_records
from tests.data import fake_layouts as layouts

NUM, SHIFT = 60, 16 / 255
LABELS = np.arange(NUM) % 10
COLORS = {"rho": 4.0, "shift": SHIFT, "seed": 0}
READING = {"allow_partial": True}
# Grey images: what the shift adds is all that red and green differ in.
LEVELS = np.random.default_rng(0).integers(40, 200, (NUM, 1, 1, 1), np.uint8)
IMAGES = np.broadcast_to(LEVELS, (NUM, 32, 32, 3))


@struct.dataclass
class Reader:
    """Red images are of class 0, green ones of class 5, to the extent of the mean difference."""

    scale: jax.Array
    kind: str = struct.field(pytree_node=False, default="reader of colours")

    @property
    def num_classes(self):
        return 10

    def logits(self, images):
        red, green, _ = jnp.moveaxis(jnp.mean(images, axis=(1, 2)), -1, 0)
        base = jnp.full((len(images), 10), -1.0)
        return (
            base.at[:, 0].set(self.scale * (red - green)).at[:, 5].set(self.scale * (green - red))
        )


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory):
    folder = tmp_path_factory.mktemp("color")
    arrays = {"train_images": IMAGES[:10], "train_labels": LABELS[:10]}
    np.savez(folder / "x.npz", **arrays, test_images=IMAGES, test_labels=LABELS)
    prepare_arrays(folder / "x.npz", "cifar10", folder, version="3.0.2")
    return folder / "cifar10"


def measure(data_dir, **change):
    options = {"batch_size": 16, "key": jax.random.key(0), "color_shift": COLORS, **READING}
    options |= {"l2_epsilons": (), "linf_epsilons": (6 / 255, 9 / 255), "attack_steps": 3}
    records = cifar_color_shift.evaluate(Reader(jnp.float32(40)), data_dir, **options | change)
    return {(r.metric, r.options.get("split"), r.options.get("epsilon")): r for r in records}


def test_numbers_of_a_reader_of_colours(data_dir):
    """It is right on classes 0 and 5 of the majority. The colours are 16/255 apart: an attack that
    moves red and green by less than 8/255 leaves them in order, one by more turns them round."""
    found = measure(data_dir)
    for split, rho in (("test", 4.0), ("uncorrelated", 1.0)):
        parts = cifar_color_shift.load(data_dir, color_shift=COLORS, **READING)
        labels, majority = (parts[split].columns[n] for n in ("label", "is_majority"))
        expected = np.isin(labels, (0, 5)) & majority
        assert majority.sum() == 10 * (6 - round(6 / (rho + 1)))
        for metric, epsilon in (("accuracy", None), ("pgd_accuracy", 6 / 255)):
            names = (metric, f"majority_{metric}", f"minority_{metric}")
            for name, of in zip(names, (slice(None), majority, ~majority), strict=True):
                record = found[name, split, epsilon]
                assert record.value == pytest.approx(expected[of].mean()), name
                assert record.num_examples == len(expected[of])
            gap = found[f"majority_minority_{metric}_gap", split, epsilon]
            assert gap.value == pytest.approx(expected[majority].mean())
        assert found["pgd_accuracy", split, 9 / 255].value == 0


def test_groups_are_those_of_the_training_function(data_dir):
    parts = cifar_color_shift.load(data_dir, color_shift=COLORS, **READING)
    columns = parts["test"].columns
    raw = cifar_color_shift._decoded(data_dir, True, False).columns
    images, majority = inject_color_shift(raw["image"], raw["label"], split="test", **COLORS)
    np.testing.assert_array_equal(columns["image"], images)
    np.testing.assert_array_equal(columns["is_majority"], majority)


@pytest.mark.parametrize("benchmark", ("cifar_color_shift", "autoattack_cifar_color_shift"))
@pytest.mark.parametrize(("p", "epsilon"), ((2.0, 0.5), ("inf", 8 / 255)))
def test_robust_models_are_attacked_in_units_of_their_budget(benchmark, p, epsilon):
    model = Model({"color_shift": COLORS, "train_p": p, "train_epsilon": epsilon}, "raw", None)
    given = {"l2_epsilons": (0.1,), "linf_epsilons": (1 / 255,)}
    options = _all_options(model, benchmark, given)
    own = (epsilon / 2, epsilon, 2 * epsilon)
    found = options["l2_epsilons"], options["linf_epsilons"]
    assert found == ((own, ()) if p == 2 else ((), own)) and options["color_shift"] == COLORS
    standard = model._replace(facts=model.facts | {"train_epsilon": 0.0})
    assert _all_options(standard, benchmark, given) == given | {"color_shift": COLORS}


def test_budget_0_is_the_clean_accuracy_of_the_attacked_images(data_dir):
    found = measure(data_dir, num_attacked=7)
    record, whole = found["pgd_accuracy", "test", 0.0], found["accuracy", "test", None]
    table = cifar_color_shift.load(data_dir, color_shift=COLORS, **READING)["test"]
    labels, majority = (table.columns[n][:7] for n in ("label", "is_majority"))
    assert record.value == pytest.approx(np.mean(np.isin(labels, (0, 5)) & majority))
    assert (record.num_examples, whole.num_examples) == (7, NUM)


def test_the_passes_told_are_the_passes_made(data_dir):
    progress = layouts.Passes()
    measure(data_dir, progress=progress, num_attacked=20)
    told = cifar_color_shift.num_passes(
        data_dir,
        l2_epsilons=(),
        linf_epsilons=(6 / 255, 9 / 255),
        attack_steps=3,
        num_attacked=20,
        **READING,
    )
    assert progress.done == told


def test_records_say_the_ratio_and_the_shift_and_are_not_measured_twice(data_dir, tmp_path):
    facts = {"model": "m", "arch": "reader", "train_p": math.inf, "train_epsilon": 0.0, "seed": 3}
    facts |= {"dataset": "cifar10", "shapes": {}, "num_classes": 10, "step": 1, "checksum": "x"}
    model = Model(facts | {"color_shift": COLORS}, "raw", lambda: Reader(jnp.float32(40)))
    call = {"path": tmp_path / "records.jsonl", "data_dir": data_dir}
    small = {"batch_size": 16, "num_attacked": 4, "attack_steps": 1, **READING}
    call["options"] = small
    measured = evaluate_model(model, "cifar_color_shift", **call)
    assert {(r.options["rho"], r.options["shift"]) for r in measured} == {(4.0, SHIFT)}
    (cut,) = (r for r in measured if r.metric == "clipped_share")
    assert cut.value == 0 and cut.num_examples == NUM
    (end,) = (r for r in read_records(call["path"]) if r.metric == COMPLETE)
    assert end.options["color_shift"] == COLORS
    assert evaluate_model(model, "cifar_color_shift", **call) == []
    other = model._replace(facts=model.facts | {"color_shift": COLORS | {"rho": 9.0}})
    assert len(evaluate_model(other, "cifar_color_shift", **call)) == len(measured)
    call["options"] = {"batch_size": 16, "num_images": 4, "linf_epsilons": (2 / 255,)}
    call["options"] |= {"l2_epsilons": (), **READING}
    found = evaluate_model(model, "autoattack_cifar_color_shift", **call)
    assert {r.options["rho"] for r in found} == {4.0}
    endless = model._replace(facts=model.facts | {"color_shift": COLORS | {"rho": "inf"}})
    found = evaluate_model(endless, "cifar_color_shift", **call | {"options": small})
    (minority, *_) = (r for r in found if r.metric == "minority_accuracy")
    assert minority.num_examples == 0 and minority.options["rho"] == "inf"
    for benchmark in ("cifar_color_shift", "autoattack_cifar_color_shift"):
        assert "without a colour shift" in misfit(Model(facts, "raw", None), benchmark)


def test_what_cannot_be_measured_is_said(data_dir, tmp_path):
    with pytest.raises(InputError, match="60 images, 10,000 are published"):
        measure(data_dir, allow_partial=False)
    with pytest.raises(InputError, match="no CIFAR-10 in"):
        BENCHMARKS["cifar_color_shift"].num_passes(tmp_path, **READING)
    with pytest.raises(InputError, match="num_attacked = 0"):
        measure(data_dir, num_attacked=0)

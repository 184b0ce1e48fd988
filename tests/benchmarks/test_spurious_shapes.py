"""The embedded benchmark on a tiny model: all records, values recomputed, resuming."""

import json

import jax
import numpy as np
import pytest

from advspur import models
from advspur.benchmarks import BENCHMARKS, evaluate_model, open_model
from advspur.data import spurious_shapes
from advspur.models import store
from advspur.records import COMPLETE, read_records
from tests.refusals import refused

NUM = 24  # three of each class: means over images are means over classes
PGD = {"num_attacked": 5, "l2_epsilons": (0.1,), "linf_epsilons": (1 / 255, 4 / 255)}
OPTIONS = {
    "pgd": PGD | {"num_steps": 2},
    "regions": {
        "linf_noise_levels": (0.2, 0.5),
        "l2_noise_levels": (28.0,),  # of 224 pixels a side: 2.0 at 16
        "l2_epsilons": (0.5,),
        "linf_epsilons": (),
        "attack_steps": 2,
        "num_attacked": 8,
    },
}
ROW = BENCHMARKS["spurious_shapes"]


def options(shapes):
    return OPTIONS | {"data": {"num_examples": NUM, "shapes": shapes}}


@pytest.fixture(scope="module")
def records(tiny_classifier, easy_shapes):
    call = {"batch_size": 8, "key": jax.random.key(3)} | options(easy_shapes)
    return ROW.evaluate(tiny_classifier, **call)


def value(records, metric, part="test", **options):
    options |= {"part": part} if "background_gap" not in metric else {"paired": True}
    (found,) = [r for r in records if r.metric == metric and r.options == options]
    return found


@pytest.fixture(scope="module")
def count(tiny_classifier, easy_shapes):
    """split -> (outcomes, columns), without any of the benchmark's machinery."""

    def outcomes(split):
        columns = spurious_shapes(split, num_examples=NUM, **easy_shapes).columns
        images = np.float32(columns["image"]) / np.float32(255)
        logits = [tiny_classifier.logits(images[i : i + 8]) for i in range(0, NUM, 8)]
        return np.concatenate(logits).argmax(axis=1) == columns["label"], columns

    return outcomes


def test_all_numbers_are_recorded_once(records):
    sensitivity, of_test = "relative_foreground_sensitivity", {"part": "test"}
    levels = [{"family": f, "level": k} for f, k in (("linf", 0.2), ("linf", 0.5), ("l2", 2.0))]
    both, attack = ("foreground", "background"), {"p": 2.0, "num_steps": 2}
    budgets = ((2.0, 0.0), (2.0, 0.1), ("inf", 0.0), ("inf", 1 / 255), ("inf", 4 / 255))
    groups, gap = ("", "majority_", "minority_"), "majority_minority_pgd_accuracy_gap"
    expected = [
        *((f"{g}accuracy", of_test) for g in groups),
        *(("accuracy", {"part": p}) for p in ("mixed_same", "mixed_rand", "uncorrelated")),
        *((name, of_test) for name in ("majority_minority_gap", "worst_group_accuracy")),
        *((name, {"paired": True}) for name in ("background_gap", "relative_background_gap")),
        *(
            (name, {"p": p, "epsilon": epsilon, "num_steps": 2} | of_test)
            for p, epsilon in budgets
            for name in (*(f"{g}pgd_accuracy" for g in groups), gap)
        ),
        *((f"{region}_noise_accuracy", level | of_test) for level in levels for region in both),
        *((sensitivity, level | of_test) for level in levels),
        *((f"{region}_attack_accuracy", attack | {"epsilon": 0.5} | of_test) for region in both),
        (f"adversarial_{sensitivity}", attack | {"epsilon": 0.5} | of_test),
        *((name, of_test) for name in ("norm_fraction_spurious", "spurious_area")),
    ]
    for prefix in ("", "mean_"):
        expected += [(prefix + sensitivity, {"family": "linf", "levels": [0.2, 0.5]} | of_test)]
        expected += [(prefix + sensitivity, {"family": "l2", "levels": [2.0]} | of_test)]
        adversarial = f"{prefix}adversarial_{sensitivity}"
        expected += [(adversarial, attack | {"epsilons": [0.5]} | of_test)]

    def order(pairs):
        return sorted((name, str(sorted(o.items()))) for name, o in pairs)

    def plain_options(record):
        return {name: v for name, v in record.options.items() if name != "degenerate"}

    assert order((r.metric, plain_options(r)) for r in records) == order(expected)
    assert len({r.identity for r in records}) == len(records)
    assert all(r.low <= r.value <= r.high for r in records if not np.isnan(r.value))
    assert {r.num_examples for r in records if r.metric == "pgd_accuracy"} == {5}
    assert {(r.benchmark, r.measure) for r in records} == {(ROW.name, m) for m in ROW.measures}
    assert {r.num_examples for r in records if "noise" in r.metric} == {NUM}


def test_accuracies_and_gaps_agree_with_an_independent_count(records, count):
    accuracy = {}
    for split in ("mixed_same", "mixed_rand", "uncorrelated", "test"):
        right, columns = count(split)
        accuracy[split] = right.mean()
        found = value(records, "accuracy", part=split).value
        assert found == pytest.approx(accuracy[split], abs=1e-9)
    assert 0 < accuracy["test"] < 1  # a constant model would show nothing
    labels, majority = columns["label"], columns["label"] == columns["background"]
    groups = {(k, m) for k, m in zip(labels, majority, strict=True)}
    worst = min(right[(labels == k) & (majority == m)].mean() for k, m in groups)
    gap = accuracy["mixed_same"] - accuracy["mixed_rand"]
    expected = {
        "background_gap": gap,
        "relative_background_gap": gap / accuracy["mixed_same"],
        "majority_accuracy": right[majority].mean(),
        "minority_accuracy": right[~majority].mean(),
        "majority_minority_gap": right[majority].mean() - right[~majority].mean(),
        # NaN if one of the groups is empty
        "worst_group_accuracy": worst if len(groups) == 2 * len(set(labels)) else np.nan,
    }
    for metric, number in expected.items():
        found = value(records, metric).value
        assert found == pytest.approx(number, abs=1e-9, nan_ok=True), metric
    assert value(records, "majority_accuracy").num_examples == majority.sum()


def test_robust_accuracy_is_at_most_the_clean_one_and_falls_with_the_budget(records, count):
    clean = count("test")[0][:5].mean()
    attack = {"p": "inf", "num_steps": 2}
    small, large = (
        value(records, "pgd_accuracy", epsilon=e, **attack).value for e in (1 / 255, 4 / 255)
    )
    assert large <= small <= clean


@pytest.mark.parametrize("family, levels", (("linf", [0.2, 0.5]), ("l2", [2.0])))
def test_the_sensitivity_is_made_of_the_noise_accuracies(records, family, levels):
    """Classes are balanced here, so their mean is the accuracy over images."""

    def mean_accuracy(region):
        metric = f"{region}_noise_accuracy"
        return np.mean([value(records, metric, family=family, level=k).value for k in levels])

    core, spurious = mean_accuracy("foreground"), mean_accuracy("background")
    mean = (core + spurious) / 2
    expected = (spurious - core) / (2 * min(mean, 1 - mean))
    found = value(records, "relative_foreground_sensitivity", family=family, levels=levels)
    assert core != spurious
    assert found.value == pytest.approx(expected, abs=1e-9)


def test_a_model_with_other_classes_is_refused(tiny_classifier):
    data = {"num_examples": 9, "shapes": {"num_classes": 3}}
    call = {"batch_size": 8, "key": jax.random.key(0), "data": data}
    message = "the model has 8 classes; this data set has 3"
    refused(message, ROW.evaluate, tiny_classifier, **call)


@pytest.fixture
def run_dir(tmp_path, monkeypatch, tiny_classifier, easy_shapes):
    """A run directory with its model.json; what its checkpoints would hold is given."""
    facts = {
        "arch": "resnet_small", "train_p": "inf", "train_epsilon": 0.5, "seed": 3,
        "dataset": "spurious_shapes", "shapes": easy_shapes, "stem": "small", "num_classes": 8,
        "dtype": "float32", "mean": [0.5] * 3, "std": [0.25] * 3,
    }  # fmt: skip
    steps = [10]
    (tmp_path / "tiny").mkdir()
    (tmp_path / "tiny" / "model.json").write_text(json.dumps(facts))
    monkeypatch.setattr(store, "latest_step", lambda path: steps[-1])
    monkeypatch.setattr(store, "_saved_digest", lambda directory: str(steps))
    monkeypatch.setattr(models, "load", lambda path, **_: tiny_classifier)
    return tmp_path / "tiny", facts, steps


def test_a_run_is_evaluated_once(tmp_path, run_dir, records):
    run, _, steps = run_dir
    path = tmp_path / "records.jsonl"

    def evaluate(**change):
        given = {g: o for g, o in options({}).items() if g != "data"}  # shapes: those of the model
        given["data"] = {"num_examples": NUM}
        call = {"path": path, "seed": 3, "batch_size": 8, "options": given} | change
        opened = open_model(run, weights=call.pop("weights", "raw"))
        return len(evaluate_model(opened, ROW, cache_dir=tmp_path / "outcomes", **call))

    assert evaluate() == len(records)
    written = read_records(path)
    ends = [r for r in written if r.metric == COMPLETE]
    assert sum(end.value for end in ends) == len(records) == len(written) - len(ends)
    assert {(r.model, r.arch, r.train_p, r.train_epsilon, r.seed) for r in written} == {
        ("tiny", "resnet_small", "inf", 0.5, 3)
    }
    assert {r.benchmark for r in written} == {"spurious_shapes"}
    # The same seed gives the same numbers, and shapes are those of training.
    found = [str(r[:6]) for r in written if r.metric != COMPLETE]
    assert found == [str(r[:6]) for r in records]  # NaN is not NaN
    before = path.read_bytes()
    assert evaluate() == 0
    assert path.read_bytes() == before
    # Killed before its last record: the last measure is measured again.
    path.write_text("".join(before.decode().splitlines(keepends=True)[:-1]))
    assert evaluate() == ends[-1].value
    # Averaged weights and a longer training are different models.
    assert evaluate(weights="ema") == len(records)
    assert {r.model for r in read_records(path)} == {"tiny", "tiny@ema"}
    steps.append(20)
    assert evaluate() == len(records)
    assert evaluate() == evaluate(seed=3) == 0


def test_a_model_trained_on_other_data_is_refused_before_anything_is_written(tmp_path, run_dir):
    run, facts, _ = run_dir
    path = tmp_path / "records.jsonl"
    other = facts | {"dataset": "cifar10", "shapes": {}}
    (run / "model.json").write_text(json.dumps(other))
    message = "tiny cannot .*: it was trained on other data .cifar10"
    refused(message, evaluate_model, open_model(run), ROW, path=path, batch_size=8)
    assert not path.exists()

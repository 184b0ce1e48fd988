"""Users' own data from the table to the records: heads, groups, masks, missing columns."""

import csv
import dataclasses

import jax
import numpy as np
import pytest
from PIL import Image

from advspur.benchmarks import own_benchmark
from advspur.benchmarks.own import choose_head, fitting, measured
from advspur.data import spurious_shapes
from advspur.data.spurious_shapes import SHAPES
from tests.refusals import refused

SPLITS = {"train": 48, "test": 24}
DATA = {"image_size": 16, "resize": "none"}
PGD = {"l2_epsilons": (), "linf_epsilons": (1 / 255,), "num_steps": 2, "num_attacked": 8}
CALL = {"batch_size": 8, "key": jax.random.key(0), "data": DATA}
REGIONS = {"l2_epsilons": (), "linf_epsilons": (), "trials": 2, "linf_noise_levels": (0.2,)}


@pytest.fixture(scope="module")
def folder(tmp_path_factory, easy_shapes):
    """manifest.csv of shapes with their names, whether the background agrees, and masks."""
    root = tmp_path_factory.mktemp("own") / "shapes"
    root.mkdir()
    rows = []
    for split, count in SPLITS.items():
        columns = spurious_shapes(split, num_examples=count, **easy_shapes).columns
        for i in range(count):
            name, mask = f"{split}{i}.png", f"{split}{i}_mask.png"
            Image.fromarray(columns["image"][i]).save(root / name)
            Image.fromarray(255 * columns["mask"][i, :, :, 0].astype(np.uint8)).save(root / mask)
            agrees = "agrees" if columns["is_majority"][i] else "differs"
            rows.append([name, SHAPES[columns["label"][i]], split, agrees, mask])
    with (root / "manifest.csv").open("w", newline="") as file:
        table = csv.writer(file)
        table.writerow(["image", "label", "split", "background", "mask"])
        table.writerows(rows)
    return root


@pytest.fixture(scope="module")
def row(folder):
    return own_benchmark(folder)


@pytest.fixture(scope="module")
def named(tiny_classifier):
    """The model with the names of its outputs, which are not in the order of the data."""
    return dataclasses.replace(tiny_classifier, class_names=SHAPES, name="tiny")


@pytest.fixture(scope="module")
def records(row, named):
    measures, _ = measured(row, row.load(None, DATA), {"data": DATA})
    return row.evaluate(named, measures=measures, pgd=PGD, regions=REGIONS, **CALL)


def value(records, metric, **options):
    (found,) = [r for r in records if r.metric == metric and options.items() <= r.options.items()]
    return found


def test_the_row_has_its_folders_name_and_reports_what_the_data_lack(row, folder):
    assert row.name == "shapes" and own_benchmark(folder / "manifest.csv").name == "shapes"
    measures, lines = measured(row, row.load(None, DATA), {"data": DATA})
    assert measures == ("accuracy", "groups", "pgd", "regions")
    assert lines == [
        "measured: accuracy, groups, pgd, regions; on request: autoattack",
        "not measured: background_gaps, it lacks the part mixed_same and mixed_rand (other parts "
        "can be named by its options)",
    ]


def test_accuracies_are_those_of_the_images_under_the_classes_names(records, row, named):
    """The model's answers, by name, counted without any of the machinery."""
    table = row.load(None, DATA)["test"]
    images = np.stack([table[i]["image"] for i in range(len(table))]).astype(np.float32) / 255
    answers = [SHAPES[k] for k in np.argmax(named.logits(images), axis=1)]
    labels = [table.names["label"][k] for k in table.columns["label"]]
    right = np.array([a == b for a, b in zip(answers, labels, strict=True)])
    agrees = np.array([table.names["background"][k] for k in table.columns["background"]])
    assert 0 < right.mean() < 1
    assert value(records, "accuracy", part="test").value == pytest.approx(right.mean())
    for label, background in sorted(set(zip(labels, agrees.tolist(), strict=True))):
        of_group = (np.array(labels) == label) & (agrees == background)
        group = f"{label}, {background}"
        found = value(records, "group_accuracy", group=group)
        assert found.num_examples == of_group.sum()
        assert found.value == pytest.approx(right[of_group].mean())
    pgd = value(records, "pgd_accuracy", epsilon=1 / 255)
    assert pgd.num_examples == 8 and pgd.value <= value(records, "pgd_accuracy", epsilon=0.0).value
    for metric in ("norm_fraction_spurious", "spurious_area", "mean_relative_core_sensitivity"):
        assert value(records, metric).num_examples > 0
    assert {r.benchmark for r in records} == {"shapes"}


def test_the_majority_is_what_training_makes_more_frequent(records, row):
    table = row.load(None, DATA)["test"]
    counts = np.zeros((8, 2))
    train = row.load(None, DATA)["train"]
    np.add.at(counts, (train.columns["label"], train.columns["background"]), 1)
    expected = counts * 48 > counts.sum(1, keepdims=True) * counts.sum(0)
    is_majority = expected[table.columns["label"], table.columns["background"]]
    np.testing.assert_array_equal(table.columns["is_majority"], is_majority)
    found = value(records, "majority_accuracy", part="test")
    assert found.num_examples == is_majority.sum() > 0


def test_a_probe_is_fitted_if_the_classes_differ(row, tiny_classifier, named):
    """With and without validation data; its predictions are those of its features."""
    other = dataclasses.replace(tiny_classifier, class_names=tuple("abcdefgh"))
    call, head = CALL | {"measures": ("accuracy",)}, {"num_epochs": 2}
    found = row.evaluate(other, head=head, **call)
    heads = {r.options["head"]: r.value for r in found if r.metric == "accuracy"}
    assert set(heads) == {"adam", "lbfgs"} and heads["lbfgs"] > 0.5
    chosen = row.evaluate(named, head=head | {"head": "probe"}, **call)
    assert [r.value for r in chosen] == [r.value for r in found]


@pytest.mark.parametrize(
    "facts, options, expected",
    [
        ({"num_classes": 8}, {}, "classes: by number"),
        ({"num_classes": 8}, {"class_names": SHAPES}, "the model's in another order: bars = out"),
        ({"num_classes": 8, "class_names": SHAPES}, {"head": "probe"}, "head: linear probe"),
        ({"num_classes": 3}, {}, "linear probe on the model's features, because the data have 8 c"),
        ({"num_classes": 3}, {"head": "classes"}, "error: the data have 8 classes"),
        ({"num_classes": 3, "has_features": False}, {}, "error: .*the model has no features"),
        ({"num_classes": 8, "has_features": False}, {"head": "probe"}, "error: no linear probe "),
        ({"num_classes": 8}, {"class_names": "ab"}, "error: class_names has 2 names, the model 8"),
        ({"num_classes": 8}, {"head": "svm"}, "error: head = 'svm' is not known; allowed: 'auto'"),
    ],
)  # fmt: skip
def test_the_line_about_the_head(row, facts, options, expected):
    parts, fault = row.load(None, DATA), expected.removeprefix("error: ")
    if fault != expected:
        refused(fault, choose_head, facts, parts, **options)
    else:
        assert expected in choose_head(facts, parts, **options)[1]


def test_the_data_may_have_some_of_the_models_classes(tmp_path, tiny_classifier):
    """Two shapes of eight: "all" counts a prediction of a different one as wrong."""
    rng = np.random.default_rng(0)
    for name in ("ring", "disc"):
        (tmp_path / "two" / name).mkdir(parents=True)
        for i in range(8):
            image = rng.integers(0, 256, (16, 16, 3), np.uint8)
            Image.fromarray(image).save(tmp_path / "two" / name / f"{i}.png")
    row = own_benchmark(tmp_path / "two")
    model = dataclasses.replace(tiny_classifier, class_names=SHAPES)
    table = row.load(None, DATA)["test"]
    images = np.stack([table[i]["image"] for i in range(16)]).astype(np.float32) / 255
    logits, of_data = np.asarray(model.logits(images)), [SHAPES.index(n) for n in ("disc", "ring")]
    for among, chosen in (("all", logits), ("mapped", logits[:, of_data])):
        (found,) = row.evaluate(model, measures=("accuracy",), head={"among": among}, **CALL)
        answers = chosen.argmax(axis=1)
        answers = answers if among == "all" else np.array(of_data)[answers]
        right = answers == np.array(of_data)[table.columns["label"]]
        assert found.value == pytest.approx(right.mean())


def test_combinations_without_images_are_not_groups(tmp_path, tiny_classifier):
    """MetaShift-like data: cats outdoors, dogs indoors, never the other way round."""
    lines = ["image,label,split,place"]
    for split in ("train", "test"):
        for i, (label, place) in enumerate((("0", "in"), ("1", "out"), ("0", "in"), ("1", "out"))):
            name = f"{split}{i}.png"
            Image.fromarray(np.full((16, 16, 3), 60 * i, np.uint8)).save(tmp_path / name)
            lines.append(f"{name},{label},{split},{place}")
    (tmp_path / "manifest.csv").write_text("\n".join(lines))
    row = own_benchmark(tmp_path, name="pets")
    head = {"head": "probe", "num_epochs": 1}
    found = row.evaluate(tiny_classifier, measures=("groups",), head=head, **CALL)
    groups = {r.options["group"] for r in found if r.metric == "group_accuracy"}
    assert groups == {"label 0, in", "label 1, out"}
    assert all(np.isfinite(r.value) for r in found if r.metric == "worst_group_accuracy")


def test_evaluated_parts_fit_no_probe(row):
    """With only train and val, val is evaluated; with only train, nothing is left to fit."""
    parts = row.load(None, DATA)
    assert set(fitting(parts)) == {"train"}
    assert set(fitting({"train": parts["train"], "val": parts["test"]})) == {"train"}
    assert not fitting({"train": parts["train"]})
    train = {"train": parts["train"]}
    refused("no part train beside what is evaluated", choose_head, {"num_classes": 3}, train)


@pytest.mark.parametrize("name", ("waterbirds", "imagenet", "training", ""))
def test_names_with_a_different_meaning_in_records_are_refused(tmp_path, name):
    (tmp_path / "waterbirds").mkdir()
    path = tmp_path / "waterbirds" if not name else tmp_path
    refused("your own data cannot be called", own_benchmark, path, name=name)
    assert own_benchmark(tmp_path / "birds-1.0").name == "birds-1.0"


def test_a_row_measures_what_its_data_allow_and_asks_for_the_rest(row, named):
    message = "shapes cannot be measured by background_gaps: it lacks"
    refused(message, row.evaluate, named, measures=("background_gaps",), **CALL)
    quick = {"pgd": PGD | {"num_attacked": 2}, "regions": REGIONS}
    found = row.evaluate(named, **CALL, **quick)
    assert {r.measure for r in found} == {"accuracy", "groups", "pgd", "regions"}
    message = "make one with advspur.models.from_function"
    refused(message, row.evaluate, lambda images: images, **CALL)

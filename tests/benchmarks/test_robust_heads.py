"""Group-robust heads as an option of rows: fake Waterbirds, own data, and tiny shapes."""

import dataclasses

import jax
import numpy as np
import pytest
from PIL import Image

from advspur.benchmarks import BENCHMARKS, own_benchmark
from advspur.data import spurious_shapes
from advspur.heads import retrained, selection
from advspur.report import figures
from advspur.report.headlines import SHAPES_CLEAN, SHAPES_GAPS, SHAPES_GROUPS
from advspur.report.suite import suite_of
from tests.data import fake_layouts
from tests.data.fake_layouts import coded
from tests.refusals import refused

KEY = jax.random.key(0)
CALL = {"batch_size": 8, "key": KEY, "measures": ("accuracy", "groups")}
SHAPES = BENCHMARKS["spurious_shapes"]
SHAPE_HEADS = ("group_balanced", "dfr")
HEADED = {"heads": SHAPE_HEADS, "weight_decays": (1e-3,)}


def plain(records):
    """The identity and the numbers of records, with NaN as text."""
    return [str(r[:6]) for r in records]


def test_waterbirds_has_all_heads_beside_its_probes(tmp_path, monkeypatch):
    """Eight images per split are too few to learn from: only which records there are is checked."""
    monkeypatch.setattr(selection, "NUM_DRAWS", 2)
    monkeypatch.setattr(selection, "AFR_SHARE", 0.5)
    monkeypatch.setattr(retrained, "halves", lambda groups, rng: (np.arange(8), np.arange(8)))
    root = fake_layouts.write_waterbirds(tmp_path / "birds")
    row, data = BENCHMARKS["waterbirds"], {"allow_partial": True}
    model = coded({}, 7)
    call = CALL | {"data": data}
    fit = {"num_epochs": 2, "with_lbfgs": False, "sensitivity_learning_rates": ()}
    before = row.evaluate(model, root, head=fit, **call)
    found = row.evaluate(model, root, head=fit | {"heads": selection.HEADS}, **call)
    assert plain(r for r in found if "selected_by" not in r.options) == plain(before)
    heads = {r.options["head"] for r in found if "selected_by" in r.options}
    assert heads == set(selection.HEADS)
    for r in found:
        if "selected_by" in r.options:
            assert r.options["selected_by"] == "val worst group"
            assert "val_score" in r.options and "heads" not in r.options
    of_dfr = {r.metric for r in found if r.options["head"] == "dfr"}
    assert of_dfr >= {"accuracy", "adjusted_average_accuracy", "worst_group_accuracy"}


@pytest.fixture(scope="module")
def shapes(easy_shapes):
    return {"data": {"num_examples": 48, "shapes": easy_shapes}}


def test_shapes_are_fitted_to_their_train_and_chosen_on_their_validation(
    shapes, tiny_classifier, monkeypatch
):
    sizes = {"num_train": 256, "num_val": 256}
    call = CALL | {"measures": ("accuracy", "groups", "background_gaps", "pgd")}
    call["pgd"] = {"linf_epsilons": (0.1,), "l2_epsilons": (), "num_steps": 1, "num_attacked": 48}
    before = SHAPES.evaluate(tiny_classifier, **call, **shapes)
    data = shapes["data"] | sizes
    found = SHAPES.evaluate(tiny_classifier, **call, data=data, head=HEADED)
    as_it_is = [r for r in found if "head" not in r.options]
    new = "adjusted_average_accuracy"  # as the sizes of the training groups are known
    assert plain(r for r in as_it_is if r.metric != new) == plain(before)
    for name in SHAPE_HEADS:
        of_head = [r for r in found if r.options.get("head") == name]
        assert {r.options.get("part") for r in of_head} == {*SHAPES.parts({}), None}
        assert {"background_gap", "worst_group_accuracy", new} <= {r.metric for r in of_head}
        on_test = [r for r in of_head if r.options.get("part") == "test"]
        (clean,) = (r.value for r in on_test if r.metric == "accuracy")
        at = {r.options["epsilon"]: r.value for r in on_test if r.metric == "pgd_accuracy"}
        assert at.keys() == {0.0, 0.1} and at[0.0] == clean and at[0.1] <= clean
    # The figure of accuracy under PGD is of the network, not of a head.
    shown = []
    monkeypatch.setattr(figures, "_line", lambda axis, values, *_: shown.append(values))
    of = [r._replace(model="tiny", train_epsilon=0.0, train_p=2.0) for r in found]
    figures._robustness(suite_of(of))
    pgd = {r.options["epsilon"]: r.value for r in as_it_is if r.metric == "pgd_accuracy"}
    assert [pgd[0.0], pgd[0.1]] in shown
    columns = spurious_shapes("train", num_examples=256, **data["shapes"]).columns
    weights = np.bincount(columns["group"])
    assert SHAPES.load(None, data)["test"].train_groups == tuple(weights)


def test_a_report_takes_the_model_as_it_is_for_its_headline(shapes, tiny_classifier):
    data = shapes["data"] | {"num_train": 256, "num_val": 256}
    call = CALL | {"measures": ("accuracy", "groups", "background_gaps"), "data": data}
    found = SHAPES.evaluate(tiny_classifier, **call, head=HEADED)
    suite = suite_of([r._replace(model="tiny", train_epsilon=0.0, train_p=2.0) for r in found])
    for headline in (SHAPES_CLEAN, *SHAPES_GROUPS, *SHAPES_GAPS):
        (shown,) = suite.matching(headline, "tiny")
        assert "head" not in shown.options


def test_users_own_tables_have_them_too(tmp_path, tiny_classifier, easy_shapes):
    """Beside the model's own classes, which stay the headline."""
    lines = ["image,label,split,background"]
    splits = ("train", "train", 96), ("validation", "val", 96), ("test", "test", 48)
    for split, name, count in splits:
        columns = spurious_shapes(split, num_examples=count, **easy_shapes).columns
        for i in range(count):
            Image.fromarray(columns["image"][i]).save(tmp_path / f"{name}{i}.png")
            agrees = "agrees" if columns["is_majority"][i] else "differs"
            lines.append(f"{name}{i}.png,{columns['label'][i]},{name},{agrees}")
    (tmp_path / "manifest.csv").write_text("\n".join(lines))
    row = own_benchmark(tmp_path, name="mine")
    call = CALL | {"data": {"image_size": 16, "resize": "none"}}
    head = {"heads": ("class_balanced",), "weight_decays": (1e-3,)}
    found, before = (row.evaluate(tiny_classifier, head=h, **call) for h in (head, {}))
    assert plain(r for r in found if "head" not in r.options) == plain(before)
    (worst,) = (r for r in found if r.metric == "worst_group_accuracy" and "head" in r.options)
    assert worst.options["head"] == "class_balanced" and worst.options["weight_decay"] == 1e-3


@pytest.mark.parametrize(
    "data, head, message",
    [
        ({}, {"heads": ("dfr",)}, "the heads dfr need the part train; there is none"),
        ({"num_train": 64}, {"heads": ("dfr",)}, "the heads dfr need the part val; there is none"),
        ({}, {"heads": ("svm",)}, "heads = 'svm' is not known"),
        ({}, {"heads": "dfr"}, "heads = 'dfr': give a list of names"),
        ({}, {"selected_by": "luck"}, "selected_by = 'luck' is not known"),
        ({"num_train": -1}, {}, "num_train = -1"),
    ],
)
def test_bad_options_are_one_line_before_any_work(shapes, data, head, message):
    options = SHAPES.changed({"data": shapes["data"] | data, "head": head})
    refused(message, SHAPES.plan, None, CALL["measures"], options)


def test_a_model_without_features_is_refused(shapes, tiny_classifier):
    blind = dataclasses.replace(tiny_classifier, has_features=False, name="blind")
    data = shapes["data"] | {"num_train": 64, "num_val": 64}
    refused("blind has no features", SHAPES.evaluate, blind, **CALL, data=data, head=HEADED)

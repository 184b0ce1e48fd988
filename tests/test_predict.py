"""Passes over a table: every example once; kept outcomes are read if nothing has changed."""

import dataclasses

import jax
import numpy as np
import pytest

from advspur import predict
from advspur.data import array_source, spurious_shapes
from advspur.data.transforms import to_unit
from advspur.models import Classifier, with_class_map, with_head
from tests.data.fake_layouts import Passes
from tests.refusals import refused

NUM = 13


@pytest.fixture(scope="module")
def table(easy_shapes):
    return spurious_shapes("test", num_examples=NUM, **easy_shapes)


def on(model, table, batch_size=8, **running):
    """The outcomes of `correct_on`."""
    found = predict.correct_on(model, table, batch_size=batch_size, **running)
    np.testing.assert_array_equal(found["label"], table.columns["label"])
    return found["correct"]


@pytest.mark.parametrize("batch_size", (1, 5, 13, 20))
def test_every_example_is_counted_once(table, batch_size):
    def function(batch, numbers):
        return {"label": batch.label, "number": numbers}

    found = predict.for_each_example(function, table, batch_size=batch_size)
    np.testing.assert_array_equal(found["label"], table.columns["label"])
    np.testing.assert_array_equal(found["number"], np.arange(NUM))


def test_padding_leaves_predictions_unchanged(tiny_classifier, table):
    logits = np.asarray(tiny_classifier.logits(table.columns["image"].astype(np.float32) / 255))
    expected = logits.argmax(axis=1) == table.columns["label"]
    assert 0 < expected.sum() < NUM
    for batch_size in (8, 13):
        np.testing.assert_array_equal(on(tiny_classifier, table, batch_size), expected)


def test_heads_and_class_maps_are_computed_from_the_pass_below(tiny_classifier, table, tmp_path):
    """As the models with them predict, and with one pass of the network for all of a kind."""
    rng, images = np.random.default_rng(0), to_unit(table.columns["image"])
    groups = np.array([0, 1, 2, 3, 4, 5, 6, -1])
    kernels = [rng.normal(size=(16, 8)).astype("float32") for _ in range(2)]
    heads = [with_head(tiny_classifier, k, np.zeros(8, "float32")) for k in kernels]
    maps = [with_class_map(tiny_classifier, groups, 7, with_rest=r) for r in (True, False)]
    for models in (heads, maps):
        progress = Passes()
        for model in models:
            expected = np.argmax(model.logits(images), axis=1) == table.columns["label"]
            found = on(model, table, cache_dir=tmp_path, progress=progress)
            np.testing.assert_array_equal(found, expected)
        assert (progress.done, progress.skipped) == (NUM, NUM)


def test_heads_that_are_not_finite_and_empty_tables_are_refused(tiny_classifier, table):
    head = np.full((16, 8), np.inf, "float32")
    refused("not finite for 13 of 13", on, with_head(tiny_classifier, head, head[0]), table)
    refused("0 examples.* contains no examples", on, tiny_classifier, table.subset([]))


@pytest.fixture
def pass_of(tiny_classifier, table, tmp_path):
    """A pass with changes -> (images computed, images read from what was kept)."""

    def call(model=tiny_classifier, data=table, about="clean", **change):
        progress, running = Passes(), {"batch_size": 8, "cache_dir": tmp_path / "kept"} | change

        def function(batch, numbers):
            return {"number": numbers}

        found = predict.outcomes(function, model, data, about, progress=progress, **running)
        np.testing.assert_array_equal(found["number"], data.index)
        return progress.done, progress.skipped

    return call


def changed(table, **columns):
    """The table with other columns, or rows."""
    columns = {n: c for n, c in (table.columns | columns).items() if n in ("image", "label")}
    return array_source(columns.pop("image"), columns.pop("label"), num_classes=8)


def test_kept_outcomes_are_read_if_nothing_has_changed(pass_of, tiny_classifier, table, tmp_path):
    assert pass_of() == (NUM, 0)
    (file,) = (tmp_path / "kept").iterdir()
    assert pass_of() == (0, NUM)
    assert pass_of(batch_size=4) == (0, NUM)  # batches do not matter
    assert pass_of(model=dataclasses.replace(tiny_classifier, name="renamed")) == (0, NUM)
    copy = table.subset(range(NUM))
    assert copy is not table and pass_of(data=copy) == (0, NUM)
    assert list((tmp_path / "kept").iterdir()) == [file]


def test_a_different_input_is_computed_again(pass_of, tiny_classifier, table):
    """Each input in turn: weights, code, data, order, labels, what is measured."""
    assert pass_of(data=changed(table)) == (NUM, 0)
    images, labels = table.columns["image"], table.columns["label"]
    moved = jax.tree.map(lambda x: x * 1.001, tiny_classifier.params)
    brighter = images.copy()
    brighter[7, 3, 3, 1] ^= 1
    order = np.arange(NUM)[::-1]
    for change in (
        {"model": dataclasses.replace(tiny_classifier, params=moved)},
        {"model": dataclasses.replace(tiny_classifier, code="changed")},
        {"data": changed(table, image=brighter)},
        {"data": changed(table, label=(labels + 1) % 8)},
        {"data": changed(table, image=images[order], label=labels[order])},
        {"data": changed(table).subset(range(NUM - 1))},
        {"about": "attacked"},
    ):
        change = {"data": changed(table)} | change
        assert pass_of(**change) == (len(change["data"]), 0), change.keys()
        assert pass_of(**change) == (0, len(change["data"]))
    assert pass_of(data=changed(table)) == (0, NUM)  # the first is still there


@pytest.mark.parametrize("damage", ("half", "empty", "other", "bit", "folder"))
def test_a_damaged_file_is_computed_again(pass_of, tmp_path, damage):
    pass_of()
    (file,) = (tmp_path / "kept").iterdir()
    whole = file.read_bytes()
    if damage == "folder":
        file.unlink()
        file.mkdir()
        with pytest.raises(OSError, match=file.name):  # not ours to remove
            pass_of()
        return
    content = {"half": [whole[: len(whole) // 2]], "empty": [b""], "other": [b"<html>no</html>"]}
    # In the archive's directory, at the end, it may say that there are fewer arrays, or a cipher.
    places = *range(0, len(whole) - 150, 101), *range(len(whole) - 150, len(whole), 11)
    content["bit"] = [whole[:i] + bytes([whole[i] ^ 5]) + whole[i + 1 :] for i in places]
    for damaged in content[damage]:
        file.write_bytes(damaged)
        assert pass_of() == (NUM, 0)
        assert file.read_bytes() == whole


def test_nothing_is_kept_for_a_model_without_a_digest(table, tmp_path):
    model = Classifier({}, lambda params, x: (x.mean((1, 2)), None), 3, has_features=False)
    for _ in range(2):
        progress = Passes()
        on(model, table, cache_dir=tmp_path, progress=progress)
        assert (progress.done, progress.skipped) == (NUM, 0)
    assert not list(tmp_path.iterdir())


def test_one_compilation_serves_all_models_of_an_architecture(tiny_classifier, table):
    on(tiny_classifier, table)
    before = predict.correct_clean._cache_size()
    params = jax.tree.map(lambda x: x * 1.1, tiny_classifier.params)
    on(dataclasses.replace(tiny_classifier, params=params), table)
    assert predict.correct_clean._cache_size() == before

"""Example images: the file holds what a linear model, known by hand, does with them."""

import numpy as np
import pytest

from advspur.benchmarks import BENCHMARKS
from advspur.benchmarks.examples import save_examples
from tests.measures.linear import linear

ROW = BENCHMARKS["spurious_shapes"]
OPTIONS = {"data": {"num_examples": 10, "shapes": {"num_classes": 3, "image_size": 8}}}
WEIGHTS = np.random.default_rng(0).normal(size=(8, 8, 3, 3)).astype(np.float32)
ROWS = [0, 3, 6, 9]  # four evenly spaced ones of ten


@pytest.fixture(scope="module")
def plan():
    return ROW.plan(None, ("accuracy", "regions", "background_gaps"), OPTIONS)


def saved(plan, path, *names, change=lambda measures: measures):
    measures = change({name: plan.measures[name] for name in names})
    save_examples(linear(WEIGHTS, np.zeros(3)), measures, path)
    with np.load(path) as content:
        return dict(content)


def test_a_file_shows_what_the_model_does(plan, tmp_path):
    found = saved(plan, tmp_path / "a" / "m.npz", "regions", "background_gaps")
    tables = [plan.parts[part] for part in ("test", "mixed_same", "mixed_rand")]
    images = np.stack([table.columns["image"][ROWS] for table in tables])
    labels = tables[0].columns["label"][ROWS]
    logits = np.tensordot(images / 255, WEIGHTS.astype(float), axes=3)
    names = np.array(["disc", "square", "triangle"])
    assert found["part"].tolist() == ["test", "mixed_same", "mixed_rand"]
    assert found["label"].tolist() == names[labels].tolist()
    assert np.array_equal(found["prediction"], names[logits.argmax(-1)])
    assert np.array_equal(found["image"], images)
    assert np.array_equal(found["core"], 255 * tables[0].columns["mask"][ROWS, :, :, 0])
    for i, label in enumerate(labels):
        other = max({0, 1, 2} - {label}, key=lambda k: logits[0, i, k])
        length = np.linalg.norm(WEIGHTS[..., label] - WEIGHTS[..., other], axis=-1)
        assert np.abs(found["gradient"][i] - 255 * length / length.max()).max() <= 1


def test_gaps_alone_have_no_gradients(plan, tmp_path):
    found = saved(plan, tmp_path / "m.npz", "background_gaps")
    assert found["part"].tolist() == ["mixed_same", "mixed_rand"]
    assert not {"core", "gradient"} & found.keys()


def test_parts_of_other_objects_are_not_shown_beside_the_image(plan, tmp_path):
    def shuffled(measures):
        parts, options = measures["background_gaps"]
        parts = parts | {"mixed_rand": parts["mixed_rand"].subset(np.arange(10)[::-1])}
        return measures | {"background_gaps": (parts, options)}

    found = saved(plan, tmp_path / "m.npz", "regions", "background_gaps", change=shuffled)
    assert found["part"].tolist() == ["test"]


def test_accuracy_has_nothing_to_show(plan, tmp_path):
    with pytest.raises(FileNotFoundError):
        saved(plan, tmp_path / "m.npz", "accuracy")

"""Example images: the file holds what a linear model, known by hand, does with them."""

import copy

import numpy as np
import pytest

from advspur.benchmarks import BENCHMARKS
from advspur.measures.examples import file_stem, save_examples
from tests.measures.linear import linear

ROW = BENCHMARKS["spurious_shapes"]
OPTIONS = {"data": {"num_examples": 10, "shapes": {"num_classes": 3, "image_size": 8}}}
WEIGHTS = np.random.default_rng(0).normal(size=(8, 8, 3, 3)).astype(np.float32)
ROWS = [0, 3, 6, 9]  # four evenly spaced ones of ten


@pytest.fixture(scope="module")
def plan():
    return ROW.plan(None, ("background_gaps",), OPTIONS)


def saved(plan, folder, name="m"):
    save_examples(linear(WEIGHTS, np.zeros(3)), ROW, plan, folder, name)
    with np.load(folder / f"{file_stem(name)}.npz") as content:
        return dict(content)


def test_a_file_shows_what_the_model_does(plan, tmp_path):
    found = saved(plan, tmp_path / "a", "a/b: ü")
    tables = [plan.parts[part] for part in ("test", "mixed_same", "mixed_rand")]
    images = np.stack([table.columns["image"][ROWS] for table in tables])
    labels = tables[0].columns["label"][ROWS]
    logits = np.tensordot(images / 255, WEIGHTS.astype(float), axes=3)
    names = np.array(["disc", "square", "triangle"])
    assert found["part"].tolist() == ["test", "mixed_same", "mixed_rand"]
    assert (found["model"], found["benchmark"]) == ("a/b: ü", "spurious_shapes")
    assert found["gap"].tolist() == ["mixed_same", "mixed_rand"]
    assert found["label"].tolist() == names[labels].tolist()
    assert np.array_equal(found["prediction"], names[logits.argmax(-1)])
    assert np.array_equal(found["image"], images)
    assert np.array_equal(found["core"], 255 * tables[0].columns["mask"][ROWS, :, :, 0])
    for i, label in enumerate(labels):
        other = max({0, 1, 2} - {label}, key=lambda k: logits[0, i, k])
        length = np.linalg.norm(WEIGHTS[..., label] - WEIGHTS[..., other], axis=-1)
        assert np.abs(found["gradient"][i] - 255 * length / length.max()).max() <= 1


def test_without_masks_there_are_no_gradients(plan, tmp_path):
    parts = {name: copy.copy(table) for name, table in plan.parts.items()}
    for table in parts.values():
        table.columns = {name: c for name, c in table.columns.items() if name != "mask"}
    found = saved(plan._replace(parts=parts), tmp_path)
    assert found["part"].tolist() == ["mixed_same", "mixed_rand"]
    assert not {"core", "gradient"} & found.keys()
    only = {"test": parts["test"]}  # neither masks nor a gap
    save_examples(linear(WEIGHTS, np.zeros(3)), ROW, plan._replace(parts=only), tmp_path, "none")
    assert [path.name for path in tmp_path.iterdir()] == ["m.npz"]


def test_parts_of_other_objects_are_not_shown_beside_the_image(plan, tmp_path):
    turned = plan.parts["mixed_rand"].subset(np.arange(10)[::-1])
    found = saved(plan._replace(parts=plan.parts | {"mixed_rand": turned}), tmp_path)
    assert found["part"].tolist() == ["test"] and not found["gap"].size


def test_the_gap_keeps_its_order(plan, tmp_path):
    regions = plan.options["regions"] | {"parts": ("mixed_rand",)}
    found = saved(plan._replace(options=plan.options | {"regions": regions}), tmp_path)
    assert found["part"].tolist() == ["mixed_rand", "mixed_same"]
    assert found["gap"].tolist() == ["mixed_same", "mixed_rand"]


def test_names_of_files():
    assert file_stem("l2_eps0.5_seed0@ema") == "l2_eps0.5_seed0@ema"
    assert file_stem("timm:a/b").startswith("timm_a_b-")
    assert len({file_stem(name) for name in ("a/b", "a:b", "a_b", "ü" * 300, "ü" * 301)}) == 5
    assert max(len(file_stem(name).encode()) for name in ("ü" * 300, "x" * 300)) < 100

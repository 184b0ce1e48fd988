"""The figure of example images: which models, what is said, files that are damaged."""

import numpy as np
import pytest

from advspur._checks import InputError
from advspur.report.examples import example_figures
from advspur.report.suite import suite_of

PREDICTIONS = [["a", "$\\x$"], ["a", "a"], ["b", "$\\x$"]]  # of three parts, on two images


def write(directory, name, benchmark="spurious_shapes", **changes):
    path = directory / "examples" / benchmark / f"{name}.npz"
    path.parent.mkdir(parents=True, exist_ok=True)
    content = {
        "benchmark": np.array(benchmark),
        "model": np.array(name),
        "gap": np.array(["mixed_same", "mixed_rand"]),
        "part": np.array(["test", "mixed_same", "mixed_rand"]),
        "label": np.array(["a", "$\\x$"]),
        "image": np.zeros((3, 2, 4, 4, 3), np.uint8),
        "prediction": np.array(PREDICTIONS),
        "core": np.pad(np.full((2, 2, 2), 255, np.uint8), ((0, 0), (1, 1), (1, 1))),
        "gradient": np.zeros((2, 4, 4), np.uint8),
    } | changes
    np.savez(path, **{key: value for key, value in content.items() if value is not None})
    return path


@pytest.fixture
def suite(model):
    """Four models with gaps of 10, 40, 20 and 0 points."""
    gaps = {(2.0, 0.0): 0.1, (2.0, 0.5): 0.4, ("inf", 0.01): 0.2, ("inf", 0.02): 0.0}
    return suite_of([model(*place, value=gap) for place, gap in gaps.items()])


def texts(figure, row, column):
    axis = np.array(figure.axes).reshape(2, -1)[row, column]
    return [(t.get_text(), t.get_color()) for t in axis.texts]


def test_the_least_and_the_most_reliant_model_with_a_file_are_shown(suite, tmp_path):
    for name in ("2.0_0.0_0", "2.0_0.5_0", "inf_0.01_0"):
        write(tmp_path, name)
    ((name, title, figure, caption, labels),) = example_figures(suite, tmp_path)
    assert (name, labels) == ("examples_spurious_shapes", set())
    assert title == "Example images: spurious_shapes"
    assert "2.0_0.0_0 (10.0 points [8.0, 12.0]) and 2.0_0.5_0 (40.0 points" in caption
    assert "accuracy on mixed_same minus accuracy on mixed_rand" in caption
    assert len(figure.axes) == 2 * 5
    titles = [axis.get_title() for axis in figure.axes[:5]]
    assert titles[1:4] == ["mixed same", "mixed rand", "gradient of\n2.0_0.0_0"]
    assert texts(figure, 1, 1) == [("least: a", "#b3261e"), ("most: a", "#b3261e")]
    assert texts(figure, 1, 2) == [("least: $\\x$", "#1a7f43"), ("most: $\\x$", "#1a7f43")]
    figure.canvas.draw()  # what looks like a formula is text


def test_one_model_without_masks(suite, tmp_path):
    write(tmp_path, "2.0_0.5_0", core=None, gradient=None)
    ((*_, figure, caption, _),) = example_figures(suite, tmp_path)
    assert caption.startswith("Evenly spaced") and "Model: 2.0_0.5_0 (40.0" in caption
    assert "gradient" not in caption and len(figure.axes) == 2 * 3
    assert texts(figure, 0, 0) == [("a", "#1a7f43")]


def test_models_without_a_number_are_not_shown(suite, tmp_path):
    write(tmp_path, "somebody")
    write(tmp_path, "2.0_0.5_0", benchmark="another")
    assert not list(example_figures(suite, tmp_path))


@pytest.mark.parametrize("change", [{"gradient": None}, {"image": np.ones((3, 2, 4, 4, 3))}])
def test_models_with_different_images_are_not_shown_together(suite, tmp_path, change):
    write(tmp_path, "2.0_0.0_0")
    write(tmp_path, "2.0_0.5_0", **change)
    ((*_, figure, caption, _),) = example_figures(suite, tmp_path)
    assert "Model: 2.0_0.0_0" in caption and len(figure.axes) == 2 * 4


def test_images_of_others_come_with_a_word_on_their_licence(model, tmp_path):
    suite = suite_of([model(2.0, 0.0)._replace(benchmark="imagenet9")])
    write(tmp_path, "2.0_0.0_0", benchmark="imagenet9")
    ((*_, caption, _),) = example_figures(suite, tmp_path)
    assert caption.endswith("check its licence before you share this page.")


@pytest.mark.parametrize("damage", ["cut", "empty", "flipped", "lacking"])
def test_a_damaged_file_is_named(suite, tmp_path, damage):
    path = write(tmp_path, "2.0_0.5_0", **({"gap": None} if damage == "lacking" else {}))
    content = bytearray(path.read_bytes())
    if damage == "flipped":
        content[120] ^= 255
    path.write_bytes(content[: {"cut": 200, "empty": 0}.get(damage)])
    with pytest.raises(InputError, match=r"2\.0_0\.5_0\.npz is damaged .*: delete it"):
        list(example_figures(suite, tmp_path))

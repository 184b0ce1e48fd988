"""scripts/coverage.py and scripts/predict_heads.py: their tables, and mistakes in one line."""

import functools
import re

import pytest

from tests import forked
from tests.data import shapes_on_places

MODEL = """
import jax.numpy as jnp
import numpy as np

from advspur import models


def network():
    weights = np.random.default_rng(0).normal(size=(32 * 32 * 3, 6)) / 50

    def features(images):
        return (images.reshape(len(images), -1) - 0.5) @ weights

    return models.from_function(
        lambda images: features(images)[:, :2],
        num_classes=2,
        features=features,
        image_size=32,
        name="network",
    )
"""


@pytest.fixture
def run(tmp_path):
    """(script, *arguments) -> (exit code, stdout, stderr)."""
    return functools.partial(forked.run, tmp_path / "said")


def test_coverage_is_counted(run):
    setting = ("--models=paper", "--norms=2", "--num_examples=200", "--core_only=yes")
    code, out, err = run("coverage", *setting, "--num_repetitions=3", "--num_resamples=100")
    assert code == 0, err
    assert "paper, p = 2, n = 200, core_only = yes" in out
    rows = re.findall(r"^  (collapse_radius|nfs) .* ([\d.]+)   \[([\d.]+), ([\d.]+)\]$", out, re.M)
    assert [row[0] for row in rows] == ["collapse_radius", *["nfs"] * 4]
    for _, share, low, high in rows:  # of three; Wilson's interval of 3 of 3 begins at 0.439
        assert float(share) in (0, 0.333, 0.667, 1) and float(low) <= float(share) <= float(high)
        assert float(low) == 0.439 if float(share) == 1 else float(low) < 0.439


@pytest.mark.parametrize(
    "argument, message",
    (
        ("--norms=two", "could not convert"),
        ("--norms=0.5", "the norm must be a number in [1, inf]"),
        ("--models=mine", "should be one of <paper|factors>"),
        ("--num_repetitions=0", "num_repetitions = 0"),
        ("--seed=-1", "seed = -1"),
    ),
)
def test_mistakes_in_coverage(run, argument, message):
    code, _, err = run("coverage", argument)
    assert code == 2 and message in err and "Traceback" not in err, err


def test_heads_on_own_data_are_predicted_and_found(run, tmp_path):
    shapes_on_places.write(tmp_path / "birds", 160)
    (tmp_path / "mine.py").write_text(MODEL)
    model = f"{tmp_path / 'mine.py'}:network"
    data = (f"--data={tmp_path / 'birds'}", "--num_components=3", "--num_directions=1")
    code, out, err = run("predict_heads", model, *data)
    assert code == 0, err
    assert "120 images; 3 components hold" in out and "fit to n = 60, d = 3" in out
    rows = re.findall(r"^ +[\d.]+  ([\d.e-]+) \[([\d.e-]+), ([\d.e-]+)\] +([\d.e-]+)", out, re.M)
    assert len(rows) == 12
    for predicted, low, high, head in (map(float, row) for row in rows):
        assert 0 <= low <= predicted <= high <= 1 and 0 <= head <= 1
    for argument, message in (
        ("--num_components=0", "num_components = 0"),
        ("--data=/nope", "no data in /nope"),
    ):
        code, _, err = run("predict_heads", model, *data, argument)
        assert code == 2 and message in err and "Traceback" not in err, err

"""models.load of functions in files and packages, and of libraries: what comes, what is said."""

import importlib
import sys
import textwrap
from pathlib import Path

import numpy as np
import pytest

from advspur import models
from advspur.models.classifier import classifier_facts, record_facts
from tests.refusals import refused

IMAGES = np.random.default_rng(0).random((2, 8, 8, 3), np.float32)
FILE = """
    import jax
    import jax.numpy as jnp
    from helper import SCALE
    from advspur import models

    WEIGHTS = jnp.arange(9.0).reshape(3, 3)

    def channels(weights, images):
        return SCALE * images.mean((1, 2)) @ weights

    def one():
        return models.from_function(channels, params=WEIGHTS, num_classes=3, name="function")

    def other():
        return models.from_function(channels, params=-WEIGHTS, num_classes=3, name="function")

    def product(images):
        import helper
        return images.mean((1, 2)) @ helper.ARRAY

    def captured():
        return models.from_function(product, num_classes=3, image_size=8, name="mine")

    def jitted(scale=1.0):
        logits = jax.jit(lambda images: scale * images.mean((1, 2)))
        return models.from_function(logits, num_classes=3, name="mine")

    def scaled():
        return jitted(1.5)

    def raw():
        return channels

    def needs(weights):
        return 1

    def fails():
        return {}["weights"]
"""
HELPER = "import numpy as np\nSCALE = 2\nARRAY = np.full((3, 3), 1.0, 'float32')\n"


@pytest.fixture
def file(tmp_path, monkeypatch):
    """my_models.py beside the helper that it imports."""
    (tmp_path / "my_models.py").write_text(textwrap.dedent(FILE))
    (tmp_path / "helper.py").write_text(HELPER)
    monkeypatch.delitem(sys.modules, "helper", raising=False)
    return tmp_path / "my_models.py"


def test_a_function_of_a_file_returns_a_model(file):
    before = list(sys.path)
    model = models.load(f"{file}:one")
    expected = 2 * IMAGES.mean((1, 2)) @ np.arange(9).reshape(3, 3)
    np.testing.assert_allclose(model.logits(IMAGES), expected, rtol=1e-4)
    assert model.name == "one" and sys.path == before
    assert models.load(f"{file}:captured").name == "mine"
    facts = classifier_facts(model)
    untold = {"train_p": None, "train_epsilon": None, "recipe": {}, "seed": 0}
    assert record_facts(facts) == {"model": "one", "arch": "function"} | untold
    assert (facts["num_classes"], facts["dataset"]) == (3, "unknown")


def test_models_of_one_file_share_a_program_and_differ_in_their_digest(file, traced_logits):
    one, other = (models.load(f"{file}:{name}") for name in ("one", "other"))
    assert one.forward == other.forward and one.digest != other.digest
    logits, traces = traced_logits
    np.testing.assert_allclose(logits(one, IMAGES), -logits(other, IMAGES))
    assert len(traces) == 1


def test_a_digest_sees_arrays_and_helpers_outside_of_the_file(file, monkeypatch):
    spec = f"{file}:captured"
    digest = models.load(spec).digest
    assert digest is not None and models.load(spec).digest == digest
    (file.parent / "helper.py").write_text(HELPER.replace("1.0", "1.5"))
    monkeypatch.delitem(sys.modules, "helper")
    importlib.invalidate_caches()
    assert models.load(spec).digest != digest
    jitted = models.load(f"{file}:jitted").digest  # and constants of jitted functions
    assert jitted == models.load(f"{file}:jitted").digest != models.load(f"{file}:scaled").digest


def test_a_function_of_a_package(file, monkeypatch):
    monkeypatch.chdir(file.parent)
    monkeypatch.delitem(sys.modules, "my_models", raising=False)
    model = models.load("my_models:one")
    assert model.num_classes == 3 and model.name == "one"
    monkeypatch.delitem(sys.modules, "my_models")


def test_models_that_cannot_be_loaded_are_refused_in_one_line(file, tmp_path):
    (tmp_path / "broken.py").write_text("x = 1\nx = = 2\n")
    (tmp_path / "missing.py").write_text("\nimport not_installed\n")
    (tmp_path / "notes.txt").write_text("x")
    for spec, message in (
        (f"{file}:nothing", "has no function 'nothing'; it has captured, channels, fails,"),
        (f"{file}:raw", "raw returns no model: a function is not a model; .*models.from_function"),
        (f"{file}:needs", "needs, called without arguments, fails.*TypeError.*'weights'"),
        (f"{file}:fails", r"called .* fails \(.*my_models.py, line 39\): KeyError: 'weights'"),
        (f"{file}:WEIGHTS", "my_models.py has no function 'WEIGHTS'"),
        (f"{tmp_path}/none.py:f", "no file .*none.py: a model in a file is PATH/FILE.py:FUNCTION"),
        (f"{tmp_path}/notes.txt:f", "notes.txt is not a Python file"),
        (f"{tmp_path}/broken.py:f", r"broken.py fails \(.*broken.py, line 2\): SyntaxError"),
        (f"{tmp_path}/missing.py:f", r"missing.py, line 2\): ModuleNotFoundError: No module named"),
        ("not_installed.models:f", "importing not_installed.models fails: ModuleNotFoundError"),
        ("timm:", "names no model: give FILE.py:FUNCTION, PACKAGE.MODULE:FUNCTION, timm:"),
        ("resnet51", "nor FILE.py:FUNCTION, PACKAGE.MODULE:FUNCTION, timm:NAME, torchvision:NAME"),
    ):
        refused(message, models.load, spec)
    for options, message in (
        ({"weights": "ema"}, "is not a training run: it has neither averaged weights nor steps"),
        ({"pretrained": False}, "mean, std and pretrained are not for models from"),
        (
            {"mean": (0.5,) * 3, "std": (0.5,) * 3},
            "mean, std and pretrained are not for models from",
        ),
    ):
        refused(message, models.load, f"{file}:one", **options)
    message = "pretrained=False is for timm:NAME and torchvision:NAME"
    refused(message, models.load, "resnet18_l2_eps3", pretrained=False)


def documented_file(folder):
    """my_models.py of docs/models.md, written into a folder."""
    text = (Path(__file__).parents[2] / "docs" / "models.md").read_text()
    blocks = [block.split("```")[0] for block in text.split("```python\n")[1:]]
    (content,) = [block for block in blocks if "def efficientnet" in block]
    (folder / "my_models.py").write_text(content)
    return folder / "my_models.py"


@pytest.mark.parametrize(
    "name, arch, width", (("network", "Network", 16), ("linear", "function", 0))
)
def test_the_models_of_the_documentation(name, arch, width, tmp_path):
    model = models.load(f"{documented_file(tmp_path)}:{name}")
    models.check_model(model)
    facts = classifier_facts(model)
    assert (facts["model"], facts["arch"], facts["image_size"]) == (name, arch, 32)
    assert model.has_features == bool(width) and model.digest is not None


def test_a_library_that_is_not_installed_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "torch", None)
    for name in ("resnet18", "hf-hub:timm/resnet18.a1_in1k"):
        refused(f"timm:{name} needs torch and timm: pip install", models.load, f"timm:{name}")

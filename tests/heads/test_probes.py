"""Probes as heads of a data set: the images they are fitted to, and the fields of their records."""

import re

import jax
import numpy as np
import pytest

from advspur.benchmarks.row import keywords
from advspur.heads import fit_linear_probe, fit_logistic_regression, plan_probes, probes
from tests.data.fake_layouts import Passes, coded, greys
from tests.refusals import refused

MODEL = coded({}, 7)  # its features are the mean colour
KEY = jax.random.key(4)
OPTIONS = keywords(probes) | {"learning_rate": 0.3, "batch_size": 8, "num_epochs": 4}
FIT = {"num_classes": 2, "weight_decay": 1e-4, "batch_size": 8, "num_epochs": 4}
RATES = {"sensitivity_learning_rates": (0.1, 1e-3), "with_lbfgs": True}


def part(number, seed, noise=25):
    """Greys around 100 for class 0 and 150 for class 1."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 2, number)
    levels = np.clip(100 + 50 * labels + noise * rng.normal(size=number), 0, 255)
    return greys(levels, labels, 2)


PARTS = {"train": part(40, 0), "val": part(20, 1), "test": part(8, 2)}


def features(table):
    return np.float32(table.columns["image"][:, 0, 0] / 255), table.columns["label"]


def heads(parts, progress=None, cache_dir=None, **change):
    running = {"batch_size": 8, "progress": progress, "cache_dir": cache_dir}
    found, key = probes(MODEL, parts, key=KEY, running=running, **OPTIONS | change)
    return {about["head"]: model for about, model in found}, key


def assert_head(model, probe):
    np.testing.assert_allclose(model.params["kernel"], probe.kernel, atol=1e-4)
    np.testing.assert_allclose(model.params["bias"], probe.bias, atol=1e-4)
    assert model.num_classes == 2


def test_heads_are_the_fits_to_the_features_of_train():
    """With a part val the fits use the key, and so do the measures."""
    found, key = heads(PARTS, **RATES)
    others = ["adam, learning rate 0.1", "adam, learning rate 0.001", "lbfgs"]
    assert list(found) == ["adam", *others]
    assert key is KEY
    rates = (0.3, 0.1, 1e-3)
    (x, y), validation = features(PARTS["train"]), features(PARTS["val"])
    fitted = fit_linear_probe(x, y, validation, learning_rates=rates, key=KEY, **FIT)
    for model, probe in zip(list(found.values())[:3], fitted, strict=True):
        assert_head(model, probe)
    regression = fit_logistic_regression(x, y, num_classes=2, weight_decay=1e-4)
    np.testing.assert_allclose(found["lbfgs"].params["kernel"], regression.kernel, rtol=1e-2)


def test_without_a_part_val_the_epoch_is_chosen_on_a_share_of_train():
    """A fifth of it, which is not fitted to; the measures have a different key."""
    parts = {name: PARTS[name] for name in ("train", "test")}
    found, key = heads(parts, held_out=0.2)
    fit_key, rest_key = jax.random.split(KEY)
    np.testing.assert_array_equal(jax.random.key_data(key), jax.random.key_data(rest_key))
    x, y = features(parts["train"])
    kept, chosen = np.split(np.random.default_rng(0).permutation(40), [32])
    call = {"learning_rates": (0.3,), "key": fit_key} | FIT
    (probe,) = fit_linear_probe(x[kept], y[kept], (x[chosen], y[chosen]), **call)
    assert list(found) == ["adam"]
    assert_head(found["adam"], probe)


@pytest.mark.parametrize("names", (("train", "val", "test"), ("train", "test")))
def test_the_planned_passes_are_made_once(names, tmp_path):
    parts = {name: PARTS[name] for name in names}
    planned = plan_probes(parts, **OPTIONS)
    assert planned == sum(len(PARTS[name]) for name in names if name != "test")
    for done, skipped in ((planned, 0), (0, planned)):
        progress = Passes()
        heads(parts, progress, tmp_path)
        assert (progress.done, progress.skipped) == (done, skipped)


BAD = {"held_out": 0, "num_epochs": 0, "batch_size": 0, "learning_rate": -1.0}
BAD |= {"sensitivity_learning_rates": ("x",), "weight_decay": float("nan")}


@pytest.mark.parametrize("name, value", [*BAD.items(), ("held_out", 1.0)])
def test_what_cannot_be_fitted_is_refused_before_the_work(name, value):
    message = rf"{name}( of the head)? = {re.escape(repr(value))}"
    refused(message, plan_probes, PARTS, **OPTIONS | {name: value})

"""from_flax: Linen and NNX modules, in evaluation mode, with named outputs."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from flax import nnx

from advspur.models import check_model, from_flax
from tests.refusals import refused

IMAGES = np.random.default_rng(0).random((4, 8, 8, 3), np.float32)
NORMALISER = {"mean": (0.4, 0.5, 0.6), "std": (0.2, 0.25, 0.3)}
NORMALIZED = (IMAGES - np.float32(NORMALISER["mean"])) / np.float32(NORMALISER["std"])


class Plain(nn.Module):
    """Logits alone."""

    @nn.compact
    def __call__(self, x):
        return nn.Dense(5)(x.mean((1, 2)))


class Net(nn.Module):
    """Batch statistics, dropout, and an output that is a dict or a tuple."""

    as_dict: bool = False

    @nn.compact
    def __call__(self, x, *, train, deterministic=False):
        x = nn.BatchNorm(use_running_average=not train)(x).mean((1, 2))
        x = nn.Dropout(0.5, deterministic=deterministic)(x)
        y = nn.Dense(5)(x)
        return {"scores": y, "embedding": x} if self.as_dict else (y, x)


class Nnx(nnx.Module):
    def __init__(self, seed):
        rngs = nnx.Rngs(seed)
        self.norm = nnx.BatchNorm(3, rngs=rngs)
        self.dropout = nnx.Dropout(0.5, rngs=rngs)
        self.last = nnx.Linear(3, 5, rngs=rngs)

    def __call__(self, x):
        x = self.dropout(self.norm(x)).mean((1, 2))
        return self.last(x), x


def variables_of(module, seed=0):
    variables = module.init(jax.random.key(seed), NORMALIZED, train=False, deterministic=True)
    moved = {"mean": np.float32([0.1, 0.2, 0.3]), "var": np.float32([0.5, 1, 2])}
    return variables | {"batch_stats": {"BatchNorm_0": moved}}


def assert_outputs(model, expected):
    check_model(model)
    for found, wanted in zip((model.logits(IMAGES), model.features(IMAGES)), expected, strict=True):
        np.testing.assert_allclose(found, wanted, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("as_dict", (False, True))
def test_a_linen_module_in_evaluation_mode(as_dict):
    module = Net(as_dict)
    variables = variables_of(module)
    logits, features = ("scores", "embedding") if as_dict else (0, 1)
    options = NORMALISER | {"image_size": 8, "logits": logits, "features": features}
    model = from_flax(module, variables, **options)
    expected = module.apply(variables, NORMALIZED, train=False, deterministic=True)
    assert_outputs(model, [expected[logits], expected[features]])
    assert model.num_classes == 5 and model.name == "Net"
    assert "evaluation mode: deterministic=True, train=False" in model.note


def test_an_nnx_module_is_not_changed_by_evaluation_mode():
    module = Nnx(0)
    module.norm.mean[...], module.norm.var[...] = jnp.full(3, 0.2), jnp.full(3, 2.0)
    model = from_flax(module, image_size=8, logits=0, features=1, **NORMALISER)
    assert not module.dropout.deterministic and "eval()" in model.note
    module.eval()
    assert_outputs(model, module(NORMALIZED))
    assert dataclasses.replace(model, code="x").digest  # also of its PRNG keys


def test_two_of_each_kind_in_turn_keep_their_own_answers(traced_logits):
    logits, traces = traced_logits
    made, wanted = [], []
    for seed in (0, 1):
        linen, module = variables_of(Net(), seed), Nnx(seed)
        options = NORMALISER | {"image_size": 8, "logits": 0}
        made += [from_flax(Net(), linen, **options), from_flax(module, **options)]
        module.eval()
        wanted += [Net().apply(linen, NORMALIZED, train=False, deterministic=True)[0]]
        wanted += [module(NORMALIZED)[0]]
    for _ in range(2):
        for model, answer in zip(made, wanted, strict=True):
            np.testing.assert_allclose(logits(model, IMAGES), answer, rtol=1e-4, atol=1e-5)
    assert len(traces) == 2  # one program a kind


def test_a_plain_module_has_no_features():
    names = tuple("abcde")
    options = NORMALISER | {"num_classes": 5, "class_names": names}
    model = from_flax(Plain(), Plain().init(jax.random.key(0), NORMALIZED), **options)
    assert model.class_names == names and not model.has_features and "nothing to set" in model.note
    assert model.logits(IMAGES).shape == (4, 5)


@pytest.mark.parametrize(
    "options, message",
    [
        ({}, r"Net returns a tuple of 2: choose one by logits=\.\.\."),
        ({"logits": 2}, "returns a tuple of 2: no logits = 2"),
        ({"logits": "scores"}, "returns a tuple of 2: no logits = 'scores'"),
        ({"logits": 0, "num_classes": 7}, "have 5 columns, but num_classes = 7"),
        ({"logits": 0, "image_size": None}, "give num_classes, or the image_size of Net"),
        ({"logits": 0, "std": (0, 1, 1)}, "give a deviation above 0 for each channel"),
        ({"logits": 0, "class_names": "ab"}, "class_names has 2 names, Net 5 outputs"),
        ({"logits": 0, "mode": {}}, "Net fails.*TypeError.*train"),
        ({"logits": 0, "variables": None}, "Net is a Linen module: give its variables too"),
        ({"module": Nnx(0)}, "Nnx is an NNX module, which holds its variables: give none"),
        ({"module": np.sin}, "a ufunc is not a Flax module"),
        ({"logits": 0, "mean": (0.5,), "std": (0.5,)}, "Net fails"),
    ],
)
def test_mistakes_are_refused_in_one_line(options, message):
    call = NORMALISER | {"module": Net(), "variables": variables_of(Net()), "image_size": 8}
    refused(message, from_flax, **(call | options))

"""Strict conversion: every name used once, dropped by rule, or named in the error."""

import contextlib

import flax.traverse_util
import jax
import numpy as np
import pytest
from seeded import shapes, state_dict
from torch_files import save

from advspur import models
from advspur.models.convert import convert, recognize, torch_name
from tests.refusals import refused

ASSUMED = pytest.warns(UserWarning, match="x.pt holds no normaliser: ImageNet's mean .* assumed")
MEAN = np.array([0.485, 0.456, 0.406], np.float32).reshape(3, 1, 1)
STD = np.array([0.229, 0.224, 0.225], np.float32).reshape(3, 1, 1)
WEIGHTS = state_dict("resnet_small", num_classes=10)


def prefixed(prefix, state=WEIGHTS):
    return {f"{prefix}{name}": value for name, value in state.items()}


# In the layout of robust-models-transfer.
RELEASED = {"module.normalizer.new_mean": MEAN, "module.normalizer.new_std": STD}
RELEASED |= prefixed("module.model.") | prefixed("module.attacker.model.")
RELEASED |= {"module.attacker.normalize.new_mean": MEAN, "module.attacker.normalize.new_std": STD}
BESIDE = {
    "optimizer": {
        "state": {0: {"momentum_buffer": WEIGHTS["conv1.weight"] * 2}},
        "param_groups": [{"lr": 0.1, "momentum": 0.9, "params": [0]}],
    },
    "schedule": None,
    "epoch": 90,
    "amp": None,
    "adv_prec1": np.array(34.5, np.float32),
}
WITH_NORMALISER = {
    "release": {"model": RELEASED} | BESIDE,
    "legacy key": {"state_dict": RELEASED, "epoch": 90},
    "no DataParallel": {"model": {k.removeprefix("module."): v for k, v in RELEASED.items()}},
}
LAYOUTS = WITH_NORMALISER | {
    "torchvision": WEIGHTS,
    "DataParallel": {"state_dict": prefixed("module.")},
    "net, acc, epoch": {"net": WEIGHTS, "acc": 95.1, "epoch": 199},
    "net of DataParallel": {"net": prefixed("module."), "acc": 1},
    "model_state_dict": {"model_state_dict": WEIGHTS, "optimizer_state_dict": {"state": {}}},
    "averaged": {"state_dict_ema": WEIGHTS, "arch": "resnet18"},
    "model before state_dict": {"model": WEIGHTS, "state_dict": {"conv1.weight": 3}},
    "a dict beside them": {"net": {"arch": 3, "depth": 18}, "state_dict": WEIGHTS},
    "an empty dict beside them": {"model": WEIGHTS, "net": {}},
    "an empty dict before them": {"model": {}, "state_dict": WEIGHTS},
    "torch.compile": prefixed("_orig_mod."),
    "Lightning": {"state_dict": prefixed("model."), "loops": {}},
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_layouts_give_the_same_variables(layout, tmp_path):
    save(LAYOUTS[layout], tmp_path / "x.pt")
    is_whole = layout in WITH_NORMALISER
    with contextlib.nullcontext() if is_whole else ASSUMED:
        found = convert(tmp_path / "x.pt")
    forward, kind = found.classifier.forward, (found.arch, found.classifier.num_classes)
    assert kind == ("resnet_small", 10) and forward.network.stem == "cifar"
    assert found.normalization == ("in the file" if is_whole else "assumed: ImageNet's")
    assert (forward.mean, forward.std) == ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
    assert len(found.used) == len(set(found.used)) == 47
    assert len(found.dropped) == (9 + 56 + 4 if is_whole else 9)
    flat = flax.traverse_util.flatten_dict(found.classifier.params)
    assert len(flat) == 47 and {leaf.dtype for leaf in flat.values()} == {np.dtype("float32")}
    for leaf, name, axes in (
        (("params", "layer2_0_downsample_conv", "kernel"), "layer2.0.downsample.0.weight", [2, 3]),
        (("params", "fc", "kernel"), "fc.weight", []),
    ):
        np.testing.assert_array_equal(flat[leaf], WEIGHTS[name].transpose(*axes, 1, 0))
    variance = flat["batch_stats", "layer3_0_bn2", "var"]
    np.testing.assert_array_equal(variance, WEIGHTS["layer3.0.bn2.running_var"])
    assert found.others == (tuple(BESIDE) if layout == "release" else found.others)


@pytest.mark.parametrize("arch", ("resnet18", "resnet50", "wide_resnet50_2", "wide_resnet50_4"))
def test_architectures_are_recognised_and_every_leaf_has_a_name(arch):
    assert recognize(shapes(arch, 7)) == (arch, "imagenet", 7)
    cifar = shapes(arch, 7) | {"conv1.weight": (64, 3, 3, 3)}
    assert recognize(cifar) == (arch, "cifar", 7)
    network = models.build_network(arch, 7, stem="imagenet")
    template = jax.eval_shape(network.init, jax.random.key(0), np.zeros((1, 64, 64, 3)))
    flat = flax.traverse_util.flatten_dict(template)
    names = [torch_name(path) for path in flat]
    torch_shapes = {n: s for n, s in shapes(arch, 7).items() if "num_batches" not in n}
    assert len(set(names)) == len(names) == len(torch_shapes)
    for name, leaf in zip(names, flat.values(), strict=True):
        assert sorted(leaf.shape) == sorted(torch_shapes[name])


def changed(**changes):
    """The weights with entries changed, `__` for a dot; None removes one."""
    return _changed(WEIGHTS, "", changes)


def released(**changes):
    """The release's layout with entries changed."""
    return {"model": _changed(RELEASED, "module.", changes)}


def _changed(state, prefix, changes):
    changes = {prefix + name.replace("__", "."): value for name, value in changes.items()}
    return {k: v for k, v in (state | changes).items() if v is not None}


def both(what, value):
    """The normaliser's constant and its attacker's."""
    names = f"normalizer__new_{what}", f"attacker__normalize__new_{what}"
    return released(**dict.fromkeys(names, value))


OTHER = WEIGHTS["conv1.weight"] + 1
MISTAKES = [
    (released(model__fc__bias=None), r"1 missing \(-\), 0 surplus .*: -fc.bias"),
    (released(model__extra__weight=MEAN), r"0 missing \(-\), 1 surplus .*: \+extra.weight"),
    (released(ema__decay=MEAN), r"\+module.ema.decay"),
    (released(attacker__model__x=MEAN), r"\+module.attacker.model.x"),
    (released(attacker__model__conv1__weight=OTHER), "attacker.model.conv1.weight differs from"),
    (released(attacker__normalize__new_std=MEAN), "normaliser and its attacker's differ"),
    (released(attacker__model__fc__bias=None), r"-module.attacker.model.fc.bias"),
    (released(model__foo__num_batches_tracked=MEAN), r"\+foo.num_batches_tracked"),
    (released(normalizer__new_std=np.ones(9, np.float32)), "does not have three channels"),
    (both("std", STD * 0), "the normaliser has mean"),
    (both("mean", MEAN * np.nan), "its normaliser and its attacker's differ"),
    (both("mean", MEAN * 300), "the normaliser has mean"),
    (both("std", None), "lacks new_mean or new_std"),
    (
        {"model": prefixed("module.model.", changed(layer3__0__bn2__weight=None))},
        r"1 missing .*: -layer3.0.bn2.weight",
    ),
    (changed(fc__weight=None, fc__bias=None), "no last linear layer"),
    (
        changed(layer1__0__conv2__weight=np.zeros((16, 16, 1, 1), np.float32)),
        r"layer1.0.conv2.weight has shape \(16, 16, 1, 1\); expected \(16, 16, 3, 3\)",
    ),
    (changed(bn1__bias=np.zeros((16, 1), np.float32)), "bn1.bias has shape"),
    (changed(bn1__bias=np.zeros(16, np.int64)), "bn1.bias has dtype int64"),
    (changed(fc__bias=np.full(10, np.nan, np.float32)), "fc.bias contains NaN"),
    (changed(bn1__running_var=np.full(16, -1, np.float32)), "negative variances"),
    (changed(layer3__0__conv1__weight=None), r"basic blocks \(1, 1\) with widths 16 and 16; known"),
    (changed(conv1__weight=np.float32(1) * MEAN[0, 0, 0]), "more than tensors"),
    (changed(conv1__weight=MEAN[0].reshape(())), "do not have four axes"),
    (changed(conv1__weight=np.zeros((16, 3, 5, 5), np.float32)), "first convolution is 5 x 5"),
    ({"model": {"weight": MEAN}}, "holds no ResNet"),
    ([1, 2], "holds a list"),
    ({}, "it holds an empty dict"),
    ({"state_dict": {}, "epoch": 3}, "its state dict is empty"),
    ({"weights": WEIGHTS}, "tensors: weights; weights inside a dict are read from the keys model,"),
    (
        {"state_dict": WEIGHTS, "state_dict_ema": WEIGHTS},
        "several state dicts, state_dict and state_dict_ema; save only",
    ),
    ({"net": WEIGHTS, "model_state_dict": WEIGHTS}, "dicts, net and model_state_dict"),
    ({"net": {"model": WEIGHTS}}, "more than tensors: model; w"),
    ({"optimizer": {"lr": 1}}, "more than tensors: optimizer"),
    ({"state_dict": {"conv1.weight": 3}}, "more than tensors: conv1.weight"),
]


@pytest.mark.parametrize("content, words", MISTAKES, ids=[words for _, words in MISTAKES])
def test_mistakes_are_named(content, words, tmp_path):
    save(content, tmp_path / "x.pt")
    refused(f"^{tmp_path}/x.pt cannot be converted: .*({words})", convert, tmp_path / "x.pt")


CIFAR = (0.4914, 0.4822, 0.4465), (0.2023, 0.1994, 0.201)


def test_a_given_normaliser_is_used_if_the_file_has_none(tmp_path):
    path = tmp_path / "x.pt"
    save(WEIGHTS, path)
    columns = [np.reshape(values, (3, 1, 1)) for values in CIFAR]  # as torch's normalisers have
    words = [",".join(map(str, values)).split(",") for values in CIFAR]  # as flags give it
    for mean, std in (CIFAR, columns, words):
        found = convert(path, mean=mean, std=std)
        assert (found.classifier.forward.mean, found.classifier.forward.std) == CIFAR
        assert found.normalization == "given"
    assert models.load(path, mean=CIFAR[0], std=CIFAR[1]).forward.mean == CIFAR[0]
    save(LAYOUTS["release"], path)
    own = convert(path).classifier.forward
    assert convert(path, mean=own.mean, std=own.std).normalization == "in the file"
    message = "its normaliser has mean and std .*, which differ"
    refused(message, convert, path, mean=CIFAR[0], std=CIFAR[1])


def test_the_warning_for_nine_classes_names_imagenet9s_normaliser(tmp_path):
    save(state_dict("resnet_small", num_classes=9), tmp_path / "nine.pt")
    with pytest.warns(UserWarning, match=r"nine.pt holds no normaliser.*\(0.4717, 0.4499,"):
        convert(tmp_path / "nine.pt")


def test_an_impossible_normaliser_is_refused(tmp_path):
    good = {"mean": (0.5, 0.5, 0.5), "std": (0.2, 0.2, 0.2)}
    means = (0.5, 0.5), 0.5, (0.5, 0.5, 127.5), (0.5, 0.5, -0.1), (0.5, 0.5, np.nan)
    stds = (0.2, 0.2, 0), (0.2, 0.2, np.inf), (0.2, 0.2), 0.2
    bad = [{"mean": mean} for mean in (*means, ["0.5", "half", "0.5"])]
    bad += [{"std": std} for std in stds] + [{"mean": 0.5, "std": 0.2}]
    for change in bad:
        message = "the normaliser has mean .* expected three means from 0 to 1 and three dev"
        refused(message, convert, tmp_path / "absent.pt", **(good | change))
    refused("mean and std go together", convert, tmp_path / "absent.pt", std=good["std"])

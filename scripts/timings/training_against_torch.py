"""Claim: a PGD-k training step is as fast as, or faster than, PyTorch's.

    python scripts/timings/training_against_torch.py [--network=quickstart] [--pairs=5] [--bf16]

needs torch. One step of adversarial training (l2, from the image, frozen statistics in the attack,
then SGD with momentum and weight decay on its images) of the same network on the same batch, on the
same device, alternately in one process; a line of JSON: the ratio torch / ours. The quickstart's
network with batch 64 and PGD-3, ResNet-18 (CIFAR stem) with PGD-7, ResNet-50 at 224 pixels with
PGD-3. PyTorch runs in channels-last; with --compile compiled, with --bf16 under autocast as ours in
bfloat16. On an accelerator the line holds images per second, memory and, with --peak_tflops, the
share of the peak (operations as XLA counts them, of all passes).
"""

import argparse

import torch
from _paired import print_ratio
from _steps import EPSILON, NETWORKS, RATE, RELATIVE_STEP, batch_of, made_step, repeated, step_flops
from _torch_networks import ResNet
from attacks_against_torch import torch_pgd

from advspur.training.run import peak_memory_mb
from advspur.training.run_dir import environment
from configs import default


def main(args):
    arch, stem, classes, size, num_steps, batch_size = NETWORKS[args.network]
    batch_size, num_steps = args.batch_size or batch_size, args.num_steps or num_steps
    images, labels = batch_of(classes, size, batch_size)
    call = (arch, stem, classes, num_steps, images)
    dtype = "bfloat16" if args.bf16 else "float32"
    step, state, count = made_step(*call, labels, dtype=dtype)
    theirs, their_count = torch_step(args, arch, stem, classes, num_steps, images, labels)
    assert count == their_count, (count, their_count)
    facts = environment() | {"torch": torch.__version__, "threads": torch.get_num_threads()}
    facts |= {"network": args.network, "parameters": count, "bf16": args.bf16}
    facts |= {"torch_compile": args.compile, "peak_memory_mb": round(peak_memory_mb())}
    claim = f"PGD-{num_steps} training step, batch {batch_size}: torch / ours"
    seconds = print_ratio(claim, theirs, repeated(step, *state), args.pairs, **facts)
    for name, time in zip(("torch", "ours"), seconds, strict=True):
        rate = step_flops(*call) / time / 1e12
        print(f"{name}: {batch_size / time:,.1f} images/s, {rate:.3f} TFLOP/s", end="")
        print(f", {rate / args.peak_tflops:.1%} of peak" if args.peak_tflops else "")


def torch_step(args, arch, stem, classes, num_steps, images, labels):
    """(function that makes a step, number of parameters)."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    torch.manual_seed(0)
    network = ResNet(arch, classes, stem).to(device, memory_format=torch.channels_last)
    call = torch.compile(network) if args.compile else network
    config = default.get_config()
    optimizer = torch.optim.SGD(
        network.parameters(), RATE, momentum=config.momentum, weight_decay=config.weight_decay
    )
    x = torch.tensor(images, device=device).permute(0, 3, 1, 2)  # channels last in memory
    y = torch.tensor(labels, device=device).long()

    def run():
        with torch.autocast(device, torch.bfloat16, enabled=args.bf16):
            network.eval()
            step_size = EPSILON * RELATIVE_STEP
            adversarial = torch_pgd(call, x.float() / 255, y, 2, EPSILON, num_steps, step_size)
            network.train()
            loss = torch.nn.functional.cross_entropy(call(adversarial), y)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        loss.item()

    return run, sum(p.numel() for p in network.parameters())


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--network", choices=tuple(NETWORKS), default="quickstart")
    parser.add_argument("--batch_size", type=int)
    parser.add_argument("--num_steps", type=int)
    parser.add_argument("--pairs", type=int, default=5)
    parser.add_argument("--bf16", action="store_true")
    parser.add_argument("--compile", action="store_true")
    parser.add_argument("--peak_tflops", type=float, help="of the device, in the precision used")
    main(parser.parse_args())

"""Claim: what AutoAttack's standard version costs on images that are robust, and how near the peak.

    python scripts/timings/autoattack_throughput.py [--num_images=500] [--peak_tflops=T]

prints a line of JSON: seconds per 1,000 robust images, with the floating-point operations that the
network's passes took (as XLA counts them, products with padding left out) and, where the device's
peak is given, the share of it that was reached. ResNet-18 (stem for CIFAR) with random weights, in
one batch; labels are the predictions and epsilon is tiny, so that nothing is found and each image
goes through the whole ensemble. A first run, timed separately, compiles.
"""

import argparse
import json
import time

import jax
import jax.numpy as jnp
import numpy as np
from _steps import flops

from advspur.attacks import autoattack
from advspur.attacks.losses import cross_entropy
from advspur.models import build_network, from_resnet
from advspur.training.run_dir import environment

EPSILON = 1e-6


def measure(num_images, *, arch="resnet18", size=32, attacks=None, peak_tflops=None):
    """Figures of `num_images` robust images of `size` pixels."""
    network = build_network(arch, 10, stem="cifar")
    shape = num_images, size, size, 3
    images = np.random.default_rng(0).uniform(size=shape).astype(np.float32)
    variables = jax.jit(network.init)(jax.random.key(0), images[:1])
    classifier = from_resnet(network, variables, mean=(0.5,) * 3, std=(0.25,) * 3)
    logits_fn = jax.jit(classifier.logits)
    labels = np.argmax(np.asarray(logits_fn(images)), axis=-1)

    def attack():
        start = time.perf_counter()
        call = {"p": np.inf, "epsilon": EPSILON, "attacks": attacks, "batch_size": num_images}
        result = autoattack(classifier.logits, images, labels, **call)
        return result, time.perf_counter() - start

    first_seconds = attack()[1]
    result, seconds = attack()

    host = from_resnet(network, jax.device_get(variables), mean=(0.5,) * 3, std=(0.25,) * 3)

    def loss(x):
        return jnp.sum(cross_entropy(host.logits(x), labels))

    forward, gradient = (flops(f, images) / num_images for f in (host.logits, jax.grad(loss)))
    total = sum(a.forwards * forward + a.gradients * gradient for a in result.attacks)
    figures = {
        "claim": f"standard AutoAttack, {arch}, batch {num_images}",
        "seconds_per_1000_robust_images": round(1000 * seconds / result.robust.sum(), 1),
        "robust": int(result.robust.sum()),
        "seconds": round(seconds, 1),
        "first_seconds": round(first_seconds, 1),
        "seconds_of_attacks": {a.name: round(a.seconds, 1) for a in result.attacks},
        "tflop": round(total / 1e12, 2),
        "tflops": round(total / 1e12 / seconds, 3),
    }
    if peak_tflops:
        figures["share_of_peak"] = round(total / 1e12 / seconds / peak_tflops, 3)
    return figures


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--num_images", type=int, default=500)
    parser.add_argument("--peak_tflops", type=float, help="of the device, in the precision used")
    args = parser.parse_args()
    found = measure(args.num_images, peak_tflops=args.peak_tflops)
    print(json.dumps(found | environment()), flush=True)

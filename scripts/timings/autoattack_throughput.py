"""Claim: what AutoAttack's standard version costs on images that are robust, and how near the peak.

    python scripts/timings/autoattack_throughput.py [--num_images=500] [--peak_tflops=T]

prints a line of JSON: seconds per 1,000 robust images, with the floating-point operations that the
network's passes took (as XLA counts them, products with padding left out) and, where the device's
peak is given, the share of it that was reached. ResNet-18 (stem for CIFAR) with random weights, in
one batch; labels are the predictions and epsilon is tiny, so that nothing is found and each image
goes through the whole ensemble. A first run, told apart, compiles.
"""

import argparse
import json
import time

import jax
import jax.numpy as jnp
import numpy as np

from advspur.attacks import autoattack
from advspur.attacks.losses import cross_entropy
from advspur.models import from_resnet, resnet18
from advspur.training.run_dir import environment

EPSILON = 1e-6


def main(args):
    network = resnet18(10, stem="cifar")
    shape = args.num_images, 32, 32, 3
    images = np.random.default_rng(0).uniform(size=shape).astype(np.float32)
    variables = jax.jit(network.init)(jax.random.key(0), images[:1])
    classifier = from_resnet(network, variables, mean=(0.5,) * 3, std=(0.25,) * 3)
    logits_fn = jax.jit(classifier.logits)
    labels = np.argmax(logits_fn(images), axis=-1)

    def attack():
        start = time.perf_counter()
        result = autoattack(
            classifier.logits, images, labels, p=np.inf, epsilon=EPSILON, batch_size=len(images)
        )
        return result, time.perf_counter() - start

    first_seconds = attack()[1]
    result, seconds = attack()
    forward = flops(logits_fn, images)
    gradient = flops(jax.grad(lambda x: jnp.sum(cross_entropy(logits_fn(x), labels))), images)
    total = sum(a.forwards * forward + a.gradients * gradient for a in result.attacks)
    figures = {
        "claim": f"standard AutoAttack, ResNet-18, batch {len(images)}",
        "seconds_per_1000_robust_images": round(1000 * seconds / result.robust.sum(), 1),
        "robust": int(result.robust.sum()),
        "seconds": round(seconds, 1),
        "first_seconds": round(first_seconds, 1),
        "seconds_of_attacks": {a.name: round(a.seconds, 1) for a in result.attacks},
        "tflop": round(total / 1e12, 2),
        "tflops": round(total / 1e12 / seconds, 3),
    }
    if args.peak_tflops:
        figures["share_of_peak"] = round(total / 1e12 / seconds / args.peak_tflops, 3)
    print(json.dumps(figures | environment()), flush=True)


def flops(function, images):
    """Floating-point operations of `function` for one image, as XLA counts them."""
    return jax.jit(function).lower(images).cost_analysis()["flops"] / len(images)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--num_images", type=int, default=500)
    parser.add_argument("--peak_tflops", type=float, help="of the device, in the precision used")
    main(parser.parse_args())

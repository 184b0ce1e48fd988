"""The training steps that are timed, and the operations in them."""

import sys
from pathlib import Path

import jax
import numpy as np

from advspur._constants import IMAGENET_MEAN, IMAGENET_STD
from advspur._devices import replicate
from advspur.data.batches import Batch, shard
from advspur.models import build_network, from_resnet
from advspur.training import Attack, make_train_step
from advspur.training.state import create_state, make_optimizer

sys.path.append(str(Path(__file__).resolve().parents[2]))
from configs import default  # noqa: E402

# architecture, stem, classes, pixels a side, PGD steps, batch
NETWORKS = {
    "quickstart": ("resnet_small", "small", 8, 32, 3, 64),
    "resnet18": ("resnet18", "cifar", 10, 32, 7, 128),
    "resnet50": ("resnet50", "imagenet", 1000, 224, 3, 64),
}
EPSILON, RELATIVE_STEP, RATE = 0.5, 2 / 3, 0.1
FACTS = {"mean": IMAGENET_MEAN, "std": IMAGENET_STD}


def batch_of(classes, size, batch_size):
    """Random (images uint8, labels)."""
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (batch_size, size, size, 3), np.uint8)
    return images, rng.integers(0, classes, batch_size).astype(np.int32)


def made_step(arch, stem, classes, num_steps, images, labels, *, dtype):
    """(compiled step, its arguments, number of parameters): PGD in l2, frozen statistics, SGD."""
    network = build_network(arch, classes, stem=stem, dtype=dtype)
    optimizer = make_optimizer(default.get_config(), RATE)
    size = images.shape[1]
    state = replicate(create_state(0, network=network, optimizer=optimizer, image_size=size))
    attack = Attack(2.0, num_steps, RELATIVE_STEP)
    step = make_train_step(network, optimizer, attack=attack, **FACTS)
    nothing = np.ones((len(labels), 1, 1, 1), np.uint8)
    batch = shard(Batch(images, labels, nothing, labels >= 0), jax.local_device_count())
    count = sum(x.size for x in jax.tree.leaves(state.variables["params"]))
    return step, (state, batch, EPSILON), count


def repeated(step, state, *rest):
    """A function that makes one more step each time, and waits for it."""

    def run():
        nonlocal state
        state, metrics = step(state, *rest)
        jax.block_until_ready(metrics)

    return run


def step_flops(arch, stem, classes, num_steps, images):
    """Floating-point operations of a step: of the attack's gradients, its last look, the descent.

    Those gradients, of the images alone, count as two forward passes, the descent as three.
    """
    network = build_network(arch, classes, stem=stem)
    images = images / np.float32(255)
    variables = jax.eval_shape(network.init, jax.random.key(0), images[:1])

    def logits(variables, images):
        return from_resnet(network, variables, **FACTS).logits(images)

    return (2 * num_steps + 1 + 3) * flops(logits, variables, images)


def flops(function, *arguments):
    """Floating-point operations of a call, as XLA counts them: on CPU, as plugins cannot."""
    with jax.default_device(jax.devices("cpu")[0]):
        return jax.jit(function).lower(*arguments).cost_analysis()["flops"]

"""Claim: on CPU an adversarial training step is faster with the attack's loop unrolled.

python scripts/timings/pgd_unroll.py [PAIRS] prints one line of JSON: the median, least and largest
ratio rolled / unrolled of step times measured alternately in one process, both compiled before.
"""

import sys

import jax
import jax.numpy as jnp
import optax
from _paired import print_ratio

from advspur.data import spurious_shapes, train_batches
from advspur.data.batches import shard
from advspur.models import resnet_small
from advspur.training import Attack, make_train_step
from advspur.training.run_dir import environment
from advspur.training.state import create_state


def main(pairs=20):
    network, optimizer = resnet_small(8), optax.sgd(0.01)
    source = spurious_shapes("train", num_examples=256)
    options = {"batch_size": 64, "image_size": 32, "augmentation": "none", "seed": 0}
    batch = shard(next(train_batches(source, **options)), jax.local_device_count())

    def stepper(unroll):
        attack = Attack(2.0, num_steps=3, relative_step_size=2 / 3, unroll=unroll)
        facts = {"mean": (0.5,) * 3, "std": (0.25,) * 3}
        step = make_train_step(network, optimizer, attack=attack, **facts)
        state = create_state(network, optimizer, image_size=32, seed=0)

        def run():
            nonlocal state
            state, metrics = step(state, batch, jnp.float32(0.25))
            jax.block_until_ready((state, metrics))

        return run

    claim = "rolled / unrolled PGD-3 step, resnet_small, 32 px, batch 64"
    print_ratio(claim, stepper(False), stepper(True), pairs, **environment())


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))

"""Claim: on CPU an adversarial training step is faster with the attack's loop unrolled.

python scripts/timings/pgd_unroll.py [PAIRS] prints one line of JSON: the median, least and largest
ratio rolled / unrolled of step times measured alternately in one process, both compiled before.
"""

import json
import statistics
import sys
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import optax

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from advspur.data import spurious_shapes, train_batches  # noqa: E402
from advspur.data.batches import shard  # noqa: E402
from advspur.models import resnet_small  # noqa: E402
from advspur.training import Attack, make_train_step  # noqa: E402
from advspur.training.run_dir import environment  # noqa: E402
from advspur.training.state import create_state  # noqa: E402


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

        def seconds():
            nonlocal state
            start = time.perf_counter()
            state, metrics = step(state, batch, jnp.float32(0.25))
            jax.block_until_ready((state, metrics))
            return time.perf_counter() - start

        seconds()
        return seconds

    rolled, unrolled = stepper(False), stepper(True)
    times = [(rolled(), unrolled()) for _ in range(pairs)]
    ratios = [a / b for a, b in times]
    result = {
        "claim": "rolled / unrolled PGD-3 step, resnet_small, 32 px, batch 64",
        "median": round(statistics.median(ratios), 3),
        "min": round(min(ratios), 3),
        "max": round(max(ratios), 3),
        "unrolled_seconds": round(statistics.median(b for _, b in times), 4),
        "pairs": pairs,
    }
    print(json.dumps(result | environment()))


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))

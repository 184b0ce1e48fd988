"""How long all group-robust heads of one backbone take: python scripts/timings/heads.py

Of random features of Waterbirds' size and group counts, with the default grids, compilation
included: run it with a compile cache that is empty (no $JAX_COMPILATION_CACHE_DIR).
"""

import json
import os
import sys
import time

import jax
import numpy as np

from advspur.data.waterbirds import GROUP_COUNTS
from advspur.heads import Examples, fit_heads
from advspur.heads.selection import HEADS, worst_accuracy

WIDTH, RANK = 2048, 200


def examples(split, seed=0):
    """Rectified features of low rank and noise, in which bird and place each shift a direction."""
    shared = np.random.default_rng(seed)
    mix = shared.normal(size=(RANK, WIDTH)) / np.sqrt(RANK) * np.linspace(2, 0.2, RANK)[:, None]
    bird, place = shared.normal(size=(2, RANK)) / np.sqrt(RANK)
    counts, rng = GROUP_COUNTS[split], np.random.default_rng([seed, len(split)])
    groups = np.repeat(np.arange(4), counts)
    labels, places = np.divmod(groups, 2)
    hidden = rng.normal(size=(len(groups), RANK))
    hidden += 1.5 * np.outer(2 * labels - 1, bird) + 2.25 * np.outer(2 * places - 1, place)
    noise = 0.4 * rng.normal(size=(len(groups), WIDTH))
    features = np.float32(np.maximum(hidden @ mix + noise, 0) / 2)
    return Examples(features, labels, groups, labels != places)


def main(*heads):
    train, val, test = (examples(split) for split in ("train", "val", "test"))
    total = 0.0
    for name in heads or HEADS:
        start = time.perf_counter()
        (head,) = fit_heads(train, val, (name,), num_classes=2).values()
        seconds = time.perf_counter() - start
        total += seconds
        right = np.argmax(test.features @ head.kernel + head.bias, axis=1) == test.labels
        found = {"head": name, "s": round(seconds, 1), **head.chosen, "val": round(head.score, 4)}
        found["test_worst_group"] = round(worst_accuracy(right, test.groups), 4)
        print(json.dumps(found), flush=True)
    about = {"cpus": os.cpu_count(), "device": jax.devices()[0].platform, "jax": jax.__version__}
    print(json.dumps({"total_s": round(total, 1), "load": os.getloadavg()} | about))


if __name__ == "__main__":
    main(*sys.argv[1:])

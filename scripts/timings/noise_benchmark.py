"""Claim: the noise benchmarks cost what their forward passes cost, and move each image once.

python scripts/timings/noise_benchmark.py [PAIRS [IMAGES]] prints one line of JSON: the ratio of
the time of RFS (seven levels, two regions, from JPEG files on disk, noise drawn on the device) to
that of as many forward passes over images that are on the device already (a gradient counting
as three), ResNet-18 at 224 px; and of the bytes that one pass a level would move to the device
(image and mask each time) to those that were moved.
"""

import sys
import tempfile
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from _paired import print_ratio
from PIL import Image

from advspur import predict
from advspur._devices import replicate
from advspur.benchmarks.table import RIVAL10_NOISE
from advspur.data.files import file_table
from advspur.data.transforms import Transform
from advspur.measures import Regions, region_records
from advspur.models import from_resnet, resnet18
from advspur.training.run_dir import environment

BATCH = 32


def main(pairs=5, count=64):
    network = resnet18(10)
    variables = jax.jit(network.init)(jax.random.key(0), jnp.zeros((1, 224, 224, 3)))
    variables = replicate(variables)
    classifier = from_resnet(network, variables, mean=(0.5,) * 3, std=(0.25,) * 3)
    options = RIVAL10_NOISE | {"l2_noise_levels": (), "l2_epsilons": (), "linf_epsilons": ()}
    regions = Regions(**options)
    with tempfile.TemporaryDirectory() as folder:
        table = written(Path(folder), count)
        images = jax.device_put(np.stack([table[i]["image"] for i in range(BATCH)]))

        def benchmark():
            key = jax.random.key(0)
            region_records(classifier, {"test": table}, key=key, batch_size=BATCH, **options)

        def passes():
            for _ in range(-(-count // BATCH) * regions.passes):
                jax.block_until_ready(predict.logits(classifier, images))

        moved = bytes_moved(benchmark)
        print_ratio(
            f"RFS at 7 levels x 2 regions / {regions.passes} forward passes, {count} JPEGs",
            benchmark,
            passes,
            pairs,
            bytes_ratio=round(count * 7 * 4 * 224 * 224 / moved, 2),
            **environment(),
        )


def bytes_moved(function):
    """Bytes that one call hands to jax.device_put."""
    total, put = 0, jax.device_put

    def counting(tree, *args, **options):
        nonlocal total
        total += sum(np.asarray(x).nbytes for x in jax.tree.leaves(tree))
        return put(tree, *args, **options)

    jax.device_put = counting
    try:
        function()
    finally:
        jax.device_put = put
    return total


def written(folder, count):
    """A Table of JPEGs and masks that are written to `folder`."""
    rng = np.random.default_rng(0)
    for i in range(count):
        small = Image.fromarray(rng.integers(0, 256, (12, 16, 3), np.uint8))
        small.resize((500, 375), Image.Resampling.BICUBIC).save(folder / f"{i}.jpg", quality=92)
        Image.fromarray(rng.integers(0, 2, (3, 4), np.uint8) * 255).resize((500, 375)).save(
            folder / f"{i}.png"
        )

    columns = {"path": [folder / f"{i}.jpg" for i in range(count)], "label": np.arange(count) % 10}
    columns["mask_path"] = [folder / f"{i}.png" for i in range(count)]
    return file_table(10, Transform(side=224, resize="square"), **columns)


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))

"""The records of every row: its own measures on a few small images, a linear model.

Names and options are what matters here, so attacks and gradients are replaced by quick functions.
"""

import functools
import importlib

import jax
import numpy as np

from advspur.benchmarks import BENCHMARKS
from advspur.data.readers import READERS
from advspur.data.spurious_shapes import MEASURED
from advspur.data.table import Table
from advspur.models import Classifier
from advspur.predict import correct_clean

NUM, SIDE = 12, 8
MODULES = ("regions", "robust")  # their names in advspur.measures are those of functions
PARTS = {name: tuple(reader.sizes) for name, reader in READERS.items()} | {
    "salient_imagenet": ("images",),
    "cifar_color_shift": ("test", "uncorrelated"),
    "spurious_shapes": MEASURED,
}
CLASSES = {"rival10": 10, "imagenet9": 9, "waterbirds": 2, "cifar10": 10, "cifar_color_shift": 10}
CLASSES |= {"objectnet": 125, "spurious_shapes": 8}
FEW = {"linf_noise_levels": (0.1,), "l2_noise_levels": (25.0,)}
OPTIONS = {
    "rival10": {"head": {"num_epochs": 1}, "regions": FEW},
    "spurious_shapes": {"regions": FEW},
    "waterbirds": {"head": {"num_epochs": 1}},
    "cifar_color_shift": {"data": {"color_shift": {"rho": 4.0, "shift": 16 / 255, "seed": 0}}},
}


def linear(params, images):
    """(logits, features) of flattened images."""
    features = images.reshape(len(images), -1)
    return features @ params, features


def table(num_classes, seed):
    """Random images with all columns that a measure needs."""
    rng = np.random.default_rng(seed)
    columns = {
        "image": rng.integers(0, 256, (NUM, SIDE, SIDE, 3), np.uint8),
        "mask": rng.integers(0, 2, (NUM, SIDE, SIDE, 1), np.uint8) * np.uint8(255),
        "label": np.arange(NUM) % min(num_classes, 3),
        "group": np.arange(NUM) % 4,
        "is_majority": np.arange(NUM) % 2 == 0,
    }
    made = Table(num_classes, names={"group": ("aa", "ab", "ba", "bb")}, **columns)
    made.train_groups = (4, 3, 2, 1)
    return made


def evaluate(row):
    """The records of one row with its own measures and options, less costly."""
    parts = {
        part: table(CLASSES.get(row.name, 1000), seed) for seed, part in enumerate(PARTS[row.name])
    }

    @functools.wraps(row.reader.read)  # its options
    def read(**options):
        return parts

    number = {"objectnet": 1000}.get(row.name, CLASSES.get(row.name, 1000))
    weights = np.random.default_rng(0).normal(size=(3 * SIDE**2, number)).astype(np.float32)
    model = Classifier(weights, linear, number, code="linear")
    row = row._replace(reader=row.reader._replace(read=read, directories=()))
    options = OPTIONS.get(row.name, {})
    return row.evaluate(model, batch_size=NUM, key=jax.random.key(0), **options)


def evaluate_all(monkeypatch):
    """[Record] of all rows."""

    def under_attack(model, images, labels, **attack):
        return correct_clean(model, images, labels)

    def share(model, images, labels, region):
        return region.mean(axis=(1, 2, 3)), labels >= 0

    regions, robust = (importlib.import_module(f"advspur.measures.{n}") for n in MODULES)
    for module in (regions, robust):
        monkeypatch.setattr(module, "correct_under_pgd", under_attack)
    monkeypatch.setattr(regions, "gradient_share", share)
    return [r for row in BENCHMARKS.values() for r in evaluate(row)]

"""Every number that the report looks up is one that an evaluation of the rows writes.

The rows are evaluated with their own measures on a few small images and a linear model. Names and
options are what matters here, so attacks and gradients are replaced by quick functions.
"""

import functools
import importlib

import jax
import numpy as np
import pytest

from advspur.benchmarks import BENCHMARKS
from advspur.data.readers import READERS
from advspur.data.spurious_shapes import MEASURED
from advspur.data.table import Table
from advspur.models import Classifier
from advspur.predict import correct_clean
from advspur.report import claims, headlines
from advspur.report.color_shift import arms_of
from advspur.report.figures import FIGURES
from advspur.report.headlines import own_headlines
from advspur.report.suite import suite_of

NAME = "m"
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


@pytest.fixture(scope="module")
def records():
    def under_attack(model, images, labels, **attack):
        return correct_clean(model, images, labels)

    def share(model, images, labels, region):
        return region.mean(axis=(1, 2, 3)), labels >= 0

    regions, robust = (importlib.import_module(f"advspur.measures.{n}") for n in MODULES)
    with pytest.MonkeyPatch.context() as monkeypatch:
        for module in (regions, robust):
            monkeypatch.setattr(module, "correct_under_pgd", under_attack)
        monkeypatch.setattr(regions, "gradient_share", share)
        found = [r for row in BENCHMARKS.values() for r in evaluate(row)]
    return [r._replace(model=NAME, arch="a", train_p=2.0, train_epsilon=0.0) for r in found]


def test_every_measure_of_the_report_is_recorded(records):
    shown = {
        "headlines": headlines.HEADLINES,
        "figures": [m for _, _, _, of_figure, _ in FIGURES for m in of_figure],
        "claims": [c.headline for c in (*claims.CLAIMS, *claims.MASK_CLAIMS)],
    }
    suite = suite_of(records)
    for place, found in shown.items():
        for measure in filter(None, (m for f in found for m in (f, f.over, f.even))):
            assert suite.matching(measure, NAME), (place, measure)
    assert arms_of(suite)
    assert {b: [m.name for m in own] for b, own in own_headlines(suite).items()} == {
        "cifar10": ["accuracy"]
    }


def test_the_made_up_suite_has_the_names_and_options_of_an_evaluation(records, synthetic):
    def forms(found):
        options = ((r, r.options.keys() - {"degenerate", "head"}) for r in found)
        return {(r.benchmark, r.metric, frozenset(names)) for r, names in options}

    made = [r for r in synthetic(("resnet18",)) if r.metric != "complete"]
    known = {(b, m, names - {"num_epochs"}) for b, m, names in forms(records)}
    assert forms(made) <= known

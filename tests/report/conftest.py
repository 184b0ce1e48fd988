"""A made-up suite in the shape of the paper's: 22 models on all benchmarks, numbers from a seed."""

import functools
from pathlib import Path

import matplotlib.figure
import numpy as np
import pytest

from advspur.intervals import Estimate, wilson
from advspur.records import COMPLETE, Record, record
from advspur.report.claims import CLAIMS, MASK_CLAIMS, findings
from advspur.report.suite import suite_of

L2 = (0.25, 0.5, 1.0, 3.0, 5.0)
LINF = tuple(k / 255 for k in (0.5, 1, 2, 4, 8))
CLEAN = {"resnet18": 0.698, "resnet50": 0.758}
DILATED = {"dilation_rounds": 15, "spurious_region": "complement"}
LEVELS = [k / 255 for k in (30, 60, 90, 120, 150, 180, 210)]


def places(archs=("resnet18", "resnet50")):
    """(arch, train_p, budget, its rank from 0) of every model."""
    curves = (("inf", LINF), (2.0, (0.0, *L2)))
    return [
        (arch, p, e, rank + (p == "inf"))
        for arch in archs
        for p, budgets in curves
        for rank, e in enumerate(budgets)
    ]


def made(estimate, metric, benchmark, place, **options):
    arch, p, epsilon, _ = place
    name = f"{arch}_{p}_{epsilon:.4g}"
    found = record(metric, estimate, options=options)
    return found._replace(
        benchmark=benchmark, model=name, arch=arch, train_p=p, train_epsilon=epsilon
    )


def model_records(place, rng):
    """All records of one model; what a model relies on goes with its rank among the budgets."""
    arch, p, _, rank = place
    reliance = rank * (1.0 if p == 2.0 else 0.4)
    clean = CLEAN[arch] - 0.045 * rank
    found = []

    def add(benchmark, metric, value, n=4050, half=None, **options):
        value = value + 0.004 * rng.standard_normal()
        if half is None:
            estimate = wilson(round(value * n), n)
        else:
            estimate = Estimate(value, value - half, value + half, n)
        found.append(made(estimate, metric, benchmark, place, **options))

    add("imagenet", "accuracy", clean, 50000, part="val")
    for severity in range(1, 6):
        add("imagenet_c", "accuracy", 0.5, 50000, part=f"fog/{severity}")
    add("imagenet_c", "mean_corruption_accuracy", 0.52 * clean, 50000, 0.002)
    add("imagenet_c", "mean_corruption_error", 1.2 - 0.55 * clean, 50000, 0.003)
    images = {"part": "images"}
    for scoring, share in (("full", 0.4), ("subset", 0.5)):
        for metric in ("accuracy", "balanced_accuracy"):
            value = (share - 0.02 * reliance) * clean
            add("objectnet", metric, value, 18514, **images, scoring=scoring)
    core = 0.2 + (0.02 if p == "inf" else -0.03) * rank
    for benchmark, region, value, options, families in (
        ("rival10", "foreground", 0.3 - 0.05 * rank, {"part": "test"}, ("linf", "l2")),
        ("salient_imagenet", "core", core, {"trials": 5} | DILATED | images, ("linf",)),
    ):
        metric = f"relative_{region}_sensitivity"
        levels = LEVELS if region == "foreground" else [0.25]
        for family in families:
            add(benchmark, metric, value, 5286, 0.03, family=family, levels=levels, **options)
            add(benchmark, metric, value, 5286, 0.05, family=family, level=0.25, **options)
    of_masks = ("rival10", "foreground", "test"), ("salient_imagenet", "core", "images")
    for benchmark, region, part in (*of_masks, ("imagenet9", "foreground", "original")):
        about = {"part": part} | (DILATED if region == "core" else {})
        if benchmark != "imagenet9":
            add(benchmark, "accuracy", clean + 0.2, 5286, part=part)
        for attack_p in (2.0, "inf"):
            options = {"p": attack_p, "epsilons": [0.5, 1.0], "num_steps": 20} | about
            metric = f"adversarial_relative_{region}_sensitivity"
            add(benchmark, metric, 0.4 - 0.05 * reliance, 1000, 0.06, **options)
        add(benchmark, "norm_fraction_spurious", 0.4 + 0.03 * reliance, 4050, 0.01, **about)
        area = Estimate(0.7, 0.69, 0.71, 4050)
        found.append(made(area, "spurious_area", benchmark, place, **about))
    same, gap = clean + 0.1, 0.085 + 0.01 * reliance
    for variant, value in (("original", same + 0.05), ("mixed_same", same)):
        add("imagenet9", "accuracy", value, part=variant)
    add("imagenet9", "background_gap", gap, 4050, 0.014, paired=True)
    add("imagenet9", "relative_background_gap", gap / same, 4050, 0.016, paired=True)
    for name in ("adam", "lbfgs"):
        head = {"head": name, "part": "test"}
        minority = clean - 0.04 * reliance
        add("waterbirds", "majority_accuracy", 0.93, 2897, **head)
        add("waterbirds", "minority_accuracy", minority, 2897, **head)
        add("waterbirds", "majority_minority_gap", 0.93 - minority, 5794, 0.016, **head)
        add("waterbirds", "worst_group_accuracy", minority - 0.1, 642, **head)
        add("waterbirds", "adjusted_average_accuracy", 0.92, 5794, 0.01, **head)
    return [*found, made(Estimate(9, 9, 9, 9), COMPLETE, "imagenet9", place)]


@pytest.fixture
def model():
    """Function (p, epsilon, ...) -> a record on spurious shapes, ± 2 points."""

    def make(p, epsilon, metric="background_gap", value=0.0, seed=0, **options):
        about = {"benchmark": "spurious_shapes", "arch": "a", "seed": seed, "seconds": 1.0}
        about |= {"train_p": p, "train_epsilon": epsilon, "model": f"{p}_{epsilon}_{seed}"}
        return Record(metric, value, value - 0.02, value + 0.02, 100, options, **about)

    return make


@pytest.fixture(scope="session")
def judged():
    """(Findings of the paper's claims, of those on masks) on the whole suite."""
    suite = suite_of(suite_records())
    return findings(suite, CLAIMS), findings(suite, MASK_CLAIMS)


@functools.cache
def suite_records(archs=("resnet18", "resnet50")):
    """The records of all models of these architectures."""
    rng = np.random.default_rng(0)
    return [r for place in places(archs) for r in model_records(place, rng)]


@pytest.fixture
def synthetic():
    """Function (archs) -> records of all their models."""
    return suite_records


@pytest.fixture
def rendered():
    """For tests whose figures are rendered."""


@pytest.fixture(autouse=True)
def _not_rendered(request, monkeypatch):
    """Figures are drawn, but not rendered: that takes most of the time."""
    if "rendered" not in request.fixturenames:

        def save(figure, path):
            Path(path).write_bytes(b"not rendered")

        monkeypatch.setattr(matplotlib.figure.Figure, "savefig", save)

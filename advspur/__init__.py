"""advspur: what does adversarial robustness do to a model's reliance on spurious features?

The parts are imported on first use, so ``import advspur`` stays light:
``advspur.norms``, ``advspur.theory``, ``advspur.attacks``, ``advspur.models``, ``advspur.data``,
``advspur.measures``, ``advspur.heads``, ``advspur.metrics``, ``advspur.training``,
``advspur.benchmarks``, ``advspur.report``.
"""

import importlib

__version__ = "0.2.0"

_PARTS = (
    "attacks",
    "benchmarks",
    "data",
    "heads",
    "measures",
    "metrics",
    "models",
    "norms",
    "report",
    "theory",
    "training",
)


def __getattr__(name):
    if name in _PARTS:
        return importlib.import_module(f"advspur.{name}")
    raise AttributeError(f"module 'advspur' has no attribute {name!r}")


def __dir__():
    return sorted([*globals(), *_PARTS])

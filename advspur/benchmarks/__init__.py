"""The benchmarks: each maps a classifier to records of measured numbers.

``BENCHMARKS[name](classifier, data_dir, *, batch_size, key, **options)`` -> list of Record.
"""

from advspur.benchmarks import metrics, spurious_shapes
from advspur.benchmarks.run import evaluate_run

BENCHMARKS = {"spurious_shapes": spurious_shapes.evaluate}

__all__ = ["BENCHMARKS", "evaluate_run", "metrics"]

"""The benchmarks of the paper as rows of a table, and the runner that measures models on them.

``BENCHMARKS[name].evaluate(model, directory, *, batch_size, key, **options)`` -> [Record].
"""

from advspur.benchmarks.own import own_benchmark
from advspur.benchmarks.row import Benchmark
from advspur.benchmarks.runner import evaluate_model, open_model
from advspur.benchmarks.table import BENCHMARKS

__all__ = ["BENCHMARKS", "Benchmark", "evaluate_model", "open_model", "own_benchmark"]

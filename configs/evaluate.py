"""Evaluate trained runs: python scripts/evaluate.py --config configs/evaluate.py RUN [RUN ...]

Records go to <workdir>/records.jsonl (runs/evaluate); what is there already is not measured again.
"""

from ml_collections import ConfigDict

from configs import quickstart


def get_config():
    config = ConfigDict()
    config.weights = ("raw",)  # and "ema" for the averaged weights
    config.benchmarks = ("spurious_shapes",)
    config.data_dir = ""  # where the benchmarks' data lie
    config.seed = 0  # of noise and attacks
    config.evaluation = quickstart.evaluation()
    return config.lock()

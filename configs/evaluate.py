"""Evaluate models: python scripts/evaluate.py --config configs/evaluate.py [MODEL ...]

Without a MODEL the paper's 22, which must lie in $ADVSPUR_MODELS (docs/models.md); the ImageNet
benchmarks that they are for are not here yet. Records go to <workdir>/records.jsonl
(runs/evaluate); what is there already is not measured again.
"""

from ml_collections import ConfigDict

from advspur.models import suite
from configs import quickstart


def get_config():
    config = ConfigDict()
    config.models = tuple(model.name for model in suite(l2_epsilons=(0.25, 0.5, 1, 3, 5)))
    config.models_dir = ""  # where the suite's models lie; "": $ADVSPUR_MODELS
    config.weights = ("raw",)  # and "ema" for the averaged weights
    config.benchmarks = ("spurious_shapes",)
    config.data_dir = ""  # where the benchmarks' data lie
    config.seed = 0  # of noise and attacks
    config.evaluation = quickstart.evaluation()
    return config.lock()

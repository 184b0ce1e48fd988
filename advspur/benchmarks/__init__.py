"""The benchmarks: each a module that maps a classifier to records of measured numbers.

Those of AUTOATTACK are no modules: one evaluation with the data and defaults of each.

``BENCHMARKS[name].evaluate(classifier, data_dir, *, batch_size, key, **options)`` -> [Record];
`load(data_dir, ...)` reads the official layout, its `num_passes` tells the work.
"""

from advspur.benchmarks import (
    cifar_color_shift,
    imagenet,
    imagenet9,
    imagenet_c,
    metrics,
    objectnet,
    rival10,
    salient_imagenet,
    spurious_shapes,
    waterbirds,
)
from advspur.benchmarks.autoattack_data import AUTOATTACK
from advspur.benchmarks.run import evaluate_model, open_model

BENCHMARKS = {
    "imagenet": imagenet,
    "imagenet_c": imagenet_c,
    "objectnet": objectnet,
    "rival10": rival10,
    "salient_imagenet": salient_imagenet,
    "imagenet9": imagenet9,
    "waterbirds": waterbirds,
    "spurious_shapes": spurious_shapes,
    "cifar_color_shift": cifar_color_shift,
    **AUTOATTACK,
}

__all__ = ["AUTOATTACK", "BENCHMARKS", "evaluate_model", "metrics", "open_model"]

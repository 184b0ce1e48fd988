"""Flax Linen ResNets, classifiers that own their normalisation, and where they come from."""

from advspur.models.classifier import Classifier, pool, with_class_map, with_head
from advspur.models.convert import convert_torch_checkpoint
from advspur.models.resnet import (
    build_network,
    from_resnet,
    resnet18,
    resnet50,
    resnet_small,
    variable_shapes,
    wide_resnet50,
)
from advspur.models.runs import (
    described_network,
    latest_step,
    record_facts,
    run_checksum,
    run_facts,
)
from advspur.models.store import find_model, load, model_facts
from advspur.models.suite import SUITE, published_model, suite

__all__ = [
    "SUITE",
    "Classifier",
    "build_network",
    "convert_torch_checkpoint",
    "described_network",
    "find_model",
    "from_resnet",
    "latest_step",
    "load",
    "model_facts",
    "pool",
    "published_model",
    "record_facts",
    "resnet18",
    "resnet50",
    "resnet_small",
    "run_checksum",
    "run_facts",
    "suite",
    "variable_shapes",
    "wide_resnet50",
    "with_class_map",
    "with_head",
]

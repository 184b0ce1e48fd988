"""Classifiers that own their normalisation, and where they come from: ours, Flax, torch."""

from advspur.models.checks import check_model
from advspur.models.classifier import Classifier, check_is_model, pool, with_class_map, with_head
from advspur.models.convert import convert_torch_checkpoint
from advspur.models.flax import from_flax
from advspur.models.function import from_function
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
from advspur.models.spec import is_spec
from advspur.models.store import classifier_facts, find_model, load, model_facts
from advspur.models.suite import SUITE, published_model, suite
from advspur.models.torch import from_torch

__all__ = [
    "SUITE",
    "Classifier",
    "build_network",
    "check_is_model",
    "check_model",
    "classifier_facts",
    "convert_torch_checkpoint",
    "described_network",
    "find_model",
    "from_flax",
    "from_function",
    "from_resnet",
    "from_torch",
    "is_spec",
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

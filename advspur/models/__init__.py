"""Classifiers with their normalisation inside, from our runs, Flax, torch or a function."""

from advspur.models.classifier import Classifier, check_is_model, pool, with_class_map, with_head
from advspur.models.convert import convert_torch_checkpoint
from advspur.models.flax import from_flax
from advspur.models.function import check_model, from_function
from advspur.models.resnet import build_network, from_resnet, resnet18, resnet50, resnet_small
from advspur.models.spec import is_spec
from advspur.models.store import load
from advspur.models.suite import SUITE, published_model, suite
from advspur.models.torch import from_torch

__all__ = [
    "SUITE",
    "Classifier",
    "build_network",
    "check_is_model",
    "check_model",
    "convert_torch_checkpoint",
    "from_flax",
    "from_function",
    "from_resnet",
    "from_torch",
    "is_spec",
    "load",
    "pool",
    "published_model",
    "resnet18",
    "resnet50",
    "resnet_small",
    "suite",
    "with_class_map",
    "with_head",
]

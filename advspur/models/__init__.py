"""Flax Linen ResNets, and classifiers that own their normalisation."""

from advspur.models.classifier import Classifier
from advspur.models.resnet import build_network, resnet18, resnet50, resnet_small
from advspur.models.runs import latest_step, load, record_facts, run_checksum, run_facts

__all__ = [
    "Classifier",
    "build_network",
    "latest_step",
    "load",
    "record_facts",
    "resnet18",
    "resnet50",
    "resnet_small",
    "run_checksum",
    "run_facts",
]

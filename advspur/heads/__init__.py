"""Heads: what makes a model's output into a data set's classes."""

from advspur.heads.class_maps import as_it_is, objectnet_scorings, superclasses
from advspur.heads.linear import fit_linear_probe, fit_logistic_regression
from advspur.heads.probes import plan_probes, probes

__all__ = [
    "as_it_is",
    "fit_linear_probe",
    "fit_logistic_regression",
    "objectnet_scorings",
    "plan_probes",
    "probes",
    "superclasses",
]

"""Heads: they turn a model's output into a data set's classes."""

from advspur.heads.class_maps import as_it_is, objectnet_scorings, superclasses
from advspur.heads.group_robust import as_it_is_and_robust, plan_robust, with_robust_heads
from advspur.heads.linear import fit_linear_probe, fit_logistic_regression
from advspur.heads.probes import plan_probes, probes
from advspur.heads.retrained import fit_afr, fit_dfr
from advspur.heads.robust import fit_adversarial, fit_group_dro, fit_weighted
from advspur.heads.selection import Examples, RobustHead, fit_heads

__all__ = [
    "Examples",
    "RobustHead",
    "as_it_is",
    "as_it_is_and_robust",
    "fit_adversarial",
    "fit_afr",
    "fit_dfr",
    "fit_group_dro",
    "fit_heads",
    "fit_linear_probe",
    "fit_logistic_regression",
    "fit_weighted",
    "objectnet_scorings",
    "plan_probes",
    "plan_robust",
    "probes",
    "superclasses",
    "with_robust_heads",
]

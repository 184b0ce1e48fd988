"""Adversarial attacks as pure functions: (logits_fn, images, labels, key, ...) -> images.

`pgd` documents the common arguments and errors; the other attacks document what differs.
"""

from advspur.attacks import linear_oracle
from advspur.attacks.apgd import apgd
from advspur.attacks.autoattack import AutoAttackResult, autoattack, security_curve
from advspur.attacks.checks import check_perturbation
from advspur.attacks.fab import fab
from advspur.attacks.fgsm import fgsm
from advspur.attacks.losses import dlr, margin
from advspur.attacks.pgd import pgd
from advspur.attacks.square import square

__all__ = [
    "AutoAttackResult",
    "apgd",
    "autoattack",
    "check_perturbation",
    "dlr",
    "fab",
    "fgsm",
    "linear_oracle",
    "margin",
    "pgd",
    "security_curve",
    "square",
]

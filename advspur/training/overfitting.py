"""Catastrophic overfitting: a model trained with one-step attacks loses all robustness to PGD."""

import itertools

from advspur.training.attack import FGSM_METHODS

COLLAPSE = 0.2  # drop of PGD accuracy at which Wong et al. (ICLR 2020, arXiv 2001.03994) stop


def overfitting_warning(config, accuracies, step):
    """Return a warning if PGD accuracy [one per validation] has just collapsed, else ""."""
    best = list(itertools.accumulate(accuracies, max))
    has_collapsed = [b - a > COLLAPSE for b, a in zip(best, accuracies, strict=True)]
    if not _has_one_step_attack(config) or has_collapsed.count(True) != 1 or not has_collapsed[-1]:
        return ""
    return (
        f"val_pgd_accuracy fell from {best[-1]:.1%} to {accuracies[-1]:.1%} at step {step}: the "
        "model overfits to its one-step attack. In a new workdir, use more steps (attack.method = "
        "'pgd', attack.num_steps = 2), attack.method = 'n_fgsm', or early_stopping"
    )


def _has_one_step_attack(config):
    """Whether the training attack has one step and validation measures PGD accuracy."""
    attack = config.attack
    if not attack.epsilon or not config.validation.epsilon:
        return False
    return attack.method in FGSM_METHODS or (attack.method == "pgd" and attack.num_steps == 1)

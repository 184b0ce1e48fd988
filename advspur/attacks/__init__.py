"""Adversarial attacks as pure functions: (logits_fn, images, labels, key, ...) -> images."""

from advspur.attacks.pgd import check_perturbation, margin, pgd

__all__ = ["check_perturbation", "margin", "pgd"]

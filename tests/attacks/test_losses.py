"""Losses against their formulas in NumPy, and their invariances."""

import jax.numpy as jnp
import numpy as np
import pytest

from advspur.attacks.losses import LOSSES, cross_entropy, dlr, loss_function, margin
from tests.refusals import refused

RNG = np.random.default_rng(0)
LOGITS = RNG.normal(size=(40, 6)).astype(np.float32)
LABELS = RNG.integers(0, 6, 40)
TARGETS = (LABELS + RNG.integers(1, 6, 40)) % 6
ROWS = np.arange(40)
OTHERS = np.stack([np.delete(z, y) for z, y in zip(LOGITS.astype(float), LABELS, strict=True)])
ORDERED = -np.sort(-LOGITS.astype(float), axis=1)
GAPS = OTHERS.max(axis=1) - LOGITS[ROWS, LABELS]
TARGET_GAPS = LOGITS[ROWS, TARGETS].astype(float) - LOGITS[ROWS, LABELS]
LOG_PROBABILITY = LOGITS - np.log(np.exp(LOGITS.astype(float)).sum(axis=1, keepdims=True))
SPREAD = ORDERED[:, 0] - (ORDERED[:, 2] + ORDERED[:, 3]) / 2


@pytest.mark.parametrize(
    "loss, expected, targeted",
    [
        (cross_entropy, -LOG_PROBABILITY[ROWS, LABELS], LOG_PROBABILITY[ROWS, TARGETS]),
        (margin, GAPS, TARGET_GAPS),
        (dlr, GAPS / (ORDERED[:, 0] - ORDERED[:, 2]), TARGET_GAPS / SPREAD),
    ],
)
def test_losses_agree_with_their_formulas(loss, expected, targeted):
    for found, wanted in (
        (loss(LOGITS, LABELS), expected),
        (loss(LOGITS, LABELS, TARGETS), targeted),
    ):
        np.testing.assert_allclose(found, wanted, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("targets", (None, TARGETS))
def test_dlr_is_invariant_to_scale_and_shift_of_the_logits(targets):
    expected = np.asarray(dlr(LOGITS, LABELS, targets))
    for scale, shift in ((700, 0), (0.01, 0), (2, -1)):
        got = dlr(scale * LOGITS + shift, LABELS, targets)
        np.testing.assert_allclose(got, expected, rtol=1e-4, atol=1e-5)  # rounding of the shift


@pytest.mark.parametrize("name", LOSSES)
def test_equal_logits_give_a_finite_loss(name):
    equal, labels = jnp.zeros((2, 5)), jnp.array([0, 4])
    assert np.all(np.isfinite(LOSSES[name](equal, labels)))
    assert np.all(np.isfinite(LOSSES[name](equal, labels, 1 - labels // 4)))


def test_the_margin_is_positive_exactly_if_misclassified():
    lost = LOGITS.argmax(axis=1) != LABELS
    assert 5 < lost.sum() < 40
    np.testing.assert_array_equal(margin(LOGITS, LABELS) > 0, lost)
    np.testing.assert_array_equal(dlr(LOGITS, LABELS) > 0, lost)


def test_too_few_classes_are_refused():
    for name, count, targeted, needed in (
        ("dlr", 2, False, 3), ("dlr", 3, True, 4), ("dlr", 1, False, 3), ("margin", 1, True, 2),
    ):  # fmt: skip
        message = f"{needed} classes, the model has {count}; use"
        refused(message, loss_function, name, count, targeted=targeted)
        assert loss_function(name, needed, targeted=targeted) is LOSSES[name]
    assert loss_function("cross_entropy", 2) is cross_entropy
    refused("loss = 'ce' is not known", loss_function, "ce", 10)

"""Losses against their formulas, written in NumPy, and what they must not depend on."""

import jax.numpy as jnp
import numpy as np
import pytest

from advspur._checks import InputError
from advspur.attacks.losses import LOSSES, cross_entropy, dlr, loss_function, margin

pytestmark = pytest.mark.usefixtures("quick_programs")
RNG = np.random.default_rng(0)
LOGITS = RNG.normal(size=(40, 6)).astype(np.float32)
LABELS = RNG.integers(0, 6, 40)
TARGETS = (LABELS + RNG.integers(1, 6, 40)) % 6
ROWS = np.arange(40)
OTHERS = np.stack([np.delete(z, y) for z, y in zip(LOGITS.astype(float), LABELS, strict=True)])
ORDERED = -np.sort(-LOGITS.astype(float), axis=1)
GAPS = OTHERS.max(axis=1) - LOGITS[ROWS, LABELS]
TARGET_GAPS = LOGITS[ROWS, TARGETS].astype(float) - LOGITS[ROWS, LABELS]


def close(found, expected):
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)


def test_cross_entropy_is_minus_the_log_probability_of_the_label():
    log_probability = LOGITS - np.log(np.exp(LOGITS.astype(float)).sum(axis=1, keepdims=True))
    close(cross_entropy(LOGITS, LABELS), -log_probability[ROWS, LABELS])
    close(cross_entropy(LOGITS, LABELS, TARGETS), log_probability[ROWS, TARGETS])


def test_the_margin_is_the_largest_other_logit_minus_the_labels():
    close(margin(LOGITS, LABELS), GAPS)
    close(margin(LOGITS, LABELS, TARGETS), TARGET_GAPS)


def test_dlr_divides_the_margin_by_first_minus_third():
    close(dlr(LOGITS, LABELS), GAPS / (ORDERED[:, 0] - ORDERED[:, 2]))


def test_targeted_dlr_divides_by_first_minus_the_mean_of_third_and_fourth():
    spread = ORDERED[:, 0] - (ORDERED[:, 2] + ORDERED[:, 3]) / 2
    close(dlr(LOGITS, LABELS, TARGETS), TARGET_GAPS / spread)


@pytest.mark.parametrize("targets", (None, TARGETS))
def test_dlr_knows_neither_scale_nor_shift_of_the_logits(targets):
    expected = np.asarray(dlr(LOGITS, LABELS, targets))
    for scale, shift in ((700, 0), (0.01, 0), (2, -1)):
        got = dlr(scale * LOGITS + shift, LABELS, targets)
        np.testing.assert_allclose(got, expected, rtol=1e-4, atol=1e-5)  # rounding of the shift


@pytest.mark.parametrize("name", LOSSES)
def test_equal_logits_give_a_finite_loss(name):
    equal, labels = jnp.zeros((2, 5)), jnp.array([0, 4])
    assert np.all(np.isfinite(LOSSES[name](equal, labels)))
    assert np.all(np.isfinite(LOSSES[name](equal, labels, 1 - labels // 4)))


def test_the_margin_is_positive_exactly_where_the_label_is_lost():
    lost = LOGITS.argmax(axis=1) != LABELS
    assert 5 < lost.sum() < 40
    np.testing.assert_array_equal(margin(LOGITS, LABELS) > 0, lost)
    np.testing.assert_array_equal(dlr(LOGITS, LABELS) > 0, lost)


@pytest.mark.parametrize(
    "name, num_classes, targeted, needed",
    [("dlr", 2, False, 3), ("dlr", 3, True, 4), ("dlr", 1, False, 3), ("margin", 1, True, 2)],
)
def test_too_few_classes_are_refused_with_the_way_out(name, num_classes, targeted, needed):
    with pytest.raises(InputError, match=f"{needed} classes, the model has {num_classes}: use"):
        loss_function(name, num_classes, targeted=targeted)


def test_enough_classes_give_the_loss():
    assert loss_function("dlr", 3) is dlr and loss_function("dlr", 4, targeted=True) is dlr
    assert loss_function("margin", 2, targeted=True) is margin
    assert loss_function("cross_entropy", 2) is cross_entropy
    with pytest.raises(InputError, match="loss = 'ce' is not known"):
        loss_function("ce", 10)

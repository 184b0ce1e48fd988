"""What must hold after an attack, and what the clean logits tell of a model."""

import math

import numpy as np
import pytest

from advspur._checks import InputError
from advspur.attacks import check_perturbation
from advspur.attacks.checks import (
    check_finite_logits,
    check_labels_in_range,
    model_warnings,
    perturbation_norms,
)

SEE = "See docs/attacks.md."
LOGITS = np.array([[3.0, -1.0, 0.5], [0.0, 2.0, 1.0], [-1.0, 0.0, 4.0]], np.float32)


def moved(image, *values):
    """A copy whose first pixels are those values higher."""
    image = image.copy()
    image.reshape(-1)[: len(values)] += values
    return image


GREY = np.full((1, 2, 2, 3), 0.5)


@pytest.mark.parametrize("p, norm", ((1, 0.7), (2, 0.5), (math.inf, 0.4)))
def test_norms_are_those_of_a_hand_count(p, norm):
    images = np.concatenate([GREY, GREY])
    adversarial = np.concatenate([GREY, moved(GREY, 0.3, -0.4)])
    np.testing.assert_allclose(perturbation_norms(adversarial, images, p=p), [0, norm], rtol=1e-12)
    check_perturbation(adversarial, images, p=p, epsilon=norm)
    check_perturbation(adversarial, images, p=p, epsilon=np.array([0, norm]))
    with pytest.raises(InputError, match=f"left the l{p:g} ball"):
        check_perturbation(adversarial, images, p=p, epsilon=np.array([norm, 0]))


@pytest.mark.parametrize("p", (1, 2, math.inf))
def test_the_ball_has_one_in_a_million_to_spare_and_no_more(p):
    check_perturbation(moved(GREY, 0.4 * (1 + 0.9e-6)), GREY, p=p, epsilon=0.4)
    with pytest.raises(InputError, match="the largest perturbation is 0.400000"):
        check_perturbation(moved(GREY, 0.4 * (1 + 1.2e-6)), GREY, p=p, epsilon=0.4)


def test_norms_of_float32_images_are_taken_in_float64():
    """10^6 pixels of 1e-4 each: float32 sums are off by more than one in a million."""
    images = np.full((1, 1000, 1000, 1), 0.3, np.float32)
    adversarial = images + np.float32(1e-4)
    step = np.float64(adversarial.flat[0]) - np.float64(images.flat[0])
    for p, norm in ((1, 1e6 * step), (2, 1e3 * step)):
        np.testing.assert_allclose(perturbation_norms(adversarial, images, p=p), norm, rtol=1e-12)


@pytest.mark.parametrize("bounds", ((0.0, 1.0), (-1.0, 2.0)))
def test_the_box_has_nothing_to_spare(bounds):
    for end, beyond in zip(bounds, (-math.inf, math.inf), strict=True):
        edge = moved(GREY, end - 0.5)
        check_perturbation(edge, GREY, p=math.inf, epsilon=2, bounds=bounds)
        out = np.nextafter(edge, beyond)
        with pytest.raises(InputError, match="left the box"):
            check_perturbation(out, GREY, p=math.inf, epsilon=2, bounds=bounds)


@pytest.mark.parametrize("pixel", (math.nan, math.inf, -math.inf))
def test_pixels_that_are_not_finite_are_refused(pixel):
    with pytest.raises(InputError, match="pixels that are not finite"):
        check_perturbation(moved(GREY, pixel), GREY, p=2, epsilon=9)


def test_what_cannot_be_compared_is_refused():
    image = np.zeros((2, 1, 1, 1))
    with pytest.raises(InputError, match="p = 3: the norm"):
        check_perturbation(image, image, p=3, epsilon=0.1)
    with pytest.raises(InputError, match=r"shape \(1, 1, 1, 1\), images \(2, 1, 1, 1\)"):
        check_perturbation(image[:1], image, p=2, epsilon=0.1)


def test_no_images_have_no_norms():
    none = np.zeros((0, 2, 2, 3), np.float32)
    assert perturbation_norms(none, none, p=2).shape == (0,)
    check_perturbation(none, none, p=1, epsilon=0.1)


@pytest.mark.parametrize("value", (math.nan, math.inf, -math.inf))
def test_the_first_image_of_logits_that_are_not_finite_is_named(value):
    check_finite_logits(LOGITS, np.array([7, 8, 9]))
    logits = LOGITS.copy()
    logits[1:, 2] = value
    with pytest.raises(InputError, match=r"logits of 2 images are not finite.*\[8\]") as caught:
        check_finite_logits(logits, np.array([7, 8, 9]))
    assert "\n" not in str(caught.value)


def test_labels_lie_among_the_classes():
    check_labels_in_range(np.array([0, 9]), 10)
    for labels, told in (([0, 10], r"\[0, 10\]"), ([-1, 9], r"\[-1, 9\]")):
        with pytest.raises(InputError, match=told + r".*10 classes.*\[0, 9\]"):
            check_labels_in_range(np.array(labels), 10)


def test_logits_that_are_computed_alike_twice_are_not_warned_of():
    for again in (LOGITS, LOGITS[:2], LOGITS * (1 + 5e-5)):
        assert model_warnings(LOGITS, again, is_random=False) == []


def test_logits_that_differ_are_warned_of():
    expected = [f"two calls give different logits: it seems to be a randomized defense! {SEE}"]
    again = LOGITS[:2] * np.array([[1.0], [1 + 2e-4]], np.float32)  # one image is enough
    assert model_warnings(LOGITS, again, is_random=False) == expected
    assert model_warnings(LOGITS, again, is_random=True) == []


def test_predictions_that_differ_are_refused_unless_that_is_expected():
    again = LOGITS[:2, [0, 2, 1]]
    with pytest.raises(InputError, match="for 1 of 2 images; use version='rand'"):
        model_warnings(LOGITS, again, is_random=False)
    assert model_warnings(LOGITS, again, is_random=True) == []


def test_probabilities_are_told_from_logits():
    probabilities = np.float32([[0.2, 0.3, 0.5], [0.0, 1.0, 0.0]])
    expected = [f"it seems that the output is a probability distribution, not logits! {SEE}"]
    for is_random in (False, True):
        assert model_warnings(probabilities, probabilities, is_random=is_random) == expected
    for logits in (
        probabilities + np.float32([[0, 0, 0], [0.01, 0, 0]]),  # sum
        np.float32([[0.2, 0.3, 0.5], [1.5, -0.5, 0.0]]),  # range
        np.float32([[0.2, 0.3, 0.5], [0.5, 0.6, -0.1]]),  # sign
        np.log(probabilities + np.float32(0.01)),
    ):
        assert model_warnings(logits, logits, is_random=False) == []

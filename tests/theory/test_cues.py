"""The two-cue model against the pixels it stands for, and against simulated cues."""

import math

import numpy as np
import pytest

from advspur import theory
from advspur._checks import InputError
from advspur.theory import GaussianLinearModel, adversarial_loss

pytestmark = pytest.mark.usefixtures("x64")

NOISE, CORRELATION, CLASSES = 0.3, 0.7, 4
FACTS = {"noise_std": NOISE, "correlation": CORRELATION, "num_classes": CLASSES}
RNG = np.random.default_rng(0)
CORE, SPURIOUS = np.zeros((2, 12))
CORE[:5], SPURIOUS[5:] = RNG.normal(size=5), 0.5 * RNG.normal(size=7)
LENGTHS = np.array([np.linalg.norm(CORE), np.linalg.norm(SPURIOUS)])


def pixel_model():
    """x = y v_C / 2 + b v_S / 2 + noise as a model of 12 pixels, written out."""
    own, other = CORRELATION, (1 - CORRELATION) / (CLASSES - 1)
    of_cues = np.array([[1, own - other], [own - other, own + other]])
    mix = np.stack([CORE, SPURIOUS], axis=1) / 2
    covariance = mix @ of_cues @ mix.T + NOISE**2 * np.eye(12)
    theta = np.linalg.solve(covariance, mix @ of_cues[0])
    variance = 1 - theta @ covariance @ theta
    return GaussianLinearModel(covariance, theta, math.sqrt(variance), SPURIOUS != 0)


def of_pixels(theta):
    """The pixels' parameter of one of the cues: each is read by <x, 2 v / |v|^2>."""
    return theta[0] * 2 * CORE / LENGTHS[0] ** 2 + theta[1] * 2 * SPURIOUS / LENGTHS[1] ** 2


@pytest.mark.parametrize("p", (1, 1.5, 2, math.inf))
def test_losses_are_those_of_the_pixels(p):
    model = theory.two_cue_model(LENGTHS, **FACTS)
    duals = [theory.cue_sizes(v[None], p=p)[1] for v in (CORE, SPURIOUS)]
    weights = 2 * np.array(duals) / LENGTHS**2
    for theta in RNG.normal(size=(5, 2)):
        found = adversarial_loss(theta, model, 0.4, p=p, budget_weights=weights)
        expected = adversarial_loss(of_pixels(theta), pixel_model(), 0.4, p=p)
        np.testing.assert_allclose(found, expected, rtol=1e-12)


def test_an_l2_robust_model_of_the_pixels_reads_the_cues_alone():
    epsilons = np.array([0, 0.2, 0.4])
    found = theory.predict_reliance(CORE[None], SPURIOUS[None], epsilons, p=2, **FACTS)
    for theta, share, epsilon in zip(found.theta, found.gradient_share, epsilons, strict=True):
        pixels = of_pixels(theta)  # certified to be the minimiser over all 12
        gap = theory.duality_gap(pixels, pixel_model(), epsilon, p=2)
        assert gap < 1e-12 * adversarial_loss(pixels, pixel_model(), epsilon, p=2)
        nfs = np.sum(pixels[SPURIOUS != 0] ** 2) / np.sum(pixels**2)
        np.testing.assert_allclose(share, nfs, rtol=1e-12)
    radius = theory.collapse_radius(pixel_model(), p=2)
    np.testing.assert_allclose(found.collapse_radius, radius, rtol=1e-12)


def test_without_an_attack_it_is_the_regression_on_simulated_cues():
    n, rng = 200_000, np.random.default_rng(1)
    y = rng.choice([-1, 1], n)
    own, other = rng.random(n) < CORRELATION, rng.integers(1, CLASSES, n) == 1
    b = np.where(own, y, np.where(other, -y, 0))
    cues = np.stack([y, b], axis=1) + 2 * NOISE / LENGTHS * rng.normal(size=(n, 2))
    fit, squares, *_ = np.linalg.lstsq(cues, y, rcond=None)
    errors = np.sqrt(np.diag(np.linalg.inv(cues.T @ cues)) * squares / n)
    model = theory.two_cue_model(LENGTHS, **FACTS)
    assert np.all(np.abs(fit - model.theta_opt) < 5 * errors)
    np.testing.assert_allclose(model.noise_std**2, squares[0] / n, rtol=0.02)
    moments = cues.T @ cues / n
    np.testing.assert_allclose(model.covariance, moments, atol=5 * 3 / math.sqrt(n))


def test_sizes_of_changes():
    changes = np.array([[[3.0, 0], [0, -4]], [[0, 0], [0, 0]]])
    length, dual = theory.cue_sizes(changes, p=math.inf)
    assert (float(length), float(dual)) == (math.sqrt(12.5), 3.5)
    assert float(theory.cue_sizes(changes, p=1)[1]) == 2.0


def test_nfs_is_one_half_at_half_budget():
    cues = 3 * CORE[None], 4 * SPURIOUS[None]
    facts = FACTS | {"correlation": 0.9}
    half = float(theory.predict_reliance(*cues, [0.0], p=2, **facts).half_budget)
    around = theory.predict_reliance(*cues, [0.98 * half, half, 1.02 * half], p=2, **facts)
    below, at, above = np.asarray(around.nfs)
    assert 0 < half < around.collapse_radius and below < 0.5 < above and abs(at - 0.5) < 1e-3
    far = theory.predict_reliance(CORE[None], 1e-3 * SPURIOUS[None], [0.0], p=2, **FACTS)
    assert np.isnan(far.half_budget)


def test_the_protective_weight_bars_the_background():
    """From the protective weight on NFS is 0, below it is not; a common factor is the budget's."""
    cues, facts = (3 * CORE[None], 4 * SPURIOUS[None]), FACTS | {"correlation": 0.9}
    budget = 0.3 * float(theory.predict_reliance(*cues, [0.0], p=math.inf, **facts).collapse_radius)
    call = facts | {"p": math.inf}
    least = float(theory.predict_reliance(*cues, [budget], **call).protective_weight[0])
    assert least > 1
    for factor, is_used in ((0.98, True), (1.02, False)):
        call["region_weights"] = 1, factor * least
        found = theory.predict_reliance(*cues, [budget], **call)
        assert (found.nfs[0] > 1e-12) == is_used
        np.testing.assert_allclose(found.protective_weight[0], 1 / factor, rtol=1e-6)
    twice = theory.predict_reliance(*cues, [budget / 2], **call | {"region_weights": (2, 2)})
    plain = theory.predict_reliance(*cues, [budget], **call | {"region_weights": (1, 1)})
    np.testing.assert_allclose(twice.theta, plain.theta, rtol=1e-6)
    assert np.isnan(theory.predict_reliance(*cues, [0.0], **facts, p=2).protective_weight[0])


def test_a_cue_that_is_not_attacked_is_the_limit_of_small_weights():
    cues, call = (3 * CORE[None], 4 * SPURIOUS[None]), FACTS | {"correlation": 0.9}
    for p in (2, math.inf):
        for limit, near in (((0, 1), (1e-5, 1)), ((1, 0), (1, 1e-5))):
            at, by = (
                theory.predict_reliance(*cues, [0.0, 0.2, 0.5], p=p, region_weights=w, **call)
                for w in (limit, near)
            )
            np.testing.assert_allclose(at.theta, by.theta, rtol=1e-3, atol=1e-3)
            assert np.isnan(at.half_budget) and np.all(np.isnan(at.protective_weight))


def test_an_uninformative_cue_is_not_used():
    chance = FACTS | {"correlation": 1 / CLASSES}
    for p in (2, math.inf):
        found = theory.predict_reliance(CORE[None], SPURIOUS[None], [0, 0.1], p=p, **chance)
        np.testing.assert_allclose(found.nfs, 0, atol=1e-20)


@pytest.mark.parametrize(
    "change, message",
    (
        ({"correlation": 1.5}, "correlation = 1.5: it must be in [0, 1]"),
        ({"num_classes": 1}, "num_classes = 1: it must be >= 2"),
        ({"noise_std": -1}, "noise_std = -1"),
        ({"epsilons": [-0.1]}, "epsilons"),
        ({"core": np.zeros((2, 3))}, "both must be finite and > 0"),
        ({"spurious": np.full((2, 3), np.nan)}, "both must be finite and > 0"),
        ({"region_weights": (-1, 1)}, "region_weights = (-1, 1): give two finite numbers >= 0"),
    ),
)
def test_bad_input(change, message):
    given = {"core": CORE[None], "spurious": SPURIOUS[None], "epsilons": [0.1]} | FACTS | change
    with pytest.raises(InputError) as error:
        theory.predict_reliance(p=2, **given)
    assert message in str(error.value)


def test_lengths_of_another_shape():
    with pytest.raises(InputError, match="expected \\(2,\\)"):
        theory.two_cue_model(np.ones(3), **FACTS)

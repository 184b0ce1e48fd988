"""PGD on models whose worst case is known in closed form, and its properties on others."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from advspur._checks import InputError
from advspur.attacks import check_perturbation, pgd
from tests.attacks.oracles import NORMS, images_with_corners

N, SHAPE = 4, (4, 4, 3)
RNG = np.random.default_rng(0)
WEIGHTS = RNG.normal(size=(48, 3)).astype(np.float32)
GREY = jnp.full((N, *SHAPE), 0.5)
LABELS = jnp.array([0, 1, 2, 0])

# Budgets are large here, so that the box matters: the warning about their unit is expected.
pytestmark = pytest.mark.filterwarnings("ignore:epsilon = ")


def linear(x):
    """Three classes."""
    return x.reshape(len(x), -1) @ WEIGHTS


def binary(x):
    """Label 0 has the logit 0, label 1 the logit <w, x>."""
    score = x.reshape(len(x), -1) @ WEIGHTS[:, 0]
    return jnp.stack([jnp.zeros_like(score), score], axis=1)


def flat_delta(adversarial, images):
    return (np.asarray(adversarial, np.float64) - np.asarray(images, np.float64)).reshape(N, -1)


def attack(logits_fn, images, labels, key=None, **options):
    return pgd(logits_fn, images, labels, key, **({"num_steps": 5} | options))


BUDGET_WEIGHTS = np.repeat(np.float32([0.5, 1, 2, 0.1]), 4).reshape(4, 4, 1)  # one value per row
BUDGET_WEIGHTS[:, 3] = 0
with_and_without_weights = pytest.mark.parametrize("weights", (None, BUDGET_WEIGHTS))


@with_and_without_weights
@pytest.mark.parametrize("epsilon", (0.1, 0.6))
@pytest.mark.parametrize("label", (0, 1))
def test_linf_in_the_box_reaches_the_exact_optimum_of_a_binary_model(label, epsilon, weights):
    images = images_with_corners((N, *SHAPE))
    call = {"p": math.inf, "epsilon": epsilon, "budget_weights": weights}
    adversarial = attack(binary, images, jnp.full(N, label), **call)
    up = (1 if label == 0 else -1) * np.sign(WEIGHTS[:, 0]).reshape(SHAPE)
    expected = np.clip(images + epsilon * (1 if weights is None else weights) * up, 0, 1)
    np.testing.assert_allclose(adversarial, expected, rtol=0, atol=1e-6)


@with_and_without_weights
@pytest.mark.parametrize("p, q", ((2, 2), (1, math.inf)))
@pytest.mark.parametrize("loss", ("cross_entropy", "margin"))
def test_away_from_the_box_the_gain_is_epsilon_times_the_dual_norm(p, q, loss, weights):
    epsilon = 0.2
    call = {"p": p, "epsilon": epsilon, "loss": loss, "budget_weights": weights}
    adversarial = attack(binary, GREY, jnp.zeros(N, int), **call)
    gain = flat_delta(adversarial, GREY) @ WEIGHTS[:, 0]
    gradient = WEIGHTS[:, 0].reshape(SHAPE).astype(float) * (1 if weights is None else weights)
    expected = epsilon * np.linalg.norm(gradient.ravel(), ord=q)
    np.testing.assert_allclose(gain, expected, rtol=1e-4, atol=0)


@pytest.mark.parametrize("p", NORMS)
@pytest.mark.parametrize("random_start", ("ball", "sphere"))
def test_random_starts_are_in_the_ball_or_on_the_sphere(p, random_start, key):
    """Under a constant model the start itself is returned."""

    def constant(x):
        return jnp.zeros((len(x), 3))

    epsilon, call = 0.2, {"p": p, "random_start": random_start}
    adversarial = attack(constant, GREY, LABELS, key, epsilon=epsilon, **call)
    delta = flat_delta(adversarial, GREY)
    norms = np.linalg.norm(delta, ord=p, axis=1)
    assert np.all(norms <= epsilon * (1 + 1e-5) + 1e-6)
    if random_start == "sphere":
        np.testing.assert_allclose(norms, epsilon, rtol=1e-4, atol=0)
    else:
        assert np.all((norms > 0.5 * epsilon) & (norms < epsilon))
    assert np.abs(delta[0] - delta[1]).max() > 1e-3  # each image has its own start


def single_starts(logits_fn, key, restarts):
    """(results of the single starts, result of all together), with labels 0."""
    options = {"p": 2, "epsilon": 0.3, "random_start": "sphere", "num_steps": 1}
    first, labels = jax.random.split(key, N), jnp.zeros(N, int)
    fold = jax.vmap(jax.random.fold_in, in_axes=(0, None))
    starts = [first, *(fold(first, restart) for restart in range(1, restarts))]
    single = [np.asarray(attack(logits_fn, GREY, labels, own, **options)) for own in starts]
    return single, attack(logits_fn, GREY, labels, key, restarts=restarts, **options)


def test_restarts_keep_the_best_start_of_each_image(key):
    """Without gradients, each start is its own result."""

    def frozen(x):
        score = jax.lax.stop_gradient(binary(x)[:, 1])
        return jnp.stack([jnp.zeros_like(score), score + 4.5], axis=1)

    def score(x):
        return np.asarray(binary(x)[:, 1])

    single, union = single_starts(frozen, key, 4)
    scores = np.stack([score(x) for x in single])
    assert len(set(scores.argmax(axis=0))) > 1  # no start is the best for all images
    np.testing.assert_allclose(score(union), scores.max(axis=0), rtol=0, atol=1e-6)


def test_a_success_beats_a_failure_of_higher_loss(key):
    """log 2 < log 4: a tie of two classes that is lost, and one of four that is narrowly won."""

    def uneven(x):
        high = jax.lax.stop_gradient(x.mean(axis=(1, 2, 3)) > 0.5)[:, None]
        success = jnp.array([0.0, 0.01, -99, -99])
        failure = jnp.array([0.01, 0.0, 0.0, 0.0])
        return jnp.where(high, success, failure)

    single, union = single_starts(uneven, key, 5)
    means = np.stack([x.mean(axis=(1, 2, 3)) for x in single])
    can_succeed = np.any(means > 0.5, axis=0)
    assert np.any(means[0] <= 0.5) and np.any(can_succeed)
    np.testing.assert_array_equal(union.mean(axis=(1, 2, 3)) > 0.5, can_succeed)


@pytest.mark.parametrize("peak, num_steps, expected", ((0.6, 1, 0.5), (0.75, 2, 0.8)))
def test_the_best_iterate_is_returned_not_the_last(peak, num_steps, expected):
    """Steps of 0.3 on a parabola visit 0.5, 0.8, 0.5, ..."""

    def parabola(x):
        value = -((x - peak) ** 2).sum(axis=(1, 2, 3))
        return jnp.stack([jnp.zeros_like(value), value], axis=1)

    call = {"p": math.inf, "epsilon": 0.4, "step_size": 0.3, "num_steps": num_steps}
    adversarial = attack(parabola, GREY, jnp.zeros(N, int), **call)
    np.testing.assert_allclose(adversarial, expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize("p", NORMS)
def test_a_mask_confines_the_perturbation_and_gets_the_whole_budget(p, key):
    mask = np.zeros((N, *SHAPE[:2], 1), np.float32)
    mask[:, 1:3, 2:] = 1
    call = {"p": p, "epsilon": 0.2, "budget_weights": mask, "random_start": "sphere"}
    adversarial = attack(linear, GREY, LABELS, key, **call)
    off = np.broadcast_to(mask == 0, GREY.shape)
    np.testing.assert_array_equal(np.asarray(adversarial)[off], 0.5)
    norms = np.linalg.norm(flat_delta(adversarial, GREY), ord=p, axis=1)
    np.testing.assert_allclose(norms, 0.2, rtol=1e-4, atol=0)


@pytest.mark.parametrize("p", NORMS)
def test_with_weights_starts_and_iterates_stay_in_ball_and_box(p, key):
    images, weights = images_with_corners((N, *SHAPE)), BUDGET_WEIGHTS
    call = {"p": p, "epsilon": 0.3, "budget_weights": weights, "random_start": "ball"}
    adversarial = attack(linear, images, LABELS, key, **call)
    check_perturbation(adversarial, images, p=p, epsilon=0.3, budget_weights=weights)
    still = np.broadcast_to(weights == 0, images.shape)
    np.testing.assert_array_equal(np.asarray(adversarial)[still], images[still])
    off = images.copy()
    off[0, 0, 3] += 1e-3 * (1 - 2 * (off[0, 0, 3] > 0.5))
    with pytest.raises(InputError, match=r"the perturbation of image \d+ is inf"):
        check_perturbation(off, images, p=p, epsilon=0.3, budget_weights=weights)


def test_images_may_be_constants_of_a_jitted_function():
    run = jax.jit(lambda epsilon: attack(linear, GREY, LABELS, p=2, epsilon=epsilon))
    assert np.linalg.norm(flat_delta(run(0.1), GREY)[0]) == pytest.approx(0.1, rel=1e-4)

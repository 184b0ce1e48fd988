"""Linear probes against Adam and logistic regression written out in NumPy."""

import jax
import numpy as np
import pytest

from advspur.heads import fit_linear_probe, fit_logistic_regression
from tests.refusals import refused

N, D, K = 37, 5, 3  # of 37 in batches of 8, the last batch has 5
RNG = np.random.default_rng(0)
CENTRES = RNG.normal(0, 1, (K, D))


def draw(count, seed):
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, K, count)
    features = CENTRES[labels] + rng.normal(0, 1.2, (count, D))
    return features.astype(np.float32), labels


FEATURES, LABELS = draw(N, 1)
VALIDATION = draw(50, 2)
OPTIONS = {
    "num_classes": K,
    "learning_rates": (0.05, 1e-3),
    "weight_decay": 0.02,
    "batch_size": 8,
    "num_epochs": 6,
    "key": jax.random.key(3),
}


def fit(features=FEATURES, labels=LABELS, validation=VALIDATION, **change):
    return fit_linear_probe(features, labels, validation, **(OPTIONS | change))


def predicted(probe, features):
    return np.argmax(features @ probe.kernel + probe.bias, axis=1)


def softmax(logits):
    p = np.exp(logits - logits.max(axis=1, keepdims=True))
    return p / p.sum(axis=1, keepdims=True)


def adam(learning_rate, weight_decay, batch_size, num_epochs, key):
    """[(kernel, bias)] after each epoch, step by step in float64, as torch.optim.Adam would."""
    start_key, order_key = jax.random.split(key)
    bound = 1 / np.sqrt(D)
    start = jax.random.uniform(start_key, (D + 1, K), minval=-bound, maxval=bound)
    weights = np.array(start, np.float64)  # the bias is the last row
    assert np.abs(weights).max() <= bound
    x = np.c_[FEATURES.astype(np.float64), np.ones(N)]
    first, second, step, found = np.zeros_like(weights), np.zeros_like(weights), 0, []
    for epoch_key in jax.random.split(order_key, num_epochs):
        order = np.asarray(jax.random.permutation(epoch_key, N))
        for begin in range(0, N, batch_size):
            rows = order[begin : begin + batch_size]
            error = softmax(x[rows] @ weights) - np.eye(K)[LABELS[rows]]
            grad = x[rows].T @ error / len(rows) + weight_decay * weights
            step += 1
            first = 0.9 * first + 0.1 * grad
            second = 0.999 * second + 0.001 * grad**2
            mean, square = first / (1 - 0.9**step), second / (1 - 0.999**step)
            weights = weights - learning_rate * mean / (np.sqrt(square) + 1e-8)
        found.append((weights[:-1], weights[-1]))
    return found


@pytest.mark.parametrize(
    "change", ({}, {"batch_size": 1000}, {"batch_size": 37, "weight_decay": 0.0}),
    ids=("last batch smaller", "one batch", "no decay"),
)  # fmt: skip
def test_the_probes_are_adam_written_out_each_rate_alone(change):
    options = OPTIONS | change
    batch_size = min(options["batch_size"], N)
    steps = options["weight_decay"], batch_size, options["num_epochs"], options["key"]
    together = fit(**change)
    assert len({found.kernel.tobytes() for found in together}) == len(options["learning_rates"])
    for rate, found in zip(options["learning_rates"], together, strict=True):
        by_hand = adam(rate, *steps)
        accuracies = [
            np.mean(np.argmax(VALIDATION[0] @ kernel + bias, axis=1) == VALIDATION[1])
            for kernel, bias in by_hand
        ]
        np.testing.assert_allclose(found.validation_accuracy, accuracies, atol=1e-6)
        best = int(np.argmax(accuracies))
        assert found.epoch == best + 1
        np.testing.assert_allclose(found.kernel, by_hand[best][0], atol=2e-5)
        np.testing.assert_allclose(found.bias, by_hand[best][1], atol=2e-5)


def test_the_first_of_equal_epochs_is_kept():
    """On two far clouds every epoch is soon right: the first of them counts."""
    labels = np.arange(40) % 2
    features = np.float32(10 * (2 * labels - 1))[:, None]
    found, _ = fit(features, labels, (features, labels), num_classes=2)
    accuracies = found.validation_accuracy
    assert accuracies[-1] == 1
    assert found.epoch == 1 + list(accuracies).index(1) < 5
    assert np.mean(predicted(found, features) == labels) == 1


def logistic_loss(flat, features, labels, weight_decay):
    weights = flat.reshape(-1, K)
    x = np.c_[np.float64(features), np.ones(len(labels))]
    p = softmax(x @ weights)[np.arange(len(labels)), labels]
    return -np.mean(np.log(p)) + weight_decay / 2 * np.sum(flat**2)


def flat(found):
    return np.float64(np.vstack([found.kernel, found.bias])).ravel()


@pytest.mark.parametrize("separable", (False, True))
def test_the_gradient_vanishes_at_the_logistic_regression(separable):
    """By central differences of the objective, with decay of the bias: it is strictly convex."""
    features = FEATURES + (50 * CENTRES[LABELS] if separable else 0)
    found = fit_logistic_regression(features, LABELS, num_classes=K, weight_decay=0.01)
    assert found.epoch == 0 and len(found.validation_accuracy) == 0
    at = flat(found)
    steps = 1e-4 * np.eye(len(at))
    problem = (features, LABELS, 0.01)
    grad = [
        (logistic_loss(at + s, *problem) - logistic_loss(at - s, *problem)) / 2e-4 for s in steps
    ]
    assert np.linalg.norm(grad) < 1e-4
    assert np.linalg.norm(at) > 0.1
    if separable:
        np.testing.assert_array_equal(predicted(found, features), LABELS)


def test_without_convergence_the_logistic_regression_warns():
    with pytest.warns(UserWarning, match="has not converged"):
        fit_logistic_regression(FEATURES, LABELS, num_classes=K, weight_decay=1e-4, max_steps=1)


@pytest.mark.parametrize(
    "features, labels, message",
    (
        (FEATURES[:-1], LABELS, r"expected \[n, d\] and \[n\]"),
        (FEATURES[:, 0], LABELS, r"expected \[n, d\] and \[n\]"),
        (FEATURES[:0], LABELS[:0], "n >= 1"),
        (np.where(FEATURES > 2, np.nan, FEATURES), LABELS, "the features contain NaN or infinity"),
        (np.where(FEATURES > 2, np.inf, FEATURES), LABELS, "the features contain NaN or infinity"),
        (FEATURES, np.where(LABELS == 0, K, LABELS), r"labels are in \[1, 3\]; expected \[0, 2\]"),
        (FEATURES, LABELS - 1, r"labels are in \[-1, 1\]"),
        (FEATURES, LABELS + 0.5, "labels have .* dtype float64; expected 37 integers"),
    ),
)
def test_bad_examples_are_refused(features, labels, message):
    refused(message, fit, features, labels)
    refused(message, fit, validation=(features, labels))
    regression = {"num_classes": K, "weight_decay": 0.1}
    refused(message, fit_logistic_regression, features, labels, **regression)


def test_bad_options_are_refused():
    """See also test_probes.py."""
    refused(r"have widths \(5, 4\)", fit, validation=(VALIDATION[0][:, :-1], VALIDATION[1]))
    refused("num_epochs = 0", fit, num_epochs=0)

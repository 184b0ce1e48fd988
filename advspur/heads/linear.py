"""The last linear layer, trained on frozen features.

    min_{W, b}  mean_i cross_entropy(x_i W + b, y_i) + weight_decay / 2 (||W||^2 + ||b||^2)

by minibatch Adam, keeping the best epoch (`fit_linear_probe`), or to convergence by L-BFGS
(`fit_logistic_regression`).
"""

import functools
import math
import warnings
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from advspur._checks import check_count, check_nonnegative, require
from advspur.data.table import check_classes


class LinearProbe(NamedTuple):
    """A linear classifier of features."""

    kernel: np.ndarray  # [d, k]
    bias: np.ndarray  # [k]
    epoch: int  # the one kept, counted from 1; 0 for a converged fit
    validation_accuracy: np.ndarray  # [num_epochs], after each; empty for a converged fit


def check_fit(*, learning_rates, weight_decay, num_epochs, batch_size):
    """Raise InputError for settings that no head can be fitted with."""
    for rate in learning_rates:
        check_nonnegative("learning_rate", rate)
    check_nonnegative("weight_decay", weight_decay)
    check_count("num_epochs", num_epochs)
    check_count("batch_size of the head", batch_size)


def check_examples(features, labels, num_classes, part=""):
    """Return (features [n, d], labels [n] int32) as arrays; `part` names them in messages."""
    features, labels = np.asarray(features), np.asarray(labels)
    where = f" of {part}" if part else ""
    are_examples = features.ndim == 2 and labels.shape == features.shape[:1] and len(labels) > 0
    fault = f"features {features.shape} and labels {labels.shape}{where}"
    require(are_examples, f"{fault}: expected [n, d] and [n], n >= 1")
    require(np.all(np.isfinite(features)), f"the features{where} contain NaN or infinity")
    check_classes(labels, len(labels), num_classes)
    return features, labels.astype(np.int32)


def fit_linear_probe(
    features,
    labels,
    validation,
    *,
    num_classes,
    learning_rates,
    weight_decay,
    batch_size,
    num_epochs,
    key,
):
    """Return a LinearProbe for each learning rate, fitted by minibatch Adam.

    Each keeps the first epoch of highest validation accuracy. Weight decay is coupled: added to the
    gradient, as in torch.optim.Adam. All learning rates see the same start (uniform within
    +-1 / sqrt(d), torch's) and the same order of examples.

    Args:
      features, labels: [n, d], [n].
      validation: (features [m, d], labels [m]).
    """
    features, labels = check_examples(features, labels, num_classes)
    validation = check_examples(*validation, num_classes)
    widths = features.shape[1], validation[0].shape[1]
    require(widths[0] == widths[1], f"features of training and validation have widths {widths}")
    fit = {"num_epochs": num_epochs, "batch_size": batch_size}
    check_fit(learning_rates=learning_rates, weight_decay=weight_decay, **fit)
    fit |= {"num_classes": num_classes, "batch_size": min(batch_size, len(labels))}
    rates = jnp.asarray(learning_rates, jnp.float32)
    fitted = _fit((features, labels), validation, rates, weight_decay, key, **fit)
    (kernels, biases), accuracies = jax.device_get(fitted)
    require(np.all(np.isfinite(kernels)), f"a head diverged at rates {list(learning_rates)}")
    best = np.argmax(accuracies, axis=1)
    return [
        LinearProbe(kernels[rate, epoch], biases[rate, epoch], int(epoch) + 1, accuracies[rate])
        for rate, epoch in enumerate(best)
    ]


def fit_logistic_regression(features, labels, *, num_classes, weight_decay, max_steps=2_000):
    """Return the converged LinearProbe, by SciPy's L-BFGS-B in float64; warn if it is not."""
    from scipy import optimize, special

    features, labels = check_examples(features, labels, num_classes)
    x = np.c_[features.astype(np.float64), np.ones(len(labels))]  # a column for the bias
    targets = np.eye(num_classes)[labels]

    def objective(flat):
        weights = flat.reshape(-1, num_classes)
        log_p = special.log_softmax(x @ weights, axis=1)
        grad = x.T @ (np.exp(log_p) - targets) / len(x) + weight_decay * weights
        value = -np.mean(np.sum(targets * log_p, axis=1)) + weight_decay / 2 * np.sum(flat**2)
        return value, grad.ravel()

    start = np.zeros(x.shape[1] * num_classes)
    options = {"maxiter": max_steps, "maxfun": 2 * max_steps, "ftol": 1e-12, "gtol": 1e-6}
    result = optimize.minimize(objective, start, jac=True, method="L-BFGS-B", options=options)
    if not result.success:
        warnings.warn(f"the logistic regression has not converged: {result.message}", stacklevel=2)
    weights = result.x.reshape(-1, num_classes).astype(np.float32)
    return LinearProbe(weights[:-1], weights[-1], 0, np.zeros(0))


@functools.partial(jax.jit, static_argnames=("num_classes", "batch_size", "num_epochs"))
def _fit(
    examples, validation, learning_rates, weight_decay, key, *, num_classes, batch_size, num_epochs
):
    """Return ((kernels [rates, epochs, d, k], biases), accuracies [rates, epochs])."""
    features, labels = examples
    n, d = features.shape
    num_batches = -(-n // batch_size)
    start_key, order_key = jax.random.split(key)
    bound = 1 / math.sqrt(d)
    start = jax.random.uniform(start_key, (d + 1, num_classes), minval=-bound, maxval=bound)
    head = start[:-1], start[-1]

    def loss(head, indices, weights):
        logits = features[indices] @ head[0] + head[1]
        losses = optax.softmax_cross_entropy_with_integer_labels(logits, labels[indices])
        return jnp.sum(losses * weights) / jnp.sum(weights)

    def train(learning_rate):
        decay = optax.add_decayed_weights(weight_decay)
        optimizer = optax.chain(decay, optax.adam(learning_rate))

        def step(carry, batch):
            head, state = carry
            updates, state = optimizer.update(jax.grad(loss)(head, *batch), state, head)
            return (optax.apply_updates(head, updates), state), None

        def epoch(carry, key):
            order = jax.random.permutation(key, n)
            padding = num_batches * batch_size - n  # the last batch is smaller, not dropped
            shape = (num_batches, batch_size)
            indices = jnp.pad(order, (0, padding)).reshape(shape)
            weights = jnp.pad(jnp.ones(n), (0, padding)).reshape(shape)
            carry, _ = jax.lax.scan(step, carry, (indices, weights))
            head = carry[0]
            logits = validation[0] @ head[0] + head[1]
            accuracy = jnp.mean(jnp.argmax(logits, axis=1) == validation[1])
            return carry, (head, accuracy)

        keys = jax.random.split(order_key, num_epochs)
        return jax.lax.scan(epoch, (head, optimizer.init(head)), keys)[1]

    return jax.vmap(train)(learning_rates)

"""Linear models of images, for which every measure is known exactly."""

import jax.numpy as jnp
import numpy as np

from advspur.models import Classifier


def _forward(params, images):
    weights, bias = params
    return jnp.tensordot(images, weights, axes=3) + bias, None


def linear(weights, bias):
    """The Classifier with logits <weights, x> + bias: weights [h, w, 3, k], bias [k]."""
    params = jnp.asarray(weights, jnp.float32), jnp.asarray(bias, jnp.float32)
    return Classifier(params, _forward, len(params[1]), has_features=False, code="linear")


def of_two_classes(weight, bias):
    """The Classifier with logits (0, <weight, x> + bias)."""
    weights = np.stack([np.zeros_like(weight), weight], axis=-1)
    return linear(weights, [0, bias])


def margins(model, images, labels):
    """Margins of two classes in float64, < 0 if wrong; never so small that rounding matters."""
    weights, bias = (np.asarray(p, np.float64) for p in model.params)
    score = np.tensordot(images, weights, axes=3) + bias
    score = score[:, 1] - score[:, 0]
    found = np.where(np.asarray(labels) == 1, score, -score)
    assert np.abs(found).min() > 1e-5
    return found


def worst_images(model, images, labels, epsilon, region=True):
    """The strongest linf perturbation of a region, inside the box, for two classes."""
    weights = np.asarray(model.params[0], np.float64)
    up = np.where(np.asarray(labels) == 1, -1, 1)[:, None, None, None]
    moved = np.clip(images + epsilon * up * np.sign(weights[..., 1] - weights[..., 0]), 0, 1)
    return np.where(region, moved, images)

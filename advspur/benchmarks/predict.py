"""Masked prediction: every example of a source counted exactly once, whatever the batch size.

The functions are jitted over the Classifier pytree at module level: one compilation serves all
models of an architecture, all budgets and all noise levels. Levels are a Python loop around
them, since a convolution inside a compiled loop is several times slower on CPU.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from advspur._checks import check_choice, check_epsilon
from advspur.attacks import check_perturbation, pgd
from advspur.data.batches import eval_batches
from advspur.data.transforms import to_unit
from advspur.norms import lp_norm

NOISE_FAMILIES = ("linf", "l2")


def for_each_example(function, source, *, batch_size, image_size, limit=None):
    """function(batch, numbers) -> arrays [batch_size, ...]; returned with padding taken off.

    `numbers` [batch_size] are the positions of the batch's examples in the source. Results of
    all batches are concatenated on the host.
    """
    results = []
    batches = eval_batches(source, batch_size=batch_size, image_size=image_size, limit=limit)
    for index, batch in enumerate(batches):
        numbers = index * batch_size + np.arange(batch_size)
        result = jax.device_get(function(batch, numbers))
        results.append(jax.tree.map(lambda x, keep=batch.valid: x[keep], result))
    return jax.tree.map(lambda *parts: np.concatenate(parts), *results)


@jax.jit
def correct_clean(classifier, images, labels):
    """[n] bool: whether the prediction on uint8 images is right."""
    return jnp.argmax(classifier.logits(to_unit(images)), axis=-1) == labels


@functools.partial(jax.jit, static_argnames=("p", "num_steps"))
def _attack(classifier, images, labels, epsilon, *, p, num_steps):
    images = to_unit(images)
    adversarial = pgd(classifier.logits, images, labels, p=p, epsilon=epsilon, num_steps=num_steps)
    # Loss, not success, decides among iterates; the clean image belongs to the ball too.
    survives = jnp.argmax(classifier.logits(adversarial), axis=-1) == labels
    clean = jnp.argmax(classifier.logits(images), axis=-1) == labels
    return survives & clean, adversarial


def correct_under_pgd(classifier, images, labels, *, p, epsilon, num_steps):
    """[n] bool: right on the image and on its PGD image; ball and box are checked."""
    check_epsilon(epsilon, p)
    survives, adversarial = _attack(
        classifier, images, labels, jnp.float32(epsilon), p=p, num_steps=num_steps
    )
    check_perturbation(adversarial, to_unit(images), p=p, epsilon=epsilon)
    return survives


@functools.partial(jax.jit, static_argnames="family")
def region_noise(region, numbers, key, *, family):
    """Gaussian noise confined to a region: z r ("linf") or z r / ||z r||_2 ("l2"), z ~ N(0, I).

    z depends on `key` and the image's number alone: regions, families, levels and models share
    it, and the batch size does not matter (Moayeri et al., CVPR 2022, arXiv 2201.10766).

    Args:
      region: r, [n, h, w, 1] in [0, 1].
      numbers: [n] int, positions of the images in their source.
    Returns: [n, h, w, 3]; multiply it by a level in [0, 1] pixel units (standard deviation, or l2
      length).
    """
    check_choice("family", family, NOISE_FAMILIES)
    keys = jax.vmap(jax.random.fold_in, in_axes=(None, 0))(key, numbers)
    noise = jax.vmap(lambda k: jax.random.normal(k, (*region.shape[1:3], 3)))(keys) * region
    if family == "linf":
        return noise
    length = jax.vmap(lambda z: lp_norm(z, 2))(noise)[:, None, None, None]
    return noise / jnp.where(length > 0, length, 1)


@jax.jit
def correct_under_noise(classifier, images, labels, noise, level):
    """[n] bool: right on clip(x + level noise, 0, 1), for uint8 images x."""
    noisy = jnp.clip(to_unit(images) + level * noise, 0, 1)
    return jnp.argmax(classifier.logits(noisy), axis=-1) == labels

"""Masked prediction: every example of a source counted exactly once, whatever the batch size.

The functions are jitted over the Classifier pytree at module level: one compilation serves all
models of an architecture, all budgets and all noise levels. Levels are a Python loop around
them, since a convolution inside a compiled loop is several times slower on CPU. Batches are
split over the local devices, and over the processes where there are several.

An outcome of a logit or gradient that is not finite is NaN, and `for_each_example` refuses it: the
argmax of NaN would be class 0.
"""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import multihost_utils

from advspur._checks import check_choice, check_count, check_epsilon, require, require_finite
from advspur._devices import split_batch, together, whole_batch
from advspur.attacks import check_perturbation, margin, pgd
from advspur.data.batches import eval_batches
from advspur.data.transforms import to_unit
from advspur.norms import lp_norm

IMAGE_SIZE = 224  # of every ImageNet benchmark
NOISE_FAMILIES = ("linf", "l2")


def require_classes(classifier, allowed):
    """Raise InputError unless the model's number of classes is one of `allowed`."""
    require(
        classifier.num_classes in allowed,
        f"the model has {classifier.num_classes} classes; this benchmark needs "
        f"{' or '.join(map(str, allowed))}",
    )


def for_each_example(
    function, source, *, batch_size, image_size=IMAGE_SIZE, limit=None, progress=None, passes=1
):
    """function(batch, numbers) -> arrays [batch_size, ...]; returned with padding taken off.

    Args:
      function: of a Batch on the devices and the positions [batch_size] of its examples in the
        source.
      source: a source with uint8 images, or whose images fit the standard transform.
      batch_size: images a call, rounded up to a multiple of the number of devices.
      limit: the first so many examples only.
      progress: advanced by the number of images times `passes`.
    Returns: the results of all examples in order, on the host; in every process the same.
    Raises: InputError for results that are not finite, with their number and the first image.
    """
    check_count("batch_size", batch_size)
    processes, batch_size = jax.process_count(), whole_batch(batch_size)
    count = len(source) if limit is None else min(limit, len(source))
    require(count > 0, f"{source!r} holds no example to evaluate on")
    shape = {"batch_size": batch_size, "image_size": image_size, "limit": limit}
    results, kept, last = [], [], None

    def fetch(result, numbers):
        result = jax.tree.map(lambda x: x[: len(numbers)], jax.device_get(result))
        _check_outcomes(result, numbers, source)
        results.append(result)

    with together():
        for batch, numbers in _own_batches(source, processes, shape):
            result = function(*split_batch((batch, numbers)))
            if last is not None:  # fetched one batch late, so that the devices are never idle
                fetch(*last)
            kept.append(numbers[batch.valid])
            last = result, kept[-1]
            if progress is not None:
                progress.advance(len(kept[-1]) * processes * passes)
        fetch(*last)
    if processes > 1:
        return _gather(results, kept, count, batch_size)
    return jax.tree.map(lambda *parts: np.concatenate(parts), *results)


@jax.jit
def logits(classifier, images):
    """[n, k] of uint8 images."""
    return classifier.logits(to_unit(images))


def correct(logits, labels):
    """[n]: 1 where the largest logit is the label's, else 0; NaN where a logit is not finite."""
    is_right = (jnp.argmax(logits, axis=-1) == labels).astype(jnp.float32)
    return jnp.where(jnp.all(jnp.isfinite(logits), axis=-1), is_right, jnp.nan)


@jax.jit
def correct_clean(classifier, images, labels):
    """[n]: `correct` on uint8 images."""
    return correct(classifier.logits(to_unit(images)), labels)


def correct_on(classifier, source, **running):
    """[n] 0 or 1: whether the predictions on a source are right; `running`: `for_each_example`."""

    def clean(batch, _):
        return correct_clean(classifier, batch.image, batch.label)

    return for_each_example(clean, source, **running)


@jax.jit
def features(classifier, images):
    """[n, d]: what the last layer gets of uint8 images."""
    return classifier.features(to_unit(images))


@functools.partial(jax.jit, static_argnames=("p", "num_steps"))
def _attack(classifier, images, labels, keys, epsilon, mask, *, p, num_steps):
    adversarial = pgd(
        classifier.logits,
        images,
        labels,
        keys,
        p=p,
        epsilon=epsilon,
        num_steps=num_steps,
        random_start="none" if keys is None else "ball",
        mask=mask,
    )
    # Loss, not success, decides among iterates; the clean image belongs to the ball too.
    survives = correct(classifier.logits(adversarial), labels)
    survives *= correct(classifier.logits(images), labels)
    # Where the model is not finite the attack gives no image, and `survives` says so.
    is_image = ~jnp.any(jnp.isnan(adversarial), axis=(1, 2, 3))
    survives = jnp.where(is_image, survives, jnp.nan)
    adversarial = jnp.where(is_image[:, None, None, None], adversarial, images)
    outside = jnp.max(jnp.abs(adversarial - images) * (1 - mask), initial=0)
    return survives, adversarial, outside


def correct_under_pgd(classifier, images, labels, *, p, epsilon, num_steps, keys=None, mask=None):
    """[n]: `correct` on the image and on its PGD image; ball, box and mask are checked.

    Args:
      keys: [n], of random starts in the ball; None: from the image.
      mask: bool, broadcastable to the images: where they may be changed.
    """
    check_epsilon(epsilon, p, num_pixels=math.prod(images.shape[1:]))
    mask = jnp.ones((), "float32") if mask is None else mask.astype("float32")
    # Divided once: compiled code may round pixels / 255 in two ways.
    images = to_unit(images)
    survives, adversarial, outside = _attack(
        classifier, images, labels, keys, jnp.float32(epsilon), mask, p=p, num_steps=num_steps
    )
    check_perturbation(adversarial, images, p=p, epsilon=epsilon)
    # Half a unit of float32 is allowed.
    require(outside <= 2**-24, f"the attack changed pixels outside of its mask by {outside}")
    return survives


@jax.jit
def gradient_share(classifier, images, labels, region):
    """The share sum_i r_i g_i^2 / sum_i g_i^2 of the squared input gradient on a region.

    g is the gradient of the margin (the label's logit minus the largest other one). For a linear
    model of two classes, and the region of the spurious pixels, this is the NFS of the paper's
    Eq. 5.

    Args:
      images: uint8.
      region: r, [n, h, w, 1] in [0, 1].
    Returns: (share [n], has_share [n] bool): where the gradient is 0 there is none; NaN where it
      is not finite.
    """
    grad = jax.grad(lambda x: jnp.sum(margin(classifier.logits(x), labels)))(to_unit(images))
    largest = jnp.max(jnp.abs(grad), axis=(1, 2, 3), keepdims=True)
    is_there = largest != 0
    energy = jnp.square(grad / jnp.where(is_there, largest, 1))  # small ones do not underflow
    total = jnp.sum(energy, axis=(1, 2, 3))
    share = jnp.sum(energy * region, axis=(1, 2, 3)) / jnp.where(total != 0, total, 1)
    return share, is_there[:, 0, 0, 0]


@jax.jit
def gaussian_noise(images, numbers, key):
    """z ~ N(0, I), [n, h, w, 3], a function of `key` and the images' numbers alone."""
    keys = jax.vmap(jax.random.fold_in, in_axes=(None, 0))(key, numbers)
    return jax.vmap(lambda k: jax.random.normal(k, images.shape[1:]))(keys)


@functools.partial(jax.jit, static_argnames="family")
def region_noise(noise, region, *, family):
    """Noise confined to a region: z r ("linf") or z r / ||z r||_2 ("l2").

    Regions, families, levels and models share z (Moayeri et al., CVPR 2022, arXiv 2201.10766).

    Args:
      noise: z, [n, h, w, 3].
      region: r, [n, h, w, 1] in [0, 1].
    Returns: [n, h, w, 3]; multiply it by a level in [0, 1] pixel units (standard deviation, or l2
      length).
    """
    check_choice("family", family, NOISE_FAMILIES)
    noise = noise * region
    if family == "linf":
        return noise
    length = jax.vmap(lambda z: lp_norm(z, 2))(noise)[:, None, None, None]
    return noise / jnp.where(length > 0, length, 1)


@jax.jit
def correct_under_noise(classifier, images, labels, noise, level):
    """[n]: `correct` on clip(x + level noise, 0, 1), for uint8 images x."""
    noisy = jnp.clip(to_unit(images) + level * noise, 0, 1)
    return correct(classifier.logits(noisy), labels)


def _check_outcomes(outcomes, numbers, source):
    """Raise InputError where outcomes of the images `numbers` of a source are not finite."""
    leaves = [x for x in jax.tree.leaves(outcomes) if jnp.issubdtype(x.dtype, jnp.floating)]
    paths = getattr(source, "columns", {}).get("path")
    require_finite(
        "the model's logits, features or gradients",
        numbers,
        *leaves,
        images="images of a batch",
        name=str if paths is None else lambda number: f"{number} ({paths[number]})",
    )


def _own_batches(source, processes, shape):
    """(batch, numbers of its examples) of this process's share of the batches."""
    first, size = jax.process_index(), shape["batch_size"]
    index = -1
    for index, batch in enumerate(eval_batches(source, every=processes, **shape)):
        yield batch, (index * processes + first) * size + np.arange(size)
    if index < 0:  # fewer batches than processes: results of no example, for their shapes
        batch = next(eval_batches(source, **shape))
        yield batch._replace(valid=np.zeros(size, bool)), np.arange(size)


def _gather(results, kept, count, batch_size):
    """The results of all processes in order of their numbers."""
    rows = -(-count // (batch_size * jax.process_count())) * batch_size
    numbers = np.concatenate(kept)
    local = jax.tree.map(lambda *parts: np.concatenate(parts), *results)
    padded = jax.tree.map(
        lambda x: np.concatenate([x, np.zeros((rows - len(x), *x.shape[1:]), x.dtype)]), local
    )
    numbers = np.concatenate([numbers, np.full(rows - len(numbers), -1)])
    numbers, everything = multihost_utils.process_allgather((numbers, padded))
    order = np.argsort(numbers.ravel())[-count:]
    return jax.tree.map(lambda x: np.asarray(x).reshape(-1, *x.shape[2:])[order], everything)

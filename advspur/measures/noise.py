"""Gaussian noise on a region of the image, the same for every region, level and model."""

import functools

import jax
import jax.numpy as jnp

from advspur._checks import check_choice
from advspur.data.transforms import to_unit
from advspur.norms import lp_norm
from advspur.predict import correct

NOISE_FAMILIES = ("linf", "l2")


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

"""The share of the input gradient on a region of the image: deep NFS."""

import jax
import jax.numpy as jnp

from advspur.attacks import margin
from advspur.data.transforms import to_unit


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

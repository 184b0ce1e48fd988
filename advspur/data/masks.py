"""The core and the rest of an image, from its masks."""

import functools

import jax
import jax.numpy as jnp

from advspur._checks import check_choice, check_count
from advspur.data.transforms import to_unit

KINDS = ("soft", "threshold", "nonzero")
RESTS = ("complement", "masks")


def check_masks(mask, dilation_rounds, spurious_region):
    """Raise InputError unless these are options of `mask_regions`."""
    check_choice("mask", mask, KINDS)
    check_choice("spurious_region", spurious_region, RESTS)
    check_count("dilation_rounds", dilation_rounds, 0)


@functools.partial(jax.jit, static_argnames=("mask", "dilation_rounds", "spurious_region"))
def mask_regions(masks, *, mask="soft", dilation_rounds=0, spurious_region="complement"):
    """Return (core, rest), each [n, h, w, 1] in [0, 1], from uint8 masks.

    Args:
      masks: [n, h, w, 1], the core; or [n, h, w, 2], the core and the spurious features.
      mask: "soft" keeps the core's values, "threshold" cuts them at 1/2, "nonzero" at 0.
      dilation_rounds: see `dilate`; 0: none, and no division.
      spurious_region: the rest is the "complement" of the core, or the spurious "masks"; an image
        with an empty spurious mask then has no core either.
    """
    masks, spurious = masks[..., :1], masks[..., 1:]
    if mask != "soft":
        masks = 255 * (masks >= 128 if mask == "threshold" else masks > 0).astype(masks.dtype)
    if dilation_rounds == 0 and spurious_region == "complement":
        # 1 - 255 / 255 need not be 0 in compiled code, and l2 noise there would have full length.
        return to_unit(masks), to_unit(255 - masks)
    core = dilate(to_unit(masks), dilation_rounds) if dilation_rounds else to_unit(masks)
    if spurious_region == "complement":
        return core, 1 - core
    return core * jnp.any(spurious > 0, axis=(1, 2, 3), keepdims=True), to_unit(spurious)


def dilate(mask, rounds):
    """Apply `rounds` times the maximum over a cross of reach two, then divide by the maximum.

    Args:
      mask: soft masks [n, h, w, 1].
    """
    for _ in range(rounds):
        reach = [
            jax.lax.reduce_window(mask, 0.0, jax.lax.max, window, (1, 1, 1, 1), "SAME")
            for window in ((1, 5, 1, 1), (1, 1, 5, 1))
        ]
        mask = jnp.maximum(*reach)
    largest = jnp.max(mask, axis=(1, 2, 3), keepdims=True)
    return mask / jnp.where(largest > 0, largest, 1)

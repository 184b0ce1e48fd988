"""Changes of training images outside their objects, by their masks: noise, and others' rests.

They come after augmentation, on images as the model sees them: noise is not smoothed by a resize,
pixels are the model's, and the rest of another image has a crop and colours of its own.
"""

import numpy as np

from advspur._checks import require
from advspur.data.augment import shift

MASK_FAULTS = ("none", "dilated", "eroded", "shifted", "random")


def changes_background(*, noise_std=0.0, mix_share=0.0, mask_fault="none", **_):
    """Whether these options of `change_background` ask for any change."""
    return noise_std > 0 or mix_share > 0 or mask_fault != "none"


def require_masks(source, wanted_by):
    """Raise InputError unless the examples of a source of training data have masks."""
    advice = "give masks (docs/data.md says how), or leave it out"
    has_mask = getattr(source, "has_mask", False)
    require(has_mask, f"{wanted_by} needs masks, and {source!r} has none: {advice}")


def change_background(
    read,
    rows,
    rng,
    *,
    own,
    num_examples,
    noise_std=0.0,
    noise_share=0.5,
    mix_share=0.0,
    mask_fault="none",
    fault_pixels=0,
):
    """The Batch of `rows` with worse masks, then other rests, then noise on them.

    What is drawn is drawn for all rows, and done for this process's `own`.

    Args:
      read: (rows, rng) -> the augmented Batch of the own ones.
      own: slice of the rows that are this process's.
      num_examples: of the data that other images are drawn from, uniformly, an image itself too.
      noise_std: of Gaussian noise on the rest, [0, 1] pixel units; clipped, to 8 bits; 0: none.
      noise_share: probability that an image gets it.
      mix_share: probability that the rest of an image is that of another one.
      mask_fault: one of MASK_FAULTS, of all masks here; "random": the mask of another image, at a
        random place (rolled), so that it tells nothing of the object.
      fault_pixels: how far the square of "dilated" and "eroded" reaches, and "shifted" shifts.
    """
    count = len(rows)

    def read_other():
        return read(rng.integers(num_examples, size=count), rng)

    def with_fault(batch):
        if mask_fault == "random":
            masks = read_other().mask
            offsets = rng.integers(masks.shape[1], size=(count, 2))[own]
            rolled = [np.roll(m, o, (0, 1)) for m, o in zip(masks, offsets, strict=True)]
            return batch._replace(mask=np.stack(rolled))
        angles = rng.uniform(0, 2 * np.pi, count)[own] if mask_fault == "shifted" else None
        masks = spoil_masks(batch.mask, mask_fault, pixels=fault_pixels, angles=angles)
        return batch._replace(mask=masks)

    batch = with_fault(read(rows, rng))
    images = batch.image
    if mix_share:
        is_mixed = rng.random(count) < mix_share
        if is_mixed.any():
            other, chosen = with_fault(read_other()), is_mixed[own]
            pairs = images, batch.mask, other.image, other.mask
            images = images.copy()
            images[chosen] = mix_rests(*(array[chosen] for array in pairs))
    if noise_std:
        is_noisy = rng.random(count) < noise_share
        noise = rng.standard_normal((count, *images.shape[1:]), np.float32)
        noise *= np.float32(noise_std) * is_noisy[:, None, None, None]
        images = add_noise(images, batch.mask, noise[own])
    return batch._replace(image=images)


def spoil_masks(masks, fault, *, pixels, angles=None):
    """Masks [n, h, w, 1], made worse by one of MASK_FAULTS but "random".

    A square that reaches over the edge of an image takes what is inside; a shift, at `angles` [n]
    and rounded to whole pixels, brings in no object.
    """
    if fault == "shifted":
        offsets = np.rint(pixels * np.stack([np.sin(angles), np.cos(angles)], axis=-1))
        return shift(masks, pixels + offsets.astype(int), padding=pixels)
    if fault == "none":
        return masks
    extreme = {"dilated": np.max, "eroded": np.min}[fault]
    for axis in (1, 2):
        around = [(pixels, pixels) if a == axis else (0, 0) for a in range(4)]
        padded = np.pad(masks, around, mode="edge")
        windows = np.lib.stride_tricks.sliding_window_view(padded, 2 * pixels + 1, axis=axis)
        masks = extreme(windows, axis=-1)
    return masks


def mix_rests(images, masks, others, other_masks):
    """The objects of the images on the rests of the others, blended by the soft masks.

    The hole that the other's object leaves is filled from its own rest: by the image rolled by half
    its sides, and by the mean of the rest where that is object too. Where another image has no rest
    at all, the image stays.
    """
    core, rest = np.float32(masks) / 255, np.float32(255 - other_masks) / 255
    others = others.astype(np.float32)
    area = rest.sum(axis=(1, 2), keepdims=True)
    mean = (rest * others).sum(axis=(1, 2), keepdims=True) / np.where(area > 0, area, 1)
    half = [side // 2 for side in images.shape[1:3]]
    rolled_rest, rolled = (np.roll(x, half, axis=(1, 2)) for x in (rest, others))
    filling = rolled_rest * rolled + (1 - rolled_rest) * mean
    filled = rest * others + (1 - rest) * filling
    mixed = np.rint(core * images + (1 - core) * filled).astype(np.uint8)
    return np.where(area > 0, mixed, images)


def add_noise(images, masks, noise):
    """Images with `noise`, [0, 1] pixel units, times 1 - mask; clipped, rounded to 8 bits."""
    rest = np.float32(255 - masks)  # / 255 of it, times 255
    return np.rint(np.clip(images + rest * noise, 0, 255)).astype(np.uint8)

"""Changes of training images outside their object masks: noise, and the rests of other images.

They come after augmentation, on images as the model sees them: no resize smooths the noise, and
another image has its own crop and colours.
"""

import numpy as np

from advspur._checks import require
from advspur.data.augment import shift

MASK_FAULTS = ("none", "dilated", "eroded", "shifted", "random")


def changes_background(*, noise_std=0.0, mix_share=0.0, mask_fault="none", **_):
    """Return whether these options of `change_background` change anything."""
    return noise_std > 0 or mix_share > 0 or mask_fault != "none"


def require_masks(source, option):
    """Raise InputError unless the examples of a source have the masks that an option needs."""
    advice = "add masks (see docs/data.md) or drop the option"
    has_mask = getattr(source, "has_mask", False)
    require(has_mask, f"{option} needs masks, and {source!r} has none: {advice}")


def change_background(
    read,
    rows,
    rng,
    *,
    share,
    num_examples,
    noise_std=0.0,
    noise_share=0.5,
    mix_share=0.0,
    mask_fault="none",
    fault_pixels=0,
):
    """Return the Batch of `rows`: masks made worse, then rests mixed, then noise added.

    Every process draws for all rows and changes those of its share.

    Args:
      read: (rows, rng) -> the augmented Batch of this process's share of the rows.
      share: the slice of the rows that this process reads.
      num_examples: size of the data, from which other images are drawn uniformly (with
        replacement, the image itself included).
      noise_std: standard deviation of Gaussian noise on the rest, [0, 1] pixel units; 0: none.
      noise_share: probability that an image gets this noise.
      mix_share: probability that the rest of an image comes from another image.
      mask_fault: one of MASK_FAULTS, for all masks; "random" is the mask of another image, rolled
        to a random place, which says nothing about the object.
      fault_pixels: reach of the square of "dilated" and "eroded", length of the shift of "shifted".
    """
    count = len(rows)

    def read_other():
        return read(rng.integers(num_examples, size=count), rng)

    def with_fault(batch):
        if mask_fault == "random":
            masks = read_other().mask
            offsets = rng.integers(masks.shape[1], size=(count, 2))[share]
            rolled = [np.roll(m, o, (0, 1)) for m, o in zip(masks, offsets, strict=True)]
            return batch._replace(mask=np.stack(rolled))
        angles = rng.uniform(0, 2 * np.pi, count)[share] if mask_fault == "shifted" else None
        masks = spoil_masks(batch.mask, mask_fault, pixels=fault_pixels, angles=angles)
        return batch._replace(mask=masks)

    batch = with_fault(read(rows, rng))
    images = batch.image
    if mix_share:
        is_mixed = rng.random(count) < mix_share
        if is_mixed.any():
            other, chosen = with_fault(read_other()), is_mixed[share]
            pairs = images, batch.mask, other.image, other.mask
            images = images.copy()
            images[chosen] = mix_rests(*(array[chosen] for array in pairs))
    if noise_std:
        is_noisy = rng.random(count) < noise_share
        noise = rng.standard_normal((count, *images.shape[1:]), np.float32)
        noise *= np.float32(noise_std) * is_noisy[:, None, None, None]
        images = add_noise(images, batch.mask, noise[share])
    return batch._replace(image=images)


def spoil_masks(masks, fault, *, pixels, angles=None):
    """Return masks [n, h, w, 1] made worse by one of MASK_FAULTS, except "random".

    Dilation and erosion use the part of their square that is inside the image. A shift, in the
    directions `angles` [n] and rounded to whole pixels, brings in no object.
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
    """Put the objects of the images on the rests of the others, blended by the soft masks.

    The hole that the other's object leaves is filled with that image rolled by half its sides, and
    with the mean of its rest where the rolled image shows the object too. If the other image is
    all object, the image stays as it is.
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
    """Add (1 - mask) `noise`, in [0, 1] pixel units; clip and round to 8 bits."""
    rest = np.float32(255 - masks)  # (1 - mask) times 255, the unit of the pixels
    return np.rint(np.clip(images + rest * noise, 0, 255)).astype(np.uint8)

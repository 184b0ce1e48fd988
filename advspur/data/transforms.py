"""Decoding and resizing on the host (Pillow), and the step to [0, 1].

Images stay uint8 on the host and on their way to the device; `to_unit` divides by 255 there.
"""

import io

import numpy as np
from PIL import Image

from advspur._checks import InputError


def open_image(encoded, path=None, mode="RGB"):
    """Encoded bytes -> a decoded Pillow image of `mode`, whatever the file's own mode."""
    try:
        return Image.open(io.BytesIO(encoded)).convert(mode)
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        where = path or f"a record of {len(encoded)} bytes"
        raise InputError(f"{where} is no readable image: {error}") from error


def decode(image, path=None):
    """Encoded bytes -> uint8 RGB [h, w, 3]; arrays pass through."""
    return image if isinstance(image, np.ndarray) else np.asarray(open_image(image, path))


def to_unit(images):
    """8-bit pixels -> float32 in [0, 1]."""
    return images.astype("float32") / 255


def resize_short(image, short):
    """The short side of a Pillow image to `short`, the long one truncated (as torchvision does)."""
    return _resize(image, [short * side // min(image.size) for side in image.size])


def resize_square(image, size):
    """To size x size; the aspect ratio is lost."""
    return _resize(image, (size, size))


def center_crop(image, size):
    """The central size x size of a Pillow image."""
    left, top = (round((side - size) / 2) for side in image.size)
    return image.crop((left, top, left + size, top + size))


def resize_and_crop(image, size):
    """The standard evaluation transform of an array: short side to size * 256/224, then the
    central size x size. An image that has this size already is left alone."""
    if image.shape[:2] == (size, size):
        return image
    resized = resize_short(Image.fromarray(image), size * 256 // 224)
    return np.asarray(center_crop(resized, size))


def _resize(image, size):
    return image.resize(size, Image.Resampling.BILINEAR)  # anti-aliased when it shrinks

"""Decoding and resizing on the host (Pillow), and the step to [0, 1].

Images stay uint8 on the host and on their way to the device; `to_unit` divides by 255 there.
"""

import io

import numpy as np
from PIL import Image, ImageChops

from advspur._checks import InputError, require

UNKNOWN_WHITE = {"I": "32-bit integers", "F": "floating-point numbers"}  # modes of Pillow
BILINEAR, BICUBIC = Image.Resampling.BILINEAR, Image.Resampling.BICUBIC
COLOR_TOLERANCE = 32  # of 255, between the channels of a mask: JPEG makes greys coloured


def open_image(encoded, path=None, mode="RGB"):
    """Encoded bytes -> a decoded Pillow image of `mode`: "RGB" for pictures, "L" for masks.

    Pictures are read as torchvision's loader reads them: the first one of an animation, without
    transparency, EXIF orientation and colour profiles not applied. But greys of 16 bits, which
    Pillow would clip at 255, are scaled to 8.

    Raises: InputError for what is no image, for 32-bit integers and floats, whose white no file
      names, and for masks that are coloured or transparent.
    """
    where = path or f"a record of {len(encoded)} bytes"
    try:
        image = Image.open(io.BytesIO(encoded))
        image.load()
        if image.mode.startswith("I;16"):
            levels = np.asarray(image).astype(np.uint32)
            image = Image.fromarray(((levels * 255 + 32767) // 65535).astype(np.uint8))
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise InputError(f"{where} is no readable image: {error}") from error
    kind = UNKNOWN_WHITE.get(image.mode)
    require(not kind, f"{where} holds {kind} (mode {image.mode}); save it with 8 bits a channel")
    has_colors = image.mode != "P" or (image.palette and image.palette.palette)
    require(has_colors, f"{where} lacks the palette of its colours")
    if mode == "L":
        return _grey(image, where)
    image.info.pop("transparency", None)
    return image.convert(mode)


def _grey(image, where):
    """A mask of 8 bits, of an image whose colours are greys."""
    if image.mode in ("1", "L"):
        return image.convert("L")
    is_opaque = not image.has_transparency_data or image.convert("RGBA").getextrema()[3][0] == 255
    image.info.pop("transparency", None)
    image = image.convert("RGB")
    red, green, blue = image.split()
    differences = (ImageChops.difference(*pair) for pair in ((red, green), (green, blue)))
    is_grey = max(difference.getextrema()[1] for difference in differences) <= COLOR_TOLERANCE
    require(
        is_opaque and is_grey,
        f"{where} is no mask: it is {'coloured' if is_opaque else 'transparent'}; save it as "
        "greyscale",
    )
    return image.convert("L")


def decode(image, path=None):
    """Encoded bytes, or an array that is decoded already -> uint8 RGB [h, w, 3]."""
    if not isinstance(image, np.ndarray):
        return np.asarray(open_image(image, path))
    require(
        image.dtype == np.uint8 and image.ndim == 3 and image.shape[-1] == 3,
        f"{path or 'an image'} is {image.dtype} {image.shape}; expected uint8 [height, width, 3]",
    )
    return image


def to_unit(images):
    """8-bit pixels -> float32 in [0, 1]."""
    return images.astype("float32") / 255


def resize_short(image, short, interpolation=BILINEAR):
    """The short side of a Pillow image to `short`, the long one truncated (as torchvision does)."""
    sides = [short * side // min(image.size) for side in image.size]
    return image.resize(sides, interpolation)  # anti-aliased when it shrinks


def resize_square(image, size, interpolation=BILINEAR):
    """To size x size; the aspect ratio is lost."""
    return image.resize((size, size), interpolation)


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

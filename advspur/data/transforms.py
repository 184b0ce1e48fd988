"""Decoding and resizing on the host (Pillow), and the conversion to [0, 1] on the device."""

import io
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageChops

from advspur._checks import InputError, require

UNKNOWN_WHITE = {"I": "32-bit integers", "F": "floating-point numbers"}  # modes of Pillow
BILINEAR, BICUBIC = Image.Resampling.BILINEAR, Image.Resampling.BICUBIC
SMALLEST = 8  # pixels a side; a smaller image must be a mistake
COLOR_TOLERANCE = 32  # of 255, between the channels of a mask: JPEG colours greys slightly


def open_image(encoded, path=None, mode="RGB"):
    """Decode bytes into a Pillow image of `mode`: "RGB" for pictures, "L" for masks.

    Pictures are read as by torchvision's loader: the first one of an animation, without
    transparency, EXIF orientation and colour profiles ignored. Only 16-bit greys differ: they are
    scaled to 8 bits, while Pillow clips them at 255. Refused are 32-bit integers and floats, since
    no file says which value is white, and coloured or transparent masks.
    """
    where = path or f"a record of {len(encoded)} bytes"
    try:
        image = Image.open(io.BytesIO(encoded))
        image.load()
        if image.mode.startswith("I;16"):
            levels = np.asarray(image).astype(np.uint32)
            image = Image.fromarray(((levels * 255 + 32767) // 65535).astype(np.uint8))
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise InputError(f"{where} is not a readable image: {error}") from error
    kind = UNKNOWN_WHITE.get(image.mode)
    require(not kind, f"{where} has {kind} (mode {image.mode}); save it with 8 bits a channel")
    has_colors = image.mode != "P" or (image.palette and image.palette.palette)
    require(has_colors, f"{where} lacks the palette of its colours")
    if mode == "L":
        return _grey(image, where)
    image.info.pop("transparency", None)
    return image.convert(mode)


def _grey(image, where):
    """Convert an opaque grey image of any mode to an 8-bit mask."""
    if image.mode in ("1", "L"):
        return image.convert("L")
    is_opaque = not image.has_transparency_data or image.convert("RGBA").getextrema()[3][0] == 255
    image.info.pop("transparency", None)
    image = image.convert("RGB")
    red, green, blue = image.split()
    differences = (ImageChops.difference(*pair) for pair in ((red, green), (green, blue)))
    is_grey = max(difference.getextrema()[1] for difference in differences) <= COLOR_TOLERANCE
    fault = "coloured" if is_opaque else "transparent"
    require(is_opaque and is_grey, f"{where} is not a mask: it is {fault}; save it as greyscale")
    return image.convert("L")


def decode(image, path=None):
    """Return uint8 RGB [h, w, 3] from encoded bytes, or from an array, which is checked."""
    if not isinstance(image, np.ndarray):
        return np.asarray(open_image(image, path))
    is_picture = image.dtype == np.uint8 and image.ndim == 3 and image.shape[-1] == 3
    fault = f"{path or 'an image'} is {image.dtype} {image.shape}"
    require(is_picture, f"{fault}; expected uint8 [height, width, 3]")
    return image


def to_unit(images):
    """Convert 8-bit pixels to float32 in [0, 1]."""
    return images.astype("float32") / 255


class Transform(NamedTuple):
    """How a protocol brings decoded Pillow images to one size.

    `resize` scales the "short" side to `side` (the long one is truncated, as in torchvision), or
    both sides ("square"); "crop" does not resize, and "none" does not crop either.
    """

    size: int = 224  # pixels a side of the central crop
    side: int = 256  # pixels of a resized side
    resize: str = "short"
    interpolation: int = BILINEAR
    border: int = 0  # pixels cut off on each side first

    def __call__(self, image):
        """Return the transformed Pillow image; one smaller than the crop is not cropped."""
        if self.border:
            right, bottom = (side - self.border for side in image.size)
            image = image.crop((self.border, self.border, right, bottom))
        if self.resize == "short":
            sides = [self.side * side // min(image.size) for side in image.size]
            image = image.resize(sides, self.interpolation)  # anti-aliased when it shrinks
        elif self.resize == "square":
            image = image.resize((self.side, self.side), self.interpolation)
        if self.resize == "none" or min(image.size) < self.size:
            return image
        left, top = (round((side - self.size) / 2) for side in image.size)
        return image.crop((left, top, left + self.size, top + self.size))

    def pixels(self, image, path):
        """Return uint8 [size, size, ...]; raise InputError if the result has a different size."""
        width, height = image.size
        require(min(width, height) >= SMALLEST, f"{path} is {width} x {height}: too small")
        changed, size = self(image), (self.size, self.size)
        fault = f"{path} is {width} x {height}: {self.size} x {self.size} is needed"
        require(changed.size == size, fault)
        return np.asarray(changed)


STANDARD = Transform()  # ImageNet's
SQUARED = Transform(resize="square")


def resize_and_crop(image, size):
    """Apply `STANDARD`, with a different `size`, to an array, unless it already has this size."""
    if image.shape[:2] == (size, size):
        return image
    return np.asarray(Transform(size, size * 256 // 224)(Image.fromarray(image)))

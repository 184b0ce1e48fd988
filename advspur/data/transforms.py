"""Decoding and augmentation on the host (Pillow, NumPy), and the step to [0, 1].

Images stay uint8 on the host and on their way to the device; `to_unit` divides by 255 there.
"""

import io
import math

import numpy as np
from PIL import Image

from advspur._checks import InputError

# Principal components of ImageNet colours in [0, 1] (Krizhevsky et al., 2012).
PCA_VALUES = np.array([0.2175, 0.0188, 0.0045])
PCA_VECTORS = np.array(
    [[-0.5675, 0.7192, 0.4009], [-0.5808, -0.0045, -0.8140], [-0.5836, -0.6948, 0.4203]]
)


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


def random_flip(image, rng):
    """Mirror left and right with probability 1/2."""
    return image[:, ::-1] if rng.random() < 0.5 else image


def random_shift(image, rng, *, padding=4):
    """Pad with black and crop at a random place (the CIFAR augmentation)."""
    size = image.shape[0]
    top, left = rng.integers(2 * padding + 1, size=2)
    padded = np.pad(image, ((padding, padding), (padding, padding), (0, 0)))
    return padded[top : top + size, left : left + image.shape[1]]


def random_resized_crop(image, rng, *, size, area=(0.08, 1), aspect=(3 / 4, 4 / 3)):
    """A crop of this share of the area and this aspect ratio, resized to size x size.

    Ten tries, then the whole image (Inception style, Szegedy et al., CVPR 2015).
    """
    height, width = image.shape[:2]
    box = (0, 0, width, height)
    for _ in range(10):
        pixels = height * width * rng.uniform(*area)
        ratio = math.exp(rng.uniform(*map(math.log, aspect)))
        w, h = round(math.sqrt(pixels * ratio)), round(math.sqrt(pixels / ratio))
        if 0 < w <= width and 0 < h <= height:
            left, top = rng.integers(width - w + 1), rng.integers(height - h + 1)
            box = (left, top, left + w, top + h)
            break
    resized = Image.fromarray(image).resize((size, size), Image.Resampling.BILINEAR, box=box)
    return np.asarray(resized)


def color_jitter(image, rng, *, strength):
    """Brightness, contrast and saturation, each scaled by 1 +- `strength` (torchvision's)."""
    pixels = image.astype(np.float32)
    scale = rng.uniform(1 - strength, 1 + strength, 3)
    pixels = np.clip(pixels * scale[0], 0, 255)
    pixels = np.clip(_grey(pixels).mean() + scale[1] * (pixels - _grey(pixels).mean()), 0, 255)
    grey = _grey(pixels)[..., None]
    return np.rint(np.clip(grey + scale[2] * (pixels - grey), 0, 255)).astype(np.uint8)


def random_rotation(image, rng, *, degrees):
    """Rotate by a uniform angle up to +- `degrees`, nearest pixel, black outside."""
    angle = rng.uniform(-degrees, degrees)
    return np.asarray(Image.fromarray(image).rotate(angle))


def pca_lighting(image, rng, *, std):
    """Add the ImageNet colour components with N(0, std^2) weights (Krizhevsky et al., 2012)."""
    shift = 255 * (PCA_VECTORS @ (rng.normal(0, std, 3) * PCA_VALUES))
    return np.rint(np.clip(image + shift, 0, 255)).astype(np.uint8)


def _grey(pixels):
    return pixels @ np.array([0.299, 0.587, 0.114], np.float32)


def augment(image, rng, *, kind, size):
    """The training transform of a data set; `kind` is a config value.

    "none": evaluation transform; "flip": and a random flip; "cifar": pad-4 random crop, flip,
    colour jitter 0.25, rotation by up to 2 degrees; "imagenet": random resized crop, flip, colour
    jitter 0.1, PCA lighting 0.05. These two are the defaults of the `robustness` library.
    "rival10": a crop of 80-100% of the area at aspect 3/4 to 5/4, and flip.
    """
    if kind == "rival10":
        crop = {"area": (0.8, 1), "aspect": (3 / 4, 5 / 4)}
        return random_flip(random_resized_crop(image, rng, size=size, **crop), rng)
    if kind == "imagenet":
        image = random_flip(random_resized_crop(image, rng, size=size), rng)
        return pca_lighting(color_jitter(image, rng, strength=0.1), rng, std=0.05)
    image = resize_and_crop(image, size)
    if kind == "cifar":
        image = random_flip(random_shift(image, rng), rng)
        return random_rotation(color_jitter(image, rng, strength=0.25), rng, degrees=2)
    return image if kind == "none" else random_flip(image, rng)


AUGMENTATIONS = ("none", "flip", "cifar", "imagenet", "rival10")

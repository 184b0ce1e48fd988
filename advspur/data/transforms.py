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


def decode(image, path=None):
    """Encoded bytes -> uint8 RGB [h, w, 3]; arrays pass through."""
    if isinstance(image, np.ndarray):
        return image
    try:
        return np.asarray(Image.open(io.BytesIO(image)).convert("RGB"))
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        where = path or f"a record of {len(image)} bytes"
        raise InputError(f"{where} is no readable image: {error}") from error


def to_unit(images):
    """8-bit pixels -> float32 in [0, 1]."""
    return images.astype("float32") / 255


def resize_and_crop(image, size):
    """The standard evaluation transform: short side to size * 256/224 (bilinear, anti-aliased,
    long side truncated), then the central size x size."""
    if image.shape[:2] == (size, size):
        return image
    height, width = image.shape[:2]
    short = size * 256 // 224
    scale = short / min(height, width)
    new = [short if side == min(height, width) else int(side * scale) for side in (width, height)]
    resized = np.asarray(Image.fromarray(image).resize(new, Image.Resampling.BILINEAR))
    top = round((resized.shape[0] - size) / 2)
    left = round((resized.shape[1] - size) / 2)
    return resized[top : top + size, left : left + size]


def random_flip(image, rng):
    """Mirror left and right with probability 1/2."""
    return image[:, ::-1] if rng.random() < 0.5 else image


def random_shift(image, rng, *, padding=4):
    """Pad with black and crop at a random place (the CIFAR augmentation)."""
    size = image.shape[0]
    top, left = rng.integers(2 * padding + 1, size=2)
    padded = np.pad(image, ((padding, padding), (padding, padding), (0, 0)))
    return padded[top : top + size, left : left + image.shape[1]]


def random_resized_crop(image, rng, *, size):
    """A crop of 8-100% of the area at aspect 3/4 to 4/3, resized to size x size.

    Ten tries, then the whole image (Inception style, Szegedy et al., CVPR 2015).
    """
    height, width = image.shape[:2]
    box = (0, 0, width, height)
    for _ in range(10):
        area = height * width * rng.uniform(0.08, 1)
        aspect = math.exp(rng.uniform(math.log(3 / 4), math.log(4 / 3)))
        w, h = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
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
    jitter 0.1, PCA lighting 0.05. The last two are the defaults of the `robustness` library.
    """
    if kind == "imagenet":
        image = random_flip(random_resized_crop(image, rng, size=size), rng)
        return pca_lighting(color_jitter(image, rng, strength=0.1), rng, std=0.05)
    image = resize_and_crop(image, size)
    if kind == "cifar":
        image = random_flip(random_shift(image, rng), rng)
        return random_rotation(color_jitter(image, rng, strength=0.25), rng, degrees=2)
    return image if kind == "none" else random_flip(image, rng)


AUGMENTATIONS = ("none", "flip", "cifar", "imagenet")

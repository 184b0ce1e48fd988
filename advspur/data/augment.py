"""Augmentation of whole batches on the host: all changes are drawn first, then applied.

Several processes that draw the same numbers, and each change their share of the images, augment a
batch as one process does. Masks follow the geometry of their images; padding is on no object.
"""

import functools
import math

import numpy as np
from PIL import Image

from advspur.data.transforms import resize_and_crop

# Principal components of ImageNet colours in [0, 1] (Krizhevsky et al., 2012).
PCA_VALUES = np.array([0.2175, 0.0188, 0.0045])
PCA_VECTORS = np.array(
    [[-0.5675, 0.7192, 0.4009], [-0.5808, -0.0045, -0.8140], [-0.5836, -0.6948, 0.4203]]
)
PADDING = 4  # black pixels around an image before it is shifted
GEOMETRY = ("shift", "flip", "angle")  # the changes that move pixels

# Changes of images that already have their size.
CHANGES = {
    "none": (),
    "flip": ("flip",),
    "crop_flip": ("shift", "flip"),
    "cifar": ("shift", "flip", "scale", "angle"),
}
AUGMENTATIONS = (*CHANGES, "imagenet")


def augment(image, mask, rng, *, kind, size):
    """Return (image, mask) after the training transform of one image [h, w, 3] of any size.

    Args:
      mask: uint8 [h, w, c] or None; resized bilinearly like its image, so that its value at a pixel
        is the share of the pixel that the object covers.
      kind: "none", as in evaluation; "flip", a random flip; "crop_flip", a random crop after
        padding by 4 pixels, and a flip; "cifar", also colour jitter 0.25 and a rotation of up to 2
        degrees; "imagenet", random resized crop, flip, colour jitter 0.1, PCA lighting 0.05 (the
        last two as in the `robustness` library).
    """
    if kind in CHANGES:
        resize, changes = functools.partial(resize_and_crop, size=size), kind
    else:
        resize, changes = functools.partial(_cropped, box=_crop_box(image, rng), size=size), "flip"
    values = draw(rng, 1, changes)
    if mask is not None:
        channels = [resize(np.ascontiguousarray(c)) for c in np.moveaxis(mask, -1, 0)]
        mask = change_masks(np.stack(channels, axis=-1)[None], values)[0]
    image = change(resize(image)[None], values)
    if kind not in CHANGES:
        image = jitter_colors(image, _color_scales(rng, 1, 0.1))
        shift = np.float32(255 * (PCA_VECTORS @ (rng.normal(0, 0.05, 3) * PCA_VALUES)))
        image = np.rint(np.clip(image + shift, 0, 255)).astype(np.uint8)
    return image[0], mask


def draw(rng, count, kind):
    """Draw {change: values [count, ...]} for a kind of CHANGES."""
    values = {
        "shift": lambda: rng.integers(2 * PADDING + 1, size=(count, 2)),
        "flip": lambda: rng.random(count) < 0.5,
        "scale": lambda: _color_scales(rng, count, 0.25),
        "angle": lambda: rng.uniform(-2, 2, count),
    }
    return {name: values[name]() for name in CHANGES[kind]}


def change(images, values):
    """Apply the changes that `draw` returned to uint8 images [n, h, w, 3]."""
    functions = {"shift": shift, "flip": flip, "scale": jitter_colors, "angle": rotate}
    for name, drawn in values.items():
        images = functions[name](images, drawn)
    return images


def change_masks(masks, values):
    """Apply the geometric changes that `draw` returned to masks [n, h, w, c]."""
    return change(masks, {name: v for name, v in values.items() if name in GEOMETRY})


def shift(images, offsets, *, padding=PADDING):
    """Crop images, padded with black, at `offsets` [n, 2] (top, left); `padding` is no shift."""
    n, height, width, _ = images.shape
    around = (padding, padding)
    padded = np.pad(images, ((0, 0), around, around, (0, 0)))
    rows = offsets[:, :1] + np.arange(height)
    columns = offsets[:, 1:] + np.arange(width)
    return padded[np.arange(n)[:, None, None], rows[:, :, None], columns[:, None, :]]


def flip(images, which):
    """Mirror the images for which `which` [n] is true."""
    return np.where(which[:, None, None, None], images[:, :, ::-1], images)


def jitter_colors(images, scales):
    """Scale brightness, contrast and saturation by `scales` [n, 3], in this order.

    torchvision draws the order for each image; a fixed order treats a batch as one array.
    """
    brightness, contrast, saturation = scales.T.astype(np.float32)[:, :, None, None, None]
    pixels = np.clip(images * brightness, 0, 255)
    mean = _grey(pixels).mean(axis=(1, 2), keepdims=True)[..., None]
    pixels = np.clip(mean + contrast * (pixels - mean), 0, 255)
    grey = _grey(pixels)[..., None]
    return np.rint(np.clip(grey + saturation * (pixels - grey), 0, 255)).astype(np.uint8)


def rotate(images, angles):
    """Rotate the images by `angles` [n] degrees: nearest pixel, black outside."""
    n, height, width, _ = images.shape
    cos, sin = (f(np.deg2rad(angles))[:, None, None] for f in (np.cos, np.sin))
    y, x = np.mgrid[:height, :width] + 0.5 - np.array([height, width])[:, None, None] / 2
    rows = np.floor(cos * y + sin * x + height / 2).astype(int)
    columns = np.floor(cos * x - sin * y + width / 2).astype(int)
    inside = (0 <= rows) & (rows < height) & (0 <= columns) & (columns < width)
    pixels = images[np.arange(n)[:, None, None], rows * inside, columns * inside]
    return pixels * inside[..., None]


def _crop_box(image, rng, *, area=(0.08, 1), aspect=(3 / 4, 4 / 3)):
    """Draw (left, top, width, height) of a crop; `area` is a range of shares of the image.

    Ten tries, then the largest central crop of an allowed ratio, as in torchvision's
    RandomResizedCrop (Inception style, Szegedy et al., CVPR 2015).
    """
    height, width = image.shape[:2]
    for _ in range(10):
        pixels = height * width * rng.uniform(*area)
        ratio = math.exp(rng.uniform(*map(math.log, aspect)))
        w, h = round(math.sqrt(pixels * ratio)), round(math.sqrt(pixels / ratio))
        if 0 < w <= width and 0 < h <= height:
            left, top = rng.integers(width - w + 1), rng.integers(height - h + 1)
            return left, top, w, h
    ratio = min(max(width / height, aspect[0]), aspect[1])
    w, h = min(width, round(height * ratio)), min(height, round(width / ratio))
    return (width - w) // 2, (height - h) // 2, w, h


def _cropped(pixels, box, size):
    """Crop an image [h, w, 3] or a mask [h, w] to a box and resize it."""
    left, top, width, height = box
    # A resize with a box would look beyond its edges.
    crop = Image.fromarray(pixels[top : top + height, left : left + width])
    return np.asarray(crop.resize((size, size), Image.Resampling.BILINEAR))


def _color_scales(rng, count, strength):
    return rng.uniform(1 - strength, 1 + strength, (count, 3))


def _grey(pixels):
    return pixels @ np.array([0.299, 0.587, 0.114], np.float32)

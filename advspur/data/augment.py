"""Augmentation on the host, of whole batches: what is changed is drawn first, then done.

So processes that draw the same for a batch, and change their own images, augment as one does. Masks
follow the geometry of their images: what is outside of an image is on no object.
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
PADDING = 4  # pixels of black around an image, for its shift
GEOMETRY = ("shift", "flip", "angle")  # the changes that move pixels

# The changes of images that have their size already.
CHANGES = {
    "none": (),
    "flip": ("flip",),
    "crop_flip": ("shift", "flip"),
    "cifar": ("shift", "flip", "scale", "angle"),
}
AUGMENTATIONS = (*CHANGES, "imagenet")


def augment(image, mask, rng, *, kind, size):
    """(image, mask) after the training transform of one image [h, w, 3] of any size.

    "none": that of evaluation; "flip": and a random flip; "crop_flip": pad-4 random crop and flip;
    "cifar": also colour jitter 0.25 and rotation by up to 2 degrees; "imagenet": random resized
    crop, flip, colour jitter 0.1, PCA lighting 0.05 (the last two as in the `robustness` library).

    The mask, uint8 [h, w, c] or None, is resized bilinearly as its image is: its value at a pixel
    is the share of that pixel which the object covers.
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
    """{change: values [count, ...]} of a kind of CHANGES."""
    values = {
        "shift": lambda: rng.integers(2 * PADDING + 1, size=(count, 2)),
        "flip": lambda: rng.random(count) < 0.5,
        "scale": lambda: _color_scales(rng, count, 0.25),
        "angle": lambda: rng.uniform(-2, 2, count),
    }
    return {name: values[name]() for name in CHANGES[kind]}


def change(images, values):
    """uint8 images [n, h, w, 3], changed as `draw` says."""
    functions = {"shift": shift, "flip": flip, "scale": jitter_colors, "angle": rotate}
    for name, of_images in values.items():
        images = functions[name](images, of_images)
    return images


def change_masks(masks, values):
    """Masks [n, h, w, c] of images that are changed as `draw` says."""
    return change(masks, {name: v for name, v in values.items() if name in GEOMETRY})


def shift(images, offsets, *, padding=PADDING):
    """The crops at `offsets` [n, 2] (top, left; `padding`: no shift) of images in a black frame."""
    n, height, width, _ = images.shape
    around = (padding, padding)
    padded = np.pad(images, ((0, 0), around, around, (0, 0)))
    rows, columns = (
        offset[:, None] + np.arange(side)
        for offset, side in zip(offsets.T, (height, width), strict=True)
    )
    return padded[np.arange(n)[:, None, None], rows[:, :, None], columns[:, None, :]]


def flip(images, which):
    """The images, mirrored left and right where `which` [n]."""
    return np.where(which[:, None, None, None], images[:, :, ::-1], images)


def jitter_colors(images, scales):
    """Brightness, contrast and saturation times `scales` [n, 3], in this order.

    torchvision draws the order for each image; here it is fixed, so that a batch is one array.
    """
    brightness, contrast, saturation = scales.T.astype(np.float32)[:, :, None, None, None]
    pixels = np.clip(images * brightness, 0, 255)
    mean = _grey(pixels).mean(axis=(1, 2), keepdims=True)[..., None]
    pixels = np.clip(mean + contrast * (pixels - mean), 0, 255)
    grey = _grey(pixels)[..., None]
    return np.rint(np.clip(grey + saturation * (pixels - grey), 0, 255)).astype(np.uint8)


def rotate(images, angles):
    """The images turned by `angles` [n] degrees: nearest pixel, black outside."""
    n, height, width, _ = images.shape
    cos, sin = (f(np.deg2rad(angles))[:, None, None] for f in (np.cos, np.sin))
    y, x = np.mgrid[:height, :width] + 0.5 - np.array([height, width])[:, None, None] / 2
    rows = np.floor(cos * y + sin * x + height / 2).astype(int)
    columns = np.floor(cos * x - sin * y + width / 2).astype(int)
    inside = (0 <= rows) & (rows < height) & (0 <= columns) & (columns < width)
    found = images[np.arange(n)[:, None, None], rows * inside, columns * inside]
    return found * inside[..., None]


def _crop_box(image, rng, *, area=(0.08, 1), aspect=(3 / 4, 4 / 3)):
    """(left, top, width, height) of a crop with this share of the area and this aspect ratio.

    Ten tries, then the largest central crop of an allowed ratio, as torchvision's RandomResizedCrop
    (Inception style, Szegedy et al., CVPR 2015).
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
    """The box of an image [h, w, 3] or of a mask [h, w], resized to this size."""
    left, top, width, height = box
    # Cropped first: a resize of a box would look beyond its edges.
    crop = Image.fromarray(pixels[top : top + height, left : left + width])
    return np.asarray(crop.resize((size, size), Image.Resampling.BILINEAR))


def _color_scales(rng, count, strength):
    return rng.uniform(1 - strength, 1 + strength, (count, 3))


def _grey(pixels):
    return pixels @ np.array([0.299, 0.587, 0.114], np.float32)

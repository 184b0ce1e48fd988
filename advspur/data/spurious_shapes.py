"""Spurious shapes: the embedded data set, an image twin of the paper's linear model.

The class of an image is the *shape* of its object (core). The background's texture and tint also
belong to a class, with probability `correlation` that of the image (spurious). Object colour is
independent of the class. The same seed, split and index always give the same image.

>>> source = spurious_shapes("test", num_examples=16)
>>> example = source[3]
>>> example["image"].shape, example["mask"].shape, int(example["label"])
((32, 32, 3), (32, 32, 1), 3)
"""

import copy
import functools
import inspect
import math

import numpy as np

from advspur._checks import check_choice, check_count, check_seed, require
from advspur.data.table import array_source

_INSIDE = {  # is a point (x, y), at distance r, inside the shape? In radii, y downwards.
    "disc": lambda x, y, r: r <= 0.85,
    "square": lambda x, y, r: _longer(x, y) <= 0.75,
    "triangle": lambda x, y, r: (y <= 0.8) & (2 * abs(x) <= 1.05 * (y + 1)),
    "cross": lambda x, y, r: (np.minimum(abs(x), abs(y)) <= 0.3) & (_longer(x, y) <= 1),
    "ring": lambda x, y, r: (r >= 0.55) & (r <= 1),
    "hourglass": lambda x, y, r: (abs(x) <= abs(y)) & (abs(y) <= 0.95),
    "crescent": lambda x, y, r: (r <= 1) & (np.hypot(x - 0.55, y) >= 0.75),
    "bars": lambda x, y, r: (_longer(x, y) <= 0.95) & (abs(abs(x) - 0.65) <= 0.3),
}
SHAPES = tuple(_INSIDE)
MEASURED = ("test", "mixed_same", "mixed_rand", "uncorrelated")
SPLITS = ("train", "validation", "test", "mixed_same", "mixed_rand", "uncorrelated")


@functools.lru_cache(maxsize=16)
def spurious_shapes(
    split,
    *,
    num_examples=2000,
    seed=0,
    num_classes=8,
    image_size=32,
    correlation=0.6,
    core_scale=0.25,
    spurious_scale=0.12,
    object_size=0.3,
    size_jitter=0.35,
    position_jitter=0.15,
    color_jitter=1.0,
    noise_std=0.15,
):
    """Return the Table of one split.

    Every example has image (uint8 [s, s, 3]), label, background (the class it belongs to),
    is_majority (background == label), group (2 label + is_majority), pair (the object's number)
    and mask (bool [s, s, 1], true on the object).

    Args:
      split: "train", "validation", "test" (independent draws at `correlation`),
        "uncorrelated" (background of a uniformly random class), and two that show the objects
        of "test" on other backgrounds: "mixed_same" (from another image of the class) and
        "mixed_rand" (of a uniformly random class), as in ImageNet-9.
      num_examples: images in the split; class k has every num_classes-th index.
      seed: of the whole data set, not of the split.
      num_classes: 2 to 8, the first of SHAPES.
      image_size: pixels per side, at least 8.
      correlation: probability that the background is that of the class; otherwise it is that of
        another class, drawn uniformly.
      core_scale, spurious_scale: largest deviation of the object's and of the background's colour
        from mid-grey, in [0, 1] pixel units: the feature scales of the theory.
      object_size: mean radius of the object, as a fraction of image_size; 0: no object.
      size_jitter: relative half-range of the radius.
      position_jitter: half-range of the object's centre, as a fraction of image_size.
      color_jitter: 0: every object is white (mid-grey + core_scale); 1: its colour is uniform
        over directions; between: interpolated.
      noise_std: standard deviation of Gaussian pixel noise, in pixel units.
    """
    check_choice("split", split, SPLITS)
    check_seed("seed", seed)
    check_count("num_examples", num_examples)
    kinds = f"num_classes = {num_classes}: 2 to {len(SHAPES)} shapes exist"
    require(2 <= num_classes <= len(SHAPES), kinds)
    require(image_size >= 8, f"image_size = {image_size}: shapes need at least 8 pixels")
    for name, value, most, text in (
        ("correlation", correlation, 1, "a probability is needed"),
        ("core_scale", core_scale, 0.5, "a contrast around 0.5 is at most 0.5"),
        ("spurious_scale", spurious_scale, 0.5, "a contrast around 0.5 is at most 0.5"),
        ("size_jitter", size_jitter, 1, "it must be in [0, 1]"),
        ("color_jitter", color_jitter, 1, "it must be in [0, 1]"),
        ("object_size", object_size, 0.5, "a radius is at most 0.5"),
        ("position_jitter", position_jitter, 0.5, "at most 0.5"),
        ("noise_std", noise_std, math.inf, "it must be >= 0"),
    ):
        require(0 <= value <= most, f"{name} = {value}: {text}")

    labels = np.arange(num_examples) % num_classes
    backgrounds = np.empty(num_examples, int)
    images = np.empty((num_examples, image_size, image_size, 3), np.uint8)
    masks = np.empty((num_examples, image_size, image_size, 1), bool)
    rng_of = functools.partial(_generator, seed, "test" if "mixed" in split else split)
    dials = (image_size, object_size, size_jitter, position_jitter, color_jitter)
    scales = (core_scale, spurious_scale, num_classes)
    for i, label in enumerate(labels):
        backgrounds[i], phases = _draw_background(seed, split, i, label, num_classes, correlation)
        object_ = _draw_object(rng_of("object", i), label, *dials)
        pixels, masks[i] = _scene(object_, backgrounds[i], phases, *scales), object_[0]
        pixels += noise_std * rng_of("noise", i).standard_normal(pixels.shape)
        images[i] = np.rint(255 * np.clip(pixels, 0, 1))
    is_majority = backgrounds == labels
    columns = {
        "background": backgrounds,
        "is_majority": is_majority,
        "group": 2 * labels + is_majority,
        "pair": np.arange(num_examples),
        "mask": masks,
    }
    for array in (images, labels, *columns.values()):
        array.setflags(write=False)  # the source is cached and shared
    table = array_source(images, labels, num_classes=num_classes, **columns)
    table.names["label"] = SHAPES[:num_classes]
    return table


def cue_changes(num_examples=500, **shapes):
    """Return how images of "train" change if the object, or the background, changes its class.

    The new class is drawn uniformly among the others; place, size, colour and phases stay.

    Args:
      shapes: options of `spurious_shapes`.
    Returns: (core, spurious), [num_examples, s, s, 3] each: differences in [0, 1] pixel units,
      before noise and clipping.
    """
    columns = spurious_shapes("train", num_examples=num_examples, **shapes).columns
    bound = inspect.signature(spurious_shapes).bind("train", **shapes)
    bound.apply_defaults()
    o = bound.arguments
    names = ("image_size", "object_size", "size_jitter", "position_jitter", "color_jitter")
    dials, num_classes = [o[name] for name in names], o["num_classes"]
    scales = (o["core_scale"], o["spurious_scale"], num_classes)
    rng_of = functools.partial(_generator, o["seed"], "train")
    changes = [], []
    for i, (label, background) in enumerate(
        zip(columns["label"], columns["background"], strict=True)
    ):
        _, phases = _draw_background(o["seed"], "train", i, label, num_classes, o["correlation"])

        def draw(label, background, i=i, phases=phases):
            object_ = _draw_object(rng_of("object", i), label, *dials)
            return _scene(object_, background, phases, *scales)

        steps, image = rng_of("swap", i).integers(1, num_classes, 2), draw(label, background)
        changes[0].append(draw((label + steps[0]) % num_classes, background) - image)
        changes[1].append(draw(label, (background + steps[1]) % num_classes) - image)
    return tuple(map(np.stack, changes))


def read(directory=None, *, num_examples=2000, num_train=0, num_val=0, shapes=None):
    """Return {part: Table} of the splits of MEASURED, and `train` and `val` for fitting heads.

    Args:
      num_examples: images in each split of MEASURED.
      num_train, num_val: images of `train` and `val`; 0: no such part.
      shapes: other options of `spurious_shapes`.
    """
    options = dict(shapes or {})
    parts = {s: spurious_shapes(s, num_examples=num_examples, **options) for s in MEASURED}
    for part, split, number in (("train", "train", num_train), ("val", "validation", num_val)):
        check_count(f"num_{part}", number, least=0)
        if number:
            parts[part] = spurious_shapes(split, num_examples=number, **options)
    if num_train:
        groups = parts["train"].columns["group"]
        parts["test"] = copy.copy(parts["test"])  # the source is cached and shared
        sizes = np.bincount(groups, minlength=2 * parts["train"].num_classes)
        parts["test"].train_groups = tuple(sizes.tolist())
    return parts


def _generator(seed, split, part, index):
    parts = ("object", "noise", "background", "swap")
    seeds = [seed, SPLITS.index(split), parts.index(part), index]
    return np.random.Generator(np.random.PCG64(seeds))


def _draw_background(seed, split, index, label, num_classes, correlation):
    """Return (class of the background, its two random phases)."""
    if split == "mixed_same":
        # Images of a class are num_classes apart: take any other one of the endless test stream.
        swap = _generator(seed, split, "swap", index)
        other = index + num_classes * int(swap.integers(1, 10_000))
        return _draw_background(seed, "test", other, label, num_classes, correlation)
    rng = _generator(seed, split, "background", index)
    phases = rng.uniform(0, 2 * math.pi, 2)
    if split in ("mixed_rand", "uncorrelated"):
        return rng.integers(num_classes), phases
    if rng.uniform() < correlation:
        return label, phases
    return (label + rng.integers(1, num_classes)) % num_classes, phases


def _scene(object_, background, phases, core_scale, spurious_scale, num_classes):
    """Return the noiseless pixels [s, s, 3] of an object (mask, colour) on a background."""
    mask, color = object_
    texture = spurious_scale * _texture(background, phases, num_classes, len(mask))
    return 0.5 + np.where(mask, core_scale * color, texture)


def _draw_object(rng, label, image_size, object_size, size_jitter, position_jitter, color_jitter):
    """Return (mask [s, s, 1] bool, colour [3] with largest entry 1 in absolute value)."""
    radius = object_size * image_size * (1 + size_jitter * rng.uniform(-1, 1))
    center = image_size * (0.5 + position_jitter * rng.uniform(-1, 1, 2))
    direction = rng.standard_normal(3)
    direction /= np.abs(direction).max()
    color = (1 - color_jitter) + color_jitter * direction
    color /= np.abs(color).max()
    y, x = np.mgrid[:image_size, :image_size] + 0.5 - center[:, None, None]
    y, x = (z / max(radius, 1e-9) for z in (y, x))
    return _INSIDE[SHAPES[label]](x, y, np.hypot(x, y))[..., None], color


def _longer(x, y):
    return np.maximum(abs(x), abs(y))


def _texture(group, phases, num_classes, image_size):
    """Return [s, s, 3] in [-1, 1]: half tint, half oriented sinusoid, both tied to the class."""
    angle = math.pi * group / num_classes
    y, x = np.mgrid[:image_size, :image_size] / image_size
    cycles = 4 + 2 * (group % 2)
    wave = np.sin(2 * math.pi * cycles * (x * math.cos(angle) + y * math.sin(angle)) + phases[0])
    hue = 2 * math.pi * (group / num_classes + np.arange(3) / 3)
    # The second phase dims the wave a little, so that no two backgrounds are alike.
    strength = 0.75 + 0.25 * math.cos(phases[1])
    return 0.5 * np.cos(hue) + 0.5 * strength * wave[..., None]

"""CIFAR-10 with a spurious colour: the red/green shift of the paper's section 4.4.

In the majority, classes of the first half are shifted to red and those of the second half to green;
in the minority it is the other way round. The colour gives the right half with probability
rho / (rho + 1).
"""

import functools
import math

import numpy as np

from advspur._checks import check_choice, check_seed, require
from advspur.data import cifar10
from advspur.data.layouts import in_memory
from advspur.data.table import array_source, check_classes

RED, GREEN = 0, 1  # channels
SPLITS = ("train", "test")
DIRECTORIES, SIZES, NUM_CLASSES = cifar10.DIRECTORIES, cifar10.SIZES, cifar10.NUM_CLASSES
CONTROL = 1.0  # rho: colours are independent of the class
UNCORRELATED = {"rho": CONTROL, "shift": 16 / 255, "seed": 0}


def inject_color_shift(images, labels, *, rho, shift=16 / 255, seed=0, split="train"):
    """Return (shifted images, is_majority [n]): `shift` is added to one channel of each image.

    In a class with n images, round(n / (rho + 1)) are minority: the first ones of a permutation
    that depends on seed, split and class. A larger rho thus only turns minority images into
    majority ones. Values are clipped at the largest pixel value.

    Args:
      images: [n, h, w, 3], uint8, or float in [0, 1].
      labels: [n] int, 0 to 9.
      rho: majority : minority, >= 1; inf: no minority.
      shift: in [0, 1] pixel units; for uint8 images a multiple of 1/255, so nothing is rounded.
      split: "train" or "test".
    """
    images, labels = np.asarray(images), np.asarray(labels)
    check_choice("split", split, SPLITS)
    is_uint8 = images.dtype == np.uint8
    has_channels = images.ndim == 4 and images.shape[-1] == 3
    expected = f"images are {images.dtype} {images.shape}; expected uint8 or floats [n, h, w, 3]"
    require(has_channels and (is_uint8 or images.dtype.kind == "f"), expected)
    require(len(images) > 0, "images is empty: there is nothing to shift")
    check_classes(labels, len(images), NUM_CLASSES)
    check_color_shift(rho, shift, seed)
    raised, top = (round(shift * 255), 255) if is_uint8 else (shift, 1)
    is_exact = not is_uint8 or math.isclose(raised, shift * 255, abs_tol=1e-6)
    allowed = "for 8-bit images it must be a multiple of 1/255, as 16/255"
    require(is_exact, f"shift = {shift}: {allowed}")
    is_majority = _assign(labels, rho, seed, split)
    channel, shifted = _channels(labels, is_majority), images.copy()
    for c in (RED, GREEN):
        before = images[channel == c, ..., c]
        shifted[channel == c, ..., c] = np.where(before > top - raised, top, before + raised)
    return shifted, is_majority


def check_color_shift(rho, shift, seed):
    """Raise InputError unless these values are allowed."""
    require(rho >= 1, f"rho = {rho}: majority : minority must be >= 1 (inf: no minority)")
    require(0 < shift <= 1, f"shift = {shift}: it must be in (0, 1] pixel units, as 16/255")
    check_seed("seed", seed)


def shifted_table(table, split, **color_shift):
    """Shift a table of arrays; add the columns `is_majority`, `group` = 2 label + is_majority."""
    images, labels = table.columns["image"], table.columns["label"]
    images, is_majority = inject_color_shift(images, labels, split=split, **color_shift)
    columns = {"is_majority": is_majority, "group": 2 * labels + is_majority}
    return array_source(images, labels, num_classes=table.num_classes, **columns)


def read(directory, *, color_shift=UNCORRELATED, allow_partial=False, skip_unreadable=False):
    """Return {"test": Table, "uncorrelated": Table}: test images shifted at rho, and at rho = 1.

    `color_shift`: the {"rho", "shift", "seed"} of the model's training.
    """
    rho, shift, seed = float(color_shift["rho"]), float(color_shift["shift"]), color_shift["seed"]
    return _read(directory, rho, shift, seed, allow_partial, skip_unreadable)


@functools.lru_cache(maxsize=2)
def _read(directory, rho, shift, seed, allow_partial, skip_unreadable):
    table, skipped = _decoded(directory, allow_partial, skip_unreadable)
    parts = {}
    for part, ratio in (("test", rho), ("uncorrelated", CONTROL)):
        parts[part] = shifted_table(table, "test", rho=ratio, shift=shift, seed=seed)
        parts[part].skipped = skipped
    images, labels = table.columns["image"], table.columns["label"]
    majority = parts["test"].columns["is_majority"]
    parts["test"].facts["clipped_share"] = clipped_share(images, labels, majority, shift=shift)
    return parts


@functools.lru_cache(maxsize=1)
def _decoded(directory, allow_partial, skip_unreadable):
    """Return (all images as arrays, how many were unreadable)."""
    options = {"allow_partial": allow_partial, "skip_unreadable": skip_unreadable}
    table = cifar10.read(directory, **options)["test"]
    return in_memory(table, 32), table.skipped


def clipped_share(images, labels, is_majority, *, shift):
    """Return the share of the values to be raised, in unshifted uint8 images, that are clipped."""
    channel = _channels(labels, is_majority)[:, None, None, None]
    return float(np.mean(np.take_along_axis(images, channel, axis=3) > 255 - round(shift * 255)))


def _channels(labels, is_majority):
    """Return [n], the channel that is raised in each image."""
    return np.where((labels < NUM_CLASSES // 2) == is_majority, RED, GREEN)


def _assign(labels, rho, seed, split):
    """Return [n] bool, whether each image is in the majority."""
    is_majority = np.ones(len(labels), bool)
    for label in np.unique(labels):
        places = np.flatnonzero(labels == label)
        rng = np.random.default_rng([seed, SPLITS.index(split), int(label)])
        num_minority = round(len(places) / (rho + 1))
        is_majority[rng.permutation(places)[:num_minority]] = False
    return is_majority

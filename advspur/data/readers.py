"""The data sets of the paper: how each is read, in which folder it is looked for, its sizes."""

from collections.abc import Callable
from typing import NamedTuple

from advspur.data import (
    cifar10,
    color_shift,
    imagenet,
    imagenet9,
    imagenet_c,
    objectnet,
    rival10,
    salient_imagenet,
    waterbirds,
)
from advspur.data.spurious_shapes import read as read_shapes


class Reader(NamedTuple):
    """One data set.

    Attributes:
      read: (directory, **options) -> {part: Table}.
      directories: names of its folder; () where it needs none.
      sizes: {part: number of images} as published.
    """

    read: Callable
    directories: tuple = ()
    sizes: dict = {}


READERS = {
    name: Reader(module.read, module.DIRECTORIES, module.SIZES)
    for name, module in {
        "imagenet": imagenet,
        "imagenet_c": imagenet_c,
        "objectnet": objectnet,
        "rival10": rival10,
        "salient_imagenet": salient_imagenet,
        "imagenet9": imagenet9,
        "waterbirds": waterbirds,
        "cifar10": cifar10,
        "cifar_color_shift": color_shift,
    }.items()
} | {"spurious_shapes": Reader(read_shapes)}

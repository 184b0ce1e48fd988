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


def _reader(module):
    return Reader(module.read, module.DIRECTORIES, module.SIZES)


READERS = {
    "imagenet": _reader(imagenet),
    "imagenet_c": _reader(imagenet_c),
    "objectnet": _reader(objectnet),
    "rival10": _reader(rival10),
    "salient_imagenet": _reader(salient_imagenet),
    "imagenet9": _reader(imagenet9),
    "waterbirds": _reader(waterbirds),
    "cifar10": _reader(cifar10),
    "cifar_color_shift": _reader(cifar10)._replace(read=color_shift.read),
    "spurious_shapes": Reader(read_shapes),
}

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


_MODULES = (
    *(imagenet, imagenet_c, objectnet, rival10, salient_imagenet, imagenet9, waterbirds, cifar10),
    color_shift,
)
READERS = {
    module.__name__.split(".")[-1]: Reader(module.read, module.DIRECTORIES, module.SIZES)
    for module in _MODULES
}
READERS["cifar_color_shift"] = READERS.pop("color_shift")
READERS["spurious_shapes"] = Reader(read_shapes)

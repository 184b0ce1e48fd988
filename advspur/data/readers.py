"""The data sets of the paper: how to read each, where to find it, whether it is complete."""

from collections.abc import Callable
from typing import NamedTuple

from advspur._checks import InputError, check_choice
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
from advspur.data.layouts import MissingData
from advspur.data.spurious_shapes import read as read_shapes
from advspur.data.table import spread


class Reader(NamedTuple):
    """How one data set is read."""

    read: Callable  # (directory, **options) -> {part: Table}
    directories: tuple = ()  # names of its folder; () if it needs none
    sizes: dict = {}  # {part: number of images} as published


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


def check_directory(name, directory, *, line, progress_of, sample=0, **options):
    """Report what a directory has of a data set; return whether the data set is complete.

    Compares counts with the published ones, then decodes all images and masks, or `sample` of each
    part, spread evenly.

    Args:
      name: a key of READERS, for data that are read from files.
      line: function that prints a line.
      progress_of: total -> a Progress.
      options: of the data set's `read`.
    Raises: InputError if the directory has nothing of the data set.
    """
    from_files = tuple(key for key, r in READERS.items() if hasattr(r.read, "cache_clear"))
    check_choice("NAME", name, from_files)
    reader, published, faults = READERS[name], READERS[name].sizes, []
    reader.read.cache_clear()  # read what is there now
    try:
        reader.read(directory, **options)
    except MissingData:
        raise
    except InputError as error:
        faults.append(str(error))
    parts = reader.read(directory, allow_partial=True, **options)
    for part, table in parts.items():
        known = f" of {published[part]:,}" if part in published else ""
        line(f"{name} {part}: {len(table):,}{known} images")
    for part in published.keys() - parts.keys():
        line(f"{name} {part}: 0 of {published[part]:,} images")
    samples = {part: table.subset(spread(len(table), sample)) for part, table in parts.items()}
    with progress_of(sum(map(len, samples.values()))) as progress:
        for part, table in samples.items():
            if unreadable := list(table.unreadable(progress).values()):
                counts = f"{len(unreadable)} of {len(table)} images of {part} are unreadable"
                faults.append(f"{counts}, first: {unreadable[0]}")
    for fault in faults:
        line(f"fault: {fault}")
    return not faults

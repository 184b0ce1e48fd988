"""Named lists of images: which images of a split an evaluation that is too slow for all is made on.

The name is part of every record, in the notation of slices: "test[:1000]" are the first 1,000,
"val[::10]" every tenth. A step may be broken: image i of "test[::5.306]" is number floor(5.306 i).

>>> from advspur.data.table import Table
>>> table = Table(2, number=np.arange(5306))
>>> name, images = evenly(table, "test", 1000)
>>> name, len(images), images.columns["number"][:4].tolist()
('test[::5.306]', 1000, [0, 5, 10, 15])
"""

from pathlib import Path

import numpy as np

from advspur._checks import InputError, require
from advspur.data.layouts import missing_text


def first(table, split, num_images):
    """(name, Table) of the first `num_images`."""
    num_images = _at_most(num_images, table)
    return f"{split}[:{num_images}]", table.subset(range(num_images))


def evenly(table, split, num_images):
    """(name, Table) of `num_images` at equal distances; of every class alike where sorted by it."""
    num_images = _at_most(num_images, table)
    rows = np.arange(num_images) * len(table) // num_images
    return f"{split}[::{len(table) / num_images:g}]", table.subset(rows)


def listed(table, names, file):
    """(name, Table) of the images that a text file names, one a line; its own name is the list's.

    Args:
      names: of the table's images.
      file: the text file.
    """
    try:
        wanted = [line.strip() for line in Path(file).expanduser().read_text().splitlines()]
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"image_list = {file} cannot be read: {error}") from error
    wanted = [name for name in wanted if name]
    require(wanted, f"image_list = {file} names no image")
    rows = {name: row for row, name in enumerate(names)}
    fault = missing_text([name for name in wanted if name not in rows], len(wanted), "images")
    require(not fault, f"image_list = {file}: {fault}; the data have names such as {names[0]}")
    repeated = len(wanted) - len(set(wanted))
    require(not repeated, f"image_list = {file} names {repeated} images more than once")
    return Path(file).name, table.subset([rows[name] for name in wanted])


def _at_most(num_images, table):
    require(num_images >= 1, f"num_images = {num_images}: attack at least one image")
    return min(num_images, len(table))

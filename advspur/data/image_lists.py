"""Named lists of images: which images of a part an evaluation too slow for all is made on.

The name is that of a slice: "test[:1000]" are the first 1,000, "val[::10]" every tenth. A step may
be broken: image i of "test[::5.306]" is number floor(5.306 i).

>>> from advspur.data.table import Table
>>> name, rows = image_list(Table(2, number=np.arange(5306)), "test", "spread", 1000)
>>> name, len(rows), rows[:4].tolist()
('test[::5.306]', 1000, [0, 5, 10, 15])
"""

from collections import Counter
from pathlib import Path

import numpy as np

from advspur._checks import InputError, check_count, require
from advspur.data.layouts import missing_text

NAMED = ("first", "spread")


def image_list(table, part, images, num_images):
    """(name, rows) of at most `num_images` images of a part.

    `images` are the "first"; "spread" at equal distances, so of every class alike where they are
    sorted by it; or those of a text file, all of it, which has one a line, as `<image>` or
    `<folder>/<image>`: then its own name is the list's.
    """
    if images not in NAMED:
        return Path(images).name, _listed(table, images)
    check_count("num_images", num_images)
    count, number = len(table), min(num_images, len(table))
    part = f"{table.order} {part}" if table.order else part
    if images == "first":
        return f"{part}[:{number}]", np.arange(number)
    return f"{part}[::{count / number:g}]", np.arange(number) * count // number


def _listed(table, file):
    try:
        wanted = [line.strip() for line in Path(file).expanduser().read_text().splitlines()]
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"images = {file} cannot be read: {error}") from error
    wanted = [name for name in wanted if name]
    require(wanted, f"images = {file} names no image")
    paths = table.columns.get("path")
    require(paths is not None, f"images = {file}: the images of this data set have no file names")
    depth = 1 + wanted[0].count("/")
    names = ["/".join(path.parts[-depth:]) for path in paths]
    rows = {name: row for row, name in enumerate(names)}
    counts = Counter(names)
    shared = "".join([name for name in wanted if counts[name] > 1][:1])
    advice = "is the name of several images; write <folder>/<image>"
    require(not shared, f"images = {file}: {shared} {advice}")
    fault = missing_text([name for name in wanted if name not in rows], len(wanted), "images")
    require(not fault, f"images = {file}: {fault}; the data have names such as {next(iter(rows))}")
    repeated = len(wanted) - len(set(wanted))
    require(not repeated, f"images = {file} names {repeated} images more than once")
    return np.array([rows[name] for name in wanted])

"""Named lists of images: the subset of a part that a slow evaluation runs on.

A name is a slice: "test[:1000]" is the first 1,000 images, "val[::10]" every tenth. The step may be
a fraction: image i of "test[::5.306]" is number floor(5.306 i).

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
    """Return (name, rows) of at most `num_images` images of a part.

    `images` is "first"; "spread", at equal distances, which covers all classes equally if images
    are sorted by class; or a text file with one `<image>` or `<folder>/<image>` a line, which is
    used whole and names the list.
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
        lines = Path(file).expanduser().read_text().splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"images = {file} cannot be read: {error}") from error
    listed = [line.strip() for line in lines if line.strip()]
    require(listed, f"images = {file} names no image")
    paths = table.columns.get("path")
    require(paths is not None, f"images = {file}: the images of this data set have no file names")
    depth = 1 + listed[0].count("/")
    names = ["/".join(path.parts[-depth:]) for path in paths]
    rows, counts = {name: row for row, name in enumerate(names)}, Counter(names)
    for name in listed:
        advice = "is the name of several images; write <folder>/<image>"
        require(counts[name] < 2, f"images = {file}: {name} {advice}")
    fault = missing_text([name for name in listed if name not in rows], len(listed), "images")
    require(not fault, f"images = {file}: {fault}; the data have names such as {names[0]}")
    repeated = len(listed) - len(set(listed))
    require(not repeated, f"images = {file} names {repeated} images more than once")
    return np.array([rows[name] for name in listed])

"""What the benchmarks' official directory layouts have in common: finding, listing, reading.

A data set's `read(directory, ...)` returns {part: Table}; images are decoded and transformed in
the reading threads, when they are asked for.
"""

import csv
import io
import os
import warnings
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from advspur._checks import InputError, first_line, require
from advspur._progress import Progress
from advspur.data.sources import image_files, read_bytes
from advspur.data.table import Table
from advspur.data.transforms import BILINEAR, center_crop, open_image, resize_short, resize_square

SMALLEST = 8  # pixels a side of an image that can be meant
WHERE = "docs/benchmarks.md says where to get it"


class MissingData(InputError):
    """A data set that is not where it was looked for."""


def require_data(found, name, path, layout):
    """Raise MissingData unless `found`: the path looked for, the layout expected, where to read."""
    if not found:
        raise MissingData(f"no {name} in {path}: expected {layout}; {WHERE}")


def require_whole(fault, directory, *, allow_partial, advice="unpack the archive again"):
    """Raise InputError where `fault`, a text on what of a data set is missing, is not empty."""
    require(
        allow_partial or not fault,
        f"{directory} is incomplete: {fault}; {advice}, or evaluate what is there with "
        "--config.allow_partial=True",
    )


def missing_text(missing, total, what):
    """What is said of missing files: 3 of 8 masks are missing, first x.npy; "" where none is."""
    return f"{len(missing)} of {total} {what} are missing, first {missing[0]}" if missing else ""


def list_classes(root, labels, *, allow_partial, ignore_others=False):
    """(paths, labels) of ``root/<folder>/<image>`` for the folders of `labels` (folder -> label).

    Raises: InputError for folders that are no class, and for classes without a folder.
    """
    root = Path(root)
    folders = {d.name for d in root.iterdir() if d.is_dir() and d.name[0] != "."}
    unknown = sorted(folders - set(labels))
    require(
        ignore_others or not unknown,
        f"{root} has {len(unknown)} folders that are no class, first {''.join(unknown[:1])}; "
        f"classes are {', '.join(list(labels)[:3])}, ...",
    )
    files = {f: image_files(root / f) for f in labels if f in folders}
    missing = [name for name in labels if not files.get(name)]
    fault = missing_text(missing, len(labels), "class folders")
    require_whole(fault, root, allow_partial=allow_partial)
    found = [(p, labels[f]) for f, of_class in files.items() for p in of_class]
    require_data(found, "images", root, "<class folder>/<image>.JPEG")
    first = {}
    shared = [p for p, _ in found if first.setdefault(p.name, p) is not p]
    if shared:
        name = shared[0].name
        warnings.warn(
            f"{root}: {len(shared)} file names appear in two class folders, first {name} in "
            f"{first[name].parent.name} and {shared[0].parent.name}; an image has one label",
            stacklevel=2,
        )
    paths, numbers = zip(*found, strict=True)
    return list(paths), np.array(numbers)


def require_count(table, expected, directory, allow_partial):
    """Raise InputError where a whole data set should have `expected` examples and has not."""
    fault = f"{len(table):,} images, {expected:,} are published" if len(table) != expected else ""
    require_whole(fault, directory, allow_partial=allow_partial)


def open_file(path, mode="RGB"):
    """The decoded Pillow image of a file."""
    return open_image(read_bytes(path), path, mode)


def with_mask(image, mask, transform, path, mask_path):
    """{"image": uint8 [h, w, 3], "mask": uint8 [h, w, 1]} of Pillow images, each transformed."""
    return {
        "image": transformed(image, transform, path),
        "mask": transformed(mask, transform, mask_path)[:, :, None],
    }


def transformed(image, transform, path, image_size=224):
    """The pixels of the transformed image, `image_size` a side."""
    smallest = min(image.size)
    require(smallest >= SMALLEST, f"{path} is {image.size[0]} x {image.size[1]}: too small")
    changed = transform(image)
    require(
        changed.size == (image_size, image_size),
        f"{path} is {image.size[0]} x {image.size[1]}: {image_size} x {image_size} is needed",
    )
    return np.asarray(changed)


def standard_transform(image, image_size=224, interpolation=BILINEAR):
    """Short side to 256/224 of `image_size` (256), then the central `image_size` a side."""
    short = round(256 / 224 * image_size)
    return center_crop(resize_short(image, short, interpolation), image_size)


def squared_transform(image, image_size=224, interpolation=BILINEAR):
    """Both sides to 256/224 of `image_size`, the aspect ratio lost, then the centre."""
    side = round(256 / 224 * image_size)
    return center_crop(resize_square(image, side, interpolation), image_size)


def read_rows(file, *, delimiter=",", line=None):
    """The rows of a csv file with a header, as dicts; `line`: a column for their line numbers."""
    try:
        text = Path(file).read_bytes().decode("utf-8-sig")
    except OSError as error:
        raise InputError(f"{file} is no readable table: {first_line(error)}") from error
    except UnicodeDecodeError as error:
        number = 1 + error.object.count(b"\n", 0, error.start)
        raise InputError(f"{file} is no readable table: line {number} is not in UTF-8") from error
    reader = csv.DictReader(io.StringIO(text, newline=""), delimiter=delimiter)
    try:
        names = [name for name in reader.fieldnames or () if name]
        rows = [row | ({line: reader.line_num} if line else {}) for row in reader]
    except csv.Error as error:
        raise InputError(
            f"{file} is no readable table: line {reader.line_num}: {first_line(error)}"
        ) from error
    repeated = sorted({name for name in names if names.count(name) > 1})
    require(not repeated, f"{file} line 1 repeats columns: {', '.join(repeated)}")
    return rows


def names_outside(file, names, lines=None):
    """["line 7: ../x.jpg", ...]: those of a table's file names that leave the table's folder.

    Args:
      lines: the names' line numbers; None: from 2 on.
    Raises: InputError with both lines where two lines name the same file.
    """
    first, outside = {}, []
    lines = range(2, len(names) + 2) if lines is None else lines
    for line, name in zip(lines, map(os.path.normpath, names), strict=True):
        before = first.setdefault(name, line)
        require(before == line, f"{file} lines {before} and {line} name the same file, {name}")
        if os.path.isabs(name) or name.split(os.sep)[0] == os.pardir:
            outside.append(f"line {line}: {name}")
    return outside


def file_table(num_classes, paths, labels, transform, *, root="", names=None, **columns):
    """A Table of image files (of paths below `root`), decoded and transformed when asked for."""

    def load(row):
        path = Path(root, row["path"])
        image = open_file(path)
        return {"image": transformed(image, transform, path)}

    columns = {"path": paths, "label": np.asarray(labels)} | columns
    return Table(num_classes, load, root=root, names=names, **columns)


def spread(count, number):
    """Positions of `number` of `count` examples, spread evenly; of all where `number` is 0."""
    return np.unique(np.linspace(0, max(count - 1, 0), min(number or count, count)).astype(int))


def unreadable(table, progress=None):
    """{row: what is wrong} of the examples that cannot be read; all are decoded, in threads."""

    def fault(index):
        try:
            table[index]
        except InputError as error:
            return str(error)
        return None

    found = {}
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        for index, text in enumerate(pool.map(fault, range(len(table)))):
            if text is not None:
                found[index] = text
            if progress is not None:
                progress.advance()
    return found


def without_unreadable(parts, skip_unreadable):
    """{part: Table} without the examples that cannot be read; a warning says how many and which.

    As they are, and nothing read, unless `skip_unreadable`.
    """
    if not skip_unreadable:
        return parts
    kept = {}
    for name, table in parts.items():
        with Progress(len(table), f"read {name} for unreadable images", unit="img") as progress:
            faults = unreadable(table, progress)
        warn_of_unreadable(name, faults, len(table))
        rows = [i for i in range(len(table)) if i not in faults]
        kept[name] = table.subset(rows, skipped=len(faults))
    return kept


def warn_of_unreadable(name, faults, count):
    """Warn of the `faults` ({row: text}) of a part with `count` examples, where there are any."""
    if faults:
        first = next(iter(faults.values()))
        warnings.warn(
            f"{name}: {len(faults)} of {count} images are unreadable and left out, first: {first}",
            stacklevel=2,
        )

"""Parts shared by the readers of data: class folders, missing files and unreadable images."""

import functools
import inspect
import warnings
from pathlib import Path

import numpy as np

from advspur._checks import InputError, require
from advspur._progress import Progress
from advspur.data.files import folders, image_files
from advspur.data.table import Table, array_source
from advspur.data.transforms import decode, resize_and_crop

WHERE = "docs/benchmarks.md says where to get it"


class MissingData(InputError):
    """Raised if a data set is not in the folder given."""


def reader(read, *, together=False):
    """Turn read(root, allow_partial, **options) into a reader (directory, **options) -> its parts.

    The reader keeps its last {part: Table}. It can also skip unreadable examples: those of a part,
    or with `together` those of any part in all parts.
    """

    @functools.lru_cache(maxsize=1)
    def cached(directory, *, allow_partial=False, skip_unreadable=False, **options):
        parts = read(Path(directory).expanduser(), allow_partial, **options)
        return without_unreadable(parts, together=together) if skip_unreadable else parts

    # The signature shows the options of both functions.
    directory, *shared, _ = inspect.signature(cached).parameters.values()
    _, _, *options = inspect.signature(read).parameters.values()
    cached.__doc__ = read.__doc__
    cached.__signature__ = inspect.Signature([directory, *options, *shared])
    return cached


def require_data(present, name, path, layout):
    """Raise MissingData, with the place and the layout expected, unless data are `present`."""
    if not present:
        raise MissingData(f"no {name} in {path}: expected {layout}; {WHERE}")


def require_whole(fault, where, allow_partial, *, advice="unpack the archive again"):
    """Raise InputError if `fault`, which says what is missing, is not empty."""
    advice += ", or evaluate what is there with --config.allow_partial=True"
    require(allow_partial or not fault, f"{where} is incomplete: {fault}; {advice}")


def require_count(table, expected, directory, allow_partial):
    """Call `require_whole` for a table that should have `expected` examples."""
    fault = f"{len(table):,} images, {expected:,} are published" if len(table) != expected else ""
    require_whole(fault, directory, allow_partial)


def missing_text(missing, total, what):
    """Return a text such as "3 of 8 masks are missing, first x.npy"; "" if nothing is."""
    return f"{len(missing)} of {total} {what} are missing, first {missing[0]}" if missing else ""


def list_classes(root, classes, allow_partial, *, ignore_others=False):
    """Return (paths, labels) of ``root/<class>/<image>``; a label is a position in `classes`."""
    folder_of, classes = {folder.name: folder for folder in folders(root)}, list(classes)
    unknown = sorted(folder_of.keys() - set(classes))
    if unknown and not ignore_others:
        fault = f"{root} has {len(unknown)} folders that are not classes, first {unknown[0]}"
        raise InputError(f"{fault}; classes are {', '.join(classes[:3])}, ...")
    files = {name: image_files(folder_of[name]) for name in classes if name in folder_of}
    missing = [name for name in classes if not files.get(name)]
    require_whole(missing_text(missing, len(classes), "class folders"), root, allow_partial)
    paths = [path for images in files.values() for path in images]
    require_data(paths, "images", root, "<class folder>/<image>.JPEG")
    first = {}
    shared = [path for path in paths if first.setdefault(path.name, path) is not path]
    if shared:
        one, other = first[shared[0].name], shared[0]
        fault = f"{root}: {len(shared)} file names appear in two class folders, first {one.name}"
        places = f"in {one.parent.name} and {other.parent.name}; an image has one label"
        warnings.warn(f"{fault} {places}", stacklevel=2)
    counts = [len(files.get(name, ())) for name in classes]
    return paths, np.repeat(np.arange(len(classes)), counts)


def without_unreadable(parts, *, together=False):
    """Return {part: Table} without unreadable examples; warn how many they are, and of the first.

    `together`: an example that is unreadable in one part is left out of all.
    """
    total = sum(map(len, parts.values()))
    with Progress(total, "check for unreadable images", unit="img") as progress:
        faults = {name: table.unreadable(progress) for name, table in parts.items()}
    for name, table in parts.items():
        warn_of_unreadable(name, faults[name], len(table))
    if together:
        faults = dict.fromkeys(parts, set().union(*faults.values()))
    kept = {}
    for name, table in parts.items():
        rows = [row for row in range(len(table)) if row not in faults[name]]
        kept[name] = table.subset(rows, skipped=len(faults[name]))
    return kept


def warn_of_unreadable(name, faults, count):
    """Warn of the `faults` ({row: text}) of a part with `count` examples, if there are any."""
    if faults:
        first = next(iter(faults.values()))
        left_out = f"{len(faults)} of {count} images are unreadable and left out"
        warnings.warn(f"{name}: {left_out}, first: {first}", stacklevel=2)


def in_memory(source, image_size, *, skip_unreadable=False):
    """Decode a source into a table of arrays, in threads.

    An unreadable image is an error, or with `skip_unreadable` is left out with a warning.
    """
    count = len(source)
    images = np.empty((count, image_size, image_size, 3), np.uint8)
    labels = np.empty(count, int)

    def read(row):
        example = source[row["number"]]
        image = decode(example["image"], example.get("path"))
        images[row["number"]] = resize_and_crop(image, image_size)
        labels[row["number"]] = example["label"]
        return {}

    faults = Table(source.num_classes, read, number=range(count)).unreadable()
    if faults:
        first = next(iter(faults.values()))
        fault = f"{len(faults)} of {count} images of {source!r} cannot be read, first: {first}"
        require(skip_unreadable, f"{fault}; --config.skip_unreadable=True leaves them out")
        warn_of_unreadable(repr(source), faults, count)
        kept = [i for i in range(count) if i not in faults]
        images, labels = images[kept], labels[kept]
        if lost := sorted(set(range(source.num_classes)) - set(labels.tolist())):
            text = f"{source!r} has no readable image of {len(lost)} classes, first {lost[0]}"
            warnings.warn(text, stacklevel=2)
    return array_source(images, labels, num_classes=source.num_classes)


class SkippingUnreadable:
    """A source in which each unreadable image is replaced by the next readable one.

    A warning names each. A replacement has valid = False, so that evaluations do not count it.
    """

    def __init__(self, source):
        self.source, self.faults = source, set()
        self.num_classes, self.has_mask = source.num_classes, source.has_mask

    def __len__(self):
        return len(self.source)

    def __getitem__(self, index):
        for place in range(index, index + len(self)):
            try:
                example = self.source[place % len(self)]
                image = decode(example["image"], example.get("path"))
                return example | {"image": image, "valid": place == index}
            except InputError as error:
                self.faults.add(place % len(self))
                so_far = f"{len(self.faults)} so far"
                warnings.warn(f"{error}; replaced by the next image ({so_far})", stacklevel=2)
        raise InputError(f"no image of {self.source!r} can be read")

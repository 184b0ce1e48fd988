"""What readers of data share: what is there, what is missing, and what cannot be read."""

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
    """A data set that is not where it was looked for."""


def reader(read, *, together=False):
    """A reader (directory, **options) -> {part: Table}, which keeps the last; it is made of `read`.

    `together`: whether an example that cannot be read in one part is left out of all.
    """

    @functools.lru_cache(maxsize=1)
    def cached(directory, *, allow_partial=False, skip_unreadable=False, **options):
        parts = read(Path(directory).expanduser(), allow_partial, **options)
        return without_unreadable(parts, together=together) if skip_unreadable else parts

    # Whoever asks for the options is told those of both functions.
    directory, *shared, _ = inspect.signature(cached).parameters.values()
    _, _, *options = inspect.signature(read).parameters.values()
    cached.__doc__ = read.__doc__
    cached.__signature__ = inspect.Signature([directory, *options, *shared])
    return cached


def require_data(found, name, path, layout):
    """Raise MissingData, with the place and the layout looked for, unless `found`."""
    if not found:
        raise MissingData(f"no {name} in {path}: expected {layout}; {WHERE}")


def require_whole(fault, where, allow_partial, *, advice="unpack the archive again"):
    """Raise InputError where `fault`, a text on what of a data set is missing, is not empty."""
    advice += ", or evaluate what is there with --config.allow_partial=True"
    require(allow_partial or not fault, f"{where} is incomplete: {fault}; {advice}")


def require_count(table, expected, directory, allow_partial):
    """`require_whole` for a table that should have `expected` examples."""
    fault = f"{len(table):,} images, {expected:,} are published" if len(table) != expected else ""
    require_whole(fault, directory, allow_partial)


def missing_text(missing, total, what):
    """What is said of missing files: 3 of 8 masks are missing, first x.npy; "" where none is."""
    return f"{len(missing)} of {total} {what} are missing, first {missing[0]}" if missing else ""


def list_classes(root, classes, allow_partial, *, ignore_others=False):
    """(paths, labels) of ``root/<class>/<image>``, for the classes in order of their labels."""
    found, classes = {folder.name: folder for folder in folders(root)}, list(classes)
    unknown = sorted(found.keys() - set(classes))
    fault = f"{root} has {len(unknown)} folders that are no class, first {''.join(unknown[:1])}"
    known = f"classes are {', '.join(classes[:3])}, ..."
    require(ignore_others or not unknown, f"{fault}; {known}")
    files = {name: image_files(found[name]) for name in classes if name in found}
    missing = [name for name in classes if not files.get(name)]
    fault = missing_text(missing, len(classes), "class folders")
    require_whole(fault, root, allow_partial)
    paths = [path for of_class in files.values() for path in of_class]
    require_data(paths, "images", root, "<class folder>/<image>.JPEG")
    first = {}
    shared = [path for path in paths if first.setdefault(path.name, path) is not path]
    if shared:
        one, other = first[shared[0].name], shared[0]
        warnings.warn(
            f"{root}: {len(shared)} file names appear in two class folders, first {one.name} in "
            f"{one.parent.name} and {other.parent.name}; an image has one label",
            stacklevel=2,
        )
    counts = [len(files.get(name, ())) for name in classes]
    return paths, np.repeat(np.arange(len(classes)), counts)


def without_unreadable(parts, *, together=False):
    """{part: Table} without the examples that cannot be read; warnings say how many and which."""
    total = sum(map(len, parts.values()))
    with Progress(total, "read all for unreadable images", unit="img") as progress:
        faults = {name: table.unreadable(progress) for name, table in parts.items()}
    for name, of_part in faults.items():
        warn_of_unreadable(name, of_part, len(parts[name]))
    if together:
        faults = dict.fromkeys(parts, set().union(*faults.values()))
    kept = {}
    for name, table in parts.items():
        rows = [row for row in range(len(table)) if row not in faults[name]]
        kept[name] = table.subset(rows, skipped=len(faults[name]))
    return kept


def warn_of_unreadable(name, faults, count):
    """Warn of the `faults` ({row: text}) of a part with `count` examples, where there are any."""
    if faults:
        first = next(iter(faults.values()))
        warnings.warn(
            f"{name}: {len(faults)} of {count} images are unreadable and left out, first: {first}",
            stacklevel=2,
        )


def in_memory(source, image_size, *, skip_unreadable=False):
    """The source as a table of arrays, decoded in threads; what cannot be read is an error, or left
    out with a warning."""
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
    first = next(iter(faults.values()), "")
    fault = f"{len(faults)} of {count} images of {source!r} cannot be read, first: {first}"
    advice = "--config.skip_unreadable=True leaves them out"
    require(skip_unreadable or not faults, f"{fault}; {advice}")
    warn_of_unreadable(repr(source), faults, count)
    if faults:
        kept = [i for i in range(count) if i not in faults]
        images, labels = images[kept], labels[kept]
        lost = sorted(set(range(source.num_classes)) - set(labels.tolist()))
        if lost:
            text = f"{source!r} has no readable image of {len(lost)} classes, first {lost[0]}"
            warnings.warn(text, stacklevel=2)
    return array_source(images, labels, num_classes=source.num_classes)


class SkippingUnreadable:
    """A source whose images that cannot be read are replaced by the next ones that can.

    A warning names each. Replacements are not valid: an evaluation does not count them.
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
                so_far = f"replaced by the one after it ({len(self.faults)} so far)"
                warnings.warn(f"{error}; {so_far}", stacklevel=2)
        raise InputError(f"no image of {self.source!r} can be read")

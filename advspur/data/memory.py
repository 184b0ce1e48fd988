"""Sources that are small enough to be decoded at once, and what is done about unreadable images."""

import warnings

import numpy as np

from advspur._checks import InputError, require
from advspur.data.layouts import warn_of_unreadable
from advspur.data.table import Table, array_source
from advspur.data.transforms import decode, resize_and_crop


def in_memory(source, image_size, *, skip_unreadable=False):
    """The source as a table of arrays, decoded in threads.

    Raises: InputError that counts the images that cannot be read and names the first, unless they
      are to be skipped; then a warning does.
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
    require(
        skip_unreadable or not faults,
        f"{len(faults)} of {count} images of {source!r} cannot be read, first: "
        f"{next(iter(faults.values()), '')}; --config.skip_unreadable=True leaves them out",
    )
    warn_of_unreadable(repr(source), faults, count)
    if faults:
        kept = [i for i in range(count) if i not in faults]
        images, labels = images[kept], labels[kept]
        lost = sorted(set(range(source.num_classes)) - set(labels.tolist()))
        if lost:
            text = f"{source!r} has no readable image of {len(lost)} classes, first {lost[0]}"
            warnings.warn(text, stacklevel=2)
    return array_source(images, labels, num_classes=source.num_classes)


class Readable:
    """A source whose images that cannot be read are replaced by the next ones that can.

    The replacements are not valid: an evaluation does not count them.

    Each is named by a warning when it is met, and counted (by each Grain worker process alone).
    """

    def __init__(self, source):
        self.source, self.num_classes, self.faults = source, source.num_classes, set()

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
                warnings.warn(
                    f"{error}; replaced by the one after it ({len(self.faults)} so far)",
                    stacklevel=2,
                )
        raise InputError(f"no image of {self.source!r} can be read")

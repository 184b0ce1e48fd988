"""Image files: list and open them, and make Tables of them with their masks."""

import functools
import io
import os
import threading
from pathlib import Path

import numpy as np
from PIL import Image

from advspur._checks import InputError, first_line, require
from advspur._files import readable
from advspur.data.table import Table
from advspur.data.transforms import open_image

IMAGE_SUFFIXES = (".jpeg", ".jpg", ".png")
MASKS = ("mask_path", "spurious_mask_path")  # columns, in the order of a mask's channels
# NumPy parses a file's header as Python; CPython 3.11 before 3.11.8 cannot do so in two threads.
ONE_AT_A_TIME = threading.Lock()


def image_files(directory):
    """Return the image files of a directory, sorted, without hidden ones."""
    files = (p for p in Path(directory).iterdir() if p.suffix.lower() in IMAGE_SUFFIXES)
    return sorted(p for p in files if p.name[0] != ".")


def folders(directory):
    """Return the folders in a directory, sorted, without hidden ones."""
    return sorted(d for d in Path(directory).iterdir() if d.is_dir() and d.name[0] != ".")


def read_bytes(path):
    """Return the content of a file; raise InputError if it cannot be read."""
    with readable(path):
        return Path(path).read_bytes()


def open_file(path, mode="RGB"):
    """Return the decoded Pillow image of a file."""
    return open_image(read_bytes(path), path, mode)


def open_mask(path, size):
    """Return the mask of an image of this size: a Pillow image, 255 on the region.

    `path` is an image or an npy file; None gives a mask of zeros. If the largest value is 1, the
    values are taken as 0 and 1.
    """
    if path is None:
        return Image.new("L", size)
    mask = _array(path) if path.suffix == ".npy" else np.asarray(open_file(path, "L"))
    height, width = mask.shape
    sizes = f"{path} is {width} x {height}, its image {size[0]} x {size[1]}"
    require((width, height) == size, f"{sizes}: a mask has the size of its image")
    return Image.fromarray(mask * np.uint8(255) if mask.max() <= 1 else mask)


def _array(path):
    """Return uint8 [h, w] from an npy file: bool, floats in [0, 1], or integers in [0, 255]."""
    content = io.BytesIO(read_bytes(path))
    try:
        with ONE_AT_A_TIME:
            mask = np.load(content, allow_pickle=False)
    except (EOFError, OSError, ValueError) as error:
        fault = f"{path} is not a readable .npy file of numbers: {first_line(error)}"
        raise InputError(fault) from error
    mask = mask[..., 0] if mask.ndim == 3 and mask.shape[-1] == 1 else mask
    largest = 1 if mask.dtype.kind in "bf" else 255
    is_mask = mask.ndim == 2 and mask.size and mask.dtype.kind in "biuf"
    allowed = "it must be [h, w], bool, floats in [0, 1] or integers in [0, 255]"
    fault = f"{path} is {mask.dtype} {mask.shape}, not a mask: {allowed}"
    require(is_mask and np.all((mask >= 0) & (mask <= largest)), fault)
    return np.round(mask * 255 if mask.dtype.kind == "f" else mask).astype(np.uint8)


def file_table(num_classes, transform, *, root="", names=None, read_mask=open_mask, **columns):
    """Return a Table of image files, which are decoded and transformed when an example is read.

    Args:
      transform: a Transform; None leaves images and masks whole.
      root: folder of relative paths.
      read_mask: (path, size of the image) -> Pillow image.
      columns: `path`, `label`, and for the channels of a mask `mask_path`, `spurious_mask_path`.
    """

    def load(row, transform=transform):
        path, masks = Path(root, row["path"]), [row[name] for name in MASKS if name in row]
        image = open_file(path)
        pixels = transform.pixels if transform else lambda image, _: np.asarray(image)
        example = {"image": pixels(image, path)}
        masks = [pixels(read_mask(mask, image.size), mask) for mask in masks]
        return example | ({"mask": np.stack(masks, axis=-1)} if masks else {})

    size = {"image_size": transform.size} if transform else {}
    return Table(num_classes, load, names=names, root=root, transform=transform, **size, **columns)


def whole_images(table):
    """Return a `file_table` with its images and masks left whole, for random crops."""
    whole = table.subset(range(len(table)))  # a copy
    whole.load, whole.transform = functools.partial(table.load, transform=None), None
    return whole


def folder_source(directory):
    """Return a Table of ``directory/<class name>/<image>.{JPEG,jpg,png}``, images left encoded.

    Labels follow the sorted class names.
    """
    root = Path(directory)
    require(root.is_dir(), f"{directory} is not a directory")
    files = {folder.name: image_files(folder) for folder in folders(root)}
    expected = f"{directory}/<class name>/<image>.JPEG"
    require(any(files.values()), f"{directory} holds no images; expected {expected}")
    if empty := [name for name, images in files.items() if not images]:
        some = f"{len(empty)} of {len(files)} class folders in {directory} hold no image file"
        advice = f"({', '.join(IMAGE_SUFFIXES)}), first {empty[0]}: add images or remove the folder"
        raise InputError(f"{some} {advice}")
    paths = [path.relative_to(root) for images in files.values() for path in images]
    labels = np.repeat(np.arange(len(files)), [len(images) for images in files.values()])

    def load(row):
        path = os.path.join(root, row["path"])
        return {"image": read_bytes(path), "path": path}

    names = {"label": tuple(files)}
    return Table(len(files), load, names=names, root=root, path=paths, label=labels)

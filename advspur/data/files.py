"""Image files: listing and opening them, and Tables of them with their masks."""

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
MASKS = ("mask_path", "spurious_mask_path")  # columns, in the order of the channels of a mask
# NumPy parses a file's header as Python, which CPython 3.11 before 3.11.8 cannot do in two threads.
ONE_AT_A_TIME = threading.Lock()


def image_files(directory):
    """The image files of a directory, sorted."""
    found = (p for p in Path(directory).iterdir() if p.suffix.lower() in IMAGE_SUFFIXES)
    return sorted(p for p in found if p.name[0] != ".")


def folders(directory):
    """The folders in a directory, sorted, without hidden ones."""
    return sorted(d for d in Path(directory).iterdir() if d.is_dir() and d.name[0] != ".")


def read_bytes(path):
    """The content of a file; InputError where there is none to read."""
    with readable(path):
        return Path(path).read_bytes()


def open_file(path, mode="RGB"):
    """The decoded Pillow image of a file."""
    return open_image(read_bytes(path), path, mode)


def open_mask(path, size):
    """The mask of an image of this size: a Pillow image, 255 on the region; all 0 without a path.

    Of an image or npy file; one whose largest value is 1 is taken for one of 0 and 1.
    """
    if path is None:
        return Image.new("L", size)
    mask = _array(path) if path.suffix == ".npy" else np.asarray(open_file(path, "L"))
    height, width = mask.shape
    sizes = f"{path} is {width} x {height}, its image {size[0]} x {size[1]}"
    require((width, height) == size, f"{sizes}: a mask has the size of its image")
    return Image.fromarray(mask * np.uint8(255) if mask.max() <= 1 else mask)


def _array(path):
    """uint8 [h, w] of an npy file: bool, floats in [0, 1], or integers in [0, 255]."""
    content = io.BytesIO(read_bytes(path))
    try:
        with ONE_AT_A_TIME:
            mask = np.load(content, allow_pickle=False)
    except (EOFError, OSError, ValueError) as error:
        what = f"{path} is no readable .npy file of numbers"
        raise InputError(f"{what}: {first_line(error)}") from error
    mask = mask[..., 0] if mask.ndim == 3 and mask.shape[-1] == 1 else mask
    largest = 1 if mask.dtype.kind in "bf" else 255
    good = mask.ndim == 2 and mask.size and mask.dtype.kind in "biuf"
    allowed = "it must be [h, w], bool, floats in [0, 1] or integers in [0, 255]"
    fault = f"{path} is {mask.dtype} {mask.shape} and no mask: {allowed}"
    require(good and np.all((mask >= 0) & (mask <= largest)), fault)
    return np.round(mask * 255 if mask.dtype.kind == "f" else mask).astype(np.uint8)


def file_table(num_classes, transform, *, root="", names=None, read_mask=open_mask, **columns):
    """A Table of image files, decoded and transformed (a Transform) when they are asked for.

    Args:
      transform: None: images and masks are left whole, as their files have them.
      root: folder of relative paths.
      read_mask: (path, size of the image) -> Pillow image.
      columns: `path`, `label`; and `mask_path`, `spurious_mask_path` of the channels of a mask.
    """

    def load(row, transform=transform):
        path, masks = Path(root, row["path"]), [row[name] for name in MASKS if name in row]
        image = open_file(path)
        pixels = transform.pixels if transform else lambda image, _: np.asarray(image)
        example = {"image": pixels(image, path)}
        masks = [pixels(read_mask(mask, image.size), mask) for mask in masks]
        return example | ({"mask": np.stack(masks, axis=-1)} if masks else {})

    about = {"names": names, "transform": transform}
    about |= {"image_size": transform.size} if transform else {}
    return Table(num_classes, load, root=root, **about, **columns)


def whole_images(table):
    """A `file_table` whose images and masks are left as their files have them, for random crops."""
    whole = table.subset(range(len(table)))  # a copy
    whole.load, whole.transform = functools.partial(table.load, transform=None), None
    return whole


def folder_source(directory):
    """A Table over ``directory/<class name>/<image>.{JPEG,jpg,png}``, classes in sorted order.

    Images stay encoded.
    """
    root = Path(directory)
    require(root.is_dir(), f"{directory} is not a directory")
    files = {folder.name: image_files(folder) for folder in folders(root)}
    expected = f"{directory}/<class name>/<image>.JPEG"
    require(any(files.values()), f"{directory} holds no images; expected {expected}")
    empty = [name for name, of_class in files.items() if not of_class]
    some = f"{len(empty)} of {len(files)} class folders in {directory} hold no image file"
    advice = f"({', '.join(IMAGE_SUFFIXES)}), first {''.join(empty[:1])}: add some or remove it"
    require(not empty, f"{some} {advice}")
    paths = [path.relative_to(root) for of_class in files.values() for path in of_class]
    labels = np.repeat(np.arange(len(files)), [len(of_class) for of_class in files.values()])

    def load(row):
        path = os.path.join(root, row["path"])
        return {"image": read_bytes(path), "path": path}

    names = {"label": tuple(files)}
    return Table(len(files), load, names=names, root=root, path=paths, label=labels)

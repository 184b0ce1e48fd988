"""Masks of training images in a separate folder, as <class>/<stem of the image>.png or .npy.

Every image needs one: a missing mask could mean all or nothing.
"""

from pathlib import Path

import numpy as np

from advspur._checks import require
from advspur.data.files import file_table, folders, open_mask
from advspur.data.layouts import missing_text
from advspur.data.table import Table
from advspur.data.transforms import open_image

SUFFIXES = (".npy", ".png")  # the last of two wins


def with_masks(table, directory):
    """Return the Table of `folder_source` or `tfds_source` with decoded images and their masks.

    Raises: InputError if masks are missing: at once for class folders; for TFDS records, whose file
      names are stored with the images, when such an image is read.
    """
    root = Path(directory).expanduser()
    fault = f"mask_dir = {directory} is not a folder"
    require(root.is_dir(), f"{fault}; expected a folder of <class>/<image>.png")
    return (_of_folders if "path" in table.columns else _of_records)(table, root)


def _of_folders(table, root):
    paths, masks = table.columns["path"], {}
    for folder in folders(root):
        for suffix in SUFFIXES:
            masks |= {(folder.name, f.stem): f for f in folder.glob(f"*{suffix}")}
    mask_paths = [masks.get((path.parent.name, path.stem)) for path in paths]
    lacking = [path for path, mask in zip(paths, mask_paths, strict=True) if mask is None]
    fault = missing_text(lacking, len(paths), f"masks in {root}")
    require(not lacking, f"{fault}: every image of {table.root} needs a <class>/<stem>.png there")
    columns = table.columns | {"mask_path": mask_paths}
    return file_table(table.num_classes, None, root=table.root, names=table.names, **columns)


def _of_records(table, root):
    fault = f"the records of {table.root} have no file_name, which names the mask of an image"
    require("file_name" in table[0], f"mask_dir = {root}: {fault}")

    def load(row):
        example = table.load(row)
        name = Path(example["file_name"])
        # ImageNet's training files begin with their class: n01440764_10026.JPEG.
        places = [root / name.name.split("_")[0] / f"{name.stem}{suffix}" for suffix in SUFFIXES]
        masks = [place for place in places if place.is_file()]
        require(masks, f"{name} has no mask: looked for {places[-1]}")
        image = open_image(example["image"], example["path"])
        mask = np.asarray(open_mask(masks[-1], image.size))[..., None]
        return example | {"image": np.asarray(image), "mask": mask}

    masked = Table(table.num_classes, load, root=table.root, files=table.files, **table.columns)
    masked.loads_mask = True
    return masked

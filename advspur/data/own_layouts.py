"""A user's data: find which known layout it has, and the files that it names."""

import os
from pathlib import Path

from advspur._checks import InputError, require
from advspur.data.csv_files import names_outside, refuse_repeated
from advspur.data.files import IMAGE_SUFFIXES, folders, image_files
from advspur.data.layouts import MissingData
from advspur.data.own_tables import CELEBA, ROLES, Rows, celeba_rows, table_rows

LAYOUT = (
    "manifest.csv, metadata.csv, list_attr_celeba.csv or .txt, <class>/<image>, or "
    "<part>/<class>/<image>; docs/own_data.md has examples"
)
TABLES = ("manifest.csv", "metadata.csv", f"{CELEBA}.csv", f"{CELEBA}.txt")
# Folders of images in the releases, relative to the table.
IMAGE_FOLDERS = ("", "img_align_celeba", "waterbird_complete95_forest2water2", "images")
READ_SUFFIXES = (*IMAGE_SUFFIXES, ".npy")  # of images and their masks
MASK_ENDS = {"mask": "_mask", "spurious_mask": "_spurious_mask"}


def read_layout(path, columns, image_dir=""):
    """Return Rows of a table, of the table in a folder, or of class folders.

    Whether the files exist is not checked. Empty values of `columns` (see `table_rows`) count as
    not given. `image_dir` "" is the table's folder, or the first of IMAGE_FOLDERS with an image.
    """
    path = Path(path).expanduser()
    columns = {role: name for role, name in columns.items() if name}
    unknown = ", ".join(name for name in columns if name not in (*ROLES, "attributes"))
    allowed = f"allowed: {', '.join(ROLES)}, attributes"
    require(not unknown, f"columns.{unknown} is not known; {allowed}")
    file, notes = (path, []) if path.is_file() else _find_table(path)
    if file is None:
        fault = f"columns.{', '.join(columns)} is for tables, and {path} has none: drop it"
        require(not columns, fault)
        return _class_folders(path)
    rows = (celeba_rows if file.stem == CELEBA else table_rows)(file, columns)
    return _relative_names(rows._replace(notes=notes + rows.notes), image_dir)


def _find_table(path):
    """Return (the table of a folder or None, notes)."""
    if not path.is_dir():
        raise MissingData(f"no data in {path}: expected {LAYOUT}")
    known = [path / name for name in TABLES if (path / name).is_file()]
    others = sorted(set(path.glob("metadata*.csv")) - set(known))
    names = ", ".join(file.name for file in others)
    require(known or len(others) < 2, f"{path} has {len(others)} tables, {names}: name one")
    table, *unread = [*known, *others] or [None]
    notes = [f"not read: {', '.join(file.name for file in unread)}"] if unread else []
    return table, notes


def _relative_names(rows, image_dir):
    """Check the file names of rows and make them relative to the folder of the images."""
    file, images = rows.source, rows.cells["image"]
    rows.refuse([i for i, name in enumerate(images) if not name], "no image", "name it")
    if any("\\" in name for name in images):
        rows.notes.append("in file names, \\ is read as /")
    root = _image_folder(file, [name.replace("\\", "/") for name in images[:10]], image_dir)
    if root != file.parent:
        rows.notes.append(f"file names are relative to {root}")
    for role in (role for role in ("image", *MASK_ENDS) if role in rows.cells):
        names = [_relative(name.replace("\\", "/"), root) for name in rows.cells[role]]
        rows.cells[role] = names
        if outside := names_outside(names, rows.lines):
            advice = "move it there, or name a folder that contains all files with image_dir"
            raise InputError(f"{file} {outside[0]} is outside {root}; {advice}")
    refuse_repeated(file, rows.cells["image"], rows.lines)  # several images may share a mask
    return rows._replace(root=root)


def _image_folder(file, images, image_dir):
    """Return the folder that names are relative to: `image_dir`, or one that has an image."""
    if image_dir:
        require(Path(image_dir).expanduser().is_dir(), f"image_dir = {image_dir} is not a folder")
        return Path(image_dir).expanduser()
    places = [file.parent / name for name in IMAGE_FOLDERS]
    fitting = (p for p in places if any((p / name).is_file() for name in images))
    return next(fitting, file.parent)


def _relative(name, root):
    """Return a name without a/../, relative to `root` if it is an absolute one inside it."""
    if os.path.isabs(name) and Path(name).is_relative_to(root.absolute()):
        return os.path.relpath(name, root)
    return name and os.path.normpath(name)


def _class_folders(root):
    """Return Rows of <part>/<class>/<image> or <class>/<image>."""
    is_flat = any(image_files(folder) for folder in folders(root))
    images, others = [], _files(root)
    for part in [root] if is_flat else folders(root):
        others += _files(part) if part != root else []
        for folder in folders(part):
            files = image_files(folder)
            masks = {f"{file.stem}{end}" for file in files for end in MASK_ENDS.values()}
            files = [file for file in files if file.stem not in masks]
            fault = "contains folders" if folders(folder) else "" if files else "has no image"
            require(not fault, f"{folder} {fault}: move or remove it; expected {LAYOUT}")
            others += [f for f in _files(folder) if f.suffix.lower() not in READ_SUFFIXES]
            images += files
    if not images:
        raise MissingData(f"no images in {root}: expected {LAYOUT}")
    notes = [f"{root} is read as folders, {'' if is_flat else '<part>/'}<class>/<image>"]
    notes += [f"not read: {len(others)} files such as {others[0]}"] if others else []
    cells = {"image": [str(file.relative_to(root)) for file in images]}
    cells["label"] = [file.parent.name for file in images]
    if not is_flat:
        cells["split"] = [file.parents[1].name for file in images]
    return Rows(root, root, cells, [0] * len(images), {}, notes)


def _files(path):
    return sorted(f for f in path.iterdir() if f.is_file() and f.name[0] != ".")


def with_masks_beside(rows):
    """Add masks found beside the images, unless the table names masks.

    The masks of x.jpg are x_mask.png and x_spurious_mask.png, or .npy.
    """
    images, cells = rows.cells["image"], dict(rows.cells)
    places = {os.path.dirname(name) for name in images}
    places = [place for place in places if (rows.root / place).is_dir()]
    files = [os.path.join(p, name) for p in places for name in os.listdir(rows.root / p)]
    for role, end in MASK_ENDS.items():
        ends = (f"{end}.png", f"{end}.npy")
        mask_of = {name[: -len(ends[0])]: name for name in files if name.endswith(ends)}
        masks = [mask_of.get(os.path.splitext(name)[0], "") for name in images]
        if any(masks) and role not in cells:
            cells[role] = masks
            rows.notes.append(f"{role}: {sum(map(bool, masks)):,} files {' or '.join(ends)}")
    return rows._replace(cells=cells)

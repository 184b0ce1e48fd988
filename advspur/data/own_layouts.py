"""Users' own data: which of the known layouts is there, and the files that it names."""

import os
from pathlib import Path

from advspur._checks import require
from advspur.data.csv_files import names_outside, refuse_repeated
from advspur.data.files import IMAGE_SUFFIXES, folders, image_files
from advspur.data.layouts import MissingData
from advspur.data.own_tables import CELEBA, ROLES, Rows, celeba_rows, table_rows

LAYOUT = (
    "manifest.csv, metadata.csv, list_attr_celeba.csv or .txt, <class>/<image>, or "
    "<part>/<class>/<image>; docs/own_data.md has examples"
)
TABLES = ("manifest.csv", "metadata.csv", f"{CELEBA}.csv", f"{CELEBA}.txt")
# Where the releases keep their images, seen from the table.
IMAGE_FOLDERS = ("", "img_align_celeba", "waterbird_complete95_forest2water2", "images")
READ_SUFFIXES = (*IMAGE_SUFFIXES, ".npy")  # of images and their masks
MASK_ENDS = {"mask": "_mask", "spurious_mask": "_spurious_mask"}


def read_layout(path, columns, image_dir=""):
    """Rows of a table, of the table in a folder, or of class folders; the files are not looked for.

    Of `columns`, see `table_rows`, those that are empty count as not given; `image_dir` "": the
    table's own folder, or the one of IMAGE_FOLDERS in it that holds the images.
    """
    path = Path(path).expanduser()
    columns = {role: name for role, name in columns.items() if name}
    unknown = ", ".join(name for name in columns if name not in (*ROLES, "attributes"))
    known = f"there are {', '.join(ROLES)}, attributes"
    require(not unknown, f"columns.{unknown} is not known; {known}")
    file, notes = (path, []) if path.is_file() else _find_table(path)
    if file is None:
        given = ", ".join(columns)
        require(not given, f"columns.{given} is for tables, and {path} holds none: drop it")
        return _class_folders(path)
    rows = (celeba_rows if file.stem == CELEBA else table_rows)(file, columns)
    return _relative_names(rows._replace(notes=notes + rows.notes), image_dir)


def _find_table(path):
    """(the table of a folder or None, notes)."""
    if not path.is_dir():
        raise MissingData(f"no data in {path}: expected {LAYOUT}")
    known = [path / name for name in TABLES if (path / name).is_file()]
    others = sorted(set(path.glob("metadata*.csv")) - set(known))
    names = ", ".join(file.name for file in others)
    require(known or len(others) < 2, f"{path} holds {len(others)} tables, {names}: name one")
    found = known + others
    unread = ", ".join(file.name for file in found[1:])
    return (found or [None])[0], [f"not read: {unread}"] if unread else []


def _relative_names(rows, image_dir):
    """The rows with the names of files relative to the folder they are in, checked."""
    file, images = rows.source, rows.cells["image"]
    rows.refuse([i for i, name in enumerate(images) if not name], lambda _: "no image", "name it")
    if any("\\" in name for name in images):
        rows.notes.append("in names of files, \\ is read as /")
    root = _image_folder(file, [name.replace("\\", "/") for name in images[:10]], image_dir)
    if root != file.parent:
        rows.notes.append(f"names of files are relative to {root}")
    for role in (role for role in ("image", *MASK_ENDS) if role in rows.cells):
        names = [_relative(name.replace("\\", "/"), root) for name in rows.cells[role]]
        rows.cells[role], outside = names, "".join(names_outside(names, rows.lines)[:1])
        advice = "move it there, or name the folder that holds all with image_dir"
        require(not outside, f"{file} {outside} is outside {root}; {advice}")
    refuse_repeated(file, rows.cells["image"], rows.lines)  # several images may share a mask
    return rows._replace(root=root)


def _image_folder(file, images, image_dir):
    """The folder that names are relative to: as told, or the first that has one of `images`."""
    if image_dir:
        require(Path(image_dir).expanduser().is_dir(), f"image_dir = {image_dir} is no folder")
        return Path(image_dir).expanduser()
    found = [file.parent / name for name in IMAGE_FOLDERS]
    held = (f for f in found if any((f / name).is_file() for name in images))
    return next(held, file.parent)


def _relative(name, root):
    """A name relative to `root`, where it is an absolute one inside it; without a/../."""
    if os.path.isabs(name) and Path(name).is_relative_to(root.absolute()):
        return os.path.relpath(name, root)
    return name and os.path.normpath(name)


def _class_folders(root):
    """Rows of <part>/<class>/<image>, or of <class>/<image>."""
    is_flat = any(image_files(folder) for folder in folders(root))
    images, others = [], _files(root)
    for part in [root] if is_flat else folders(root):
        others += _files(part) if part != root else []
        for folder in folders(part):
            files = _without_masks(image_files(folder))
            fault = "holds folders" if folders(folder) else "" if files else "holds no image"
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


def _without_masks(files):
    """Those images of a folder that are no mask of another: x_mask.png, x_spurious_mask.png."""
    masks = {f"{file.stem}{end}" for file in files for end in MASK_ENDS.values()}
    return [file for file in files if file.stem not in masks]


def with_masks_beside(rows):
    """Rows with the masks beside the images, where no table names any.

    x_mask.png or .npy, and x_spurious_mask, beside x.jpg.
    """
    images, cells = rows.cells["image"], dict(rows.cells)
    places = {os.path.dirname(name) for name in images}
    held = {f: os.listdir(rows.root / f) for f in places if (rows.root / f).is_dir()}
    for role, end in MASK_ENDS.items():
        ends = (f"{end}.png", f"{end}.npy")
        names = [os.path.join(folder, name) for folder in held for name in held[folder]]
        masks = {name[: -len(ends[0])]: name for name in names if name.endswith(ends)}
        found = [masks.get(os.path.splitext(name)[0], "") for name in images] if masks else []
        if any(found) and role not in cells:
            cells[role] = found
            rows.notes.append(f"{role}: {sum(map(bool, found)):,} files {' or '.join(ends)}")
    return rows._replace(cells=cells)

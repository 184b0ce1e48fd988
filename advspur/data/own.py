"""Users' own data: class folders, a manifest, or the metadata.csv of others, as Tables.

    parts = own("birds")              # {"train": Table, "val": Table, "test": Table}
    parts, lines = read_own("birds")  # and what was found, to be said

A row has `label`, `path`, its attributes and `group` (codes whose names are in `Table.names`) and,
where they are known, `is_majority`, `line` (in the table), `pair` (a code) and `variant` (a text).
Its image, and its mask [h, w, 1] (core) or [h, w, 2] (core, spurious), 255 on the region, are read
and transformed when they are asked for.
"""

import functools
import io
import math

import numpy as np
from PIL import Image

from advspur._checks import InputError, check_choice, check_count, require
from advspur.data.groups import attributes, group_codes, group_counts, group_names, majority_groups
from advspur.data.layouts import (
    open_file,
    squared_transform,
    standard_transform,
    transformed,
    without_unreadable,
)
from advspur.data.own_codes import column_codes, refuse_missing
from advspur.data.own_layouts import MASK_ENDS, read_layout, with_masks_beside
from advspur.data.own_lines import describe
from advspur.data.own_parts import align_pairs, part_order, row_parts, row_splits, whole_rows
from advspur.data.own_tables import ROLES
from advspur.data.sources import read_bytes
from advspur.data.table import Table
from advspur.data.transforms import BICUBIC, BILINEAR

RESIZES = {"short": standard_transform, "square": squared_transform, "none": None}
INTERPOLATIONS = {"bilinear": BILINEAR, "bicubic": BICUBIC}
MOST_GROUPS = 100_000


def read_own(
    path,
    *,
    columns=None,
    names=None,
    num_classes=None,
    majority=(),
    image_dir="",
    image_size=224,
    resize="short",
    interpolation="bilinear",
    allow_partial=False,
    skip_unreadable=False,
    look_for_files=True,
):
    """({part: Table}, lines that say what was found) of a table, or of a folder.

    Parts are the splits train, val and test. Variants are parts of their own: <variant>, or
    <split>/<variant> where there are several splits; with `pair`, row i of each variant of a split
    shows the same object. Folders of other names are parts too.

    Args:
      columns: {role: column} where the table has other names for image, label, split, variant,
        pair, mask, spurious_mask; and {"attributes": one name or several}.
      names: {"label" or attribute: the names of its numbers 0, 1, ...}.
      num_classes: where labels are numbers and some class may be without an image.
      majority: names of the majority groups, as the lines have them; (): the groups more frequent
        in train than if label and attributes were independent.
      image_dir: the folder that the table's names of files are relative to; "": the table's.
      resize: "short" side to 256/224 of `image_size`, or both sides ("square"), then the central
        `image_size`; "none": the images have this size.
      interpolation: "bilinear" or "bicubic".
      allow_partial: leave out rows whose image or mask is missing.
      skip_unreadable: leave out rows whose image or mask cannot be read; all are read for it.
      look_for_files: False: only tell what a table says, whether or not its images are there.
    Raises: InputError naming the file, the line, and what is wrong there.
    """
    check_count("image_size", image_size)
    check_choice("resize", resize, tuple(RESIZES))
    check_choice("interpolation", interpolation, tuple(INTERPOLATIONS))
    rows = with_masks_beside(read_layout(path, dict(columns or {}), image_dir))
    splits = row_splits(rows)
    part_of = row_parts(rows, splits)
    everything = range(len(rows.lines))
    kept = whole_rows(rows, part_of, allow_partial) if look_for_files else everything
    rows, part_of = rows.subset(kept), [part_of[i] for i in kept]
    is_train = np.array([splits[i] == "train" for i in kept])
    transform = RESIZES[resize] and functools.partial(
        RESIZES[resize], image_size=image_size, interpolation=INTERPOLATIONS[interpolation]
    )
    read = functools.partial(_read, transform or Image.Image.copy, image_size, rows.source)
    table = _table(rows, read, rows.names | dict(names or {}), num_classes)
    table.image_size = image_size
    chosen = (majority,) if isinstance(majority, str) else tuple(majority or ())
    if attributes(table):
        table.columns["group"] = group_codes(table)
        table.names["group"] = group_names(table)
        if is_train.any():
            counts = group_counts(table.subset(np.flatnonzero(is_train)))
            table.train_groups = tuple(counts.tolist())
    if chosen or (is_train.any() and attributes(table)):
        train = table.subset(np.flatnonzero(is_train))
        table.columns["is_majority"] = majority_groups(train, chosen)[group_codes(table)]
        rule = "the groups more frequent in train than if label and attributes were independent"
        rows.notes.append(f"majority: {'the groups named' if chosen else rule}")
    parts = {}
    for name in sorted(dict.fromkeys(part_of), key=part_order):
        parts[name] = table.subset([i for i, part in enumerate(part_of) if part == name])
        _drop_empty(parts[name].columns)
        parts[name].has_mask = "mask_path" in parts[name].columns
    parts = align_pairs(parts, rows, allow_partial)
    for part in parts.values():
        part.index = np.arange(len(part))  # paired rows have the same noise
    parts = without_unreadable(parts, skip_unreadable)
    parts = align_pairs(parts, rows, allow_partial=True) if skip_unreadable else parts
    return parts, rows.notes + describe(parts)


@functools.wraps(read_own, assigned=())  # its signature
def own(path, **options):
    """{part: Table} of users' own data; `read_own` explains the options."""
    return read_own(path, **options)[0]


def _table(rows, read, names, num_classes):
    """One Table of all rows."""
    known = [name for name in rows.cells if name == "label" or name not in ROLES]
    unknown = ", ".join(name for name in names if name not in known)
    require(not unknown, f"names.{unknown} is no column that is read; there are {', '.join(known)}")
    columns, found = {}, {}
    for name in known:
        count = num_classes if name == "label" else None
        columns[name], found[name] = column_codes(rows, name, tuple(names.get(name) or ()), count)
    count = math.prod(map(len, found.values()))
    require(
        count <= MOST_GROUPS,
        f"{rows.source}: label and {len(known) - 1} attributes make {count:,} groups: choose some "
        f"of them with columns.attributes: {', '.join(name for name in known if name != 'label')}",
    )
    columns["path"] = [rows.root / name for name in rows.cells["image"]]
    for role in (role for role in MASK_ENDS if role in rows.cells):
        files = rows.cells[role]
        columns[f"{role}_path"] = [rows.root / name if name else None for name in files]
    if any(rows.lines):
        columns["line"] = np.array(rows.lines)
    if "variant" in rows.cells:
        columns["variant"] = rows.cells["variant"]
    if "pair" in rows.cells:
        refuse_missing(rows, "pair")
        columns["pair"] = np.unique(rows.cells["pair"], return_inverse=True)[1]
    return Table(len(found["label"]), read, names=found, **columns)


def _drop_empty(columns):
    """Drop the columns of masks and variants that no row of a part has."""
    for name in ("variant", *(f"{role}_path" for role in MASK_ENDS)):
        if not any(columns.get(name, ())):
            columns.pop(name, None)


def _read(transform, size, source, row):
    """The image and the masks of a row, transformed; errors name its line."""
    path = row["path"]
    try:
        image = open_file(path)
        example = {"image": transformed(image, transform, path, size)}
        masks = [row[f"{role}_path"] for role in MASK_ENDS if f"{role}_path" in row]
        regions = [_mask(mask, image.size, transform, size) for mask in masks]
        return example | ({"mask": np.stack(regions, axis=-1)} if masks else {})
    except InputError as error:
        place = f" ({source} line {row['line']})" if "line" in row else ""
        raise InputError(f"{error}{place}") from error


def _mask(path, image_size, transform, size):
    """uint8 [h, w], 255 on the region, of a png or npy file; all 0 without one.

    A mask whose largest value is 1 is taken for one of 0 and 1.
    """
    if path is None:
        return np.zeros((size, size), np.uint8)
    mask = _array(path) if path.suffix == ".npy" else np.asarray(open_file(path, "L"))
    height, width = mask.shape
    require(
        (width, height) == image_size,
        f"{path} is {width} x {height}, its image {image_size[0]} x {image_size[1]}: a mask has "
        "the size of its image",
    )
    levels = mask * np.uint8(255) if mask.max() <= 1 else mask
    return transformed(Image.fromarray(levels), transform, path, size)


def _array(path):
    """uint8 [h, w] of an npy file: bool, floats in [0, 1], or integers in [0, 255]."""
    try:
        mask = np.load(io.BytesIO(read_bytes(path)), allow_pickle=False)
    except (EOFError, OSError, ValueError) as error:
        raise InputError(f"{path} is no readable .npy file of numbers") from error
    mask = mask[..., 0] if mask.ndim == 3 and mask.shape[-1] == 1 else mask
    largest = 1 if mask.dtype.kind in "bf" else 255
    good = mask.ndim == 2 and mask.size and mask.dtype.kind in "biuf"
    require(
        good and np.all((mask >= 0) & (mask <= largest)),
        f"{path} is {mask.dtype} {mask.shape} and no mask: it must be [h, w], bool, floats in "
        "[0, 1] or integers in [0, 255]",
    )
    return (
        np.round(mask * 255).astype(np.uint8) if mask.dtype.kind == "f" else mask.astype(np.uint8)
    )

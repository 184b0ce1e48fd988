"""A user's data as Tables: class folders, a manifest, or the metadata.csv of other projects.

A row has `label`, `path`, its attributes and `group` (codes whose names are in `Table.names`) and,
if they are known, `is_majority`, `line` (in the table), `pair` (a code) and `variant` (a text). Its
mask is [h, w, 1] (core) or [h, w, 2] (core, spurious), 255 on the region.
"""

import functools
import itertools
import math
import re

import numpy as np

from advspur._checks import InputError, check_choice, check_count, require
from advspur.data import own_parts
from advspur.data.files import MASKS, file_table
from advspur.data.groups import attributes, group_codes, group_counts, group_names, majority_groups
from advspur.data.layouts import without_unreadable
from advspur.data.own_layouts import read_layout, with_masks_beside
from advspur.data.own_tables import ROLES
from advspur.data.transforms import BICUBIC, BILINEAR, Transform

INTERPOLATIONS = {"bilinear": BILINEAR, "bicubic": BICUBIC}
MISSING = ("", "nan", "null", "<na>")  # cells without a value, in upper or lower case
MOST_GROUPS = 100_000
MOST_SHOWN = 40  # groups, and classes, in a description
RULE = "the groups more frequent in train than if label and attributes were independent"


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
    """Return ({part: Table}, lines that describe what was read) of a table or a folder.

    Parts are the splits train, val and test, and folders with other names. Each variant is a
    separate part, <variant>, or <split>/<variant> if there are several splits; with `pair`, row i
    of each variant of a split shows the same object.

    Args:
      columns: {role: column} if the table has other names for image, label, split, variant, pair,
        mask, spurious_mask; and {"attributes": one name or several}.
      names: {"label" or attribute: the names of its numbers 0, 1, ...}.
      num_classes: needed if labels are numbers and some class has no image.
      majority: names of the majority groups, as in the lines; (): see `majority_groups`.
      image_dir: folder that the table's file names are relative to; "": the table's folder, or an
        image folder in it.
      resize: "short" brings the short side to 256/224 of `image_size`, "square" both sides; both
        then take the centre. "none": the images already have this size.
      interpolation: "bilinear" or "bicubic".
      allow_partial: leave out rows whose image or mask is missing.
      skip_unreadable: leave out rows whose image or mask cannot be read; reads all of them first.
      look_for_files: False: describe the table even if its images are not there.
    Raises: InputError naming the file, the line, and what is wrong there.
    """
    check_count("image_size", image_size)
    check_choice("resize", resize, ("short", "square", "none"))
    check_choice("interpolation", interpolation, tuple(INTERPOLATIONS))
    side = round(256 / 224 * image_size)
    transform = Transform(image_size, side, resize, INTERPOLATIONS[interpolation])
    rows = with_masks_beside(read_layout(path, dict(columns or {}), image_dir))
    splits = own_parts.row_splits(rows)
    part_of = own_parts.row_parts(rows, splits)
    if look_for_files:
        kept = own_parts.complete_rows(rows, part_of, allow_partial)
        rows = rows.subset(kept)
        splits, part_of = [splits[i] for i in kept], [part_of[i] for i in kept]
    table = _table(rows, transform, rows.names | dict(names or {}), num_classes)
    train = table.subset([i for i, split in enumerate(splits) if split == "train"])
    rows.notes.extend(_add_groups(table, train, majority))
    parts = {}
    for name in sorted(dict.fromkeys(part_of), key=own_parts.part_order):
        parts[name] = table.subset([i for i, part in enumerate(part_of) if part == name])
        for column in ("variant", *MASKS):  # drop those that no row of the part has
            if not any(parts[name].columns.get(column, ())):
                parts[name].columns.pop(column, None)
    parts = own_parts.align_pairs(parts, rows, allow_partial)
    for part in parts.values():
        part.index = np.arange(len(part))  # paired rows have the same noise
    if skip_unreadable:
        parts = own_parts.align_pairs(without_unreadable(parts), rows, allow_partial=True)
    return parts, rows.notes + _describe(parts)


@functools.wraps(read_own, assigned=())  # its signature
def own(path, **options):
    """Return the {part: Table} of `read_own`, which explains the options."""
    return read_own(path, **options)[0]


def _table(rows, transform, names, num_classes):
    coded = [name for name in rows.cells if name == "label" or name not in ROLES]
    unknown = ", ".join(name for name in names if name not in coded)
    require(not unknown, f"names.{unknown}: no such column is read; allowed: {', '.join(coded)}")
    columns, values = {}, {}
    for name in coded:
        count = num_classes if name == "label" else None
        columns[name], values[name] = _codes(rows, name, tuple(names.get(name) or ()), count)
    count = math.prod(map(len, values.values()))
    others = [name for name in coded if name != "label"]
    fault = f"{rows.source}: label and {len(others)} attributes make {count:,} groups"
    advice = f"choose some of them with columns.attributes: {', '.join(others)}"
    require(count <= MOST_GROUPS, f"{fault}: {advice}")
    for column, role in {"path": "image", MASKS[0]: "mask", MASKS[1]: "spurious_mask"}.items():
        if role in rows.cells:
            columns[column] = [rows.root / name if name else None for name in rows.cells[role]]
    if any(rows.lines):
        columns["line"] = np.array(rows.lines)
    if "variant" in rows.cells:
        columns["variant"] = rows.cells["variant"]
    if "pair" in rows.cells:
        _refuse_missing(rows, "pair")
        columns["pair"] = np.unique(rows.cells["pair"], return_inverse=True)[1]
    table = file_table(len(values["label"]), transform, names=values, **columns)
    table.load = functools.partial(_load, table.load, rows.source)
    return table


def _load(load, source, row, **transform):
    """Call `load`; name the row's line in its errors."""
    try:
        return load(row, **transform)
    except InputError as error:
        place = f" ({source} line {row['line']})" if "line" in row else ""
        raise InputError(f"{error}{place}") from error


def _codes(rows, name, names, count):
    """Return ([n] codes, their names) of the label or an attribute.

    Numbers of labels, and numbers that `names` names, are the codes themselves; other values are
    numbered in sorted order. `count`: the number of classes, if given.
    """
    _refuse_missing(rows, name)
    require(len(set(names)) == len(names), f"names.{name} has a name twice: {', '.join(names)}")
    cells = rows.cells[name]
    numbers = [_whole_number(text) for text in cells]
    is_number = [number is not None for number in numbers]
    if any(is_number) and not all(is_number):
        rarer = 2 * sum(is_number) <= len(cells)
        odd = [i for i, known in enumerate(is_number) if known == rarer]
        others = "names" if rarer else "whole numbers"
        rows.refuse(odd, lambda i: f"{name} is {cells[i]!r} among {others}", "use only one kind")
    if not is_number[0]:
        codes, names = _name_codes(rows, name, names)
    elif name == "label" or names:
        size, present = len(names) or count, set(numbers)
        advice = f"allowed: 0 to {(size or 1) - 1}"
        if not size:
            size = next(i for i in itertools.count() if i not in present)
            absent = "labels are 0, 1, 2, ...; give num_classes if one is absent"
            advice = f"no row has {size}: {absent}"
        bad = [i for i, number in enumerate(numbers) if not 0 <= number < size]
        rows.refuse(bad, lambda i: f"{name} is {numbers[i]}", advice)
        codes, names = np.array(numbers), names or tuple(map(str, range(size)))
    else:
        values, codes = np.unique(numbers, return_inverse=True)
        names = tuple(map(str, values))
    fault = f"the {len(names)} classes have names: {', '.join(names[:9])}"
    require(count in (None, len(names)), f"num_classes = {count}, but {fault}")
    return codes, names


def _name_codes(rows, name, names):
    cells, first = rows.cells[name], {}
    for i, text in enumerate(cells):
        like = first.setdefault(text.casefold(), i)
        if cells[like] != text:
            fault = f"{name} is {text!r}, and {cells[like]!r} in {rows.where(like)}"
            rows.refuse([i], fault, "spell it the same way in all rows")
    values = names or tuple(sorted(set(cells)))
    code = {value: i for i, value in enumerate(values)}
    bad = [i for i, text in enumerate(cells) if text not in code]
    rows.refuse(bad, lambda i: f"{name} is {cells[i]!r}", f"allowed: {', '.join(values)}")
    return np.array([code[text] for text in cells]), values


def _refuse_missing(rows, name):
    """Raise InputError with the first line whose cell has no value."""
    cells, advice = rows.cells[name], "give every row a value"
    bad = [i for i, text in enumerate(cells) if text.casefold() in MISSING]
    if name not in ("label", "pair"):
        advice += ", or name the attributes as columns.attributes"
    rows.refuse(bad, lambda i: f"{name} is {cells[i] or 'empty'}", advice)


def _whole_number(text):
    """Return the number in a text such as 3 or 3.0, else None."""
    text = text.removesuffix(".0")
    return int(text) if re.fullmatch("-?[0-9]+", text) else None


def _add_groups(table, train, majority):
    """Add the columns `group` and `is_majority` if they are known; return lines that say how."""
    chosen = (majority,) if isinstance(majority, str) else tuple(majority or ())
    codes, is_grouped = group_codes(table), bool(attributes(table))
    if is_grouped:
        table.columns["group"], table.names["group"] = codes, group_names(table)
        if len(train):
            table.train_groups = tuple(group_counts(train).tolist())
    if not chosen and not is_grouped:
        return []
    if not chosen and not len(train):
        text = "majority: unknown without a part train: only each group and the worst are measured"
        return [f"{text}; name the groups with majority"]
    table.columns["is_majority"] = majority_groups(train, chosen)[codes]
    return [f"majority: {'the groups named' if chosen else RULE}"]


def _describe(parts):
    first = next(iter(parts.values()))
    sizes = ", ".join(f"{name} {len(table):,}" for name, table in parts.items())
    classes = list(enumerate(first.names["label"][:MOST_SHOWN]))
    numbered = ", ".join(f"{i} {name}" if name != str(i) else name for i, name in classes)
    more = ", ..." * (first.num_classes > MOST_SHOWN)
    return [
        f"parts: {sizes}; evaluated: {', '.join(own_parts.evaluation_parts(parts))}",
        f"{first.num_classes:,} classes: {numbered}{more}",
        *_group_lines(parts),
    ]


def _group_lines(parts):
    """Return a table of the groups' counts in each part."""
    first = next(iter(parts.values()))
    counts = [group_counts(table) for table in parts.values()]
    if not attributes(first):
        sizes = (f"{p} {c.min():,} to {c.max():,}" for p, c in zip(parts, counts, strict=True))
        return [f"images of a class: {', '.join(sizes)}"]
    majority = set()
    for table in parts.values():
        majority.update(table.columns["group"][table.columns.get("is_majority", [])].tolist())
    table = [[f"groups, {' x '.join(('label', *attributes(first)))}", *parts, ""]]
    for group, name in enumerate(group_names(first)[:MOST_SHOWN]):
        numbers = [f"{part_counts[group]:,}" for part_counts in counts]
        table.append([name, *numbers, "majority" if group in majority else ""])
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    lines = []
    for name, *numbers, mark in table:
        cells = [n.rjust(width) for n, width in zip(numbers, widths[1:], strict=False)]
        lines.append("  ".join([name.ljust(widths[0]), *cells, mark]).rstrip())
    hidden = len(counts[0]) - MOST_SHOWN
    return lines + [f"... and {hidden:,} more groups"] * (hidden > 0)

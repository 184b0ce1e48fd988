"""Users' own data: class folders, a manifest, or the metadata.csv of others, as Tables.

A row has `label`, `path`, its attributes and `group` (codes whose names are in `Table.names`) and,
where they are known, `is_majority`, `line` (in the table), `pair` (a code) and `variant` (a text);
its mask is [h, w, 1] (core) or [h, w, 2] (core, spurious), 255 on the region.
"""

import functools
import itertools
import math
import re

import numpy as np

from advspur._checks import InputError, check_choice, check_count, require
from advspur.data.files import MASKS, file_table
from advspur.data.groups import attributes, group_codes, group_counts, group_names, majority_groups
from advspur.data.layouts import without_unreadable
from advspur.data.own_layouts import read_layout, with_masks_beside
from advspur.data.own_parts import (
    align_pairs,
    evaluation_parts,
    part_order,
    row_parts,
    row_splits,
    whole_rows,
)
from advspur.data.own_tables import ROLES
from advspur.data.transforms import BICUBIC, BILINEAR, Transform

INTERPOLATIONS = {"bilinear": BILINEAR, "bicubic": BICUBIC}
MISSING = ("", "nan", "null", "<na>")  # texts of a cell without a value, in any case
MOST_GROUPS = 100_000
MOST_SHOWN = 40  # groups, and classes, of a description
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
    """({part: Table}, lines that say what was found) of a table, or of a folder.

    Parts are the splits train, val and test, and folders of other names. Variants are parts of
    their own: <variant>, or <split>/<variant> where there are several splits; with `pair`, row i of
    each variant of a split shows the same object.

    Args:
      columns: {role: column} where the table has other names for image, label, split, variant,
        pair, mask, spurious_mask; and {"attributes": one name or several}.
      names: {"label" or attribute: the names of its numbers 0, 1, ...}.
      num_classes: where labels are numbers and some class may be without an image.
      majority: names of the majority groups, as the lines have them; (): see `majority_groups`.
      image_dir: the folder that the table's names of files are relative to; "": the table's, or an
        image folder in it.
      resize: "short" side to 256/224 of `image_size`, or both sides ("square"), then the central
        `image_size`; "none": the images have this size.
      interpolation: "bilinear" or "bicubic".
      allow_partial: leave out rows whose image or mask is missing.
      skip_unreadable: leave out rows whose image or mask cannot be read; all are read for it.
      look_for_files: False: only tell what a table says, whether or not its images are there.
    Raises: InputError naming the file, the line, and what is wrong there.
    """
    check_count("image_size", image_size)
    check_choice("resize", resize, ("short", "square", "none"))
    check_choice("interpolation", interpolation, tuple(INTERPOLATIONS))
    side = round(256 / 224 * image_size)
    transform = Transform(image_size, side, resize, INTERPOLATIONS[interpolation])
    rows = with_masks_beside(read_layout(path, dict(columns or {}), image_dir))
    splits = row_splits(rows)
    part_of = row_parts(rows, splits)
    if look_for_files:
        kept = whole_rows(rows, part_of, allow_partial)
        rows = rows.subset(kept)
        splits, part_of = [splits[i] for i in kept], [part_of[i] for i in kept]
    table = _table(rows, transform, rows.names | dict(names or {}), num_classes)
    train = table.subset([i for i, split in enumerate(splits) if split == "train"])
    rows.notes.extend(_add_groups(table, train, majority))
    parts = {}
    for name in sorted(dict.fromkeys(part_of), key=part_order):
        parts[name] = table.subset([i for i, part in enumerate(part_of) if part == name])
        for column in ("variant", *MASKS):  # without those that no row of the part has
            if not any(parts[name].columns.get(column, ())):
                parts[name].columns.pop(column, None)
    parts = align_pairs(parts, rows, allow_partial)
    for part in parts.values():
        part.index = np.arange(len(part))  # paired rows have the same noise
    if skip_unreadable:
        parts = align_pairs(without_unreadable(parts), rows, allow_partial=True)
    return parts, rows.notes + _describe(parts)


@functools.wraps(read_own, assigned=())  # its signature
def own(path, **options):
    """{part: Table} of users' own data; `read_own` explains the options."""
    return read_own(path, **options)[0]


def _table(rows, transform, names, num_classes):
    """One Table of all rows."""
    known = [name for name in rows.cells if name == "label" or name not in ROLES]
    unknown = ", ".join(name for name in names if name not in known)
    require(not unknown, f"names.{unknown} is no column that is read; there are {', '.join(known)}")
    columns, found = {}, {}
    for name in known:
        count = num_classes if name == "label" else None
        columns[name], found[name] = _codes(rows, name, tuple(names.get(name) or ()), count)
    count = math.prod(map(len, found.values()))
    others = [name for name in known if name != "label"]
    fault = f"{rows.source}: label and {len(others)} attributes make {count:,} groups"
    advice = f"choose some of them with columns.attributes: {', '.join(others)}"
    require(count <= MOST_GROUPS, f"{fault}: {advice}")
    for column, role in {"path": "image", MASKS[0]: "mask", MASKS[1]: "spurious_mask"}.items():
        if role in rows.cells:
            files = rows.cells[role]
            columns[column] = [rows.root / name if name else None for name in files]
    if any(rows.lines):
        columns["line"] = np.array(rows.lines)
    if "variant" in rows.cells:
        columns["variant"] = rows.cells["variant"]
    if "pair" in rows.cells:
        _refuse_missing(rows, "pair")
        columns["pair"] = np.unique(rows.cells["pair"], return_inverse=True)[1]
    table = file_table(len(found["label"]), transform, names=found, **columns)
    table.load = functools.partial(_load, table.load, rows.source)
    return table


def _load(load, source, row, **transform):
    """What `load` reads; errors name the row's line."""
    try:
        return load(row, **transform)
    except InputError as error:
        place = f" ({source} line {row['line']})" if "line" in row else ""
        raise InputError(f"{error}{place}") from error


def _codes(rows, name, names, count):
    """([n] codes, their names) of the label, with `count` classes where given, or an attribute.

    Numbers are the codes themselves where they are labels, or where `names` name them; other
    values are numbered in their order.
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
        rows.refuse(odd, lambda i: f"{name} is {cells[i]!r} among {others}", "use one of the two")
    if not is_number[0]:
        codes, names = _name_codes(rows, name, names)
    elif name == "label" or names:
        size, held = len(names) or count, set(numbers)
        advice = f"allowed: 0 to {(size or 1) - 1}"
        if not size:
            size = next(i for i in itertools.count() if i not in held)
            absent = "labels are 0, 1, 2, ...; give num_classes where one is absent"
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
            other = f"{name} is {text!r}, and {cells[like]!r} in {rows.where(like)}"
            rows.refuse([i], lambda _, other=other: other, "write a name always alike")
    values = names or tuple(sorted(set(cells)))
    code = {value: i for i, value in enumerate(values)}
    bad = [i for i, text in enumerate(cells) if text not in code]
    rows.refuse(bad, lambda i: f"{name} is {cells[i]!r}", f"allowed: {', '.join(values)}")
    return np.array([code[text] for text in cells]), values


def _refuse_missing(rows, name):
    """Raise InputError with the line of a cell without a value."""
    cells, advice = rows.cells[name], "give every row a value"
    bad = [i for i, text in enumerate(cells) if text.casefold() in MISSING]
    if name not in ("label", "pair"):
        advice += ", or name the attributes as columns.attributes"
    rows.refuse(bad, lambda i: f"{name} is {cells[i] or 'empty'}", advice)


def _whole_number(text):
    """The number of a text such as 3 or 3.0; None of others."""
    text = text.removesuffix(".0")
    return int(text) if re.fullmatch("-?[0-9]+", text) else None


def _add_groups(table, train, majority):
    """Add the columns `group` and `is_majority` where they are known; lines that say how."""
    chosen = (majority,) if isinstance(majority, str) else tuple(majority or ())
    codes, is_grouped = group_codes(table), bool(attributes(table))
    if is_grouped:
        table.columns["group"], table.names["group"] = codes, group_names(table)
        if len(train):
            table.train_groups = tuple(group_counts(train).tolist())
    if not chosen and not is_grouped:
        return []
    if not chosen and not len(train):
        text = f"majority: unknown, as it is {RULE}, and there is no part train"
        return [f"{text}; only each group and the worst are measured; name it with majority"]
    table.columns["is_majority"] = majority_groups(train, chosen)[codes]
    return [f"majority: {'the groups named' if chosen else RULE}"]


def _describe(parts):
    """Lines on the parts, classes and groups of {part: Table}."""
    first = next(iter(parts.values()))
    sizes = ", ".join(f"{name} {len(table):,}" for name, table in parts.items())
    classes = list(enumerate(first.names["label"][:MOST_SHOWN]))
    numbered = ", ".join(f"{i} {name}" if name != str(i) else name for i, name in classes)
    more = ", ..." * (first.num_classes > MOST_SHOWN)
    return [
        f"parts: {sizes}; evaluated: {', '.join(evaluation_parts(parts))}",
        f"{first.num_classes:,} classes: {numbered}{more}",
        *_group_lines(parts),
    ]


def _group_lines(parts):
    """A table of the groups' counts in each part."""
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
        numbers = [f"{of_part[group]:,}" for of_part in counts]
        table.append([name, *numbers, "majority" if group in majority else ""])
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    lines = []
    for name, *numbers, mark in table:
        cells = [n.rjust(width) for n, width in zip(numbers, widths[1:], strict=False)]
        lines.append("  ".join([name.ljust(widths[0]), *cells, mark]).rstrip())
    hidden = len(counts[0]) - MOST_SHOWN
    return lines + [f"... and {hidden:,} groups more"] * (hidden > 0)

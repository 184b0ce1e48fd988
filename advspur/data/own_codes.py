"""Users' own data: texts of a column -> codes and the names of the codes."""

import itertools
import re

import numpy as np

from advspur._checks import require

MISSING = ("", "nan", "null", "<na>")  # texts of a cell without a value, in any case


def column_codes(rows, name, names=(), count=None):
    """([n] codes, their names) of the label or an attribute; InputError with the line of a bad one.

    Numbers are the codes themselves where they are labels, or where `names` name them; other
    values are numbered in their order.

    Args:
      rows: Rows.
      name: of the column.
      names: of the codes; (): the values are.
      count: number of classes, where some may be without an example.
    """
    refuse_missing(rows, name)
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
        codes, names = _number_codes(rows, name, numbers, names, count)
    else:
        values, codes = np.unique(numbers, return_inverse=True)
        names = tuple(map(str, values))
    require(
        count in (None, len(names)),
        f"num_classes = {count}, but the {len(names)} classes have names: {', '.join(names[:9])}",
    )
    return codes, names


def refuse_missing(rows, name):
    """Raise InputError with the line of a cell without a value."""
    cells = rows.cells[name]
    bad = [i for i, text in enumerate(cells) if text.casefold() in MISSING]
    advice = "give every row a value"
    if name not in ("label", "pair"):
        advice += ", or name the attributes as columns.attributes"
    rows.refuse(bad, lambda i: f"{name} is {cells[i] or 'empty'}", advice)


def _number_codes(rows, name, numbers, names, count):
    held, size = set(numbers), len(names) or count
    if size:
        advice = f"allowed: 0 to {size - 1}"
    else:
        size = next(i for i in itertools.count() if i not in held)
        advice = f"no row has {size}: labels are 0, 1, 2, ...; give num_classes where one is absent"
    bad = [i for i, number in enumerate(numbers) if not 0 <= number < size]
    rows.refuse(bad, lambda i: f"{name} is {numbers[i]}", advice)
    return np.array(numbers), names or tuple(map(str, range(size)))


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


def _whole_number(text):
    """The number of a text such as 3 or 3.0; None of others."""
    text = text.removesuffix(".0")
    return int(text) if re.fullmatch("-?[0-9]+", text) else None

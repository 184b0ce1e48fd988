"""Csv files, and the file names in them. Errors name the line."""

import csv
import io
import os
import re

from advspur._checks import InputError, first_line, require
from advspur.data.files import read_bytes


def read_rows(file):
    """Return [(line number, {column: text})] of a csv file; a row may lack its last columns."""
    header, *rows = _read_cells(file, ",") or [(1, [])]
    _check_header(file, [name for name in header[1] if name])
    return [(line, dict(zip(header[1], texts, strict=False))) for line, texts in rows]


def read_table(file):
    """Return ({column: [n] texts}, [n] line numbers, notes) of a file separated by , ; or tabs.

    Spaces around a text and empty lines are dropped.
    Raises: InputError with the line that is not a row of the table.
    """
    delimiter = _delimiter(file)
    (_, header), *rows = _read_cells(file, delimiter) or [(1, [])]
    names = [name.strip() for name in header]
    _check_header(file, names)
    kept, lines = [], []
    for line, texts in rows:
        if not any(map(str.strip, texts)):
            continue
        if not any(texts[len(names) :]):
            texts = texts[: len(names)]
        first = line - sum(text.count("\n") for text in texts)
        require(first == line, f"{file} line {first} opens a quote and does not close it: do so")
        require("\0" not in "".join(texts), f"{file} line {line} holds a NUL character: remove it")
        sizes = f"{file} line {line} has {len(texts)} cells, the header {len(names)}"
        advice = f"give every row a cell for each column, and quote a text with {delimiter!r} in it"
        require(len(texts) == len(names), f"{sizes}: {advice}")
        kept.append([text.strip() for text in texts])
        lines.append(line)
    require(kept, f"{file} has no rows below its header in line 1")
    notes = [f"{file} is separated by {delimiter!r}"] if delimiter != "," else []
    return dict(zip(names, map(list, zip(*kept, strict=True)), strict=True)), lines, notes


def names_outside(names, lines):
    """Return ["line 7: ../x.jpg", ...]: a table's file names outside the table's folder."""
    numbered = zip(lines, map(os.path.normpath, names), strict=True)
    outside = [(n, x) for n, x in numbered if os.path.isabs(x) or x.split(os.sep)[0] == os.pardir]
    return [f"line {n}: {x}" for n, x in outside]


def refuse_repeated(file, names, lines):
    """Raise InputError, with both lines, if two lines of a table name the same file."""
    first = {}
    for line, name in zip(lines, map(os.path.normpath, names), strict=True):
        before = first.setdefault(name, line)
        require(before == line, f"{file} lines {before} and {line} name the same file, {name}")


def _read_cells(file, delimiter):
    """Return [(line number, [texts])] of a csv file."""
    try:
        text = read_bytes(file).decode("utf-8-sig")
    except UnicodeDecodeError as error:
        number = 1 + error.object.count(b"\n", 0, error.start)
        raise InputError(f"{file} is not readable: line {number} is not in UTF-8") from error
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter)
    try:
        return [(reader.line_num, texts) for texts in reader if texts]
    except csv.Error as error:
        fault = f"{file} is not readable: line {reader.line_num}: {first_line(error)}"
        raise InputError(fault) from error


def _check_header(file, names):
    repeated = sorted({name or "(no name)" for name in names if names.count(name) > 1})
    require(not repeated, f"{file} line 1 repeats columns: {', '.join(repeated)}")


def _delimiter(file):
    """Return the separator that splits the first line into the most columns."""
    first = re.split(rb"[\r\n]", read_bytes(file), maxsplit=1)[0].decode("utf-8", "replace")
    return max(",;\t", key=lambda d: len(next(csv.reader([first], delimiter=d), ())))

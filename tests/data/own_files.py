"""Writes users' own data, small: images of one colour and tables that name them."""

import csv
import io

from PIL import Image

SIDE = 10  # pixels of an image


def png(color=(200, 30, 90), size=(SIDE, SIDE), mode="RGB"):
    """The bytes of an image of one colour."""
    file = io.BytesIO()
    Image.new(mode, size, color).save(file, format="PNG")
    return file.getvalue()


def names(part):
    """The names of a part's label and attributes."""
    return {column: values for column, values in part.names.items() if column != "group"}


def put(path, content):
    """Write bytes or text to a file whose folders are made; its path."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def table(root, text, name="manifest.csv"):
    """Write a table, and those of the images in it that are not there."""
    lines = [line.strip() for line in text.strip().splitlines()]
    for row in csv.reader(lines):
        for cell in row:
            if cell.endswith((".png", ".jpg")) and not (root / cell).exists():
                put(root / cell, png())
    return put(root / name, "\n".join(lines) + "\n")

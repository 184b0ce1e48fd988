"""Writes small files: images, and tables that name them."""

import csv
import io

import numpy as np
from PIL import Image

SIDE = 10  # pixels of an image


def encode(image, kind="PNG", **options):
    """The bytes of an image, Pillow's or an array."""
    file = io.BytesIO()
    image = Image.fromarray(image) if isinstance(image, np.ndarray) else image
    image.save(file, kind, **options)
    return file.getvalue()


def png(color=(200, 30, 90), size=(SIDE, SIDE), mode="RGB"):
    """The bytes of an image of one colour."""
    return encode(Image.new(mode, size, color))


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

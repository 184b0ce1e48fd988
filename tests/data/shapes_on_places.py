"""Waterbirds-like data of shapes: python tests/data/shapes_on_places.py DIRECTORY NUM_IMAGES

Two shapes on two backgrounds, as PNG files and a metadata.csv in the layout of WILDS' Waterbirds.
The background belongs to the shape in 90% of the training images, and tells nothing of it in the
test images, a quarter of all.
"""

import csv
import sys
from pathlib import Path

from PIL import Image

from advspur.data import spurious_shapes

COLUMNS = ("img_id", "img_filename", "y", "split", "place")


def write(directory, num_images):
    """Write the images and their table; the path of the table."""
    directory = Path(directory)
    directory.mkdir(parents=True, exist_ok=True)
    rows = []
    parts = {"train": (0, num_images - num_images // 4), "uncorrelated": (2, num_images // 4)}
    for part, (split, count) in parts.items():
        columns = spurious_shapes(part, num_examples=count, num_classes=2, correlation=0.9).columns
        for image, label, place in zip(
            columns["image"], columns["label"], columns["background"], strict=True
        ):
            name = f"{len(rows):05d}.png"
            Image.fromarray(image).save(directory / name)
            rows.append((len(rows), name, int(label), split, int(place)))
    path = directory / "metadata.csv"
    with path.open("w", newline="") as file:
        csv.writer(file).writerows([COLUMNS, *rows])
    return path


if __name__ == "__main__":
    print(write(sys.argv[1], int(sys.argv[2])))

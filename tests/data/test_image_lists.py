"""Named lists of images: which rows they are, and the errors of a faulty file of names."""

import math
from pathlib import Path

import numpy as np
import pytest

from advspur._checks import InputError
from advspur.data.image_lists import image_list
from advspur.data.table import Table
from tests.refusals import refused

NAMES = [f"n0{k}/val_{3 * k + i}.JPEG" for k in range(2) for i in range(3)]
SHARED = ["n02/same.JPEG", "n03/same.JPEG"]
NAMED = Table(2, path=[Path("/data/val", name) for name in NAMES + SHARED])


def numbered(count):
    return Table(2, image=np.zeros((count, 1, 1, 3), np.uint8))


@pytest.mark.parametrize("count, wanted", ((50_000, 5000), (5306, 1000), (989, 1000), (10, 3)))
def test_a_list_at_equal_distances_has_its_length_and_no_image_twice(count, wanted):
    name, rows = image_list(numbered(count), "test", "spread", wanted)
    assert name == f"test[::{count / min(count, wanted):g}]"
    assert len(rows) == min(wanted, count) and rows[0] == 0
    steps = np.diff(rows)
    assert steps.min() >= 1 and steps.max() - steps.min() <= 1
    assert count - rows[-1] <= math.ceil(count / wanted)  # to the end: no class is left out


def test_the_first_images_are_named_by_how_many_there_are():
    assert image_list(numbered(10), "test", "first", 4)[0] == "test[:4]"
    name, rows = image_list(numbered(10), "test", "first", 1000)
    assert name == "test[:10]" and rows.tolist() == list(range(10))
    for images in ("first", "spread"):
        refused("num_images = 0", image_list, numbered(10), "test", images, 0)


@pytest.mark.parametrize("depth", (1, 2))
def test_a_file_of_names_is_a_list_in_its_own_order(tmp_path, depth):
    """All of it, however many are asked for; names with and without their folder."""
    file = tmp_path / "robust.txt"
    names = ["/".join(NAMES[i].split("/")[-depth:]) for i in (4, 3, 5)]
    file.write_text(f"{names[0]}\n{names[1]}\r\n\n{names[2]}")
    name, rows = image_list(NAMED, "val", str(file), 1)
    assert (name, rows.tolist()) == ("robust.txt", [4, 3, 5])


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (f"{NAMES[0]}\nn07/val_9.JPEG\nn08/x", "2 of 3 images are missing, first n07/val_9.JPEG"),
        (f"{NAMES[0]}\n{NAMES[1]}\n{NAMES[0]}", "names 1 images more than once"),
        ("\n \n", "names no image"),
        ("same.JPEG", "same.JPEG is the name of several images; write <folder>/<image>"),
        (b"\xff\xfe\x00", "cannot be read"),
        (None, "cannot be read"),
    ],
)
def test_a_faulty_file_of_names_is_one_line(tmp_path, content, message):
    file = tmp_path / "list.txt"
    if content is not None:
        file.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(InputError, match=message) as error:
        image_list(NAMED, "val", file, 5)
    assert str(file) in str(error.value) and "\n" not in str(error.value)


def test_records_of_tfds_have_no_file_names_and_another_order(tmp_path):
    """The name of a list says so: the images are others than those of the files."""
    records = Table(2, index=range(10))
    records.order = "tfds"
    assert image_list(records, "val", "first", 4)[0] == "tfds val[:4]"
    assert image_list(records, "val", "spread", 5)[0] == "tfds val[::2]"
    (tmp_path / "list.txt").write_text(NAMES[0])
    for table in (records, numbered(6)):
        message = "the images of this data set have no file names"
        refused(message, image_list, table, "test", tmp_path / "list.txt", 5)

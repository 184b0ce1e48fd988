"""Named lists of images: which rows they are, and what a faulty file of names is told."""

import math

import numpy as np
import pytest
from advspur.benchmarks.image_lists import evenly, first, listed

from advspur._checks import InputError
from advspur.data.table import Table

NAMES = [f"n0{k}/val_{i}.JPEG" for k in range(2) for i in range(3)]


def numbered(count):
    return Table(2, number=np.arange(count))


def test_every_tenth_of_50_000_is_five_of_each_class():
    name, table = evenly(numbered(50_000), "val", 5000)
    assert name == "val[::10]"
    np.testing.assert_array_equal(table.columns["number"], np.arange(50_000)[::10])


@pytest.mark.parametrize("count, wanted", ((5306, 1000), (989, 1000), (10, 3), (7, 7)))
def test_a_list_at_equal_distances_has_its_length_and_no_image_twice(count, wanted):
    _, table = evenly(numbered(count), "test", wanted)
    rows = table.columns["number"]
    assert len(rows) == min(wanted, count) and rows[0] == 0
    steps = np.diff(rows)
    assert steps.min() >= 1 and steps.max() - steps.min() <= 1
    assert count - rows[-1] <= math.ceil(count / wanted)  # to the end: no class is left out


def test_the_first_images_are_named_by_how_many_there_are():
    assert first(numbered(10), "test", 4)[0] == "test[:4]"
    name, table = first(numbered(10), "test", 1000)
    assert name == "test[:10]" and len(table) == 10
    with pytest.raises(InputError, match="num_images = 0"):
        first(numbered(10), "test", 0)


def test_a_file_of_names_is_a_list_in_its_own_order(tmp_path):
    file = tmp_path / "robust.txt"
    file.write_text(f"{NAMES[4]}\n{NAMES[0]}\r\n\n{NAMES[2]}")
    name, table = listed(numbered(6), NAMES, file)
    assert name == "robust.txt"
    assert table.columns["number"].tolist() == [4, 0, 2]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (f"{NAMES[0]}\nn07/val_9.JPEG\nn08/x", "2 of 3 images are missing, first n07/val_9.JPEG"),
        (f"{NAMES[0]}\n{NAMES[1]}\n{NAMES[0]}", "names 1 images more than once"),
        ("\n \n", "names no image"),
        (b"\xff\xfe\x00", "cannot be read"),
        (None, "cannot be read"),
    ],
)
def test_a_faulty_file_of_names_is_one_line(tmp_path, content, message):
    file = tmp_path / "list.txt"
    if content is not None:
        file.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(InputError, match=message) as error:
        listed(numbered(6), NAMES, file)
    assert str(file) in str(error.value) and "\n" not in str(error.value)

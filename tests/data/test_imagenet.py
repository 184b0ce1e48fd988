"""ImageNet: labels by wnid, the standard transform, class folders and TFDS records."""

import csv
import io
import json

import numpy as np
import pytest
from PIL import Image

from advspur.data import tfds_source
from advspur.data.layouts import standard_transform
from tests.data.fake_layouts import direct, read, write_cifar10, write_imagenet

CLASSES = (0, 1, 207, 409, 999)


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    return write_imagenet(tmp_path_factory.mktemp("imagenet"), CLASSES)


def test_labels_are_the_ranks_of_the_wnids(written, shared):
    rows = json.loads((shared / "facts" / "imagenet_wnids.json").read_text())["classes"]
    index = {wnid: i for i, wnid, _ in rows}
    table = read("imagenet", written)["val"]
    expected = [index[path.parent.name] for path in table.columns["path"]]
    assert expected == table.columns["label"].tolist() == [i for i in CLASSES for _ in range(2)]


def test_images_of_all_modes_are_resized_and_cropped(written):
    table = read("imagenet", written)["val"]
    modes = set()
    for i, path in enumerate(table.columns["path"]):
        with Image.open(path) as image:
            modes.add(image.mode)
        np.testing.assert_array_equal(table[i]["image"], direct(path))
    assert modes == {"L", "CMYK", "RGB"}


def test_real_images_have_their_labels(shared):
    folder = shared / "data" / "imagenet_sample"
    with (folder / "labels.csv").open(newline="") as file:
        index = {row["wnid"]: int(row["index"]) for row in csv.DictReader(file)}
    table = read("imagenet", folder)["val"]
    paths, labels = table.columns["path"], table.columns["label"]
    assert len(table) == 500 == len(set(labels.tolist()))
    assert [index[path.parent.name] for path in paths] == labels.tolist()
    for i in range(0, 500, 45):
        np.testing.assert_array_equal(table[i]["image"], direct(paths[i]))


def test_records_of_tfds_are_read_as_files_are(tmp_path):
    root = write_cifar10(tmp_path / "imagenet2012", 10, "validation", "imagenet2012", side=40)
    table = read("imagenet", root)["val"]
    source = tfds_source("imagenet2012", "validation", data_dir=root.parent)
    raw = [source[i] for i in range(10)]
    assert sorted(example["label"] for example in raw) == list(range(10))
    for i in (0, 5):
        with Image.open(io.BytesIO(raw[i]["image"])) as image:
            np.testing.assert_array_equal(table[i]["image"], standard_transform(image))
        assert table[i]["label"] == raw[i]["label"]
    assert len({read("imagenet", root)["val"].digest, table.digest}) == 1
    assert table.subset([5, 1]).digest != table.subset([1, 5]).digest

"""ImageNet-C: 75 cells of the same images, cropped only."""

import json
import shutil

import numpy as np
import pytest
from PIL import Image

from advspur.benchmarks import BENCHMARKS
from advspur.data import imagenet_c
from tests.data.fake_layouts import picture, read, save, write_imagenet_c

CELLS = [f"{c}/{s}" for c in imagenet_c.ALEXNET_ERRORS for s in range(1, 6)]


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    return write_imagenet_c(tmp_path_factory.mktemp("imagenet_c"))


def test_alexnets_errors_are_the_published_ones(shared):
    facts = json.loads((shared / "facts" / "published_numbers.json").read_text())
    published = facts["alexnet_error_for_mCE"]["values"]
    options = BENCHMARKS["imagenet_c"].defaults()["corruptions"]
    assert published == imagenet_c.ALEXNET_ERRORS == options["baseline_errors"]


def test_all_cells_hold_the_same_images_and_extra_corruptions_do_not_count(root):
    shutil.copytree(root / "snow", root / "speckle_noise")
    parts = read("imagenet_c", root)
    assert list(parts) == CELLS and len(parts) == 75
    listed = [table.columns["path"] for table in parts.values()]
    assert all(paths == listed[0] for paths in listed)
    assert all(t.columns["label"].tolist() == [3, 3, 500, 500] for t in parts.values())


def test_images_are_cropped_and_never_resized(root):
    name = min(str(path.relative_to(root / "fog/3")) for path in (root / "fog/3").rglob("*.JPEG"))
    save(picture(np.random.default_rng(7), (300, 260))[0], root / "fog/3" / name, format="JPEG")
    parts = read("imagenet_c", root)
    for cell, size in (("fog/3", (300, 260)), ("fog/4", (224, 224))):
        with Image.open(root / cell / name) as image:
            assert image.size == size
            left, top = (size[0] - 224) // 2, (size[1] - 224) // 2
            expected = np.asarray(image)[top : top + 224, left : left + 224]
        np.testing.assert_array_equal(parts[cell][0]["image"], expected)

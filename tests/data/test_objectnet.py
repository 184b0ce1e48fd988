"""ObjectNet: the border, labels by the folder's place in the map."""

import json
import shutil

import numpy as np
import pytest
from PIL import Image

from advspur._checks import InputError
from advspur.data.label_maps import OBJECTNET
from tests.data.fake_layouts import read, write_objectnet


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    return write_objectnet(tmp_path_factory.mktemp("objectnet"))


def direct(path, short):
    with Image.open(path) as image:
        image = Image.fromarray(np.asarray(image.convert("RGB"))[2:-2, 2:-2])
    width, height = image.size
    new = (short, height * short // width) if width < height else (width * short // height, short)
    left, top = round((new[0] - 224) / 2), round((new[1] - 224) / 2)
    image = image.resize(new, Image.Resampling.BILINEAR)
    return np.asarray(image.crop((left, top, left + 224, top + 224)))


@pytest.mark.parametrize("resize", (256, 224))
def test_the_border_is_cut_before_the_resize(written, resize):
    table = read("objectnet", written, resize=resize)["images"]
    for i in range(0, 8, 3):
        expected = direct(table.columns["path"][i], resize)
        np.testing.assert_array_equal(table[i]["image"], expected)


def test_no_red_frame_is_left_on_real_images(shared, tmp_path):
    """Ten images of the release's example, in the folders that their answers name."""
    source = shared / "data" / "objectnet" / "images"
    answers = json.loads((source / "answers" / "answers-test.json").read_text())
    paths = [source / "images" / name for name in sorted(answers)]
    (tmp_path / "images" / "mug").mkdir(parents=True)
    for path in paths:
        shutil.copy(path, tmp_path / "images" / "mug")
    table = read("objectnet", tmp_path, resize=224)["images"]
    assert len(table) == 10

    def framed(image):
        ends = image[0], image[-1], image[:, 0], image[:, -1]
        return [bool(np.all((end[:, 0] > 150) & (end[:, 1] < 100))) for end in ends]

    for i, path in enumerate(paths):
        with Image.open(path) as image:
            raw = np.asarray(image.convert("RGB"))
        assert all(framed(raw))
        got = table[i]["image"]
        assert got.shape == (224, 224, 3) and not any(framed(got))
        np.testing.assert_array_equal(got, direct(path, 224))


def test_labels_are_places_in_the_map_and_other_folders_do_not_count(tmp_path, shared):
    """Sorted folders have other ranks: "binder_closed" comes before "full_sized_towel"."""
    folders = ("binder_closed", "full_sized_towel", "t-shirt", "wok", "air_freshener")
    rows = json.loads((shared / "facts" / "objectnet_imagenet_map.json").read_text())["classes"]
    order = [folder for _, folder, _ in rows]
    table = read("objectnet", write_objectnet(tmp_path, folders))["images"]
    assert len(table) == 8
    for path, label in zip(table.columns["path"], table.columns["label"], strict=True):
        assert order[label] == path.parent.name == list(OBJECTNET)[label]


def test_an_image_smaller_than_its_border_is_named(root):
    path = sorted((root / "images" / "mug").iterdir())[0]
    Image.new("RGB", (3, 3)).save(path)
    table = read("objectnet", root)["images"]
    with pytest.raises(InputError, match=path.name):
        table[table.columns["path"].index(path)]

"""ObjectNet: the border, the two scorings by hand, labels by the folder's place in the map."""

import json
import shutil

import numpy as np
import pytest
from PIL import Image
from tests.benchmarks.layouts import Passes, coded, cut_short, paint, write_objectnet

from advspur._checks import InputError
from advspur.benchmarks import objectnet
from advspur.data.label_maps import OBJECTNET
from advspur.data.layouts import MissingData

FOLDERS = ("alarm_clock", "chair", "air_freshener", "still_camera", "mug")


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return write_objectnet(tmp_path_factory.mktemp("objectnet"), FOLDERS)


@pytest.fixture
def fresh(tmp_path):
    return write_objectnet(tmp_path, FOLDERS)


def direct(path, short):
    with Image.open(path) as image:
        image = Image.fromarray(np.asarray(image.convert("RGB"))[2:-2, 2:-2])
    width, height = image.size
    new = (short, height * short // width) if width < height else (width * short // height, short)
    left, top = round((new[0] - 224) / 2), round((new[1] - 224) / 2)
    image = image.resize(new, Image.Resampling.BILINEAR)
    return np.asarray(image.crop((left, top, left + 224, top + 224)))


@pytest.mark.parametrize("resize", (256, 224))
def test_the_border_is_cut_before_the_resize(root, resize):
    table = objectnet.load(root, resize=resize, allow_partial=True)["images"]
    for i in range(0, 8, 3):
        expected = direct(table.columns["path"][i], resize)
        np.testing.assert_array_equal(table[i]["image"], expected)


def test_the_resize_is_one_of_two(root):
    with pytest.raises(InputError, match="resize = 255 is not known; allowed: 256, 224"):
        objectnet.load(root, resize=255, allow_partial=True)


def test_no_red_frame_is_left_on_real_images(shared, tmp_path):
    """Ten images of the release's example, in the folders that their answers name."""
    source = shared / "data" / "objectnet" / "images"
    answers = json.loads((source / "answers" / "answers-test.json").read_text())
    paths = [source / "images" / name for name in sorted(answers)]
    (tmp_path / "images" / "mug").mkdir(parents=True)
    for path in paths:
        shutil.copy(path, tmp_path / "images" / "mug")
    table = objectnet.load(tmp_path, resize=224, allow_partial=True)["images"]
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
    root = write_objectnet(tmp_path, folders)
    table = objectnet.load(root, allow_partial=True)["images"]
    assert len(table) == 8
    for path, label in zip(table.columns["path"], table.columns["label"], strict=True):
        assert order[label] == path.parent.name == list(OBJECTNET)[label]


def test_both_scorings_by_hand(fresh):
    """One mug is taken away, so that images and classes weigh differently."""
    paths = {f: sorted((fresh / "images" / f).iterdir()) for f in FOLDERS}
    paths["mug"].pop().unlink()
    ranked = {  # full, subset
        (paths["alarm_clock"][0], 0): (409,),  # right, right
        (paths["alarm_clock"][1], 10): (530,),  # right, right: the second of its two indices
        (paths["chair"][0], 20): (765,),  # right, right: the third of its three
        (paths["chair"][1], 30): (0, 423),  # a tench is outside of the 125: wrong, right
        (paths["still_camera"][0], 40): (759,),  # right, right
        (paths["still_camera"][1], 50): (423, 732),  # a chair: wrong, wrong
        (paths["mug"][0], 60): (505, 968, 504),  # a coffeepot; a cup before a mug: wrong, wrong
    }
    for path, level in ranked:
        paint(path, level)
    model = coded({level: classes for (_, level), classes in ranked.items()}, 1000)
    progress = Passes()
    reading = {"allow_partial": True}
    records = objectnet.evaluate(model, fresh, batch_size=8, progress=progress, **reading)
    found = {(r.metric, r.options["scoring"]): (r.value, r.num_examples) for r in records}
    assert found == {
        ("accuracy", "full"): (pytest.approx(4 / 7), 7),
        ("balanced_accuracy", "full"): (pytest.approx((1 + 1 / 2 + 1 / 2 + 0) / 4), 7),
        ("accuracy", "subset"): (pytest.approx(5 / 7), 7),
        ("balanced_accuracy", "subset"): (pytest.approx((1 + 1 + 1 / 2 + 0) / 4), 7),
    }
    assert objectnet.num_passes(fresh, **reading) == progress.done


def test_incomplete_copies_are_refused(root, tmp_path):
    with pytest.raises(InputError, match="109 of 113 class folders are missing, first backpack"):
        objectnet.load(root)
    with pytest.raises(MissingData, match="no ObjectNet in .*expected images/<folder>"):
        objectnet.load(tmp_path, allow_partial=True)
    with pytest.raises(InputError, match="the model has 9 classes; this benchmark needs 1000"):
        objectnet.evaluate(coded({}, 9), root, batch_size=8, allow_partial=True)


def test_unreadable_images_are_named_or_left_out(fresh):
    path = sorted((fresh / "images" / "chair").iterdir())[1]
    cut_short(path)
    model = coded({}, 1000)
    with pytest.raises(InputError, match=f"{path.name} is no readable image"):
        objectnet.evaluate(model, fresh, batch_size=8, allow_partial=True)
    reading = {"allow_partial": True, "skip_unreadable": True}
    with pytest.warns(UserWarning, match="images: 1 of 8 images are unreadable"):
        records = objectnet.evaluate(model, fresh, batch_size=8, **reading)
    assert {r.num_examples for r in records} == {7}


def test_an_image_smaller_than_its_border_is_named(fresh):
    path = sorted((fresh / "images" / "mug").iterdir())[0]
    Image.new("RGB", (3, 3)).save(path)
    table = objectnet.load(fresh, allow_partial=True)["images"]
    with pytest.raises(InputError, match=path.name):
        table[table.columns["path"].index(path)]

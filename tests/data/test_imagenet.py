"""ImageNet: labels by wnid, the standard transform, incomplete and damaged copies."""

import csv
import json

import numpy as np
import pytest
from PIL import Image
from tests.benchmarks.layouts import coded, cut_short, paint, write_imagenet

from advspur._checks import InputError
from advspur.benchmarks import imagenet
from advspur.data.layouts import MissingData

CLASSES = (0, 1, 207, 409, 999)


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return write_imagenet(tmp_path_factory.mktemp("imagenet"), CLASSES)


@pytest.fixture
def fresh(tmp_path):
    return write_imagenet(tmp_path, CLASSES)


def direct(path):
    """Short side 256, central 224, written out."""
    with Image.open(path) as image:
        image = image.convert("RGB")
    width, height = image.size
    new = (256, height * 256 // width) if width < height else (width * 256 // height, 256)
    left, top = round((new[0] - 224) / 2), round((new[1] - 224) / 2)
    image = image.resize(new, Image.Resampling.BILINEAR)
    return np.asarray(image.crop((left, top, left + 224, top + 224)))


def test_labels_are_the_ranks_of_the_wnids(root, shared):
    rows = json.loads((shared / "facts" / "imagenet_wnids.json").read_text())["classes"]
    index = {wnid: i for i, wnid, _ in rows}
    table = imagenet.load(root, allow_partial=True)["val"]
    expected = [index[path.parent.name] for path in table.columns["path"]]
    assert expected == table.columns["label"].tolist() == [i for i in CLASSES for _ in range(2)]


def test_images_of_all_modes_are_resized_and_cropped(root):
    table = imagenet.load(root, allow_partial=True)["val"]
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
    table = imagenet.load(folder, allow_partial=True)["val"]
    paths, labels = table.columns["path"], table.columns["label"]
    assert len(table) == 500 == len(set(labels.tolist()))
    assert [index[path.parent.name] for path in paths] == labels.tolist()
    for i in range(0, 500, 45):
        np.testing.assert_array_equal(table[i]["image"], direct(paths[i]))


def test_a_wrong_place_is_answered_with_the_layout(tmp_path):
    with pytest.raises(MissingData, match="no ImageNet in .*nowhere: expected val/<wnid>"):
        imagenet.load(tmp_path / "nowhere")


def test_incomplete_copies_are_refused(root, monkeypatch, fresh):
    with pytest.raises(InputError, match="995 of 1000 class folders .*first n01484850"):
        imagenet.load(root)
    wnids = sorted(path.name for path in (root / "val").iterdir())
    monkeypatch.setattr(imagenet, "imagenet_wnids", lambda: wnids)
    with pytest.raises(InputError, match="10 images, 50,000 are published"):
        imagenet.load(root)
    (fresh / "val" / "n00000000").mkdir()
    with pytest.raises(InputError, match="no class, first n00000000"):
        imagenet.load(fresh, allow_partial=True)


def test_a_home_directory_may_be_abbreviated(fresh, monkeypatch):
    monkeypatch.setenv("HOME", str(fresh))
    assert len(imagenet.load("~", allow_partial=True)["val"]) == 10


def test_accuracy_leaves_unreadable_images_out_and_says_so(fresh):
    """Greys 0, 10, ... stand for the classes in order; two images show another class.

    ObjectNet shares 409, an alarm clock (its first class), and 999, a toilet roll: 3 of 4 right."""
    table = imagenet.load(fresh, allow_partial=True)["val"]
    paths, labels = table.columns["path"], table.columns["label"]
    shown = [0, 0, 1, 409, 207, 207, 409, 409, 0, 999]
    for path, index in zip(paths, shown, strict=True):
        paint(path, 10 * CLASSES.index(index))
    model = coded({10 * i: index for i, index in enumerate(CLASSES)}, 1000)

    def evaluate(**reading):
        records = imagenet.evaluate(model, fresh, batch_size=8, allow_partial=True, **reading)
        assert {r.metric for r in records} == {"accuracy"}
        return {str(r.options.get("classes")): (r.value, r.num_examples) for r in records}

    assert sum(np.array(shown) == labels) == 8
    assert evaluate() == {"None": (pytest.approx(8 / 10), 10), "objectnet": (0.75, 4)}
    cut_short(paths[5])
    with pytest.raises(InputError, match=f"{paths[5].name} is no readable image"):
        evaluate()
    with pytest.warns(UserWarning, match="val: 1 of 10 images are unreadable"):
        found = evaluate(skip_unreadable=True)
    assert found == {"None": (pytest.approx(7 / 9), 9), "objectnet": (0.75, 4)}
    assert imagenet.num_passes(fresh, allow_partial=True, skip_unreadable=True) == 9


def test_a_model_of_other_classes_is_refused(root):
    with pytest.raises(InputError, match="the model has 9 classes; this benchmark needs 1000"):
        imagenet.evaluate(coded({}, 9), root, batch_size=8, allow_partial=True)

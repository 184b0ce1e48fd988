"""ImageNet and its kin: labels by folders, the transforms, what pairs images, records of TFDS."""

import csv
import io
import json
import shutil

import numpy as np
import pytest
from PIL import Image

from advspur._checks import InputError
from advspur.benchmarks import BENCHMARKS
from advspur.data import imagenet9, imagenet_c, tfds_source
from advspur.data.label_maps import IMAGENET9, OBJECTNET
from advspur.data.transforms import STANDARD
from tests.data.fake_layouts import direct, picture, read, save, write_cifar10


def at(path, **fields):
    """The pixels of a file, transformed by Pillow itself."""
    with Image.open(path) as image:
        return direct(image.convert("RGB"), **fields)


def test_labels_are_the_ranks_of_the_wnids(written, shared):
    rows = json.loads((shared / "facts" / "imagenet_wnids.json").read_text())["classes"]
    index = {wnid: i for i, wnid, _ in rows}
    table, modes = read("imagenet", written / "imagenet")["val"], set()
    paths = table.columns["path"]
    assert [index[path.parent.name] for path in paths] == table.columns["label"].tolist()
    for i, path in enumerate(paths):
        with Image.open(path) as image:
            modes.add(image.mode)
        np.testing.assert_array_equal(table[i]["image"], at(path))
    assert modes == {"L", "CMYK", "RGB"}


def test_real_images_have_their_labels(shared):
    folder = shared / "data" / "imagenet_sample"
    with (folder / "labels.csv").open(newline="") as file:
        index = {row["wnid"]: int(row["index"]) for row in csv.DictReader(file)}
    table = read("imagenet", folder)["val"]
    paths, labels = table.columns["path"], table.columns["label"]
    assert len(table) == 500 == len(set(labels.tolist()))
    assert [index[path.parent.name] for path in paths] == labels.tolist()
    for i in range(0, 500, 90):
        np.testing.assert_array_equal(table[i]["image"], at(paths[i]))


def test_records_of_tfds_are_read_as_files_are(tmp_path):
    root = write_cifar10(tmp_path / "imagenet2012", 10, "validation", "imagenet2012", side=40)
    table = read("imagenet", root)["val"]
    source = tfds_source("imagenet2012", "validation", data_dir=root.parent)
    raw = [source[i] for i in range(10)]
    assert sorted(example["label"] for example in raw) == list(range(10))
    for i in (0, 5):
        with Image.open(io.BytesIO(raw[i]["image"])) as image:
            np.testing.assert_array_equal(table[i]["image"], STANDARD(image))
        assert table[i]["label"] == raw[i]["label"]
    assert read("imagenet", root)["val"].digest == table.digest
    assert table.subset([5, 1]).digest != table.subset([1, 5]).digest


# ImageNet-C.


def test_alexnets_errors_are_the_published_ones(shared):
    facts = json.loads((shared / "facts" / "published_numbers.json").read_text())
    published = facts["alexnet_error_for_mCE"]["values"]
    options = BENCHMARKS["imagenet_c"].defaults()["corruptions"]
    assert published == imagenet_c.ALEXNET_ERRORS == options["baseline_errors"]


def test_all_cells_hold_the_same_images_which_are_never_resized(copy):
    root = copy("imagenet_c")
    (root / "snow").rename(root / "speckle_noise")  # an extra corruption does not count
    shutil.copytree(root / "speckle_noise", root / "snow")
    name = min(str(path.relative_to(root / "fog/3")) for path in (root / "fog/3").rglob("*.JPEG"))
    save(picture(np.random.default_rng(7), (300, 260))[0], root / "fog/3" / name, format="JPEG")
    parts = read("imagenet_c", root)
    assert list(parts) == [f"{c}/{s}" for c in imagenet_c.ALEXNET_ERRORS for s in range(1, 6)]
    for table in parts.values():
        assert table.columns["path"] == parts["fog/3"].columns["path"]
        assert table.columns["label"].tolist() == [3, 3, 500, 500]
    for cell, size in (("fog/3", (300, 260)), ("fog/4", (224, 224))):
        with Image.open(root / cell / name) as image:
            assert image.size == size
            left, top = (size[0] - 224) // 2, (size[1] - 224) // 2
            expected = np.asarray(image)[top : top + 224, left : left + 224]
        np.testing.assert_array_equal(parts[cell][0]["image"], expected)


# ObjectNet.


@pytest.mark.parametrize("resize", (256, 224))
def test_the_border_is_cut_before_the_resize(written, resize, shared):
    """Labels are places in the map: sorted folders have other ranks."""
    rows = json.loads((shared / "facts" / "objectnet_imagenet_map.json").read_text())["classes"]
    table = read("objectnet", written / "objectnet", resize=resize)["images"]
    folders = [path.parent.name for path in table.columns["path"]]
    assert [rows[label][1] for label in table.columns["label"]] == folders
    assert [list(OBJECTNET)[label] for label in table.columns["label"]] == folders
    assert len(table) == 8 and "air_freshener" not in folders
    for i in range(0, 8, 3):
        expected = at(table.columns["path"][i], side=resize, border=2)
        np.testing.assert_array_equal(table[i]["image"], expected)


def test_no_red_frame_is_left_on_real_images(shared, tmp_path):
    """Images of the release's example, in the folders that their answers name."""
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
            assert all(framed(np.asarray(image.convert("RGB"))))
        found = table[i]["image"]
        assert not any(framed(found))
        np.testing.assert_array_equal(found, at(path, side=224, border=2))


# ImageNet-9.

FOLDERS = tuple(IMAGENET9)


def test_variants_are_labelled_by_folders_and_paired_by_the_object(copy):
    """Names are fg_<object>_bg_<background>: those of two mixed variants are never equal."""
    root = copy("imagenet9")
    parts = read("imagenet9", root)
    assert list(parts) == list(imagenet9.VARIANTS)
    for table in parts.values():
        assert table.columns["label"].tolist() == [i // 2 for i in range(18)]
        folders = [path.parent.name for path in table.columns["path"]]
        assert folders == [f for f in FOLDERS for _ in range(2)]
    same, rand = (parts[f"mixed_{kind}"].columns for kind in ("same", "rand"))
    assert same["pair"] == rand["pair"] and len(set(rand["pair"])) == 18
    assert not {path.name for path in same["path"]} & {path.name for path in rand["path"]}
    path = rand["path"][3]
    path.rename(path.with_name("fg_n00000001_7_bg_n00000002_1.JPEG"))
    again = read("imagenet9", root)["mixed_rand"].columns["pair"]
    assert [a == b for a, b in zip(again, rand["pair"], strict=True)].count(False) == 1


@pytest.mark.parametrize("transform", ("none", "standard"))
def test_images_and_masks_are_taken_as_they_are_or_resized(written, transform):
    table = read("imagenet9", written / "imagenet9", transform=transform)["original"]
    with Image.open(table.columns["path"][5]) as image:
        mask = Image.fromarray(np.uint8(255) * np.load(table.columns["mask_path"][5]))
        expected = [np.asarray(x) if transform == "none" else direct(x) for x in (image, mask)]
    np.testing.assert_array_equal(table[5]["image"], expected[0])
    np.testing.assert_array_equal(table[5]["mask"][..., 0], expected[1])
    assert 0 < table[5]["mask"].mean() < 255


DAMAGED = (
    (np.full((224, 224), 2.0), r"is float64 \(224, 224\), not a mask: it must be \[h, w\], bool"),
    (np.ones((224, 224, 3), bool), r"is bool \(224, 224, 3\), not a mask"),
    (np.ones((224, 100), bool), "is 100 x 224, its image 224 x 224"),
    (np.array([{}, None]), "is not a readable .npy file of numbers: .*allow_pickle=False"),
)


def test_damaged_masks_are_named(copy):
    table = read("imagenet9", copy("imagenet9"))["original"]
    path = table.columns["mask_path"][13]
    for mask, message in DAMAGED:
        np.save(path, mask, allow_pickle=True)
        with pytest.raises(InputError, match=f"n00000006_2.npy {message}"):
            table[13]

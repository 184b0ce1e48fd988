"""`prepare_data.py arrays` writes exactly the given arrays, or ends in one line."""

import numpy as np
import pytest
from prepare_data import prepare_arrays

from advspur.data import tfds_source
from tests.refusals import refused

IMAGES = np.random.default_rng(0).integers(0, 256, (4, 6, 8, 3), np.uint8)
LABELS = np.array([0, 1, 2, 1])


def of_train(images=IMAGES, labels=LABELS, **more):
    return {"train_images": images, "train_labels": labels, **more}


def of_two(images=IMAGES, labels=LABELS):
    return of_train(val_images=images, val_labels=labels)


ONE_HOT = np.eye(3, dtype=int)[LABELS]
REFUSED = {  # content of the file -> (arrays, message)
    "labels of a half": (of_train(labels=LABELS + 0.5), "train_labels have .* dtype float64; ex"),
    "one-hot": (of_train(labels=ONE_HOT), r"shape \(4, 3\) .*; expected 4 integers"),
    "text": (of_train(labels=np.array(list("abcb"))), "dtype <U1; expected 4 integers"),
    "truth": (of_train(labels=LABELS > 0), "dtype bool; expected 4 integers"),
    "objects": (of_train(labels=np.array([0, "a", None, 1], object)), "cannot be read: .*bject"),
    "too few": (of_train(labels=LABELS[:3]), r"shape \(3,\) .*; expected 4 integers"),
    "a number": (of_train(labels=np.int64(3)), r"shape \(\) .*; expected 4 integers"),
    "negative": (of_train(labels=LABELS - 1), r"labels are in \[-1, 1\]"),
    "huge": (of_train(labels=LABELS * 10**9), "has a label 2000000000: give classes as 0, 1, 2"),
    "labels of one split": (of_two(labels=LABELS + 0.5), "val_labels have"),
    "floats": (of_train(images=IMAGES / 255), "images are float64 .* expected uint8"),
    "grey": (of_train(images=IMAGES[..., 0]), r"images are uint8 \(4, 6, 8\); expected"),
    "one channel": (of_train(images=IMAGES[..., :1]), r"\(4, 6, 8, 1\); expected"),
    "one image": (of_train(images=IMAGES[0], labels=np.arange(6)), r"\(6, 8, 3\); expected"),
    "a pixel": (of_train(images=np.uint8(3), labels=LABELS[:1]), r"images are uint8 \(\); expec"),
    "objects as images": (of_train(images=np.array([*IMAGES, 0], object)[:4]), "cannot be read"),
    "nothing": (of_train(images=IMAGES[:0], labels=LABELS[:0]), "images is empty"),
    "two sizes": (of_two(images=IMAGES[:, :5]), "images of several sizes: .*6, 8.*val.*5, 8"),
    "no labels": ({"train_images": IMAGES}, "lacks train_labels"),
    "no images": ({"train_labels": LABELS}, "has no <split>_images; it has train_labels"),
    "labels alone": (of_train(val_labels=LABELS), "has val_labels, which is neither"),
    "another array": (of_train(mean=LABELS), "has mean, which is neither <split>_images nor"),
    "no arrays": ({}, "has no <split>_images; it has nothing"),
    "a split with a slash": ({"a/b_images": IMAGES, "a/b_labels": LABELS}, "split = 'a/b': it mu"),
    "a split without a name": ({"_images": IMAGES, "_labels": LABELS}, "split = '': it must begin"),
}  # fmt: skip


def prepare(tmp_path, arrays, name="toy"):
    np.savez(tmp_path / "a.npz", **arrays)
    return prepare_arrays(tmp_path / "a.npz", name, tmp_path / "data")


@pytest.mark.parametrize("kind", REFUSED)
def test_arrays_that_are_no_data_set_are_refused(kind, tmp_path):
    arrays, message = REFUSED[kind]
    refused(message, prepare, tmp_path, arrays)
    assert not (tmp_path / "data").exists()


@pytest.mark.parametrize(
    "name", ("../evil", "a/b", "/tmp/evil", "..", ".", "", "a b", "1st", "a.b", "a-b", "ä", "a\n")
)
def test_names_that_are_no_words_are_refused(name, tmp_path):
    message = "NAME = .*: it must begin with a letter and contain letters, digits and _"
    refused(message, prepare, tmp_path, of_train(), name)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.npz"]


def cut(path):
    path.write_bytes(path.read_bytes()[:-100])


def flip(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 3] ^= 255
    path.write_bytes(content)


FILES = {  # damage -> (function, message)
    "absent": (lambda path: path.unlink(), "no file"),
    "a folder": (lambda path: (path.unlink(), path.mkdir()), "no file"),
    "empty": (lambda path: path.write_bytes(b""), "is not an .npz file; np.savez"),
    "text": (lambda path: path.write_text("0 1 2\n"), "is not an .npz file; np.savez"),
    "one array": (lambda path: path.write_bytes(b"\x93NUMPY\x01\x00v\x00"), "is not an .npz file"),
    "cut short": (cut, "is not an .npz file"),
    "damaged": (flip, "cannot be read: "),
}  # fmt: skip


@pytest.mark.parametrize("kind", FILES)
def test_files_that_hold_no_arrays_are_refused(kind, tmp_path):
    damage, message = FILES[kind]
    np.savez(tmp_path / "a.npz", **of_train())
    damage(tmp_path / "a.npz")
    message = f"a.npz {message}|{message} .*a.npz"
    refused(message, prepare_arrays, tmp_path / "a.npz", "toy", tmp_path / "data")
    assert not (tmp_path / "data").exists()


def test_integers_of_every_kind_are_kept(tmp_path):
    for number, dtype in enumerate((np.uint8, np.uint64, ">i4")):
        prepare(tmp_path, of_train(labels=LABELS.astype(dtype)), f"toy_{number}")
        source = tfds_source(f"toy_{number}", "train", data_dir=tmp_path / "data")
        found = [source[i]["label"] for i in range(len(source))]
        assert source.num_classes == 3 and sorted(found) == [0, 1, 1, 2]
    before = sorted((tmp_path / "data").rglob("*"))
    message = "toy_0 is not empty: remove it or choose a different NAME"
    refused(message, prepare, tmp_path, of_train(images=255 - IMAGES), "toy_0")
    assert sorted((tmp_path / "data").rglob("*")) == before


@pytest.mark.parametrize("left", ("1.0.0/features.json", "1.0.0/", "2.0.0/dataset_info.json"))
def test_what_a_killed_or_other_call_left_is_not_taken_for_the_data(left, tmp_path):
    folder = tmp_path / "data" / "toy"
    path = folder / left
    (path if left.endswith("/") else path.parent).mkdir(parents=True)
    if not left.endswith("/"):
        path.write_text("{}")
    message = "toy is not empty: remove it or choose a different NAME"
    refused(message, prepare, tmp_path, of_train())
    assert not list(folder.rglob("*.array_record*"))


def test_what_was_being_written_is_no_obstacle(tmp_path):
    (tmp_path / "data" / "toy" / "incomplete.ABC_1.0.0").mkdir(parents=True)
    prepare(tmp_path, of_train())
    assert len(tfds_source("toy", "train", data_dir=tmp_path / "data")) == 4


@pytest.mark.parametrize(
    "labels, missing",
    ((LABELS + 1, "1 of 4 classes, first 0"), ([0, 0, 3, 3], "2 of 4 classes, first 1")),
)
def test_classes_without_an_image_are_warned_of(labels, missing, tmp_path):
    with pytest.warns(UserWarning, match=f"train has no image of {missing}: labels count from 0"):
        prepare(tmp_path, of_train(labels=np.array(labels)))

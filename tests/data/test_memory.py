"""Data decoded at once, and what is done about images that cannot be read."""

import io

import numpy as np
import pytest
from PIL import Image

from advspur._checks import InputError
from advspur.data import eval_batches, open_dataset
from advspur.data.memory import Readable, in_memory
from advspur.data.table import Table

IMAGES = np.random.default_rng(0).integers(0, 256, (11, 8, 8, 3), np.uint8)


def encoded(image):
    file = io.BytesIO()
    Image.fromarray(image).save(file, "PNG")
    return file.getvalue()


def source(*damaged):
    """PNGs of which some are cut short."""
    files = [encoded(image) for image in IMAGES]
    for i in damaged:
        files[i] = files[i][:60]
    paths = [f"photo_{i}.png" for i in range(11)]
    return Table(11, image=files, label=np.arange(11), path=paths)


def test_images_are_decoded_to_arrays_in_order():
    table = in_memory(source(), 8)
    np.testing.assert_array_equal(table.columns["image"], IMAGES)
    np.testing.assert_array_equal(table.columns["label"], np.arange(11))
    assert in_memory(source(), 4).columns["image"].shape == (11, 4, 4, 3)


def test_unreadable_images_are_counted_and_the_first_is_named():
    with pytest.raises(InputError, match="2 of 11 images of .* first: photo_3.png .*skip_unreadab"):
        in_memory(source(7, 3), 8)


def test_unreadable_images_are_left_out_where_asked_for():
    with (
        pytest.warns(UserWarning, match="2 of 11 images are unreadable and left out, first: pho"),
        pytest.warns(UserWarning, match="has no readable image of 2 classes, first 3"),
    ):
        table = in_memory(source(7, 3), 8, skip_unreadable=True)
    np.testing.assert_array_equal(table.columns["label"], [0, 1, 2, 4, 5, 6, 8, 9, 10])
    np.testing.assert_array_equal(table.columns["image"], IMAGES[table.columns["label"]])
    with pytest.raises(InputError, match="images is empty"), pytest.warns(UserWarning):
        in_memory(source(*range(11)), 8, skip_unreadable=True)


def test_a_stream_replaces_unreadable_images_by_the_next():
    readable = Readable(source(3, 10))
    assert len(readable) == 11 and readable.num_classes == 11
    with pytest.warns(UserWarning, match="photo_3.png is no readable image.*replaced.*1 so far"):
        assert (readable[3]["label"], readable[3]["valid"]) == (4, False)
    assert readable[4]["valid"]
    with pytest.warns(UserWarning, match="photo_10.png .*2 so far"):
        np.testing.assert_array_equal(readable[10]["image"], IMAGES[0])  # round to the first
    with pytest.warns(UserWarning, match="2 so far"):
        assert readable[3]["label"] == 4
    with pytest.raises(InputError, match="no image of .* can be read"), pytest.warns(UserWarning):
        Readable(source(*range(11)))[0]


def test_an_evaluation_counts_no_image_twice():
    with pytest.warns(UserWarning, match="photo_3"):
        batches = list(eval_batches(Readable(source(3)), batch_size=4, image_size=8))
    valid = np.concatenate([batch.valid for batch in batches])
    np.testing.assert_array_equal(np.flatnonzero(~valid), [3, 11])  # and the padding
    assert batches[0].label.tolist() == [0, 1, 2, 4]


def test_a_folder_of_imagenet_is_read_with_and_without_its_damaged_file(tmp_path):
    for part in ("train", "val"):
        for name in ("a", "b"):
            (tmp_path / part / name).mkdir(parents=True)
            (tmp_path / part / name / "x.png").write_bytes(encoded(IMAGES[0]))
    (tmp_path / "train" / "a" / "x.png").write_bytes(b"no image")
    damaged = open_dataset("imagenet2012", data_dir=tmp_path).train
    assert damaged[0]["image"] == b"no image"  # decoded by who reads it
    train = open_dataset("imagenet2012", data_dir=tmp_path, skip_unreadable=True).train
    with pytest.warns(UserWarning, match="train/a/x.png is no readable image"):
        assert train[0]["label"] == 1


def test_a_colour_shift_is_of_cifar10_only():
    with pytest.raises(InputError, match="color_shift.rho = 2: spurious_shapes has no colour"):
        open_dataset("spurious_shapes", color_shift={"rho": 2, "shift": 0.1, "seed": 0})

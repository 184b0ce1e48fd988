"""Training data: class folders, TFDS records, arrays; what is absent, damaged or unreadable."""

import shutil
import sys

import numpy as np
import pytest
from prepare_data import prepare_arrays

from advspur._checks import InputError
from advspur.data import eval_batches, folder_source, open_dataset, tfds_source, train_batches
from advspur.data.layouts import SkippingUnreadable, in_memory
from advspur.data.table import Table
from tests.data.cifar10_jpeg import write_cifar10
from tests.data.own_files import encode, put
from tests.refusals import refused

IMAGES = np.random.default_rng(0).integers(0, 256, (11, 8, 8, 3), np.uint8)


def write_class_folders(root, *splits):
    """Two classes of two images, and files that are neither image nor class."""
    files = {"ant/b.JPEG": encode(IMAGES[1], "JPEG"), "ant/a.jpg": encode(IMAGES[0], "JPEG")}
    files |= {"bee/c.JPEG": encode(IMAGES[2], "JPEG"), "bee/d.png": encode(IMAGES[3])}
    files |= {"ant/notes.txt": b"no image", "classes.txt": b"no class"}
    for split in splits or (".",):
        for name, content in files.items():
            put(root / split / name, content)
    return root


def test_folders_are_classes_in_sorted_order(tmp_path):
    source = folder_source(write_class_folders(tmp_path))
    assert source.names == {"label": ("ant", "bee")} and source.num_classes == 2
    assert repr(source) == f"Table(4 examples, 2 classes in {tmp_path})"
    names = [source[i]["path"].rsplit("/", 1)[1] for i in range(len(source))]
    assert names == ["a.jpg", "b.JPEG", "c.JPEG", "d.png"]
    assert [source[i]["label"] for i in range(4)] == [0, 0, 1, 1]
    (batch,) = eval_batches(source, batch_size=4, image_size=8)
    np.testing.assert_array_equal(batch.image[3], IMAGES[3])
    assert batch.mask.shape == (4, 1, 1, 1) and np.all(batch.mask == 255)
    refused("nowhere is not a directory", folder_source, tmp_path / "nowhere")
    refused(r"holds no images; expected .*/<class name>/", folder_source, tmp_path / "ant")


def test_the_embedded_data():
    shapes = {"num_train": 12, "num_validation": 6, "image_size": 16, "num_classes": 3}
    dataset = open_dataset("spurious_shapes", shapes=shapes)
    assert (len(dataset.train), len(dataset.validation)) == (12, 6)
    assert (dataset.image_size, dataset.num_classes) == (16, 3)
    assert shapes["num_train"] == 12  # the caller's options are left alone
    dataset = open_dataset("spurious_shapes", shapes={"image_size": 8, "num_train": 8})
    assert len(dataset.train) == 8 and len(dataset.validation) == 1000


def test_class_folders_are_opened_and_must_be_the_same_in_both_splits(tmp_path):
    write_class_folders(tmp_path / "imagenet2012", "train", "val")
    for root in (tmp_path, tmp_path / "imagenet2012"):
        dataset = open_dataset("imagenet2012", data_dir=root)
        assert (len(dataset.train), dataset.num_classes, dataset.image_size) == (4, 2, 224)
    put(tmp_path / "imagenet2012" / "val" / "cat" / "e.png", encode(IMAGES[0]))
    message = "different class folders: 2 and 3.*'cat'"
    refused(message, open_dataset, "imagenet2012", data_dir=tmp_path)


def test_missing_data_are_an_error_with_places_layouts_and_command(tmp_path, monkeypatch):
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path))
    for given in ("", tmp_path):
        with pytest.raises(InputError) as caught:
            open_dataset("cifar10", data_dir=given)
        message = str(caught.value)
        parts = f"no cifar10 data in {tmp_path}", f"{tmp_path / 'cifar10'}/<version>/"
        parts += "{train,val}/<class>/", "--config.dataset=spurious_shapes"
        parts += (f"python scripts/prepare_data.py tfds cifar10 --data_dir {tmp_path}",)
        assert all(part in message for part in parts) and "\n" not in message


def test_unknown_names_and_shifts_are_refused():
    refused("dataset = 'mnist' is not known; allowed: 'spurious_", open_dataset, "mnist")
    with pytest.raises(InputError, match="color_shift.rho = 2: spurious_shapes has no colour"):
        open_dataset("spurious_shapes", color_shift={"rho": 2, "shift": 0.1, "seed": 0})


# What cannot be read.


def link(path, target):
    path.unlink(missing_ok=True)
    path.symlink_to(target)


CANNOT = {  # an unreadable file among the images -> the message
    "a dead link": (lambda path: link(path, "nowhere"), "cannot be read: No such file"),
    "a link to itself": (lambda path: link(path, path), "cannot be read: Too many levels"),
    "a link to a folder": (lambda path: link(path, "/tmp"), "cannot be read: Is a directory"),
    "a folder": (lambda path: (path.unlink(), path.mkdir()), "cannot be read: Is a directory"),
    "empty": (lambda path: path.write_bytes(b""), "is not a readable image"),
    "another kind": (lambda path: path.write_bytes(b"RIFF\0\0\0\0WAVE"), "is not a readable image"),
}


@pytest.mark.parametrize("kind", CANNOT)
def test_what_cannot_be_read_among_the_images_is_named_counted_and_left_out(kind, tmp_path):
    """In training and validation, of the data that are streamed and of those in memory."""
    make, message = CANNOT[kind]
    write_class_folders(tmp_path, "train", "val")
    make(tmp_path / "train" / "bee" / "c.JPEG")
    source = folder_source(tmp_path / "train")
    with pytest.raises(InputError, match=f"c.JPEG {message}"):
        list(eval_batches(source, batch_size=4, image_size=8))
    with pytest.raises(InputError, match=f"1 of 4 images of .*train.*, first: .*c.JPEG {message}"):
        open_dataset("cifar10", data_dir=tmp_path)
    with pytest.warns(UserWarning, match="1 of 4 images are unreadable and left out, first"):
        assert len(open_dataset("cifar10", data_dir=tmp_path, skip_unreadable=True).train) == 3
    streamed = open_dataset("imagenet2012", data_dir=tmp_path, skip_unreadable=True).train
    with pytest.warns(UserWarning, match="c.JPEG .*replaced by the next image .1 so far"):
        batches = list(eval_batches(streamed, batch_size=4, image_size=8))
    assert [batch.valid.tolist() for batch in batches] == [[True, True, False, True]]


@pytest.mark.parametrize("split", ("train", "val"))
@pytest.mark.parametrize("name", ("{0.stem}.webp", ".{0.name}"))
def test_a_class_without_images_is_refused(name, split, tmp_path):
    """Its files have a different suffix or are hidden."""
    write_class_folders(tmp_path, "train", "val")
    for file in list((tmp_path / split / "bee").iterdir()):
        file.rename(file.with_name(name.format(file)))
    for name in ("cifar10", "imagenet2012"):
        with pytest.raises(InputError, match=f"1 of 2 class folders in .*{split} .*, first bee"):
            open_dataset(name, data_dir=tmp_path)


def damaged(*numbers):
    """PNGs of which some are cut short."""
    files = [encode(image)[: 60 if i in numbers else None] for i, image in enumerate(IMAGES)]
    paths = [f"photo_{i}.png" for i in range(11)]
    return Table(11, image=files, label=np.arange(11), path=paths)


def test_images_are_decoded_in_order_and_unreadable_ones_are_named_or_left_out():
    table = in_memory(damaged(), 8)
    np.testing.assert_array_equal(table.columns["image"], IMAGES)
    np.testing.assert_array_equal(table.columns["label"], np.arange(11))
    assert in_memory(damaged(), 4).columns["image"].shape == (11, 4, 4, 3)
    refused("2 of 11 images of .* first: photo_3.png .*skip_unreadab", in_memory, damaged(7, 3), 8)
    with (
        pytest.warns(UserWarning, match="2 of 11 images are unreadable and left out, first: pho"),
        pytest.warns(UserWarning, match="has no readable image of 2 classes, first 3"),
    ):
        table = in_memory(damaged(7, 3), 8, skip_unreadable=True)
    np.testing.assert_array_equal(table.columns["label"], [0, 1, 2, 4, 5, 6, 8, 9, 10])
    np.testing.assert_array_equal(table.columns["image"], IMAGES[table.columns["label"]])
    with pytest.raises(InputError, match="images is empty"), pytest.warns(UserWarning):
        in_memory(damaged(*range(11)), 8, skip_unreadable=True)


def test_a_stream_replaces_unreadable_images_by_the_next_which_count_once():
    readable = SkippingUnreadable(damaged(3, 10))
    assert len(readable) == 11 and readable.num_classes == 11
    with pytest.warns(UserWarning, match="photo_3.png is not a readable image.*replaced.*1 so far"):
        assert (readable[3]["label"], readable[3]["valid"]) == (4, False)
    with pytest.warns(UserWarning, match="photo_10.png .*2 so far"):
        np.testing.assert_array_equal(readable[10]["image"], IMAGES[0])  # round to the first
    with pytest.raises(InputError, match="no image of .* can be read"), pytest.warns(UserWarning):
        SkippingUnreadable(damaged(*range(11)))[0]
    with pytest.warns(UserWarning, match="photo_3"):
        batches = list(eval_batches(SkippingUnreadable(damaged(3)), batch_size=4, image_size=8))
    valid = np.concatenate([batch.valid for batch in batches])
    np.testing.assert_array_equal(np.flatnonzero(~valid), [3, 11])  # and the padding
    assert batches[0].label.tolist() == [0, 1, 2, 4]


# TFDS directories, written and read without TensorFlow.


@pytest.fixture(scope="module")
def arrays():
    rng, made = np.random.default_rng(0), {}
    for split, n in (("train", 40), ("test", 12)):
        made[f"{split}_images"] = rng.integers(0, 256, (n, 32, 32, 3), dtype=np.uint8)
        made[f"{split}_labels"] = np.arange(n) % 10
    return made


@pytest.fixture(scope="module")
def data_dir(arrays, tmp_path_factory):
    folder = tmp_path_factory.mktemp("tfds")
    np.savez(folder / "cifar10.npz", **arrays)
    prepare_arrays(folder / "cifar10.npz", "cifar10", folder, version="3.0.2")
    return folder


def test_written_images_come_back_bit_for_bit(data_dir, arrays):
    dataset = open_dataset("cifar10", data_dir=data_dir)
    assert dataset.num_classes == 10 and dataset.image_size == 32
    for split, source in (("train", dataset.train), ("test", dataset.validation)):
        images, labels = arrays[f"{split}_images"], arrays[f"{split}_labels"]
        (batch,) = eval_batches(source, batch_size=len(labels), image_size=32)
        # TFDS shuffles what it writes: compare as sets
        found = sorted(zip(batch.label.tolist(), map(bytes, batch.image), strict=True))
        assert found == sorted(zip(labels.tolist(), map(bytes, images), strict=True))
    options = {"batch_size": 8, "image_size": 32, "augmentation": "cifar", "seed": 1}
    first, again = (next(train_batches(dataset.train, **options)) for _ in range(2))
    assert first.image.shape == (8, 32, 32, 3) and first.image.dtype == np.uint8
    np.testing.assert_array_equal(first.image, again.image)
    assert "tensorflow" not in sys.modules


def test_data_dir_may_be_the_data_set_itself(data_dir):
    version = data_dir / "cifar10" / "3.0.2"
    assert len(tfds_source("cifar10", "test", data_dir=version)) == 12
    message = "has no split 'val'; it has test, train"
    refused(message, tfds_source, "cifar10", "val", data_dir=version)


@pytest.mark.parametrize("keep, message", ((0, "is missing"), (1000, "(is cut short|has 0 of)")))
def test_damaged_shards_are_named(data_dir, tmp_path, keep, message):
    root = shutil.copytree(data_dir, tmp_path / "copy")
    (shard,) = root.glob("cifar10/3.0.2/*train*")
    content = shard.read_bytes()[:keep]
    shard.unlink()
    if content:
        shard.write_bytes(content)
    refused(f"half-written: {shard.name} {message}", open_dataset, "cifar10", data_dir=root)


INFO = '{"name": "x", "splits": [{"name": "train", "shardLengths": ["5"]}]'


@pytest.mark.parametrize(
    "content, message",
    (
        (None, "is half-written .*prepare it again with"),
        *((text, "info.json is damaged") for text in ("", "[]", "3", "null", "\xff", "{", "{}")),
        *((text, "is damaged") for text in ('{"splits": 3}', '{"name": "x", "splits": [{}]}')),
        (INFO + "}", "stored as tfrecord, which has no random access"),
        (INFO + ', "fileFormat": "array_record"}', "x-train.array_record-00000-of-00001 is mis"),
    ),
)
def test_half_written_and_damaged_tfds_directories_are_recognised(content, message, tmp_path):
    """No TFDS is needed to see that something is missing."""
    refused("no prepared TFDS directory of x", tfds_source, "x", "train", data_dir=tmp_path)
    folder = tmp_path / "x" / "3.0.2"
    folder.mkdir(parents=True)
    if content is not None:
        (folder / "features.json").write_text("{}")
        (folder / "dataset_info.json").write_bytes(content.encode("latin-1"))
    refused(message, tfds_source, "x", "train", data_dir=tmp_path)


def test_real_cifar10_images_through_the_same_path(shared, tmp_path):
    with pytest.warns(UserWarning, match="has no image of [0-9] of 10 classes"):
        write_cifar10(tmp_path, num_train=20, num_test=10)
    dataset = open_dataset("cifar10", data_dir=tmp_path)
    assert (len(dataset.train), len(dataset.validation), dataset.num_classes) == (20, 10, 10)
    pixels = dataset.train.columns["image"]
    assert 80 < pixels.mean() < 160 and pixels.std() > 30  # photographs, not noise

"""Array and folder sources, and what open_dataset says where data are absent."""

import io
import json

import numpy as np
import pytest
from PIL import Image

from advspur._checks import InputError
from advspur.data import array_source, eval_batches, folder_source, open_dataset, tfds_source

IMAGES = np.random.default_rng(0).integers(0, 256, (5, 8, 8, 3), np.uint8)
LABELS = np.array([0, 1, 2, 1, 0])


def encoded(mode, color, suffix="JPEG", size=(20, 12)):
    file = io.BytesIO()
    Image.new(mode, size, color).save(file, suffix)
    return file.getvalue()


def write_class_folders(root):
    """Two classes of three images: RGB, greyscale and CMYK files."""
    files = {
        "ant/b.JPEG": encoded("RGB", (200, 100, 50)),
        "ant/a.jpg": encoded("L", 90),
        "ant/notes.txt": b"no image",
        "bee/c.JPEG": encoded("CMYK", (0, 255, 255, 0)),
        "bee/d.png": encoded("RGB", (1, 2, 3), "PNG"),
    }
    for name, content in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(content)
    (root / "classes.txt").write_text("a file beside the class folders is no class")
    return root


def test_array_source_gives_its_columns_back():
    source = array_source(IMAGES, LABELS, num_classes=3, group=LABELS[::-1])
    assert len(source) == 5 and source.num_classes == 3
    example = source[3]
    assert set(example) == {"image", "label", "group"}
    np.testing.assert_array_equal(example["image"], IMAGES[3])
    assert (example["label"], example["group"]) == (1, 1)
    assert repr(source) == "Table(5 examples, 3 classes)"


@pytest.mark.parametrize(
    "images, labels, columns, message",
    [
        (IMAGES / 255, LABELS, {}, "images are float64"),
        (IMAGES[..., :1], LABELS, {}, r"images are uint8 \(5, 8, 8, 1\)"),
        (IMAGES[:0], LABELS[:0], {}, "images is empty"),
        (IMAGES, LABELS[:4], {}, "label has 4 entries for 5 images"),
        (IMAGES, LABELS, {"group": LABELS[:2]}, "group has 2 entries"),
        (IMAGES, LABELS, {"mask": np.ones((1, 8, 8, 1))}, "mask has 1 entries"),
        (IMAGES, LABELS + 1, {}, r"labels lie in \[1, 3\]; expected \[0, 2\]"),
        (IMAGES, LABELS - 1, {}, r"labels lie in \[-1, 1\]"),
    ],
)
def test_array_source_refuses_what_does_not_fit(images, labels, columns, message):
    with pytest.raises(InputError, match=message):
        array_source(images, labels, num_classes=3, **columns)


def test_folder_source_numbers_sorted_classes_and_sorts_files(tmp_path):
    source = folder_source(write_class_folders(tmp_path))
    assert source.class_names == ["ant", "bee"] and source.num_classes == 2
    names = [source[i]["path"].rsplit("/", 1)[1] for i in range(len(source))]
    assert names == ["a.jpg", "b.JPEG", "c.JPEG", "d.png"]
    assert [source[i]["label"] for i in range(4)] == [0, 0, 1, 1]


def test_greyscale_and_cmyk_files_become_rgb_batches(tmp_path):
    source = folder_source(write_class_folders(tmp_path))
    (batch,) = eval_batches(source, batch_size=4, image_size=8)
    assert batch.image.shape == (4, 8, 8, 3) and batch.image.dtype == np.uint8
    # Constant images: JPEG keeps them to within three grey levels.
    expected = [(90, 90, 90), (200, 100, 50), (255, 0, 0), (1, 2, 3)]
    for image, color in zip(batch.image, expected, strict=True):
        np.testing.assert_allclose(image, np.broadcast_to(color, image.shape), rtol=0, atol=3)
    assert batch.mask.shape == (4, 1, 1, 1) and np.all(batch.mask == 255)


def test_folder_source_refuses_missing_and_empty_folders(tmp_path):
    with pytest.raises(InputError, match="nowhere is not a directory"):
        folder_source(tmp_path / "nowhere")
    (tmp_path / "ant").mkdir()
    with pytest.raises(InputError, match=r"holds no images; expected .*/<class name>/"):
        folder_source(tmp_path)


def test_a_damaged_file_is_named(tmp_path):
    root = write_class_folders(tmp_path)
    (root / "ant" / "b.JPEG").write_bytes(b"\xff\xd8 not a jpeg")
    with pytest.raises(InputError, match=r"b\.JPEG is no readable image"):
        list(eval_batches(folder_source(root), batch_size=4, image_size=8))


def test_open_dataset_opens_the_embedded_data():
    shapes = {"num_train": 12, "num_validation": 6, "image_size": 16, "num_classes": 3}
    dataset = open_dataset("spurious_shapes", shapes=shapes)
    assert (len(dataset.train), len(dataset.validation)) == (12, 6)
    assert (dataset.image_size, dataset.num_classes) == (16, 3)
    assert shapes["num_train"] == 12  # the caller's options are left alone


def test_open_dataset_does_not_ask_for_sizes_by_a_key_error():
    """Default sizes or an InputError are both fine."""
    try:
        dataset = open_dataset("spurious_shapes", shapes={"image_size": 8, "num_train": 8})
    except InputError as error:
        assert "num_validation" in str(error)
    else:
        assert len(dataset.train) == 8 and len(dataset.validation) > 0


def test_open_dataset_opens_class_folders(tmp_path):
    for split in ("train", "val"):
        write_class_folders(tmp_path / "imagenet2012" / split)
    for root in (tmp_path, tmp_path / "imagenet2012"):
        dataset = open_dataset("imagenet2012", data_dir=root)
        assert (len(dataset.train), dataset.num_classes, dataset.image_size) == (4, 2, 224)


def test_open_dataset_refuses_splits_of_different_classes(tmp_path):
    for split in ("train", "val"):
        write_class_folders(tmp_path / split)
    (tmp_path / "val" / "cat").mkdir()
    (tmp_path / "val" / "cat" / "e.png").write_bytes(encoded("RGB", (1, 2, 3), "PNG"))
    with pytest.raises(InputError, match=r"different class folders: 2 and 3.*'cat'"):
        open_dataset("imagenet2012", data_dir=tmp_path)


@pytest.mark.parametrize("from_environment", (False, True))
def test_absent_data_are_answered_with_places_layouts_and_mend(
    tmp_path, monkeypatch, from_environment
):
    if from_environment:
        monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path))
    with pytest.raises(InputError) as caught:
        open_dataset("cifar10", data_dir="" if from_environment else tmp_path)
    message = str(caught.value)
    for part in (
        f"no cifar10 data in {tmp_path}",
        f"{tmp_path / 'cifar10'}/<version>/",
        "{train,val}/<class>/",
        f"python scripts/prepare_data.py tfds cifar10 --data_dir {tmp_path}",
        "--config.dataset=spurious_shapes",
    ):
        assert part in message
    assert "\n" not in message


def test_unknown_data_sets_are_refused():
    with pytest.raises(InputError, match="dataset = 'mnist' is not known; allowed: 'spurious_"):
        open_dataset("mnist")


def test_half_written_tfds_directories_are_recognised(tmp_path):
    """No TFDS is needed to see that something is missing."""
    with pytest.raises(InputError, match="no prepared TFDS directory of cifar10"):
        tfds_source("cifar10", "train", data_dir=tmp_path)
    version = tmp_path / "cifar10" / "3.0.2"
    version.mkdir(parents=True)
    with pytest.raises(InputError, match=r"3\.0\.2 is half-written .*prepare it again with"):
        open_dataset("cifar10", data_dir=tmp_path)
    (version / "features.json").write_text("{}")
    (version / "dataset_info.json").write_text("{")
    with pytest.raises(InputError, match="dataset_info.json is damaged"):
        open_dataset("cifar10", data_dir=tmp_path)
    info = {"name": "cifar10", "splits": [{"name": "train", "shardLengths": ["5"]}]}
    (version / "dataset_info.json").write_text(json.dumps(info))
    with pytest.raises(InputError, match="stored as tfrecord, which has no random access"):
        open_dataset("cifar10", data_dir=tmp_path)
    info["fileFormat"] = "array_record"
    (version / "dataset_info.json").write_text(json.dumps(info))
    with pytest.raises(InputError, match="cifar10-train.array_record-00000-of-00001 is missing"):
        open_dataset("cifar10", data_dir=tmp_path)


def link(path, target):
    path.unlink(missing_ok=True)
    path.symlink_to(target)


CANNOT = {  # a file among the images that cannot be read -> what is said
    "a dead link": (lambda path: link(path, "nowhere"), "cannot be read: No such file"),
    "a link to itself": (lambda path: link(path, path), "cannot be read: Too many levels"),
    "a link to a folder": (lambda path: link(path, "/tmp"), "cannot be read: Is a directory"),
    "a folder": (lambda path: (path.unlink(), path.mkdir()), "cannot be read: Is a directory"),
    "empty": (lambda path: path.write_bytes(b""), "is no readable image"),
    "text": (lambda path: path.write_text("x"), "is no readable image"),
    "another kind": (lambda path: path.write_bytes(b"RIFF\0\0\0\0WAVE"), "is no readable image"),
}


@pytest.mark.parametrize("kind", CANNOT)
def test_what_cannot_be_read_among_the_images_is_named_counted_and_left_out(kind, tmp_path):
    """In training and validation, of the data that are streamed and of those in memory."""
    make, message = CANNOT[kind]
    for split in ("train", "val"):
        write_class_folders(tmp_path / split)
    bad = tmp_path / "train" / "bee" / "c.JPEG"
    make(bad)
    source = folder_source(tmp_path / "train")
    with pytest.raises(InputError, match=f"c.JPEG {message}"):
        list(eval_batches(source, batch_size=4, image_size=8))
    with pytest.raises(InputError, match=f"1 of 4 images of .*, first: .*c.JPEG {message}"):
        open_dataset("cifar10", data_dir=tmp_path)
    with pytest.warns(UserWarning, match="1 of 4 images are unreadable and left out, first"):
        assert len(open_dataset("cifar10", data_dir=tmp_path, skip_unreadable=True).train) == 3
    streamed = open_dataset("imagenet2012", data_dir=tmp_path, skip_unreadable=True).train
    with pytest.warns(UserWarning, match="c.JPEG .*replaced by the one after it .1 so far"):
        batches = list(eval_batches(streamed, batch_size=4, image_size=8))
    assert [batch.valid.tolist() for batch in batches] == [[True, True, False, True]]


def empty(folder):
    for file in folder.iterdir():
        file.unlink()


@pytest.mark.parametrize("split", ("train", "val"))
@pytest.mark.parametrize(
    "make",
    (
        empty,
        lambda folder: [file.rename(file.with_suffix(".webp")) for file in folder.iterdir()],
        lambda folder: [file.rename(file.with_name(f".{file.name}")) for file in folder.iterdir()],
        lambda folder: (empty(folder), (folder / "deeper").mkdir()),
        lambda folder: (empty(folder), (folder / "notes.txt").write_text("moved")),
    ),
    ids=("empty", "another suffix", "hidden", "deeper", "notes"),
)
def test_a_class_without_images_is_refused(make, split, tmp_path):
    for name in ("train", "val"):
        write_class_folders(tmp_path / name)
    make(tmp_path / split / "bee")
    for name in ("cifar10", "imagenet2012"):
        with pytest.raises(InputError, match=f"1 of 2 class folders in .*{split} .*, first bee"):
            open_dataset(name, data_dir=tmp_path)


@pytest.mark.parametrize(
    "labels",
    (
        LABELS + 0.5,
        LABELS * 1.0,
        LABELS[:, None],
        np.eye(3)[LABELS],
        LABELS > 0,
        LABELS.astype(str),
    ),
)
def test_labels_that_are_no_classes_are_refused(labels):
    with pytest.raises(InputError, match="labels have shape .* expected 5 integers"):
        array_source(IMAGES, labels, num_classes=3)


@pytest.mark.parametrize(
    "content",
    ("", "[]", "{}", "3", "null", '{"splits": 3}', '{"name": "x", "splits": [{}]}', "\xff", "{"),
)
def test_damaged_descriptions_of_tfds_directories_are_named(content, tmp_path):
    folder = tmp_path / "x" / "1.0.0"
    folder.mkdir(parents=True)
    (folder / "features.json").write_text("{}")
    (folder / "dataset_info.json").write_bytes(content.encode("latin-1"))
    with pytest.raises(InputError, match="info.json is damaged|is stored as tfrecord") as caught:
        tfds_source("x", "train", data_dir=tmp_path)
    assert "\n" not in str(caught.value)

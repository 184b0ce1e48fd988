"""Masks in a folder beside ImageNet: each training image has one, or a line says which has not."""

import itertools

import numpy as np
import pytest
from numpy.testing import assert_array_equal
from prepare_data import prepare_arrays

from advspur.data import folder_source, open_dataset, tfds_source, train_batches
from advspur.data.augment import AUGMENTATIONS
from advspur.data.layouts import SkippingUnreadable
from advspur.data.mask_folders import with_masks
from advspur.data.table import Table
from tests.data.own_files import encode, put
from tests.refusals import refused

CLASSES = ("n01440764", "n01443537")
RNG = np.random.default_rng(0)
IMAGES = {
    f"{name}/{name}_{i}": RNG.integers(0, 256, (30 + 5 * i, 40, 3), np.uint8)
    for name in CLASSES
    for i in range(3)
}
OPTIONS = {"batch_size": 6, "image_size": 16, "seed": 0}


@pytest.fixture
def root(tmp_path):
    """Grey photographs, that their masks are equal to."""
    for name, image in IMAGES.items():
        grey = np.repeat(image[..., :1], 3, axis=-1)
        for part in ("train", "val"):
            put(tmp_path / "imagenet2012" / part / f"{name}.JPEG", encode(grey))
        put(tmp_path / "masks" / f"{name}.png", encode(image[..., 0]))
    return tmp_path


def opened(root, **options):
    return open_dataset("imagenet2012", data_dir=root, mask_dir=root / "masks", **options)


def take(source, count=3, augmentation="none", **options):
    stream = train_batches(source, augmentation=augmentation, **OPTIONS | options)
    return list(itertools.islice(stream, count))


@pytest.mark.parametrize("augmentation", AUGMENTATIONS)
def test_training_images_have_their_masks_and_do_not_change(root, augmentation, monkeypatch):
    bare = open_dataset("imagenet2012", data_dir=root)
    dataset = opened(root)
    assert dataset.train.has_mask and not dataset.validation.has_mask and not bare.train.has_mask
    assert dataset.train.names == bare.train.names == {"label": CLASSES}
    pairs = zip(
        take(bare.train, augmentation=augmentation),
        take(dataset.train, augmentation=augmentation),
        strict=True,
    )
    for without, batch in pairs:
        assert_array_equal(batch.image, without.image)
        assert_array_equal(batch.label, without.label)
    monkeypatch.setattr("advspur.data.augment.jitter_colors", lambda images, _: images)
    monkeypatch.setattr("advspur.data.augment.PCA_VALUES", np.zeros(3))
    for batch in take(dataset.train, augmentation=augmentation):
        assert_array_equal(batch.image[..., :1], batch.mask)


def test_a_mask_may_be_an_array(root):
    name = f"{CLASSES[0]}/{CLASSES[0]}_1"
    (root / "masks" / f"{name}.png").unlink()
    np.save(root / "masks" / f"{name}.npy", np.ones((35, 40), bool))
    assert_array_equal(opened(root).train[1]["mask"], np.full((35, 40, 1), 255))


def test_missing_masks_are_counted_at_once(root):
    (root / "masks" / CLASSES[1] / f"{CLASSES[1]}_0.png").unlink()
    (root / "masks" / CLASSES[1] / f"{CLASSES[1]}_2.png").rename(root / "masks" / "elsewhere.png")
    message = rf"2 of 6 masks in .*masks are missing, first {CLASSES[1]}/{CLASSES[1]}_0.JPEG: every"
    refused(message, opened, root)
    refused("mask_dir = .*nowhere is not a folder", with_masks, None, root / "nowhere")
    refused(
        "mask_dir = masks is for imagenet2012, not for cifar10",
        open_dataset,
        "cifar10",
        mask_dir="masks",
    )


BAD = {
    "truncated": (lambda content: content[:60], "_0.png is not a readable image"),
    "empty": (lambda _: b"", "_0.png is not a readable image"),
    "of another size": (lambda _: encode(np.zeros((40, 30), np.uint8)), "30 x 40, its image 40"),
}


@pytest.mark.parametrize("kind", BAD)
def test_a_mask_that_is_wrong_is_named_when_it_is_read(root, kind):
    change, message = BAD[kind]
    file = root / "masks" / CLASSES[0] / f"{CLASSES[0]}_0.png"
    file.write_bytes(change(file.read_bytes()))
    refused(message, take, opened(root).train)
    with pytest.warns(UserWarning, match=f"{message}.*replaced by the next image"):
        take(opened(root, skip_unreadable=True).train)


# TFDS records.


def records(**names):
    """A Table as `tfds_source` gives it."""

    def load(row):
        name, image = list(IMAGES.items())[row["index"]]
        name = f"{name.split('/')[1]}.JPEG"
        example = {"image": encode(image), "label": row["index"] // 3, "path": "a record"}
        return example | {key: name for key in names}

    return Table(2, load, root="there", index=range(len(IMAGES)))


def test_records_find_their_masks_by_their_file_names(root):
    table = with_masks(records(file_name=True), root / "masks")
    assert table.has_mask and table.subset([1]).has_mask and SkippingUnreadable(table).has_mask
    for row, image in enumerate(IMAGES.values()):
        assert_array_equal(table[row]["image"], image)
        assert_array_equal(table[row]["mask"], image[..., :1])
    assert take(table)[0].mask.shape == (6, 16, 16, 1)
    (root / "masks" / CLASSES[0] / f"{CLASSES[0]}_0.png").unlink()
    refused(rf"{CLASSES[0]}_0.JPEG has no mask: looked for .*_0.png", take, table)


def test_records_without_file_names_are_refused(root, tmp_path):
    refused("the records of there have no file_name", with_masks, records(), root / "masks")
    arrays = {f"{part}_images": np.zeros((2, 32, 32, 3), np.uint8) for part in ("train", "test")}
    arrays |= {f"{part}_labels": np.arange(2) for part in ("train", "test")}
    np.savez(tmp_path / "a.npz", **arrays)
    prepare_arrays(tmp_path / "a.npz", "arrays", tmp_path, version="1.0.0")
    table = tfds_source("arrays", "train", data_dir=tmp_path)
    refused("have no file_name, which names the mask", with_masks, table, root / "masks")


def test_records_that_tfds_wrote_say_their_names(root, tmp_path):
    import tensorflow_datasets as tfds

    def examples():
        for number, (name, image) in enumerate(IMAGES.items()):
            file_name = f"{name.split('/')[1]}.JPEG"
            yield number, {"image": encode(image), "label": number // 3, "file_name": file_name}

    with tfds.core.registered.skip_registration():

        class Builder(tfds.core.GeneratorBasedBuilder):
            VERSION = tfds.core.Version("5.1.0")
            pkg_dir_path = tmp_path

            def _info(self):
                image = tfds.features.Image(shape=(None, None, 3))
                label, name = tfds.features.ClassLabel(num_classes=2), tfds.features.Text()
                features = {"image": image, "label": label, "file_name": name}
                features = tfds.features.FeaturesDict(features)
                return tfds.core.DatasetInfo(builder=self, features=features)

            def _split_generators(self, _):
                return {"train": examples(), "validation": examples()}

            def _generate_examples(self):
                raise AssertionError("the splits are generators already")

    Builder.name = "imagenet2012"
    Builder(data_dir=tmp_path / "tfds", file_format="array_record").download_and_prepare()
    options = {"data_dir": tmp_path / "tfds", "mask_dir": root / "masks"}
    train = open_dataset("imagenet2012", **options).train
    assert len(train) == 6
    for row in range(6):  # TFDS shuffles what it writes
        assert_array_equal(train[row]["mask"], train[row]["image"][..., :1])


def test_images_of_masked_folders_are_those_of_the_folder(root):
    source = folder_source(root / "imagenet2012" / "train")
    table = with_masks(source, root / "masks")
    assert len(table) == len(source) and table.num_classes == 2
    refused("masks in .* are missing", with_masks, source, root / "imagenet2012")

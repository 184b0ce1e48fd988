"""TFDS directories through the real array_record files, written and read without TensorFlow."""

import shutil
import sys

import numpy as np
import pytest
from prepare_data import prepare_arrays

from advspur._checks import InputError
from advspur.data import open_dataset, tfds_source
from advspur.data.batches import eval_batches, train_batches
from tests.data.cifar10_jpeg import write_cifar10

NUM = {"train": 40, "test": 12}


@pytest.fixture(scope="module")
def arrays():
    rng = np.random.default_rng(0)
    made = {}
    for split, n in NUM.items():
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
        assert len(source) == NUM[split]
        (batch,) = eval_batches(source, batch_size=NUM[split], image_size=32)
        # TFDS shuffles what it writes: compare as sets
        found = sorted(zip(batch.label.tolist(), map(bytes, batch.image), strict=True))
        images, labels = arrays[f"{split}_images"], arrays[f"{split}_labels"]
        assert found == sorted(zip(labels.tolist(), map(bytes, images), strict=True))
    assert "tensorflow" not in sys.modules


def test_training_stream_reads_them(data_dir):
    source = open_dataset("cifar10", data_dir=data_dir).train
    options = {"batch_size": 8, "image_size": 32, "augmentation": "cifar", "seed": 1}
    first, again = (next(train_batches(source, **options)) for _ in range(2))
    assert first.image.shape == (8, 32, 32, 3) and first.image.dtype == np.uint8
    np.testing.assert_array_equal(first.image, again.image)


def test_data_dir_may_be_the_data_set_itself(data_dir):
    source = tfds_source("cifar10", "test", data_dir=data_dir / "cifar10" / "3.0.2")
    assert len(source) == NUM["test"]


def test_unknown_split_is_named(data_dir):
    with pytest.raises(InputError, match="has no split 'val'; it has test, train"):
        tfds_source("cifar10", "val", data_dir=data_dir)


@pytest.fixture
def copy(data_dir, tmp_path):
    shutil.copytree(data_dir, tmp_path / "copy")
    return tmp_path / "copy" / "cifar10" / "3.0.2"


def test_missing_shard_is_named(copy):
    shard = next(copy.glob("*train*"))
    shard.unlink()
    with pytest.raises(InputError, match=f"half-written: {shard.name} is missing"):
        open_dataset("cifar10", data_dir=copy.parents[1])


def test_truncated_shard_is_named(copy):
    shard = next(copy.glob("*train*"))
    shard.write_bytes(shard.read_bytes()[:1000])
    with pytest.raises(InputError, match=f"{shard.name} (is cut short|holds 0 of)"):
        open_dataset("cifar10", data_dir=copy.parents[1])


def test_arrays_that_cannot_be_prepared_are_named(tmp_path, arrays):
    np.savez(tmp_path / "a.npz", images=arrays["test_images"])
    with pytest.raises(InputError, match="holds no <split>_images; it has images"):
        prepare_arrays(tmp_path / "a.npz", "mine", tmp_path)
    np.savez(tmp_path / "b.npz", test_images=arrays["test_images"])
    with pytest.raises(InputError, match="lacks test_labels"):
        prepare_arrays(tmp_path / "b.npz", "mine", tmp_path)


def test_real_cifar10_images_through_the_same_path(shared, tmp_path):
    with pytest.warns(UserWarning, match="has no image of [0-9] of 10 classes"):
        write_cifar10(tmp_path, num_train=20, num_test=10)
    dataset = open_dataset("cifar10", data_dir=tmp_path)
    assert (len(dataset.train), len(dataset.validation), dataset.num_classes) == (20, 10, 10)
    (batch,) = eval_batches(dataset.train, batch_size=20, image_size=32)
    assert 80 < batch.image.mean() < 160 and batch.image.std() > 30  # photographs, not noise

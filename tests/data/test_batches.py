"""Batches: every example counted once, and a training stream that can be resumed."""

import itertools
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest
from numpy.testing import assert_array_equal

from advspur._checks import InputError
from advspur.data import array_source, eval_batches, train_batches
from advspur.data.batches import shard
from advspur.data.table import Table
from tests.data.own_files import encode
from tests.refusals import refused

ROOT = Path(__file__).resolve().parents[2]
SIZE = 8
IMAGES = np.random.default_rng(0).integers(0, 256, (11, SIZE, SIZE, 3), np.uint8)
SOURCE = array_source(IMAGES, np.arange(11), num_classes=11)
OPTIONS = {"batch_size": 4, "image_size": SIZE, "augmentation": "cifar", "seed": 0}


def take(count, **change):
    return list(itertools.islice(train_batches(SOURCE, **(OPTIONS | change)), count))


@pytest.mark.parametrize("batch_size", (1, 4, 16))
@pytest.mark.parametrize("limit, count", ((None, 11), (5, 5), (11, 11), (50, 11)))
def test_evaluation_sees_every_example_once_in_order(batch_size, limit, count):
    """Up to a limit, which takes the first."""
    batches = list(eval_batches(SOURCE, batch_size=batch_size, image_size=SIZE, limit=limit))
    assert {len(b.label) for b in batches} == {batch_size}
    assert len(batches) == -(-count // batch_size)
    assert_array_equal(np.concatenate([b.label[b.valid] for b in batches]), range(count))
    assert_array_equal(np.concatenate([b.image[b.valid] for b in batches]), IMAGES[:count])


def test_padding_repeats_the_first_example_of_its_batch():
    *_, last = eval_batches(SOURCE, batch_size=4, image_size=SIZE)
    assert_array_equal(last.valid, [True, True, True, False])
    assert_array_equal(last.label, [8, 9, 10, 8])
    assert_array_equal(last.image[3], IMAGES[8])
    types = [np.uint8, np.int32, np.uint8, bool]
    assert [field.dtype for field in last] == types


def test_examples_stay_in_order_when_some_are_slow():
    """Every third row is slow, so that threads overtake one another."""
    work = np.random.default_rng(0).random(400_000)

    def load(row):
        if row["label"] % 3 == 0:
            np.sort(work)
        return {"image": IMAGES[row["label"] % 11], "mask": np.full((SIZE, SIZE, 1), row["label"])}

    source = Table(40, load, label=np.arange(40))
    batches = list(eval_batches(source, batch_size=7, image_size=SIZE))
    labels = np.concatenate([b.label[b.valid] for b in batches])
    assert_array_equal(labels, range(40))
    for batch in batches:
        assert_array_equal(batch.image, IMAGES[batch.label % 11])
        assert_array_equal(batch.mask[:, 0, 0, 0], batch.label)


@pytest.mark.parametrize("bad", (0, 5, 10))
def test_a_damaged_file_is_one_error_with_its_name(bad):
    """It is read in a thread; what surfaces is the InputError itself."""
    encoded = [encode(IMAGES[0])] * 11
    encoded[bad] = encoded[bad][:60]
    paths = [f"photo_{i}.png" for i in range(11)]
    source = Table(11, image=encoded, label=np.arange(11), path=paths)
    seen = []
    with pytest.raises(InputError, match=f"photo_{bad}.png is not a readable image"):
        for batch in eval_batches(source, batch_size=4, image_size=SIZE):
            seen.extend(batch.label)
    assert seen == list(range(bad // 4 * 4))


def test_images_of_several_sizes_become_one_batch():
    sizes = ((8, 8), (9, 30), (50, 11))
    images = [np.full((h, w, 3), 10 * i, np.uint8) for i, (h, w) in enumerate(sizes)]
    table = Table(3, image=images, label=np.arange(3))
    (batch,) = eval_batches(table, batch_size=3, image_size=SIZE)
    assert batch.image.shape == (3, SIZE, SIZE, 3)
    assert_array_equal(batch.image[:, 4, 4, 0], [0, 10, 20])
    assert_array_equal(batch.mask, np.full((3, 1, 1, 1), 255))


def test_masks_become_eight_bit():
    masks = np.zeros((11, SIZE, SIZE, 1), bool)
    masks[:, 2:4] = True
    for given, expected in ((masks, 255 * masks), (7 * masks.astype(np.uint8), 7 * masks)):
        source = array_source(IMAGES, np.arange(11), num_classes=11, mask=given)
        (batch,) = eval_batches(source, batch_size=11, image_size=SIZE)
        assert batch.mask.dtype == np.uint8
        assert_array_equal(batch.mask, expected)


@pytest.mark.parametrize("processes", (2, 5))
def test_processes_share_the_batches_and_leave_none_out(processes, in_processes):
    """11 examples in batches of 4 leave none for the fourth and fifth process."""

    def labels():
        batches = eval_batches(SOURCE, batch_size=4, image_size=SIZE, every=processes)
        return [batch.label[batch.valid].tolist() for batch in batches]

    whole = [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9, 10]]
    shares = in_processes(processes, labels)
    assert shares == [whole[index::processes] for index in range(processes)]


def test_the_training_stream_is_a_function_of_the_seed_and_can_be_resumed():
    first, other = take(9), take(9, seed=1)
    for batch in take(3, augmentation="none"):
        assert_array_equal(batch.image, IMAGES[batch.label])
    for start in (0, 1, 7):
        jax.tree.map(assert_array_equal, first[start:], take(9 - start, start_step=start))
    assert any(np.any(a.label != b.label) for a, b in zip(first, other, strict=True))
    assert all(np.all(b.valid) for b in first)
    assert {b.image.shape for b in first} == {(4, SIZE, SIZE, 3)}


def test_every_epoch_covers_all_examples_in_a_different_order():
    labels = np.concatenate([b.label for b in take(9)])[:33].reshape(3, 11)
    assert_array_equal(np.sort(labels, axis=1), np.tile(np.arange(11), (3, 1)))
    assert len({tuple(range(11)), *map(tuple, labels)}) == 4
    of_one = np.concatenate([b.image[b.label == 5] for b in take(9)])
    assert len(np.unique(of_one, axis=0)) > 1  # augmented differently


@pytest.mark.parametrize("encoded", (False, True))
@pytest.mark.parametrize("augmentation", ("none", "crop_flip", "imagenet"))
def test_masks_follow_their_images_into_training(encoded, augmentation, monkeypatch):
    """Images that are their own masks, in arrays and one by one."""
    monkeypatch.setattr("advspur.data.augment.jitter_colors", lambda images, _: images)
    monkeypatch.setattr("advspur.data.augment.PCA_VALUES", np.zeros(3))
    grey = np.repeat(IMAGES[..., :1], 3, axis=-1)
    source = array_source(grey, np.arange(11), num_classes=11, mask=IMAGES[..., :1])
    if encoded:
        rows = [{"image": image, "mask": image[..., :1]} for image in grey]
        source = Table(11, lambda row: rows[row["label"]], label=np.arange(11))
    options = OPTIONS | {"augmentation": augmentation}
    for batch in itertools.islice(train_batches(source, **options), 6):
        assert_array_equal(batch.image[..., :1], batch.mask)
        assert batch.mask.shape == (4, SIZE, SIZE, 1) and batch.mask.dtype == np.uint8


@pytest.mark.parametrize("encoded", (False, True))
@pytest.mark.parametrize("augmentation", ("none", "cifar"))
def test_processes_share_a_batch_as_one_process_has_it(encoded, augmentation, in_processes):
    """Whether its images are arrays or are decoded one by one."""
    masks = IMAGES[..., :1]
    rows = [{"image": x, "mask": mask} for x, mask in zip(IMAGES, masks, strict=True)]
    other = Table(11, lambda row: rows[row["label"]], label=np.arange(11))
    source = array_source(IMAGES, np.arange(11), num_classes=11, mask=masks)
    source = other if encoded else source
    options = OPTIONS | {"batch_size": 6, "augmentation": augmentation, "start_step": 1}

    def read(source=source):
        return list(itertools.islice(train_batches(source, **options), 4))

    whole = read()
    joined = jax.tree.map(lambda *shares: np.concatenate(shares), *in_processes(3, read))
    jax.tree.map(assert_array_equal, joined, whole)
    # What the two ways have in common is the order.
    assert_array_equal([b.label for b in read(other)], [b.label for b in whole])


def test_a_batch_that_does_not_divide_by_the_processes_is_refused(monkeypatch):
    monkeypatch.setattr(jax, "process_count", lambda: 3)
    refused("batch_size = 4 does not divide by 3 processes", train_batches, SOURCE, **OPTIONS)


def test_shards_split_the_leading_axis_of_every_field():
    (batch,) = take(1)
    sharded = shard(batch, 2)
    assert sharded.image.shape == (2, 2, SIZE, SIZE, 3)
    for whole, parts in zip(batch, sharded, strict=True):
        assert_array_equal(np.concatenate(parts), whole)
    refused("4 does not divide by 3 devices; .* 3 and 6", shard, batch, 3)


def test_worker_processes_give_the_same_stream_also_where_no_script_has_parsed_flags():
    """In a new interpreter, since flags can be parsed only once."""
    program = (
        "from tests.data.test_batches import assert_array_equal, jax, take\n"
        "if __name__ == '__main__':\n"
        "    one, two = (take(3, augmentation='imagenet', num_workers=n) for n in (0, 2))\n"
        "    jax.tree.map(assert_array_equal, one, two)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr

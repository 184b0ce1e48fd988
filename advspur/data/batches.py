"""Grain pipelines: source -> Batch, shuffled for training or padded for evaluation.

The training stream is a function of (source, seed, index) alone, so the position of a run in its
data is its step number: a resumed run reads on exactly where it stopped.
"""

import functools
import os
from typing import NamedTuple

import jax
import numpy as np

from advspur._checks import require
from advspur.data.transforms import augment, decode, resize_and_crop


class Batch(NamedTuple):
    """One batch on the host. The leading axes are [n], or [devices, n / devices] when sharded."""

    image: np.ndarray  # uint8 [n, h, w, 3]
    label: np.ndarray  # int32 [n]
    group: np.ndarray  # int32 [n], -1 where the source has none
    mask: np.ndarray  # uint8 [n, h, w, 1] object mask, 255 on it; [n, 1, 1, 1] of 255 without one
    valid: np.ndarray  # bool [n], False for padding


def train_batches(
    source, *, batch_size, image_size, augmentation, seed, start_step=0, num_workers=0
):
    """Endless iterator over this process's share of shuffled batches, from `start_step` on.

    Args:
      batch_size: of this process, not of all.
      augmentation: kind of `transforms.augment`.
      seed: of order and augmentation; every epoch has an order of its own.
      num_workers: Grain worker processes (0: threads of this process). The stream does not
        depend on it.
    """
    import grain

    def load(example, rng):
        image = decode(example["image"], example.get("path"))
        return _example(example, augment(image, rng, kind=augmentation, size=image_size))

    shard = slice(jax.process_index(), None, jax.process_count())
    require(
        len(source) // jax.process_count() > 0,
        f"{source!r} has fewer examples than there are processes ({jax.process_count()})",
    )
    stream = grain.MapDataset.source(source)[shard].seed(seed).shuffle().repeat()
    stream = stream.random_map(load).batch(batch_size, drop_remainder=True, batch_fn=_stack)
    stream = stream[start_step:].to_iter_dataset(
        grain.ReadOptions(num_threads=2, prefetch_buffer_size=4)
    )
    if num_workers:
        stream = stream.mp_prefetch(grain.MultiprocessingOptions(num_workers=num_workers))
    return iter(stream)


def eval_batches(source, *, batch_size, image_size, limit=None, every=1):
    """Examples in order (the first `limit`), every batch padded to `batch_size`.

    Images are read, decoded and transformed in threads, ahead of their use. Padding repeats the
    first example of the batch with valid = False.

    Args:
      every: of the batches, those of this process where several share the work: the
        process_index-th of each `every`.
    """
    import grain

    def load(index):
        example = source[index]
        image = resize_and_crop(decode(example["image"], example.get("path")), image_size)
        return _example(example, image)

    count = len(source) if limit is None else min(limit, len(source))
    starts = range(0, count, batch_size)[jax.process_index() % every :: every]
    indices = [i for start in starts for i in range(start, min(start + batch_size, count))]
    if not indices:
        return
    ahead = grain.ReadOptions(num_threads=os.cpu_count(), prefetch_buffer_size=2 * batch_size)
    examples = grain.MapDataset.source(indices).map(load).to_iter_dataset(ahead)
    for loaded in examples.batch(batch_size, batch_fn=list):
        padding = batch_size - len(loaded)
        batch = _stack(loaded + loaded[:1] * padding)
        yield batch._replace(valid=np.arange(batch_size) < len(loaded))


def shard(batch, num_devices):
    """[n, ...] -> [num_devices, n / num_devices, ...] in every field."""
    size = len(batch.label)
    require(
        size % num_devices == 0,
        f"a batch of {size} does not divide by {num_devices} devices; the nearest sizes are "
        f"{size - size % num_devices} and {size + num_devices - size % num_devices}",
    )
    split = functools.partial(_split_leading, num_devices)
    return Batch(*map(split, batch))


def _split_leading(num_devices, array):
    return array.reshape(num_devices, -1, *array.shape[1:])


def _example(example, image):
    return Batch(
        image=np.ascontiguousarray(image),
        label=np.int32(example["label"]),
        group=np.int32(example.get("group", -1)),
        mask=_eight_bit(example.get("mask", np.ones((1, 1, 1), bool))),
        valid=np.True_,
    )


def _eight_bit(mask):
    return 255 * mask.astype(np.uint8) if mask.dtype == bool else mask


def _stack(examples):
    return Batch(*map(np.stack, zip(*examples, strict=True)))

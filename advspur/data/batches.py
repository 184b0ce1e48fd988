"""Grain pipelines: source -> Batch, shuffled for training or padded for evaluation.

The training stream is a function of (source, seed, index) alone: a resumed run continues exactly
where it stopped.
"""

import functools
import os
from typing import NamedTuple

import jax
import numpy as np
from absl import flags

from advspur._checks import require
from advspur.data.augment import CHANGES, augment, change, change_masks, draw
from advspur.data.background import change_background, changes_background, require_masks
from advspur.data.table import Table
from advspur.data.transforms import decode, resize_and_crop


class Batch(NamedTuple):
    """One batch on the host. The leading axes are [n], or [devices, n / devices] when sharded."""

    image: np.ndarray  # uint8 [n, h, w, 3]
    label: np.ndarray  # int32 [n]
    mask: np.ndarray  # uint8 [n, h, w, 1] object mask, 255 on it; [n, 1, 1, 1] of 255 without one
    valid: np.ndarray  # bool [n], False for padding


def train_batches(
    source,
    *,
    batch_size,
    image_size,
    augmentation,
    seed,
    start_step=0,
    num_workers=0,
    background=None,
):
    """Return an endless iterator over this process's share of shuffled batches.

    The shares of all processes, in order, are the batch that one process alone would read. Masks
    are reduced to their first channel, the core.

    Args:
      batch_size: of all processes together.
      augmentation: one of `augment.AUGMENTATIONS`.
      seed: of order, augmentation and changes of the background; each epoch has a different order.
      start_step: number of batches to skip.
      num_workers: Grain worker processes, which do not change the stream; 0: threads.
      background: options of `background.change_background` from noise_std on; None: no change.
    """
    import grain

    index, count = jax.process_index(), jax.process_count()
    fault = f"batch_size = {batch_size} does not divide by {count} processes"
    require(batch_size % count == 0, fault)
    is_ready = augmentation in CHANGES and _is_ready(source, image_size)
    share = slice(index * batch_size // count, (index + 1) * batch_size // count)

    def read_one(rows, rng):
        example = source[rows[0]]
        image, mask = decode(example["image"], example.get("path")), _mask(example)
        mask = mask if mask is None else mask[..., :1]
        changed = augment(image, mask, rng, kind=augmentation, size=image_size)
        return _combine(np.stack, [_example(example, *changed)])

    def read_batch(rows, rng):
        drawn = draw(rng, batch_size, augmentation)
        values = {name: value[share] for name, value in drawn.items()}
        batch = _stack_rows(source.columns, rows[share])
        masks = batch.mask[..., :1]
        masks = change_masks(masks, values) if source.has_mask else masks
        images = change(batch.image, values)
        return batch._replace(image=np.ascontiguousarray(images), mask=np.ascontiguousarray(masks))

    load = read_batch if is_ready else read_one
    if background and changes_background(**background):
        require_masks(source, "background")
        background = background | {"share": share if is_ready else slice(None)}
        load = functools.partial(change_background, load, num_examples=len(source), **background)

    join = functools.partial(_combine, np.concatenate)
    stream = grain.MapDataset.range(len(source)).seed(seed).shuffle().repeat()
    if is_ready:
        stream = stream.batch(batch_size, drop_remainder=True).random_map(load)
    else:
        stream = stream.random_map(lambda row, rng: load([row], rng))
        stream = stream.batch(batch_size // count, drop_remainder=True, batch_fn=join)
        stream = stream[index::count]
    ahead = grain.ReadOptions(num_threads=2, prefetch_buffer_size=4)
    stream = stream[start_step:].to_iter_dataset(ahead)
    if num_workers:
        if not flags.FLAGS.is_parsed():  # no script did; Grain's workers look them up
            flags.FLAGS.mark_as_parsed()
        stream = stream.mp_prefetch(grain.MultiprocessingOptions(num_workers=num_workers))
    return iter(stream)


def eval_batches(source, *, batch_size, image_size, limit=None, every=1):
    """Yield examples in order (the first `limit`), every batch padded to `batch_size`.

    Images are decoded in threads, ahead of their use. Padding repeats the first example of the
    batch with valid = False. With `every` > 1, a process reads only every `every`-th batch, from
    its process_index on.
    """
    import grain

    def load(index):
        example = source[index]
        image = resize_and_crop(decode(example["image"], example.get("path")), image_size)
        return _example(example, image, _mask(example))

    count = len(source) if limit is None else min(limit, len(source))
    starts = range(0, count, batch_size)[jax.process_index() % every :: every]
    if _is_ready(source, image_size):
        for start in starts:
            rows = np.arange(start, start + batch_size)
            batch = _stack_rows(source.columns, np.where(rows < count, rows, start))
            yield batch._replace(valid=rows < count)
        return
    indices = [i for start in starts for i in range(start, min(start + batch_size, count))]
    if not indices:
        return
    ahead = grain.ReadOptions(num_threads=os.cpu_count(), prefetch_buffer_size=2 * batch_size)
    examples = grain.MapDataset.source(indices).map(load).to_iter_dataset(ahead)
    for loaded in examples.batch(batch_size, batch_fn=list):
        padding = batch_size - len(loaded)
        batch = _combine(np.stack, loaded + loaded[:1] * padding)
        yield batch._replace(valid=batch.valid & (np.arange(batch_size) < len(loaded)))


def shard(batch, num_devices):
    """Reshape [n, ...] to [num_devices, n / num_devices, ...] in every field."""
    size, least = len(batch.label), len(batch.label) // num_devices * num_devices
    fault = f"a batch of {size} does not divide by {num_devices} devices"
    require(size == least, f"{fault}; the nearest sizes are {least} and {least + num_devices}")
    return Batch(*(array.reshape(num_devices, -1, *array.shape[1:]) for array in batch))


def _mask(example):
    return _eight_bit(example["mask"]) if "mask" in example else None


def _example(example, image, mask):
    return Batch(
        image=np.ascontiguousarray(image),
        label=np.int32(example["label"]),
        mask=np.full((1, 1, 1), 255, np.uint8) if mask is None else mask,
        valid=np.bool_(example.get("valid", True)),
    )


def _is_ready(source, image_size):
    """Return whether the images of a source are already an array of this size."""
    images = source.columns.get("image") if isinstance(source, Table) else None
    return isinstance(images, np.ndarray) and images.shape[1:3] == (image_size, image_size)


def _stack_rows(columns, indices):
    valid = np.ones(len(indices), bool)
    masks = columns["mask"][indices] if "mask" in columns else valid[:, None, None, None]
    labels = np.asarray(columns["label"])[indices].astype(np.int32)
    return Batch(columns["image"][indices], labels, _eight_bit(masks), valid)


def _eight_bit(mask):
    return 255 * mask.astype(np.uint8) if mask.dtype == bool else mask


def _combine(function, batches):
    return Batch(*map(function, zip(*batches, strict=True)))

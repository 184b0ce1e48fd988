"""Batches over the local devices, and several processes that agree with one another."""

import contextlib
import json
import os
import sys

import jax
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from advspur._checks import InputError, first_line, require

OUT_OF_MEMORY = "RESOURCE_EXHAUSTED"
EVERYWHERE, SPLIT = PartitionSpec(), PartitionSpec("batch")


def device_mesh(number=None):
    """The local devices, or the first `number` of them, along the one axis "batch"."""
    return Mesh(np.array(jax.local_devices()[:number]), ("batch",))


def replicate(tree):
    """A pytree (a classifier) on every local device, where the batches are split over."""
    return jax.device_put(tree, NamedSharding(device_mesh(), EVERYWHERE))


def split_batch(arrays, number=None):
    """Arrays with a leading batch axis, split over the local devices, or the first `number`."""
    return jax.device_put(arrays, NamedSharding(device_mesh(number), SPLIT))


def round_up_to_devices(size):
    """`size` rounded up to a multiple of the number of local devices."""
    devices = jax.local_device_count()
    return -(-size // devices) * devices


def is_first_process():
    """Whether this process writes and talks for all."""
    return jax.process_index() == 0


def log_stream():
    """Where progress and lines go: of several processes, only the first talks."""
    return sys.stderr if is_first_process() else open(os.devnull, "w")  # noqa: SIM115


@contextlib.contextmanager
def together():
    """Raise in every process, as InputError, what one of them raises in here: a mistake in what
    was given, an error of a file, too little memory.

    A process that raised alone would leave the others waiting for it.
    """
    fault = ""
    try:
        yield
    except (InputError, OSError, jax.errors.JaxRuntimeError) as error:
        is_of_own = not isinstance(error, jax.errors.JaxRuntimeError)
        if jax.process_count() == 1 or not (is_of_own or OUT_OF_MEMORY in str(error)):
            raise
        fault = first_line(error) if is_of_own else f"{first_line(error)}; lower the batch size"
    fault = next(filter(None, gather(fault)), "")
    require(not fault, fault)


def gather(value):
    """[the `value` of each process]; values are such that JSON can hold them."""
    if jax.process_count() == 1:
        return [value]
    text = np.frombuffer(json.dumps(value).encode(), np.uint8)
    lengths = multihost_utils.process_allgather(np.array(len(text)))
    padded = np.pad(text, (0, lengths.max() - len(text)))
    texts = np.asarray(multihost_utils.process_allgather(padded))
    return [json.loads(bytes(t[:n])) for t, n in zip(texts, lengths, strict=True)]

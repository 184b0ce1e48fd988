"""Batches split over the local devices, and agreement between several processes."""

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
    """Return the local devices, or the first `number` of them, along the axis "batch"."""
    return Mesh(np.array(jax.local_devices()[:number]), ("batch",))


def replicate(tree):
    """Put a pytree on every local device."""
    return jax.device_put(tree, NamedSharding(device_mesh(), EVERYWHERE))


def split_batch(arrays, number=None):
    """Split arrays along their batch axis over the local devices, or the first `number`."""
    return jax.device_put(arrays, NamedSharding(device_mesh(number), SPLIT))


def round_up_to_devices(size):
    """Round `size` up to a multiple of the number of local devices."""
    devices = jax.local_device_count()
    return -(-size // devices) * devices


def is_first_process():
    """Return whether this is the process that writes files and prints messages."""
    return jax.process_index() == 0


def log_stream():
    """Return the stream of progress and messages: stderr in the first process only."""
    return sys.stderr if is_first_process() else open(os.devnull, "w")  # noqa: SIM115


@contextlib.contextmanager
def together():
    """Raise in every process, as InputError, an InputError, OSError or lack of memory in one.

    Otherwise the others would wait for the process that failed.
    """
    fault = ""
    try:
        yield
    except (InputError, OSError, jax.errors.JaxRuntimeError) as error:
        of_memory = OUT_OF_MEMORY in str(error)
        if jax.process_count() == 1 or not (of_memory or isinstance(error, (InputError, OSError))):
            raise
        fault = first_line(error) + ("; lower the batch size" if of_memory else "")
    fault = next(filter(None, gather(fault)), "")
    require(not fault, fault)


def gather(value):
    """Return [`value` of each process], for values that JSON can hold."""
    if jax.process_count() == 1:
        return [value]
    text = np.frombuffer(json.dumps(value).encode(), np.uint8)
    lengths = multihost_utils.process_allgather(np.array(len(text)))
    padded = np.pad(text, (0, lengths.max() - len(text)))
    texts = np.asarray(multihost_utils.process_allgather(padded))
    return [json.loads(bytes(t[:n])) for t, n in zip(texts, lengths, strict=True)]

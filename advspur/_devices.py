"""Batches over the local devices."""

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

EVERYWHERE, SPLIT = PartitionSpec(), PartitionSpec("batch")


def device_mesh():
    """The local devices along the one axis "batch"."""
    return Mesh(np.array(jax.local_devices()), ("batch",))


def replicate(tree):
    """A pytree (a classifier) on every local device, where the batches are split over."""
    return jax.device_put(tree, NamedSharding(device_mesh(), EVERYWHERE))


def split_batch(arrays):
    """Arrays with a leading batch axis, split over the local devices."""
    return jax.device_put(arrays, NamedSharding(device_mesh(), SPLIT))


def whole_batch(size):
    """`size` rounded up to a multiple of the number of local devices."""
    devices = jax.local_device_count()
    return -(-size // devices) * devices

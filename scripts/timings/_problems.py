"""Batches of random problems of the linear theory, split over the devices."""

import jax
import jax.numpy as jnp
import numpy as np

from advspur.theory import GaussianLinearModel, collapse_radius

M = 5


def random_problems(rng, n, p):
    data = rng.normal(size=(n, M, M + 3))
    target = np.where(np.arange(M) < 2, rng.normal(size=(n, M)), 0)
    models = GaussianLinearModel(
        jnp.asarray(data @ data.transpose(0, 2, 1) / (M + 3)),
        jnp.asarray(target),
        jnp.full(n, 0.1),
        jnp.tile(jnp.arange(M) >= 2, (n, 1)),
    )
    radius = jax.vmap(lambda model: collapse_radius(model, p=p))(models)
    share = np.exp(rng.uniform(np.log(1e-3), np.log(0.999), n))
    return models, radius * share


def sharded(function, models, epsilons):
    """`function` of a batch, split over the local devices."""
    mesh = jax.make_mesh((len(jax.devices()),), ("n",), axis_types=(jax.sharding.AxisType.Auto,))
    split = jax.sharding.PartitionSpec("n")
    run = jax.jit(
        jax.shard_map(function, mesh=mesh, in_specs=split, out_specs=split, check_vma=False)
    )
    place = jax.sharding.NamedSharding(mesh, split)
    return run, jax.device_put(models, place), jax.device_put(epsilons, place)

"""How JAX programs call a torch module, without torch: NumPy stands in for it."""

import jax
import numpy as np
import pytest
from jax.experimental.compilation_cache import compilation_cache

from advspur._devices import SPLIT, device_mesh, split_batch
from advspur.models.torch_calls import call

IMAGES = np.random.default_rng(0).random((8, 4, 4, 3), np.float32)
KERNEL = np.random.default_rng(1).normal(size=(48, 3)).astype(np.float32)


class Quadratic:
    """logits = (images @ KERNEL)^2 / 2, with the callbacks of a `Network`."""

    widths = (3,)

    def __init__(self):
        self.room, self.kept, self.calls = 1, {}, []

    def _products(self, images):
        return np.asarray(images).reshape(len(images), -1) @ KERNEL

    def forward(self, images):
        self.calls.append(("forward", len(images)))
        return [self._products(images) ** 2 / 2]

    def forward_with_graph(self, images):
        self.calls.append(("graph", len(images)))
        token = len(self.calls)
        self.kept[token] = self._products(images)
        return [self.kept[token] ** 2 / 2, np.full(len(images), token, np.int32)]

    def pull_back(self, images, tokens, cotangent):
        self.calls.append(("back", len(images)))
        found = self.kept[int(tokens[0])]
        np.testing.assert_allclose(found, self._products(images), rtol=1e-5)  # its own graph
        return [((cotangent * found) @ KERNEL.T).reshape(images.shape)]


def exact(images):
    return (images.reshape(len(images), -1) @ KERNEL) ** 2 / 2


def of(network):
    return lambda images: call(network, images)[0]


def gradients(network, column):
    """(images -> the gradient of a column of logits, by the calls; the exact one of IMAGES)."""
    found = jax.grad(lambda x: of(network)(x)[:, column].sum())
    return found, jax.grad(lambda x: exact(x)[:, column].sum())(IMAGES)


@pytest.mark.parametrize("count, split", ((8, False), (8, True), (3, False)))
def test_values_and_gradients_under_jit(count, split):
    """3 cannot be split over the four devices."""
    network = Quadratic()
    images = split_batch(IMAGES) if split else IMAGES[:count]
    gradient, expected = gradients(network, 1)
    for wrap in (lambda f: f, jax.jit):
        np.testing.assert_allclose(wrap(of(network))(images), exact(IMAGES[:count]), rtol=1e-4)
        np.testing.assert_allclose(wrap(gradient)(images), expected[:count], rtol=1e-4)


def test_a_batch_is_split_over_the_devices_and_called_once_each():
    network = Quadratic()
    gradient, _ = gradients(network, 0)
    jitted = jax.jit(lambda x: jax.lax.fori_loop(0, 5, lambda _, x: x - 0.01 * gradient(x), x))
    jax.block_until_ready(jitted(split_batch(IMAGES)))
    share = 8 // jax.local_device_count()
    expected = 5 * jax.local_device_count() * [("graph", share), ("back", share)]
    assert sorted(network.calls) == sorted(expected)


def test_single_images_under_vmap_keep_their_own_graphs():
    gradient, expected = gradients(Quadratic(), 2)
    of_each = jax.vmap(lambda image: gradient(image[None])[0])(IMAGES)
    np.testing.assert_allclose(of_each, expected, rtol=1e-4)


def test_each_device_calls_with_its_own_part_inside_shard_map():
    """As AutoAttack runs, where each device has loops of its own."""
    network = Quadratic()
    gradient, expected = gradients(network, 0)
    split = {"mesh": device_mesh(), "in_specs": SPLIT, "out_specs": SPLIT, "check_vma": False}
    found = jax.jit(jax.shard_map(gradient, **split))(split_batch(IMAGES))
    np.testing.assert_allclose(found, expected, rtol=1e-4)
    devices = jax.local_device_count()
    assert {number for _, number in network.calls} == {8 // devices}
    assert len(network.calls) == 2 * devices


def test_a_program_from_the_compile_cache_calls_the_callback_of_its_own_process(tmp_path):
    """jax 0.10 keeps no program with a callback; 0.11 does, and gives it the callback at hand."""
    before = jax.config.jax_compilation_cache_dir
    jax.config.update("jax_compilation_cache_dir", str(tmp_path))
    compilation_cache.reset_cache()
    try:
        networks = Quadratic(), Quadratic()
        for network in networks:
            jax.clear_caches()  # as in a new process
            jax.jit(lambda x, network=network: call(network, x)[0] + 1)(IMAGES).block_until_ready()
        assert [sum(n for _, n in network.calls) for network in networks] == [len(IMAGES)] * 2
    finally:
        jax.config.update("jax_compilation_cache_dir", before)
        compilation_cache.reset_cache()

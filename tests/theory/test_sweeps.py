"""Sweeps: a cell equals a single solve, one program serves a grid, blocks and devices agree."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from advspur._checks import InputError
from advspur.theory import grid as grid_module
from advspur.theory import phase_diagram, sweep_distribution_shift, sweep_nfs, sweep_nfs_over_scale

ETAS = (0.0, 0.25, 1.0)
EPSILONS = np.array([0.0, 0.01, 0.5, 1.0, 1.5, 3.0, 6.0])


@pytest.mark.parametrize("p", [1.0, 1.5, 2.0, math.inf])
def test_cell_equals_single_solve(p, solve, paper_models, numpy_radius):
    scales = [1.5, 1.5, 3.0]
    models = paper_models(ETAS, scales=scales)
    radius = numpy_radius(models, p)
    epsilons = np.append(EPSILONS, radius * (1 + 1e-15))
    sweep = sweep_nfs(ETAS, epsilons, p=p, spurious_scale=scales)
    np.testing.assert_allclose(sweep.collapse_radius, radius, rtol=1e-14)
    each = jax.tree.map(lambda x: np.repeat(x, len(epsilons), axis=0), models)
    single = solve(each, np.tile(epsilons, 3), p=p)
    np.testing.assert_allclose(sweep.theta, single.theta.reshape(sweep.theta.shape), atol=1e-12)
    np.testing.assert_allclose(sweep.loss, single.loss.reshape(sweep.loss.shape), rtol=1e-13)
    np.testing.assert_array_equal(np.isnan(sweep.nfs), epsilons >= radius[:, None])
    assert np.all(sweep.gap <= 1e-12 * sweep.loss)


def test_rows_of_a_scale_sweep_are_models_of_that_scale(x64):
    sweep = sweep_nfs_over_scale([1.0, 3.0], [0.5, 1.0], eta=0.5)
    assert sweep.nfs[0].max() == 0 and sweep.nfs[1, 1] == 1  # thresholds 1.643 and 0.9297
    same = sweep_nfs([0.5, 0.5], [0.5, 1.0], p=math.inf, spurious_scale=[1.0, 3.0])
    assert all(np.array_equal(a, b) for a, b in zip(sweep, same, strict=True))


def test_one_program_serves_all_small_grids(x64):
    sweep_nfs(ETAS, EPSILONS, p=2.0)
    program = grid_module._grid_program(2.0, tuple(jax.local_devices()), True)
    before = program._cache_size()
    sweep_nfs([0.1, 0.2, 0.3, 0.4], np.linspace(0.1, 1, 33), p=2.0, theta_opt=(1, 0.5, 0, 0, 0))
    sweep_nfs_over_scale([1.0], [0.3], eta=0.2, p=2.0)
    assert program._cache_size() == before


def test_blocks_and_their_ragged_ends_agree_with_one_block(x64, monkeypatch):
    whole = sweep_nfs(ETAS, EPSILONS, p=math.inf, spurious_scale=3.0)
    monkeypatch.setattr(grid_module, "BLOCK", 4)
    counts = []
    progress = type("Progress", (), {"advance": lambda _, n: counts.append(n)})()
    blocks = sweep_nfs(ETAS, EPSILONS, p=math.inf, spurious_scale=3.0, progress=progress)
    np.testing.assert_allclose(blocks.theta, whole.theta, atol=1e-14)
    assert len(counts) > 1 and sum(counts) == len(ETAS) * len(EPSILONS)


def test_devices_share_rows_or_columns_and_agree_with_one(x64, monkeypatch):
    assert jax.local_device_count() > 2
    by_rows = sweep_nfs(ETAS, EPSILONS, p=1.0)
    monkeypatch.setattr(grid_module, "SMALL", (2, 7))
    by_columns = sweep_nfs(ETAS, EPSILONS, p=1.0)
    monkeypatch.setattr(jax, "local_devices", lambda: jax.devices()[:1])
    alone = sweep_nfs(ETAS, EPSILONS, p=1.0)
    for sweep in (by_rows, by_columns):
        np.testing.assert_allclose(sweep.theta, alone.theta, rtol=0, atol=1e-14)
        np.testing.assert_allclose(sweep.loss, alone.loss, rtol=1e-14)


def test_core_features_only(x64):
    sweep = sweep_nfs([0.5], EPSILONS[1:4], p=2.0, features="core")
    assert np.all(sweep.theta[..., 2:] == 0) and np.all(sweep.nfs == 0)


def test_shift_against_its_own_draws_and_single_solves(solve, paper_models, key):
    stds = np.array([0.0, 0.3, 1.0])
    zs = []
    for p, scale in ((2.0, 1.0), (math.inf, 3.0)):
        for reading in ("R1", "R2", "R3"):
            sweep = sweep_distribution_shift(
                [0.5, 1.15], stds, p=p, spurious_scale=scale, reading=reading, key=key
            )
            assert np.allclose(sweep.loss[:, 0], sweep.mean[:, 0], rtol=1e-12)  # no shift
            assert np.allclose(sweep.loss[:, :, 0], sweep.loss[:, :1, 0], rtol=1e-12)  # core
            assert np.all(sweep.improved[:, 0] == 0)
            assert np.all(sweep.low <= sweep.high)
            total = (sweep.mean - sweep.loss)[:, 1:, 1] / sweep.error[:, 1:, 1]
            zs.append(total.ravel())
            key, _ = jax.random.split(key)
    zs = np.concatenate(zs)
    assert np.abs(zs).max() < 4.5 and abs(zs.mean()) < 4 / math.sqrt(zs.size)
    model = paper_models([0.25], scales=3.0)
    core = solve(model, [1.15], p=math.inf, features="core")
    np.testing.assert_allclose(sweep.theta[1, 0], core.theta[0], atol=1e-12)


def test_float32_follows_the_input_and_stays_close(x64):
    exact = sweep_nfs(ETAS, EPSILONS[1:5], p=2.0)
    with jax.enable_x64(False):
        single = sweep_nfs(ETAS, EPSILONS[1:5], p=2.0)
    assert single.theta.dtype == jnp.float32
    np.testing.assert_allclose(single.nfs, exact.nfs, atol=1e-4)


def shift(stds, **options):
    return sweep_distribution_shift([0.1], stds, p=2, spurious_scale=1.0, key=None, **options)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: sweep_nfs([], [0.1], p=2), "etas has shape"),
        (lambda: sweep_nfs([0.1], [[0.1]], p=2), "epsilons has shape"),
        (lambda: sweep_nfs([math.nan], [0.1], p=2), "eta contains NaN"),
        (lambda: sweep_nfs([0.1], [-1.0], p=2), "epsilons"),
        (lambda: sweep_nfs([0.1], [0.1], p=0.5), "norm must be a number"),
        (lambda: sweep_nfs([0.1], [0.1], p=2, features="spurious"), "allowed: 'all', 'core'"),
        (lambda: sweep_nfs_over_scale([0.0], [0.1], eta=1.0), "spurious_scale = .*must be > 0"),
        (lambda: phase_diagram([0.1], [[1.0]]), "must be lists of numbers"),
        (lambda: phase_diagram([math.nan], [1.0]), "eta contains NaN"),
        (lambda: phase_diagram([0.1], [1.0], noise_std=-1), "noise_std = -1"),
        (lambda: sweep_nfs([0.1], [0.1], p=2, spurious_scale=[1.0, 2.0]), "one for each eta"),
        (lambda: shift([0.1], reading="R4"), "'R1', 'R2', 'R3'"),
        (lambda: shift([-0.1]), "shift_stds = "),
        (lambda: shift(0.1), "shift_stds = 0.1: expected a list"),
        (lambda: shift([0.1], num_draws=1), "num_draws = 1.*>= 2"),
    ],
)
def test_mistakes_are_named(call, message):
    with pytest.raises(InputError, match=message):
        call()

"""Sweeps: a cell equals a single solve, one program serves a grid, blocks and devices agree."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from advspur._checks import InputError
from advspur.theory import (
    collapse_radius,
    gaussian_linear_model,
    minimize_adversarial_loss,
    sweep_distribution_shift,
    sweep_nfs,
    sweep_nfs_over_scale,
)
from advspur.theory import grid as grid_module

ETAS = (0.0, 0.25, 1.0)
EPSILONS = np.array([0.0, 0.01, 0.5, 1.0, 1.5, 3.0, 6.0])


@pytest.mark.parametrize("p", [1.0, 1.5, 2.0, math.inf])
def test_cell_equals_single_solve(x64, p):
    sweep = sweep_nfs(ETAS, EPSILONS, p=p, spurious_scale=1.5)
    models = [gaussian_linear_model(eta, spurious_scale=1.5) for eta in ETAS]
    solve = jax.jit(lambda model, epsilon: minimize_adversarial_loss(model, epsilon, p=p))
    for i, model in enumerate(models):
        for j in (0, 2, 3):
            single = solve(model, EPSILONS[j])
            np.testing.assert_allclose(sweep.theta[i, j], single.theta, atol=1e-12)
            np.testing.assert_allclose(sweep.loss[i, j], single.loss, rtol=1e-13)
        radius = collapse_radius(model, p=p)
        np.testing.assert_allclose(sweep.collapse_radius[i], radius, rtol=1e-14)
        assert np.all((EPSILONS >= radius) == np.isnan(sweep.nfs[i]))
    assert np.all(sweep.gap <= 1e-12 * sweep.loss)


def test_epsilon_at_the_collapse_radius_gives_zero(x64):
    for p in (1.0, 2.0, math.inf):
        radius = collapse_radius(gaussian_linear_model(1.0), p=p)
        sweep = sweep_nfs([1.0], [float(radius)], p=p)
        assert np.all(sweep.theta == 0) and np.isnan(sweep.nfs[0, 0])


def test_scale_rows_are_models_of_that_scale(x64):
    sweep = sweep_nfs_over_scale([1.0, 3.0], [0.5, 1.0], eta=0.5)
    model = gaussian_linear_model(0.5, spurious_scale=3.0)
    single = minimize_adversarial_loss(model, 1.0, p=math.inf)
    np.testing.assert_allclose(sweep.theta[1, 1], single.theta, atol=1e-12)
    assert sweep.nfs[0].max() == 0 and sweep.nfs[1, 1] == 1  # thresholds 1.643 and 0.9297


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


def test_shift_against_its_own_draws_and_single_solves(x64, key):
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
    core = minimize_adversarial_loss(
        gaussian_linear_model(0.25, spurious_scale=3.0), 1.15, p=math.inf, features="core"
    )
    np.testing.assert_allclose(sweep.theta[1, 0], core.theta, atol=1e-12)


def test_float32_follows_the_input_and_stays_close(x64):
    exact = sweep_nfs(ETAS, EPSILONS[1:5], p=2.0)
    with jax.enable_x64(False):
        single = sweep_nfs(ETAS, EPSILONS[1:5], p=2.0)
    assert single.theta.dtype == jnp.float32
    np.testing.assert_allclose(single.nfs, exact.nfs, atol=1e-4)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: sweep_nfs([], [0.1], p=2), "etas has shape"),
        (lambda: sweep_nfs([0.1], [[0.1]], p=2), "epsilons has shape"),
        (lambda: sweep_nfs([math.nan], [0.1], p=2), "etas contains NaN"),
        (lambda: sweep_nfs([0.1], [-1.0], p=2), "epsilons"),
        (lambda: sweep_nfs([0.1], [0.1], p=0.5), "norm must be a number"),
        (lambda: sweep_nfs([0.1], [0.1], p=2, features="spurious"), "allowed: 'all', 'core'"),
        (lambda: sweep_nfs_over_scale([0.0], [0.1], eta=1.0), "scales must be > 0"),
        (lambda: sweep_nfs([0.1], [0.1], p=2, spurious_scale=[1.0, 2.0]), "one for each eta"),
        (
            lambda: sweep_distribution_shift(
                [0.1], [0.1], p=2, spurious_scale=1.0, key=None, reading="R4"
            ),
            "'R1', 'R2', 'R3'",
        ),
    ],
)
def test_mistakes_are_named(call, message):
    with pytest.raises(InputError, match=message):
        call()

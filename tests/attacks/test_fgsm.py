"""FGSM from a random start, on linear models, whose gradients are known."""

import math

import jax
import jax.numpy as jnp
import numpy as np

from advspur.attacks import fgsm

WEIGHTS = np.random.default_rng(0).normal(size=48).astype(np.float32)
GREY = jnp.full((64, 4, 4, 3), 0.5)
LABELS = jnp.zeros(64, int)
UP = np.sign(WEIGHTS).reshape(4, 4, 3)  # label 0 has the logit 0: the other one is raised


def binary(x):
    score = x.reshape(len(x), -1) @ WEIGHTS
    return jnp.stack([jnp.zeros_like(score), score], axis=1)


def run(key, **options):
    return fgsm(binary, GREY, LABELS, key, **({"p": math.inf, "epsilon": 0.1} | options))


def test_n_fgsm_adds_a_full_step_to_twice_the_noise(key):
    """delta - epsilon sign is uniform on [-2, 2] epsilon: mean 0, variance (4 epsilon)^2 / 12."""
    noise = (np.asarray(run(key, method="n_fgsm")) - 0.5 - 0.1 * UP).ravel()
    assert np.abs(noise).max() <= 0.2 + 1e-6
    assert np.abs(noise).max() > 0.199
    error = 0.4 / math.sqrt(12 * noise.size)
    assert abs(noise.mean()) < 4 * error
    np.testing.assert_allclose(noise.var(), 0.16 / 12, rtol=0.06)  # 4 standard errors: 3072 values


def test_fgsm_rs_projects_a_step_of_1_25_epsilon(key):
    """u + 1.25 of uniform u on [-1, 1], cut at 1: 1 with P(u > -0.25) = 5/8, else uniform."""
    moved = (np.asarray(run(key, method="fgsm_rs")) - 0.5) / 0.1 * UP
    assert moved.max() <= 1 + 1e-5 and moved.min() >= 0.25 - 1e-5
    share = np.mean(moved > 1 - 1e-5)
    assert abs(share - 5 / 8) < 4 * math.sqrt(5 / 8 * 3 / 8 / moved.size)
    inside = moved[moved < 1 - 1e-5]
    assert abs(inside.mean() - 0.625) < 4 * 0.75 / math.sqrt(12 * inside.size)


def test_l2_keeps_the_lengths(key):
    methods = "fgsm_rs", "n_fgsm"
    rs, n = (np.asarray(run(key, p=2, method=m) - GREY).reshape(64, -1) for m in methods)
    assert np.linalg.norm(rs, axis=1).max() <= 0.1
    direction = WEIGHTS / np.linalg.norm(WEIGHTS)
    start = np.linalg.norm(n - 0.1 * direction, axis=1)
    assert start.max() <= 0.2 + 1e-6
    assert start.mean() > 0.19  # in 48 dimensions, most are at the rim


def test_weights_scale_noise_and_step_alike(key):
    weights = np.float32([0, 0.5, 1, 1.5])[:, None, None]
    for method in ("fgsm_rs", "n_fgsm"):
        plain = np.asarray(run(key, method=method)) - 0.5
        found = np.asarray(run(key, method=method, budget_weights=weights)) - 0.5
        np.testing.assert_allclose(found, weights * plain, rtol=0, atol=1e-6)


def test_images_stay_in_the_box_and_a_zero_budget_changes_nothing(key):
    corners = jnp.round(jax.random.uniform(key, GREY.shape))
    for method in ("fgsm_rs", "n_fgsm"):
        found = fgsm(binary, corners, LABELS, key, p=math.inf, epsilon=0.3, method=method)
        assert 0 <= float(found.min()) and float(found.max()) <= 1
        np.testing.assert_array_equal(run(key, epsilon=0.0, method=method), GREY)

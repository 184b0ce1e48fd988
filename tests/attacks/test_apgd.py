"""APGD against a plain NumPy version, one image at a time, and its properties."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from advspur.attacks import apgd, check_perturbation
from advspur.attacks.apgd import _checkpoints
from advspur.attacks.parts import image_keys, start_points
from tests.attacks import oracles

N, SHAPE, SIZE, CLASSES = 6, (3, 2, 3), 18, 4
IMAGES = oracles.images_with_corners((N, *SHAPE))
GREY = np.full((N, *SHAPE), 0.5, np.float32)
PARAMS = oracles.random_params((N, *SHAPE), CLASSES)
LABELS = np.argmax(oracles.logits_of(PARAMS, IMAGES), axis=1)
KEYS = jax.random.split(jax.random.key(3), N)
EPSILON = {1: 0.9, 2: 0.35, math.inf: 0.12}
NUM_STEPS = 25
RUGGED = np.float32(6)

pytestmark = pytest.mark.filterwarnings("ignore:epsilon = ")


@functools.partial(jax.jit, static_argnames=("p", "loss"))
def run(params, images, labels, keys, epsilon, targets=None, *, p, loss):
    call = {"num_steps": NUM_STEPS, "loss": loss, "targets": targets, "with_vanished": True}
    logits_fn = functools.partial(oracles.network, params)
    return apgd(logits_fn, images, labels, keys, p=p, epsilon=epsilon, **call)


def attack(p, params=PARAMS, images=IMAGES, labels=LABELS, keys=KEYS, epsilon=None, **options):
    """(images, success, whether the first gradient vanished); one compilation per norm."""
    epsilon = np.full(N, EPSILON[p] if epsilon is None else epsilon, images.dtype)
    call = {"loss": "margin"} | options
    x, vanished = map(np.asarray, run(params, images, labels, keys, epsilon, p=p, **call))
    return x, np.argmax(oracles.logits_of(params, x), axis=1) != labels, vanished


def loss_and_gradient(params, x, label):
    """The margin of the network, its gradient by hand, and whether it is misclassified."""
    hidden = np.tanh(x @ params["B"])
    logits = x @ params["A"] + hidden @ params["C"] + params["b"]
    one = np.eye(len(logits))
    back = one[np.argmax(logits - 1e9 * one[label])] - one[label]
    grad = params["A"] @ back + params["B"] @ ((1 - hidden**2) * (params["C"] @ back))
    return back @ logits, grad, back @ logits > 0


def search(params, image, x, label, p, epsilon, num_steps):
    """Algorithm 1 of the paper for one image; l1: algorithm 1 of the l1 paper."""

    def inside(x):
        return image + oracles.project(x - image, -image, 1 - image, p=p, radius=epsilon)

    x = before = inside(x)
    loss, grad, lost = loss_and_gradient(params, x, label)
    best, best_grad, best_loss, success = x, grad, loss, lost
    step = largest = epsilon if p == 1 else 2 * epsilon
    changed = np.sum(np.abs(x - image) > 1e-9)
    interval = max(int((0.04 if p == 1 else 0.22) * num_steps), 1)
    next_check, rises, halved, loss_then, moved = interval, 0, True, loss, changed / 1.5
    for number in range(num_steps):
        if p == 1:
            count = int(np.clip(np.ceil(moved), 1, x.size))
            way = np.sign(grad) * (np.abs(grad) >= np.sort(np.abs(grad))[-count])
            new = inside(x + step * way / np.abs(way).sum())
        else:
            way = np.sign(grad) if p == math.inf else grad / np.linalg.norm(grad)
            a = 1 if number == 0 else 0.75
            ahead = inside(x + step * way)
            new = inside(x + a * (ahead - x) + (1 - a) * (x - before))
        x, before, loss_before = new, x, loss
        loss, grad, lost = loss_and_gradient(params, x, label)
        rises += loss > loss_before
        if not success and (lost or loss > best_loss):
            best, best_grad, best_loss = x, grad, loss
        success |= lost
        if number + 1 == next_check:
            if p == 1:
                now = np.sum(np.abs(best - image) > 1e-9)
                back = now < 0.95 * changed
                step = largest if back else max(step / 1.5, largest / 10)
                changed, moved = now, now / 1.5
            else:
                back = rises <= 0.75 * interval or (not halved and loss_then >= best_loss)
                step = step / 2 if back else step
                halved, loss_then, rises = back, best_loss, 0
                less, least = (max(int(share * num_steps), 1) for share in (0.03, 0.06))
                interval = max(interval - less, least)
            x, grad = (best, best_grad) if back else (x, grad)
            next_check += interval
    return best


@pytest.mark.parametrize("p", oracles.NORMS)
def test_the_search_is_that_of_the_papers(p, x64):
    """The best point agrees with a plain version from the same random start.

    The network is rugged, so that every step matters; a bias of the label keeps all images
    robust, so that the largest loss decides. In float32, rounding would decide some signs.
    """
    params = PARAMS | {"b": np.float32([0, 25, 0, 0]), "B": RUGGED * PARAMS["B"]}
    params, images = jax.tree.map(np.float64, (params, IMAGES))
    labels, epsilon = np.ones(N, int), (2.5 if p == math.inf else 1) * EPSILON[p]
    scales, counts = ((3, 2, 1), (8, 8, 9)) if p == 1 else ((1,), (NUM_STEPS,))
    ball = {"p": p, "epsilon": jnp.full(N, scales[0] * epsilon), "bounds": (0.0, 1.0)}
    starts = start_points(KEYS, jnp.asarray(images), kind="sphere", **ball)
    got, success, _ = attack(p, params, images, labels, epsilon=epsilon)
    assert not success.any() and got.dtype == np.float64
    for i in range(N):
        image, x = (np.ravel(a[i]) for a in (images, starts))
        for scale, count in zip(scales, counts, strict=True):
            x = search(params, image, x, labels[i], p, scale * epsilon, count)
        # l1 and l2 balls keep a relative margin, `box.ACCURACY`.
        np.testing.assert_allclose(got[i].ravel(), x, rtol=0, atol=1e-6)


def test_one_key_is_split_into_one_per_image():
    keys = image_keys(jax.random.key(3), N)
    np.testing.assert_array_equal(jax.random.key_data(keys), jax.random.key_data(KEYS))
    old = image_keys(jax.random.PRNGKey(3), N)
    np.testing.assert_array_equal(jax.random.key_data(old), jax.random.key_data(KEYS))
    assert image_keys(KEYS, N) is KEYS


def test_a_target_is_the_class_aimed_at():
    """On a linear model, the best point is as close to the target as ball and box allow."""
    bias = [90.0, 0, 0, 0]  # class 0 stays the prediction
    params = oracles.linear_params((N, *SHAPE), PARAMS["A"], bias)
    targets = np.array([1, 2, 3, 1, 2, 3])
    for epsilon in (0.05, 0.3):
        call = {"labels": np.zeros(N, int), "epsilon": epsilon, "targets": targets}
        got, success, _ = attack(math.inf, params, **call)
        way = np.sign(PARAMS["A"][:, targets].T - PARAMS["A"][:, 0]).reshape(N, *SHAPE)
        np.testing.assert_allclose(got, np.clip(IMAGES + epsilon * way, 0, 1), rtol=0, atol=1e-6)
        assert not success.any()


def test_a_success_is_kept_though_other_points_have_a_higher_loss():
    """Brighter images raise the loss towards class 1, but only darker ones are lost, to class 2."""
    weights = np.zeros((SIZE, CLASSES))
    weights[:, 0], weights[:, 1] = 1, 3
    params = oracles.linear_params((N, *SHAPE), weights, [-9, -127, -0.01, -999])
    got, success, _ = attack(math.inf, params, GREY, np.zeros(N, int), targets=np.ones(N, int))
    assert 0 < success.sum() < N  # those whose random start is darker
    np.testing.assert_array_equal(np.argmax(oracles.logits_of(params, got), axis=1) == 2, success)


def test_targeted_dlr_succeeds_and_reports_vanished_gradients():
    targets = (LABELS + 1) % CLASSES
    found = []
    for epsilon in (0.02, 0.2, 0.4, 0.6, 0.8, 3.0):
        _, success, vanished = attack(2, targets=targets, loss="dlr", epsilon=epsilon)
        found.append(success.sum())
    assert found[0] < 2 and found[-1] >= N - 1 and not vanished.any()
    flat = oracles.linear_params((N, *SHAPE), 0 * PARAMS["A"], [3.0, 2, 1, 0])
    _, success, vanished = attack(2, flat, labels=np.zeros(N, int), targets=targets, loss="dlr")
    assert vanished.all() and not success.any()


@pytest.mark.parametrize(
    "num_steps, expected",
    [
        (100, [22, 41, 57, 70, 80, 87, 93, 99]),  # BENCHMARKS.md 9.3
        (20, [4, 7, 9, 10, 11, 12, 13, 14, 15, 16, 17, 18, 19, 20]),  # by hand: 4, 3, 2, 1, 1, ...
    ],
)
def test_checkpoints_come_at_the_published_iterations(num_steps, expected):
    intervals = _checkpoints(num_steps, 2)
    np.testing.assert_array_equal(np.flatnonzero(intervals) + 1, expected)
    np.testing.assert_array_equal(intervals[np.array(expected) - 1], np.diff(expected, prepend=0))
    # l1: every 25th of a stage.
    np.testing.assert_array_equal(np.flatnonzero(_checkpoints(100, 1)) + 1, np.arange(4, 101, 4))
    np.testing.assert_array_equal(_checkpoints(30, 1), np.ones(30))


def test_a_random_model_is_attacked_in_expectation():
    """The noise of the weights is twice their size; 64 samples nearly average it out."""
    weights = np.float32(np.random.default_rng(5).choice([-1, 1], SIZE))

    def noisy(x, key):
        noise = 2 * jax.random.normal(key, weights.shape)
        score = x.reshape(len(x), -1) @ (weights + noise)
        return jnp.stack([jnp.full_like(score, 50), score], axis=1)

    call = {"p": math.inf, "epsilon": 0.1, "num_steps": 10, "loss": "margin", "num_samples": 64}
    run = jax.jit(lambda images: apgd(noisy, images, np.zeros(N, int), KEYS, **call))
    got = np.asarray(run(GREY))
    check_perturbation(got, GREY, p=math.inf, epsilon=0.1)
    gain = (got - GREY).reshape(N, -1) @ weights / (0.1 * SIZE)
    assert np.all(gain > 0.85)


@pytest.mark.parametrize("num_steps", (1, 2, 3))
def test_l1_stages_may_have_no_steps(num_steps):
    logits_fn, call = functools.partial(oracles.network, PARAMS), {"p": 1, "epsilon": 0.2}
    attack = functools.partial(apgd, logits_fn, num_steps=num_steps, **call)
    assert jax.eval_shape(attack, IMAGES, LABELS, KEYS).shape == IMAGES.shape

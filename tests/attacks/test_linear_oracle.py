"""The exact attack on linear classifiers against SciPy's solvers and against chance."""

import math

import jax
import numpy as np
import pytest

from advspur.attacks import check_perturbation
from advspur.attacks.linear_oracle import linear_logits, worst_case
from tests.attacks.oracles import NORMS, images_with_corners, largest_gain

N, SHAPE, SIZE = 6, (2, 2, 2), 8
BOUNDS = (-1.0, 2.0)
EPSILON = np.float32([0.0, 0.1, 0.4, 1.0, 2.0, 30.0])
IMAGES = 3 * images_with_corners((N, *SHAPE)) - 1
LABELS = np.arange(N) % 2
RNG = np.random.default_rng(1)
WEIGHTS = RNG.normal(size=(*SHAPE, 4)).astype(np.float32)
WEIGHTS[0, 0, 0], WEIGHTS[1, 1, 1] = 0, 1  # pixels that do not matter
BIAS = 4 * RNG.normal(size=4).astype(np.float32)

pytestmark = [
    pytest.mark.filterwarnings("ignore:epsilon = "),
    pytest.mark.usefixtures("quick_programs"),
]


def attack(num_classes, p):
    run = jax.jit(lambda x: worst_case(
        WEIGHTS[..., :num_classes], BIAS[:num_classes], x, LABELS, p=p, epsilon=EPSILON,
        bounds=BOUNDS,
    ))  # fmt: skip
    return np.asarray(run(IMAGES))


def margins(images, labels, num_classes):
    """In float64; images [..., size]."""
    flat = np.float64(images)
    logits = flat @ WEIGHTS.reshape(SIZE, 4)[:, :num_classes] + BIAS[:num_classes]
    others = [logits[..., k] for k in range(num_classes) if k != labels]
    return np.max(others, axis=0) - logits[..., labels]


def largest_margin(image, label, num_classes, p, epsilon):
    """The largest over the other classes of one linear (l2: SLSQP) program each."""
    weights, found = np.float64(WEIGHTS.reshape(SIZE, 4)), []
    for other in set(range(num_classes)) - {label}:
        w = weights[:, other] - weights[:, label]
        offset = w @ image + float(BIAS[other]) - float(BIAS[label])
        low, high = BOUNDS[0] - image, BOUNDS[1] - image
        found.append(offset + largest_gain(w, low, high, p=p, radius=epsilon))
    return max(found)


def random_points(image, p, epsilon, count=10_000):
    """Dense and sparse ones of the sphere, cut to the box, which keeps them in the ball."""
    z = RNG.normal(size=(count, SIZE)) * (RNG.random((count, SIZE)) < RNG.random((count, 1)))
    z = np.sign(z) if p == math.inf else z
    length = np.linalg.norm(z, ord=p, axis=1, keepdims=True)
    return np.clip(image + epsilon * z / np.maximum(length, 1e-12), *BOUNDS)


@pytest.mark.parametrize("num_classes", (2, 4))
@pytest.mark.parametrize("p", NORMS)
def test_the_worst_case_has_the_largest_margin_there_is(p, num_classes):
    worst = attack(num_classes, p)
    check_perturbation(worst, IMAGES, p=p, epsilon=EPSILON, bounds=BOUNDS)
    images, flat = np.float64(IMAGES).reshape(N, SIZE), worst.reshape(N, SIZE)
    for i in range(N):
        got = margins(flat[i], LABELS[i], num_classes)
        exact = largest_margin(images[i], LABELS[i], num_classes, p, float(EPSILON[i]))
        assert got == pytest.approx(exact, abs=2e-5)
        points = random_points(images[i], p, float(EPSILON[i]))
        assert np.max(margins(points, LABELS[i], num_classes)) <= got + 1e-5


def test_linear_logits_by_hand():
    images = np.float32([[[[1.0], [2.0]]], [[[0.0], [1.0]]]])  # [2, 1, 2, 1]
    weights = np.float32([[[[1.0, 0.0]], [[3.0, -1.0]]]])  # [1, 2, 1, 2]
    got = linear_logits(weights, np.float32([0.5, 0.0]))(images)
    np.testing.assert_array_equal(got, [[7.5, -2.0], [3.5, -1.0]])

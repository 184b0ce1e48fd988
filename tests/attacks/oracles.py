"""Helpers for tests of attacks: a small network, and slow exact answers in float64 NumPy."""

import math

import jax
import jax.numpy as jnp
import numpy as np
from scipy.optimize import linprog, minimize

NORMS = (1, 2, math.inf)
LINES = (  # of AutoAttack's log
    r"using \w+ version including [\w-]+(, [\w-]+)*\.",
    r"[\w-]+: (DLR needs \d classes, its loss is the margin|\d targets instead of \d)",
    r"initial accuracy: \d+\.\d\d%",
    r"[\w-]+( again)? - \d+/\d+ - \d+ out of \d+ successfully perturbed",
    r"robust accuracy after [A-Z-]+: \d+\.\d\d% \(total time \d+\.\d s\)",
    r"Warning: there are \d+ points with zero gradient.* See [\w/]+\.md( for details)?\.",
    r"Warning: .* See [\w/]+\.md( for details)?\.",
    r"max [Ll](1|2|inf) perturbation: \d\.\d{5}, nan in tensor: 0, max: \d\.\d{5}, min: \d\.\d{5}",
    r"robust accuracy: \d+\.\d\d%",
)


def images_with_corners(shape, seed=0):
    """Images with a third of the pixels exactly 0 and a third exactly 1."""
    rng = np.random.default_rng(seed)
    values = np.stack([np.zeros(shape), np.ones(shape), rng.random(shape)])
    return rng.permuted(values, axis=0)[0].astype(np.float32)


def network(params, x):
    """x A + tanh(x B) C + b, plus `jump` for class 1 at exactly the images `spot`."""
    flat = x.reshape(len(x), -1)
    logits = flat @ params["A"] + jnp.tanh(flat @ params["B"]) @ params["C"] + params["b"]
    is_spot = jnp.all(x == params["spot"], axis=(1, 2, 3))
    return logits.at[:, 1].add(params["jump"] * is_spot)


def random_params(shape, num_classes, seed=0, hidden=8):
    """Parameters for images of `shape` [n, h, w, c]: logits of order 1, no jump."""
    rng = np.random.default_rng(seed)
    size = math.prod(shape[1:])
    params = {
        "A": rng.normal(size=(size, num_classes)) / math.sqrt(size),
        "B": rng.normal(size=(size, hidden)) / math.sqrt(size) * 2,
        "C": rng.normal(size=(hidden, num_classes)),
        "b": np.zeros(num_classes),
        "spot": np.zeros(shape),
        "jump": np.zeros(()),
    }
    return jax.tree.map(np.float32, params)


def linear_params(shape, weights, bias):
    """Parameters of the network with logits x `weights` + `bias`."""
    params = random_params(shape, len(bias))
    zero = jax.tree.map(np.zeros_like, params)
    return zero | {"A": np.float32(weights), "b": np.float32(bias)}


def logits_of(params, x):
    """The logits of `network`, in float64, without the jump."""
    flat = np.asarray(x, np.float64).reshape(len(x), -1)
    return flat @ params["A"] + np.tanh(flat @ params["B"]) @ params["C"] + params["b"]


def norms(adversarial, images, p):
    difference = np.asarray(adversarial, np.float64) - np.asarray(images, np.float64)
    return np.linalg.norm(difference.reshape(len(difference), -1), ord=p, axis=1)


def project(delta, low, high, *, p, radius):
    """The nearest point of ball and box to one vector, by bisecting the Lagrange multiplier."""

    def at(multiplier):
        if p == 2:
            return np.clip(delta / (1 + multiplier), low, high)
        return np.clip(np.sign(delta) * np.maximum(np.abs(delta) - multiplier, 0), low, high)

    if p == math.inf:
        return np.clip(delta, np.maximum(low, -radius), np.minimum(high, radius))
    below, above = 0.0, 1e9
    if np.linalg.norm(at(below), ord=p) <= radius:
        return at(below)
    for _ in range(120):
        middle = (below + above) / 2
        is_inside = np.linalg.norm(at(middle), ord=p) <= radius
        below, above = (below, middle) if is_inside else (middle, above)
    return at(above)


def least_norm(weights, gain, low, high, *, p):
    """min ||z||_p with <weights, z> = gain > 0 and z in the box; inf if there is none."""
    size = np.abs(np.float64(weights))
    room = np.where(weights > 0, high, -low).astype(np.float64) * (size > 0)
    if size @ room < gain:
        return math.inf
    if p == 1:
        length = 0.0
        for i in np.argsort(-size):
            step = min(room[i], gain / size[i]) if size[i] else 0
            gain, length = gain - step * size[i], length + step
        return length
    rate = np.ones_like(size) if p == math.inf else size
    below, above = 0.0, 1e9
    for _ in range(120):
        middle = (below + above) / 2
        reaches = size @ np.minimum(room, middle * rate) >= gain
        below, above = (below, middle) if reaches else (middle, above)
    return np.linalg.norm(np.minimum(room, above * rate), ord=p)


def largest_gain(weights, low, high, *, p, radius):
    """max <weights, z> over ball and box: by linear programming, l2 by SLSQP."""
    box = np.stack([low, high], axis=1)
    if p == math.inf:
        return -linprog(-weights, bounds=np.clip(box, -radius, radius)).fun
    if p == 1:  # z = u - v with u, v >= 0 makes the norm linear
        both, parts = np.r_[weights, -weights], [*((0, h) for h in high), *((0, -v) for v in low)]
        return -linprog(-both, A_ub=np.ones((1, len(both))), b_ub=[radius], bounds=parts).fun
    ball = {"type": "ineq", "fun": lambda z: radius**2 - z @ z, "jac": lambda z: -2 * z}
    return -minimize(
        lambda z: -weights @ z, np.zeros(len(weights)), jac=lambda z: -weights, method="SLSQP",
        bounds=box, constraints=ball, options={"ftol": 1e-14, "maxiter": 300},
    ).fun  # fmt: skip

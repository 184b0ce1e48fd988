"""AutoAttack against the results of the reference implementation, image by image."""

import json
import math
import re
import sys
from pathlib import Path

import jax
import numpy as np
import pytest

from advspur.attacks import autoattack, check_perturbation
from tests.attacks.oracles import LINES

INF = math.inf
NORM_OF = {"Linf": INF, "L2": 2, "L1": 1}
# How many images that the reference fools, and how many that it does not (these are slow). Of its
# 500 images, it fools 34, 73 and 39.
PARITY = {"Linf": (34, 4), "L2": (40, 0), "L1": (20, 0)}


@pytest.fixture(scope="module")
def reference():
    """(rows of autoattack.json, images, labels, folder of weights)."""
    folder = Path(__file__).resolve().parents[3] / "shared"
    path = folder / "reference" / "autoattack.json"
    if not path.is_file():
        pytest.skip(f"{path} is absent: what the reference implementation measured")
    sys.path.insert(0, str(folder / "data"))
    try:
        from load_cifar10 import load_cifar10
    finally:
        sys.path.remove(str(folder / "data"))
    rows = {row["norm"]: row for row in json.loads(path.read_text())["rows"]}
    images, labels = load_cifar10("test", limit=rows["Linf"]["n"])
    return rows, np.float32(images) / np.float32(255), labels, folder / "reference" / "weights"


def network(path):
    """Two strided convolutions and two linear layers, with PyTorch's layout of weights."""
    w = dict(np.load(path))
    stride = {"window_strides": (2, 2), "padding": ((1, 1), (1, 1))}
    order = {"dimension_numbers": ("NHWC", "OIHW", "NHWC")}

    def logits_fn(x):
        x = (x - np.float32([0.485, 0.456, 0.406])) / 0.225
        for layer in ("0", "2"):
            x = jax.lax.conv_general_dilated(x, w[f"{layer}.weight"], **stride, **order)
            x = jax.nn.relu(x + w[f"{layer}.bias"])
        x = x.transpose(0, 3, 1, 2).reshape(len(x), -1)
        x = jax.nn.relu(x @ w["5.weight"].T + w["5.bias"])
        return x @ w["7.weight"].T + w["7.bias"]

    return logits_fn


@pytest.mark.parametrize("norm", NORM_OF)
def test_all_images_but_one_agree_with_the_reference(reference, norm):
    """At full settings, with at most one image in 100 weaker."""
    rows, images, labels, weights = reference
    row = rows[norm]
    assert all(any(re.fullmatch(line, text) for line in LINES) for text in row["log"])
    logits_fn = network(weights / f"{row['model']}.npz")
    is_robust = np.array(list(row["robust_flags"])) == "1"
    is_right = np.argmax(logits_fn(images), axis=1) == labels
    assert np.mean(is_right) == pytest.approx(row["clean"], abs=1e-6)
    assert np.all(is_right[is_robust])
    num_lost, num_robust = PARITY[norm]
    lost = np.flatnonzero(is_right & ~is_robust)[:num_lost]
    picked = np.concatenate([lost, np.flatnonzero(is_robust)[:num_robust]])
    p, images, labels = NORM_OF[norm], images[picked], labels[picked]
    result = autoattack(logits_fn, images, labels, p=p, epsilon=row["eps"], batch_size=20)
    assert len(lost) == num_lost and result.clean_correct.all()
    assert np.sum(result.robust & ~is_robust[picked]) <= 1  # weaker
    assert np.sum(~result.robust & is_robust[picked]) <= 1  # stronger
    check_perturbation(result.images, images, p=p, epsilon=row["eps"])
    assert all("zero gradient" in text for text in result.warnings)

"""ImageNet-9's challenge: objects pasted on backgrounds, by hand."""

import jax
import numpy as np
import pytest

from advspur._checks import InputError
from advspur.data import array_source
from advspur.measures import challenge_records
from advspur.measures.challenge import plan_challenge
from tests.data.fake_layouts import Passes, coded, greys
from tests.measures.linear import linear

LABELS = np.arange(18) // 2
CENTRE = np.zeros((18, 8, 8, 1), np.uint8)
CENTRE[:, 3:6, 3:6] = 255
NAMES = {"objects": "original", "backgrounds": "only_bg_t"}


def measure(model, parts, num_backgrounds, **change):
    call = {"key": jax.random.key(0), "batch_size": 8} | change
    return challenge_records(model, parts, num_backgrounds=num_backgrounds, **call)


def test_an_object_that_one_background_turns_wrong_is_vulnerable():
    """Object 4 (of class 2) fails on one background; two objects fail on every one."""
    seen, behind = 10 * LABELS, np.full(18, 150)
    seen[[16, 17]], seen[4], behind[11] = 0, 200, 230
    parts = {"original": greys(seen, LABELS, 9, mask=CENTRE), "only_bg_t": greys(behind, LABELS, 9)}
    answers = {(10 * s, b): s for s in range(9) for b in (150, 230)}
    model = coded(answers | {(200, 150): 2, (200, 230): 3}, 9)  # (object, background)
    progress = Passes()
    (found,) = measure(model, parts, 18, progress=progress)
    assert (found.metric, found.options) == ("challenge_accuracy", {"backgrounds": 18})
    assert found.value == pytest.approx(15 / 18) and found.num_examples == 18
    assert progress.done == plan_challenge(parts, num_backgrounds=18, **NAMES) == 18 * 18
    # Two backgrounds are the first and the last, without the one that fails.
    (found,) = measure(model, parts, 2)
    assert found.value == pytest.approx(16 / 18) and found.options == {"backgrounds": 2}
    # More than available are all.
    (found,) = measure(model, parts, 99, batch_size=5)
    assert found.value == pytest.approx(15 / 18) and found.options == {"backgrounds": 18}


def test_objects_are_pasted_by_their_soft_masks():
    """bg (1 - m) + m fg for pixels in [0, 1], with a linear model in NumPy."""
    rng = np.random.default_rng(0)
    objects = rng.integers(0, 256, (18, 8, 8, 3), np.uint8)
    masks = rng.integers(0, 256, (18, 8, 8, 1), np.uint8)
    behind = rng.integers(0, 256, (5, 8, 8, 3), np.uint8)
    weights, labels = rng.normal(0, 1, (8, 8, 3, 4)), rng.integers(0, 4, 18)
    pasted = behind / 255 * (1 - masks / 255)[:, None] + (objects * (masks / 255) / 255)[:, None]
    scores = np.tensordot(pasted, np.float64(np.float32(weights)), axes=3)
    gaps = np.sort(scores, axis=-1)
    assert np.min(gaps[..., -1] - gaps[..., -2]) > 1e-4  # rounding does not matter
    stands = np.all(scores.argmax(axis=-1) == labels[:, None], axis=1)
    assert 0 < stands.sum() < np.sum(scores[:, 0].argmax(axis=-1) == labels)
    parts = {
        "cut": array_source(objects, labels, num_classes=4, mask=masks),
        "scenes": array_source(behind, np.zeros(5, int), num_classes=4),
    }
    names = {"objects": "cut", "backgrounds": "scenes"}
    (found,) = measure(linear(weights, np.zeros(4)), parts, 5, **names)
    assert found.value == pytest.approx(stands.mean())


def test_options_are_checked():
    parts = {"original": greys([0], [0], 2), "only_bg_t": greys([0], [0], 2)}
    for name in NAMES:
        with pytest.raises(InputError, match=f"{name} = 'x' is not known; allowed: 'original', 'o"):
            measure(coded({}, 2), parts, 1, **{name: "x"})

"""A model whose output is not finite is an error on every benchmark, and nowhere a number.

The argmax of NaN is class 0: such a model would be measured at the share of class 0.
"""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from advspur.training.probe import LinearProbe
from flax import struct

from advspur._checks import InputError
from advspur.benchmarks import BENCHMARKS, metrics, predict
from advspur.data.table import Table
from advspur.models import PooledClassifier
from tests.benchmarks import layouts

QUIET = dict.fromkeys(
    ("l2_noise_levels", "linf_noise_levels", "l2_epsilons", "linf_epsilons"), ()
) | {"trials": 1}
HALF_A_LEVEL = (0.5 / 255,)
NOISE, ATTACK = {"linf_noise_levels": (0.2,)}, {"linf_epsilons": HALF_A_LEVEL, "attack_steps": 1}


@struct.dataclass
class Broken:
    """A linear model of the mean colour, not finite in one way or another (`kind`).

    "logits", "one logit": on all images; "features"; "gradient": its logits are finite, their
    gradients are not; "noise": on images that are not smooth; "attack": off grid of 8 bits.
    """

    value: jax.Array
    num_classes: int = struct.field(pytree_node=False)
    kind: str = struct.field(pytree_node=False)

    def features(self, images):
        colors = jnp.mean(images, axis=(1, 2))
        return colors + jnp.where(self.kind == "features", self.value, 0)

    def logits(self, images):
        weights = jnp.sin(jnp.arange(3)[:, None] + jnp.arange(self.num_classes))
        logits = jnp.mean(images, axis=(1, 2)) @ weights
        if self.kind == "gradient":
            root = jnp.sqrt(jnp.sum(images - images, axis=(1, 2, 3)))  # 0, of infinite slope
            return logits + root[:, None]
        levels = 255 * images
        bad = {
            "logits": jnp.ones(len(images), bool),
            "one logit": jnp.ones(len(images), bool),
            "noise": jnp.mean(jnp.abs(jnp.diff(images, axis=1)), axis=(1, 2, 3)) > 0.04,
            "attack": jnp.any(jnp.abs(levels - jnp.round(levels)) > 1e-2, axis=(1, 2, 3)),
        }[self.kind]
        is_last = jnp.arange(self.num_classes) == self.num_classes - 1
        where = is_last if self.kind == "one logit" else ~is_last | is_last
        return jnp.where(bad[:, None] & where, self.value, logits)


CASES = [  # benchmark, kind, options, images of the pass in which it shows
    ("imagenet", "logits", {}, 10),
    ("imagenet", "one logit", {}, 10),
    ("imagenet_c", "logits", {}, 4),
    ("objectnet", "logits", {}, 8),
    ("objectnet", "one logit", {}, 8),  # of a class that is not among ObjectNet's
    ("imagenet9", "logits", {"regions": QUIET}, 9),
    ("imagenet9", "one logit", {"regions": QUIET}, 9),
    ("imagenet9", "one logit", {"regions": QUIET, "mapped_only": True}, 9),
    ("salient_imagenet", "logits", {"regions": QUIET}, 5),
    ("salient_imagenet", "gradient", {"regions": QUIET}, 5),
    ("salient_imagenet", "noise", {"regions": QUIET | NOISE}, 5),
    ("salient_imagenet", "attack", {"regions": QUIET | ATTACK}, 5),
    ("rival10", "features", {}, 40),
    ("waterbirds", "features", {}, 8),
    ("spurious_shapes", "logits", {}, 20),
    ("spurious_shapes", "one logit", {}, 20),
    ("spurious_shapes", "attack", {"num_attacked": 6, "attack_steps": 1}, 6),
]
NUM_CLASSES = {"imagenet9": 1000, "spurious_shapes": 8}


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return layouts.write_all(tmp_path_factory.mktemp("data"))


def evaluate(name, model, data, **options):
    module = BENCHMARKS[name]
    if module.DIRECTORIES:
        undilated = {"dilation_rounds": 0} if name == "salient_imagenet" else {}
        options = {"allow_partial": True} | undilated | options
    else:
        options = {"num_examples": 20, "shapes": {"image_size": 16}, "regions": QUIET} | options
        options = {"l2_epsilons": (), "linf_epsilons": HALF_A_LEVEL} | options
    folder = data / module.DIRECTORIES[0] if module.DIRECTORIES else None
    return module.evaluate(model, folder, batch_size=64, key=jax.random.key(0), **options)


@pytest.mark.parametrize("name, kind, options, count", CASES)
def test_what_is_not_finite_is_an_error(name, kind, options, count, data):
    value = math.inf if kind == "one logit" else math.nan
    model = Broken(jnp.float32(value), NUM_CLASSES.get(name, 1000), kind)
    with pytest.raises(InputError, match=r"are not finite for \d+ of \d+ images of a b") as caught:
        evaluate(name, model, data, **options)
    words = str(caught.value).split(" not finite for ")[1].split()
    bad, of, first = int(words[0]), int(words[2]), words[9]
    assert of == count and 0 < bad <= count
    assert bad == count or kind in ("noise", "attack", "gradient")
    assert bad < count or first.rstrip(":") == "0"


def test_the_same_models_are_numbers_where_they_are_finite(data):
    """The cases above fail for what they say."""
    for kind, name in (("noise", "salient_imagenet"), ("attack", "imagenet9")):
        model = Broken(jnp.float32(math.nan), 1000, kind)
        records = evaluate(name, model, data, regions=QUIET)
        assert all(math.isfinite(r.value) for r in records)


def test_the_first_image_is_named_with_its_file(data):
    model = Broken(jnp.float32(math.nan), 1000, "logits")
    with pytest.raises(InputError, match=r"first image 0 \(.*/val/n01440764/ILSVRC2012_val_"):
        evaluate("imagenet", model, data)


def test_the_challenge_is_measured_on_finite_logits_alone(data):
    imagenet9, model = BENCHMARKS["imagenet9"], Broken(jnp.float32(math.nan), 9, "attack")
    parts = imagenet9.load(data / "bg_challenge", allow_partial=True)
    with pytest.raises(InputError, match="on pasted objects are not finite for .* of 9 images"):
        imagenet9._challenge(model.replace(kind="logits"), parts, 2, batch_size=64, progress=None)


LOGITS = np.float32([[0, 1, 2, 3], [3, 2, 1, 0], [0, 0, 0, 1]])


@pytest.mark.parametrize("value", (math.nan, math.inf, -math.inf))
@pytest.mark.parametrize("place", range(4))
@pytest.mark.parametrize("with_rest", (True, False))
def test_pooled_logits_are_nan_where_one_of_the_classes_is_not_finite(value, place, with_rest):
    """Also a class of no group, and infinities that no maximum would show."""
    logits = LOGITS.copy()
    logits[1, place] = value
    pooled = PooledClassifier(None, jnp.array([0, 0, 1, -1]), 2, with_rest=with_rest)
    pooled = pooled.pool(jnp.asarray(logits))
    assert np.isnan(pooled[1]).all() and np.isfinite(pooled[::2]).all()
    np.testing.assert_array_equal(predict.correct(pooled, np.array([2, 0, 2]))[1], np.nan)


def test_a_group_without_classes_is_never_predicted():
    pooled = PooledClassifier(None, jnp.array([0, 0, 1, 1]), 3, with_rest=True).pool(
        -jnp.asarray(LOGITS)
    )
    assert pooled.shape == (3, 4) and np.isfinite(pooled).all()
    assert set(np.argmax(pooled, axis=1).tolist()) <= {0, 1}


def test_outcomes_by_hand():
    logits = np.float32([[0, 1], [1, 0], [math.nan, 1], [0, math.inf], [-math.inf, 0]])
    found = predict.correct(logits, np.array([1, 1, 1, 1, 1]))
    np.testing.assert_array_equal(found, [1, 0, math.nan, math.nan, math.nan])


@pytest.mark.parametrize("batch_size", (4, 8, 64))
def test_the_images_of_a_batch_are_counted_and_padding_is_not(batch_size):
    values = np.ones(13, np.float32)
    values[[5, 7, 12]] = math.nan, math.inf, -math.inf
    images = np.zeros((13, 4, 4, 3), np.uint8)
    paths = np.array([f"{i}.png" for i in range(13)])
    table = Table(2, image=images, label=np.zeros(13, int), path=paths)

    def function(batch, numbers):
        return {"number": numbers, "value": jnp.asarray(values)[numbers % 13]}

    expected = {4: "2 of 4", 8: "2 of 8", 64: "3 of 13"}[batch_size]
    with pytest.raises(InputError, match=f"for {expected} images of a .*, first image 5 .5.png."):
        predict.for_each_example(function, table, batch_size=batch_size, image_size=4)
    values[:] = 1
    found = predict.for_each_example(function, table, batch_size=batch_size, image_size=4)
    assert found["value"].sum() == 13


def test_a_share_of_the_gradient_tells_zero_from_not_finite():
    images, labels = np.full((2, 4, 4, 3), 128, np.uint8), np.zeros(2, int)
    region = np.ones((2, 4, 4, 1), np.float32)
    flat = Broken(jnp.float32(1), 5, "logits")  # constant logits
    share, has_share = predict.gradient_share(flat, images, labels, region)
    assert not has_share.any() and np.isfinite(share).all()
    share, has_share = predict.gradient_share(flat.replace(kind="gradient"), images, labels, region)
    assert has_share.all() and np.isnan(share).all()


@pytest.mark.parametrize("value", (math.nan, math.inf, 3e38))
def test_a_probe_predicts_from_finite_logits_alone(value):
    probe = LinearProbe(np.full((2, 3), 9, np.float32), np.zeros(3, np.float32), 0, np.zeros(0))
    features = np.ones((4, 2), np.float32)
    assert len(probe.predict(features)) == 4
    features[2] = value
    with (
        np.errstate(all="ignore"),
        pytest.raises(InputError, match="for 1 of 4 images, first image 2"),
    ):
        probe.predict(features)


def test_the_worst_of_groups_of_which_one_is_empty_is_not_known():
    """As docs/benchmarks.md promises: 3 of 5 right in one of four groups is not 0.6."""
    correct, groups = np.array([1, 1, 1, 0, 0]), np.zeros(5, int)
    for num_groups in (0, 2, 4):
        found = metrics.worst_group_accuracy(correct, groups, num_groups=num_groups)
        assert all(map(math.isnan, found[:3])) and found.num_examples == 0
    assert metrics.worst_group_accuracy(correct, groups, num_groups=1).value == 0.6
    both = metrics.worst_group_accuracy(correct, np.array([0, 0, 0, 0, 1]), num_groups=2)
    assert both.value == 0 and both.num_examples == 1


def test_a_mean_with_nan_is_nan():
    assert math.isnan(metrics.mean_value([0.5, math.nan]).value)
    assert metrics.mean_value([0.25, 0.75]).value == 0.5

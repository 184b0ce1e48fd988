"""A model whose output is not finite is an error in every measure, never a number.

The argmax of NaN is class 0: such a model would be measured at the share of class 0.
"""

import dataclasses
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from advspur import predict
from advspur._checks import InputError
from advspur.data.table import Table
from advspur.heads import objectnet_scorings, probes, superclasses
from advspur.measures import MEASURES
from advspur.measures.regions import gradient_share
from advspur.models import Classifier, pool
from tests.data.fake_layouts import greys

HALF_A_LEVEL = (0.5 / 255,)
ATTACK = {"l2_epsilons": (), "linf_epsilons": HALF_A_LEVEL}
QUIET = {"l2_epsilons": (), "linf_epsilons": (), "linf_noise_levels": (), "trials": 1}


@dataclasses.dataclass(frozen=True)
class Broken:
    """The forward of a linear model of the mean colour; `kind` is what is not finite.

    "logits", "one logit" or "features" on all images; the "gradient" of finite logits; the logits
    under "noise", on images that are not smooth, or under "attack", off the grid of 8 bits.
    """

    kind: str
    num_classes: int

    def __call__(self, value, images):
        colors = jnp.mean(images, axis=(1, 2))
        logits = colors @ jnp.sin(jnp.arange(3)[:, None] + jnp.arange(self.num_classes))
        features = colors + jnp.where(self.kind == "features", value, 0)
        if self.kind == "gradient":
            root = jnp.sqrt(jnp.sum(images - images, axis=(1, 2, 3)))  # 0, of infinite slope
            return logits + root[:, None], features
        levels = 255 * images
        bad = {
            "features": jnp.zeros(len(images), bool),
            "logits": jnp.ones(len(images), bool),
            "one logit": jnp.ones(len(images), bool),
            "noise": jnp.mean(jnp.abs(jnp.diff(images, axis=1)), axis=(1, 2, 3)) > 0.04,
            "attack": jnp.any(jnp.abs(levels - jnp.round(levels)) > 1e-2, axis=(1, 2, 3)),
        }[self.kind]
        is_last = jnp.arange(self.num_classes) == self.num_classes - 1
        where = is_last if self.kind == "one logit" else ~is_last | is_last
        return jnp.where(bad[:, None] & where, value, logits), features


def broken(kind, num_classes=5):
    value = math.inf if kind == "one logit" else math.nan
    return Classifier(jnp.float32(value), Broken(kind, num_classes), num_classes)


LABELS = np.arange(13) % 5
MASKS = np.full((13, 8, 8, 1), 255, np.uint8)
MASKS[:, 4:], MASKS[:, 2] = 0, 128
GROUPS = {"group": LABELS, "is_majority": LABELS > 2}
TABLE = greys(10 * np.arange(13), LABELS, 5, mask=MASKS, **GROUPS)
PARTS = {
    "background_gaps": {"mixed_same": TABLE, "mixed_rand": TABLE},
    "corruptions": {"snow/1": TABLE},
    "challenge": {"original": TABLE, "only_bg_t": TABLE},
}
CASES = [  # measure, kinds, options
    ("accuracy", ("logits", "one logit"), {}),
    ("groups", ("logits", "one logit"), {}),
    ("background_gaps", ("logits", "one logit"), {}),
    ("corruptions", ("logits", "one logit"), {"baseline_errors": {"snow": 0.5}}),
    ("challenge", ("logits", "attack"), {"num_backgrounds": 2}),
    ("pgd", ("logits", "attack"), ATTACK | {"num_steps": 1}),
    ("regions", ("logits", "gradient"), QUIET),
    ("regions", ("noise",), QUIET | {"linf_noise_levels": (0.2,)}),
    ("regions", ("attack",), QUIET | ATTACK | {"attack_steps": 1}),
    ("autoattack", ("logits", "one logit", "attack"), {"batch_size": 16}),
]


def measure(name, model, **options):
    call = {"key": jax.random.key(0), "batch_size": 16} | options
    return MEASURES[name].run(model, PARTS.get(name, {"test": TABLE}), **call)


@pytest.mark.parametrize(
    "name, kind, options", [(name, kind, o) for name, kinds, o in CASES for kind in kinds]
)
def test_outputs_not_finite_are_an_error(name, kind, options):
    with pytest.raises(InputError, match=r"are not finite for \d+ of \d+ images") as caught:
        measure(name, broken(kind), **options)
    words = str(caught.value).split(" not finite for ")[1].split()
    assert 0 < int(words[0]) <= int(words[2]) <= 13
    assert int(words[0]) == int(words[2]) or kind in ("noise", "attack", "gradient")


def test_all_measures_are_among_the_cases():
    assert {name for name, _, _ in CASES} == MEASURES.keys()


@pytest.mark.parametrize("kind", ("noise", "attack"))
def test_the_same_models_are_measured_where_they_are_finite(kind):
    """The cases above fail for the stated reason."""
    for name in ("accuracy", "groups", "regions"):
        options = QUIET if name == "regions" else {}
        assert all(math.isfinite(r.value) for r in measure(name, broken(kind), **options))


@pytest.mark.parametrize("head", ("superclasses", "mapped only", "objectnet", "probes"))
def test_heads_do_not_hide_outputs_not_finite(head):
    parts = {"train": TABLE, "val": TABLE, "test": TABLE}
    call = {"key": jax.random.key(0), "running": {"batch_size": 16}}
    function = {"objectnet": objectnet_scorings, "probes": probes}.get(head, superclasses)
    if function is superclasses:
        call["mapped_only"] = head == "mapped only"
    model = broken("features" if head == "probes" else "one logit", 1000)
    with pytest.raises(InputError, match="are not finite for 13 of 13 images"):
        heads, _ = function(model, parts, **call)
        measure("accuracy", heads[-1][1])


def test_the_first_image_is_named_with_its_file():
    paths = [f"/data/val/n01440764/ILSVRC2012_val_{i}.JPEG" for i in range(13)]
    table = Table(5, path=paths, **{k: TABLE.columns[k] for k in ("image", "label")})
    with pytest.raises(InputError, match=r"first image 0 \(.*/val/n01440764/ILSVRC2012_val_0"):
        MEASURES["accuracy"].run(broken("logits"), {"val": table}, batch_size=16)


LOGITS = np.float32([[0, 1, 2, 3], [3, 2, 1, 0], [0, 0, 0, 1]])


@pytest.mark.parametrize("value", (math.nan, math.inf, -math.inf))
def test_pooled_logits_are_nan_if_one_class_is_not_finite(value):
    """Also for a class without a group, and for infinities that a maximum would hide."""
    for place, with_rest in ((0, True), (1, False), (2, True), (3, False), (3, True)):
        logits = LOGITS.copy()
        logits[1, place] = value
        pooled = pool(jnp.asarray(logits), jnp.array([0, 0, 1, -1]), 2, with_rest=with_rest)
        assert np.isnan(pooled[1]).all() and np.isfinite(pooled[::2]).all()


def test_a_group_without_classes_is_never_predicted():
    pooled = pool(-jnp.asarray(LOGITS), jnp.array([0, 0, 1, 1]), 3, with_rest=True)
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
    paths = np.array([f"{i}.png" for i in range(13)])
    table = Table(2, image=np.zeros((13, 4, 4, 3), np.uint8), label=np.zeros(13, int), path=paths)

    def function(batch, numbers):
        return {"number": numbers, "value": jnp.asarray(values)[numbers % 13]}

    expected = {4: "2 of 4", 8: "2 of 8", 64: "3 of 13"}[batch_size]
    with pytest.raises(InputError, match=f"for {expected} images of a .*, first image 5 .5.png."):
        predict.for_each_example(function, table, batch_size=batch_size)
    values[:] = 1
    found = predict.for_each_example(function, table, batch_size=batch_size)
    assert found["value"].sum() == 13


def test_gradient_share_separates_zero_from_not_finite():
    images, labels = np.full((2, 4, 4, 3), 128, np.uint8), np.zeros(2, int)
    region = np.ones((2, 4, 4, 1), np.float32)
    flat = dataclasses.replace(broken("logits"), params=jnp.float32(1))  # constant logits
    share, has_share = gradient_share(flat, images, labels, region)
    assert not has_share.any() and np.isfinite(share).all()
    share, has_share = gradient_share(broken("gradient"), images, labels, region)
    assert has_share.all() and np.isnan(share).all()

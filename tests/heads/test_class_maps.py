"""Class maps at work, by hand; headed models on kept passes of the network below them."""

import numpy as np
import pytest

from advspur.data import spurious_shapes
from advspur.data.label_maps import OBJECTNET
from advspur.heads import as_it_is, objectnet_scorings, superclasses
from advspur.measures import accuracy_records
from advspur.models import with_class_map, with_head
from advspur.predict import correct_on
from tests.data.fake_layouts import coded, greys
from tests.refusals import refused

# One ImageNet index of each superclass, at the ends of its ranges.
MEMBERS = (268, 7, 407, 68, 388, 300, 889, 384, 0)
NINE = np.arange(18) // 2


def share_right(model, seen, labels):
    """The accuracy on greys that the model reads as `seen`."""
    table = greys(10 * np.asarray(seen), labels, int(max(labels)) + 1)
    (found,) = accuracy_records(model, {"test": table}, batch_size=8)
    return found.value


def head_of(head, model, **options):
    """[(about, headed model)], the key being left as it is."""
    heads, key = head(model, {}, key=7, running={}, **options)
    assert key == 7
    return heads


@pytest.mark.parametrize("unmapped", (171, 172, 281, 30, 999))
def test_a_prediction_counts_as_its_superclass_and_one_of_none_is_wrong(unmapped):
    """15 of 18 right; 9 of 18, three of the others unmapped."""
    answers = dict(zip(range(0, 90, 10), MEMBERS, strict=True)) | {250: unmapped}
    ((about, model),) = head_of(superclasses, coded(answers, 1000))
    assert (about, model.num_classes) == ({}, 10)
    same, rand = NINE.copy(), NINE.copy()
    same[[0, 5]], same[17] = (NINE[[0, 5]] + 1) % 9, 25
    rand[:6], rand[6:9] = (NINE[:6] + 1) % 9, 25
    assert share_right(model, same, NINE) == pytest.approx(15 / 18)
    assert share_right(model, rand, NINE) == pytest.approx(9 / 18)


def test_the_largest_of_1000_logits_decides_not_the_largest_mapped_one():
    model = coded({0: (151, 0), 250: (171, 151, 152)}, 1000)
    for options, right in (({}, 0), ({"mapped_only": True}, 2 / 18)):
        ((_, headed),) = head_of(superclasses, model, **options)
        assert share_right(headed, [0] * 18, NINE) == pytest.approx(2 / 18)
        assert share_right(headed, [25] * 18, NINE) == pytest.approx(right)


def test_both_scorings_of_objectnet_by_hand():
    """One mug alone, so that images and classes weigh differently."""
    ranked = [  # folder, ranking: right among all 1000 (full), among the 125 (subset)
        ("alarm_clock", (409,)),  # right, right
        ("alarm_clock", (530,)),  # right, right: the second of its two indices
        ("chair", (765,)),  # right, right: the third of its three
        ("chair", (0, 423)),  # a tench is outside of the 125: wrong, right
        ("still_camera", (759,)),  # right, right
        ("still_camera", (423, 732)),  # a chair: wrong, wrong
        ("mug", (505, 968, 504)),  # a coffeepot; a cup before a mug: wrong, wrong
    ]
    model = coded({10 * i: classes for i, (_, classes) in enumerate(ranked)}, 1000)
    labels = np.array([list(OBJECTNET).index(folder) for folder, _ in ranked])
    parts = {"images": greys(10 * np.arange(7), labels, 113)}
    found = {}
    for about, headed in head_of(objectnet_scorings, model):
        for r in accuracy_records(headed, parts, balanced=True, batch_size=8):
            found[r.metric, about["scoring"]] = (r.value, r.num_examples)
    assert found == {
        ("accuracy", "full"): (pytest.approx(4 / 7), 7),
        ("balanced_accuracy", "full"): (pytest.approx((1 + 1 / 2 + 1 / 2 + 0) / 4), 7),
        ("accuracy", "subset"): (pytest.approx(5 / 7), 7),
        ("balanced_accuracy", "subset"): (pytest.approx((1 + 1 + 1 / 2 + 0) / 4), 7),
    }


def test_models_of_the_datas_classes_are_taken_as_they_are_and_others_refused():
    nine = coded({}, 9)
    assert head_of(superclasses, nine) == [({}, nine)]
    parts = {part: greys([0], [0], 9) for part in ("a", "b")}
    assert as_it_is(nine, parts, key=7) == ([({}, nine)], 7)
    ten = coded({}, 10)
    for head in (superclasses, objectnet_scorings):
        refused("has 10 classes; ImageNet's 1000 are needed", head_of, head, ten)
    refused("the model has 10 classes; this data set has 9", as_it_is, ten, parts, key=7)


def test_a_head_on_a_class_map_is_measured_too(tiny_classifier, easy_shapes):
    shapes = spurious_shapes("test", num_examples=8, **easy_shapes)
    rng = np.random.default_rng(0)
    headed = with_head(tiny_classifier, rng.normal(size=(16, 8)), rng.normal(size=8))
    twice = with_class_map(headed, np.arange(8) // 2, 8)
    right = np.argmax(twice.logits(np.float32(shapes.columns["image"] / 255)), axis=1)
    found = correct_on(twice, shapes, batch_size=8)
    np.testing.assert_array_equal(found["correct"], right == shapes.columns["label"])

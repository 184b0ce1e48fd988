"""The map between a model's classes and the data's."""

import json
import re

import numpy as np
import pytest

from advspur.data.class_names import class_map
from advspur.data.label_maps import imagenet_names, imagenet_wnids
from tests.refusals import refused


def test_the_english_names_are_those_of_the_facts(shared):
    rows = json.loads((shared / "facts" / "imagenet_wnids.json").read_text())["classes"]
    assert list(imagenet_names()) == [name for _, _, name in rows]
    assert len(set(imagenet_names())) == 1000


@pytest.mark.parametrize(
    "data, model, classes, line",
    (
        (("0", "1"), ("0", "1"), [0, 1], "by number, the data's class i is the model's output i"),
        (("0", "1"), ("cat", "dog"), [0, 1], "by number, .*: 0 cat, 1 dog"),
        (("cat", "dog"), 2, [0, 1], "by number, .*: 0 cat, 1 dog"),
        (("cat", "dog"), ("0", "1"), [0, 1], "by number, .*: 0 cat, 1 dog"),
        (("cat", "dog"), ("cat", "dog"), [0, 1], "by name, the model's 2 in the same order"),
        (("cat", "dog"), ("dog", "cat"), [1, 0], "another order: cat = output 1, dog = output 0"),
        (
            ("sea_lion", "Brown Bear"),
            ("brown bear", "wolf", "Sea-Lion"),
            [1, -1, 0],
            "2 of the model's 3: sea_lion = output 2, Brown Bear = output 0; .* model's other 1",
        ),
        (("car", "bus"), ("bus", "car", "car"), [1, 0, 0], "car = output 1, car = output 2"),
    ),
)
def test_classes_are_mapped_and_described(data, model, classes, line):
    found, said = class_map(data, model)
    assert found.tolist() == classes and re.match(f"classes: .*{line}", said)


@pytest.mark.parametrize("form", ("wnid", "wnid_name", "name", "folder"))
def test_a_subset_of_imagenet_is_mapped_by_wnid_or_name(form):
    chosen = np.random.default_rng(0).permutation(1000)[:40]
    names = []
    for i in chosen:
        wnid, name = imagenet_wnids()[i], imagenet_names()[i]
        forms = {"wnid": wnid, "wnid_name": f"{wnid}-x", "name": name}
        names.append(forms.get(form, name.title().replace(" ", "_")))
    for model in (1000, imagenet_wnids(), imagenet_names()):
        found, said = class_map(names, model)
        expected = np.full(1000, -1)
        expected[chosen] = np.arange(40)
        np.testing.assert_array_equal(found, expected)
        assert ("by wnid" in said) == ("wnid" in form) and "other 960" in said


def test_all_of_imagenet_is_the_identity():
    for names in (imagenet_wnids(), imagenet_names(), [str(i) for i in range(1000)]):
        np.testing.assert_array_equal(class_map(names, 1000)[0], np.arange(1000))


@pytest.mark.parametrize(
    "data, model, message",
    (
        (("tench", "crane"), 1000, r"1 of .* 2 classes .* ImageNet's 1000: crane \(near 'crane'"),
        (("tench", "n00000000"), 1000, "not among ImageNet's 1000: n00000000"),
        (("cat", "cow", "dog", "pig"), ("cat", "dog"), "2 .* not among the model's 2: cow, pig"),
        (("cat", "dog"), 3, r"data have 2 classes \(cat, dog\), the model 3, and they can be"),
        (tuple("012345678"), 1000, "the data have 9 classes .* or give num_classes"),
        (("tench", "n01440764"), 1000, "classes tench, n01440764 count as the same name"),
    ),
)
def test_what_cannot_be_mapped_is_listed(data, model, message):
    refused(message, class_map, data, model)

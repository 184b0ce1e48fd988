"""RIVAL10: which mask and which image, pickles that do nothing, the two ways of the head."""

import base64
import collections
import io
import json
import os
import pickle
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image
from tests.benchmarks.layouts import Passes, coded, cut_short, paint, write_rival10

from advspur import models
from advspur._checks import InputError
from advspur.benchmarks import rival10
from advspur.data.label_maps import rival10_labels
from advspur.data.layouts import MissingData

BILINEAR = Image.Resampling.BILINEAR
PICKLED = list(rival10_labels())[1]  # its first image has no file in entire_object_masks
NO_ATTACKS = {"l2_epsilons": (), "linf_epsilons": (), "l2_noise_levels": ()}


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    return write_rival10(tmp_path_factory.mktemp("rival10"))


def stems(table):
    return [path.stem for path in table.columns["path"]]


def read_one(root, split="test", stem=f"{PICKLED}_{PICKLED}_0"):
    rival10.load.cache_clear()
    table = rival10.load(root, allow_partial=True)[split]
    return table[stems(table).index(stem)]


def test_labels_are_rival10s_and_masks_no_images(written, shared):
    facts = json.loads((shared / "facts" / "rival10_wnids.json").read_text())
    expected = {c["wnid"]: c["rival10_label"] for c in facts["classes"]}
    parts = rival10.load(written, allow_partial=True)
    assert list(parts) == ["train", "test"]
    for split, table in parts.items():
        assert len(table) == 40 and not any("merged" in stem for stem in stems(table))
        of_names = [expected[stem.split("_")[0]] for stem in stems(table)]
        assert of_names == table.columns["label"].tolist()
        assert {path.parent for path in table.columns["path"]} == {written / split / "ordinary"}
    counts = [sum(c[f"n_{split}"] for c in facts["classes"]) for split in parts]
    assert counts == list(rival10.SIZES.values())


@pytest.mark.parametrize("transform", ("resize", "resize_crop"))
def test_image_and_mask_are_squeezed_alike(written, transform):
    table = rival10.load(written, transform=transform, allow_partial=True)["test"]
    grey = list(rival10_labels())[0]
    for stem in (f"{grey}_{grey}_0", f"{grey}_{grey}_1"):
        i = stems(table).index(stem)
        path = table.columns["path"][i]
        mask_path = written / "test" / "entire_object_masks" / path.name
        with Image.open(path) as image, Image.open(mask_path) as mask:
            assert image.size == (60, 48) and image.mode == ("L" if stem[-1] == "0" else "RGB")
            image, mask = image.convert("RGB"), mask.convert("L")
        if transform == "resize":
            image, mask = (np.asarray(x.resize((224, 224), BILINEAR)) for x in (image, mask))
        else:
            image, mask = (np.asarray(x.resize((256, 256), BILINEAR)) for x in (image, mask))
            image, mask = (x[16:240, 16:240] for x in (image, mask))
        np.testing.assert_array_equal(table[i]["image"], image)
        np.testing.assert_array_equal(table[i]["mask"][..., 0], mask)
    with pytest.raises(InputError, match="transform = 'crop' is not known"):
        rival10.load(written, transform="crop", allow_partial=True)


def test_the_entire_object_is_the_mask_and_not_the_merged_attributes(root):
    for path in (root / "test" / "ordinary").glob("*_merged_mask.JPEG"):
        paint(path, 0)
    assert read_one(root)["mask"].max() == 255


def test_a_pickled_mask_is_as_good_as_the_file(root):
    got = read_one(root)["mask"][..., 0]
    place = root / "test" / "ordinary" / f"{PICKLED}_{PICKLED}_0_attr_dict.pkl"
    encoded = pickle.loads(place.read_bytes())["entire-object"]
    with Image.open(io.BytesIO(base64.b64decode(encoded))) as mask:
        np.testing.assert_array_equal(got, np.asarray(mask.resize((224, 224), BILINEAR)))
        folder = root / "test" / "entire_object_masks"
        mask.save(folder / f"{PICKLED}_{PICKLED}_0.JPEG", quality=100, subsampling=0)
    place.write_bytes(b"")  # the file comes first
    np.testing.assert_allclose(read_one(root)["mask"][..., 0], got, atol=12)


class Gadget:
    def __init__(self, function, *arguments):
        self.call = function, arguments

    def __reduce__(self):
        return self.call


@pytest.mark.parametrize("protocol", (0, 2, 4))
@pytest.mark.parametrize("place", ("whole", "value", "key", "other"))
def test_a_hostile_pickle_is_not_executed(root, tmp_path, protocol, place):
    mark = tmp_path / "executed"
    gadget = Gadget(os.system, f"touch {mark}")
    hostile = {
        "whole": gadget,
        "value": {"entire-object": gadget},
        "key": {gadget: "x"},
        "other": [{"entire-object": "AAAA"}, gadget],
    }[place]
    path = root / "test" / "ordinary" / f"{PICKLED}_{PICKLED}_0_attr_dict.pkl"
    path.write_bytes(pickle.dumps(hostile, protocol))
    with pytest.raises(InputError, match=f"{path.name} holds no mask 'entire-object'") as error:
        read_one(root)
    assert not mark.exists() and "\n" not in str(error.value)


@pytest.mark.parametrize(
    "content",
    (
        b"",
        b"\x80\x04",
        pickle.dumps({"ears": "AAAA"}),
        pickle.dumps({"entire-object": 7}),
        pickle.dumps({"entire-object": "not base64 %"}),
        pickle.dumps({"entire-object": "é"}),
        pickle.dumps(None),
        pickle.dumps(collections.OrderedDict()),
    ),
)
def test_a_pickle_without_the_mask_is_named(root, content):
    path = root / "test" / "ordinary" / f"{PICKLED}_{PICKLED}_0_attr_dict.pkl"
    path.write_bytes(content)
    with pytest.raises(InputError, match=f"{path.name} holds no mask 'entire-object'"):
        read_one(root)
    path.write_bytes(pickle.dumps({"entire-object": base64.b64encode(b"no PNG").decode()}))
    with pytest.raises(InputError, match=f"{path.name} is no readable image"):
        read_one(root)


def test_an_opaque_alpha_marks_nothing(root):
    """Masks of the second loader are RGBA at times; the colour is the mask."""
    mask = Image.new("RGBA", (60, 48), (0, 0, 0, 255))
    mask.paste((255, 255, 255, 255), (0, 0, 30, 48))
    file = io.BytesIO()
    mask.save(file, "PNG")
    attributes = {"entire-object": base64.b64encode(file.getvalue()).decode()}
    path = root / "test" / "ordinary" / f"{PICKLED}_{PICKLED}_0_attr_dict.pkl"
    path.write_bytes(pickle.dumps(attributes))
    got = read_one(root)["mask"]
    assert np.all(got[:, :100] == 255) and not got[:, 124:].any()


@pytest.mark.parametrize("size", ((48, 60), (224, 224), (20, 16), (61, 48)))
def test_a_mask_of_another_size_is_resized_on_its_own(root, size):
    """As the official loader does, which brings image and mask to 224 x 224; with a warning."""
    stem = f"{PICKLED}_{PICKLED}_1"
    before = read_one(root, stem=stem)["image"]
    mask = Image.fromarray(np.random.default_rng(0).integers(0, 256, size[::-1], np.uint8))
    mask.save(root / "test" / "entire_object_masks" / f"{stem}.JPEG", format="PNG")
    with pytest.warns(UserWarning, match="test/ordinary: masks differ in size from their images"):
        found = read_one(root, stem=stem)
    np.testing.assert_array_equal(found["mask"][..., 0], mask.resize((224, 224), BILINEAR))
    np.testing.assert_array_equal(found["image"], before)


def test_an_image_in_both_splits_is_refused(root):
    for count, stem in enumerate((f"{PICKLED}_{PICKLED}_1", f"{PICKLED}_{PICKLED}_0"), start=1):
        ordinary = [root / split / "ordinary" / f"{stem}.JPEG" for split in ("test", "train")]
        shutil.copy(*ordinary)
        rival10.load.cache_clear()
        with pytest.raises(InputError, match=f"{count} images are in both .*, first {stem}.JPEG"):
            rival10.load(root, allow_partial=True)


def test_missing_masks_are_named(root):
    folder = root / "test"
    (folder / "ordinary" / f"{PICKLED}_{PICKLED}_0_attr_dict.pkl").unlink()
    rival10.load.cache_clear()
    parts = rival10.load(root, allow_partial=True)
    assert [len(table) for table in parts.values()] == [40, 39]
    assert f"{PICKLED}_{PICKLED}_0" not in stems(parts["test"])


def test_incomplete_copies_are_refused(root, tmp_path, monkeypatch):
    with pytest.raises(InputError, match="40 images, 21,178 are published"):
        rival10.load(root)
    monkeypatch.setattr(rival10, "SIZES", {"train": 40, "test": 40})
    assert len(rival10.load(root)["train"]) == 40
    (root / "test" / "ordinary" / f"{PICKLED}_{PICKLED}_0_attr_dict.pkl").unlink()
    rival10.load.cache_clear()
    match = rf"1 of 40 masks of test images are missing, first {PICKLED}_{PICKLED}_0.JPEG"
    with pytest.raises(InputError, match=match):
        rival10.load(root)
    stray = root / "train" / "ordinary" / "n00000001_x.JPEG"
    Image.new("RGB", (9, 9)).save(stray)
    with pytest.raises(InputError, match="n00000001_x.JPEG is named for no RIVAL10 class"):
        rival10.load(root, allow_partial=True)
    stray.unlink()
    shutil.rmtree(root / "test")
    with pytest.raises(InputError, match="test/ordinary is missing: both splits are needed"):
        rival10.load(root, allow_partial=True)
    shutil.rmtree(root / "train")
    with pytest.raises(MissingData, match="no RIVAL10 in .*entire_object_masks"):
        rival10.load(root, allow_partial=True)


def test_val_only_tests_on_validation_images_of_both_splits(written):
    plain = rival10.load(written, allow_partial=True)
    parts = rival10.load(written, val_only=True, allow_partial=True)
    plane = list(rival10_labels())[4]
    names = [f"{plane}_ILSVRC2012_val_0000000{place}" for place in (6, 1)]
    assert stems(parts["test"]) == names
    splits = {path.parent.parent.name for path in parts["test"].columns["path"]}
    assert splits == {"train", "test"}
    assert stems(parts["train"]) == [s for s in stems(plain["train"]) if s != names[0]]
    assert len(parts["train"]) == 39 and parts["test"].columns["label"].tolist() == [2, 2]


def test_unreadable_images_and_masks_are_left_out(root):
    cut_short(root / "train" / "ordinary" / f"{PICKLED}_{PICKLED}_6.JPEG")
    cut_short(root / "test" / "entire_object_masks" / f"{PICKLED}_{PICKLED}_1.JPEG")
    reading = {"allow_partial": True, "skip_unreadable": True}
    with pytest.warns(UserWarning, match="1 of 40 images are unreadable") as warned:
        parts = rival10.load(root, **reading)
    assert [str(w.message).split(":")[0] for w in warned] == ["train", "test"]
    assert [(len(t), t.skipped) for t in parts.values()] == [(39, 1), (39, 1)]


@pytest.mark.parametrize(
    "kind, core",
    (
        ("soft", [0, 1 / 255, 127 / 255, 128 / 255, 1]),
        ("threshold", [0, 0, 0, 1, 1]),
        ("nonzero", [0, 1, 1, 1, 1]),
    ),
)
def test_masks_are_soft_or_cut(kind, core):
    masks = jnp.asarray([0, 1, 127, 128, 255], jnp.uint8).reshape(1, 5, 1, 1)
    got, rest = rival10._regions(kind, masks)
    np.testing.assert_allclose(np.ravel(got), core, rtol=0, atol=1e-6)
    np.testing.assert_allclose(np.ravel(rest), 1 - np.array(core), rtol=0, atol=1e-6)


def test_options_are_refused_by_name(written):
    for options, match in (
        ({"mask": "hard"}, "mask = 'hard' is not known; allowed: 'soft'"),
        ({"held_out": 1.0}, "held_out = 1.0"),
        ({"held_out": 0}, "held_out = 0"),
    ):
        with pytest.raises(InputError, match=match):
            rival10.evaluate(coded({}, 7), written, batch_size=8, key=jax.random.key(0), **options)


def test_the_legacy_head_is_another_head(written):
    """Not normalised, in train mode and chosen on the test images: other numbers, all there."""
    network = models.resnet_small(5, width=4)
    variables = jax.jit(network.init)(jax.random.key(0), jnp.zeros((1, 224, 224, 3)))
    classifier = models.Classifier(variables, network, (0.5,) * 3, (0.25,) * 3)
    before = jax.tree.map(np.array, classifier)
    found = {}
    for legacy in (False, True):
        progress = Passes()
        options = {
            "regions": NO_ATTACKS | {"linf_noise_levels": (0.5,)},
            "legacy": legacy,
            "learning_rate": 0.01,
            "head_batch_size": 8,
            "num_epochs": 1,
            "allow_partial": True,
        }
        running = {"batch_size": 8, "key": jax.random.key(1), "progress": progress}
        records = rival10.evaluate(classifier, written, **running, **options)
        assert progress.done == rival10.num_passes(written, **options)
        found[legacy] = {r.metric: r for r in records}
        assert {r.num_examples for r in records} == {40}
    assert found[False].keys() == found[True].keys() >= {"relative_foreground_sensitivity"}
    shares = [found[legacy]["norm_fraction_spurious"].value for legacy in (False, True)]
    assert all(0 < share < 1 for share in shares) and abs(shares[0] - shares[1]) > 1e-3
    areas = [found[legacy]["spurious_area"].value for legacy in (False, True)]
    assert areas[0] == pytest.approx(areas[1], abs=1e-6)
    jax.tree.map(np.testing.assert_array_equal, classifier, before)

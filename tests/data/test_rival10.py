"""RIVAL10: which mask and which image, and pickles that do nothing."""

import base64
import collections
import io
import json
import os
import pickle

import numpy as np
import pytest
from PIL import Image

from advspur._checks import InputError
from advspur.data.label_maps import rival10_labels
from advspur.data.readers import READERS
from tests.data.fake_layouts import read
from tests.data.own_files import encode
from tests.refusals import refused

BILINEAR = Image.Resampling.BILINEAR
PICKLED = list(rival10_labels())[1]  # its first image has no file in entire_object_masks


@pytest.fixture
def root(copy):
    return copy("rival10")


@pytest.fixture
def place(root):
    """The file that holds the mask of the only image whose mask is pickled."""
    return root / "test" / "ordinary" / f"{PICKLED}_{PICKLED}_0_attr_dict.pkl"


def stems(table):
    return [path.stem for path in table.columns["path"]]


def read_one(root, split="test", stem=f"{PICKLED}_{PICKLED}_0"):
    table = read("rival10", root)[split]
    return table[stems(table).index(stem)]


def test_labels_are_rival10s_and_masks_no_images(written, shared):
    facts = json.loads((shared / "facts" / "rival10_wnids.json").read_text())
    expected = {c["wnid"]: c["rival10_label"] for c in facts["classes"]}
    parts = read("rival10", written / "rival10")
    assert list(parts) == ["train", "test"]
    for split, table in parts.items():
        assert len(table) == 40 and not any("merged" in stem for stem in stems(table))
        of_names = [expected[stem.split("_")[0]] for stem in stems(table)]
        assert of_names == table.columns["label"].tolist()
        folders = {path.parent for path in table.columns["path"]}
        assert folders == {written / "rival10" / split / "ordinary"}
    counts = [sum(c[f"n_{split}"] for c in facts["classes"]) for split in parts]
    assert counts == list(READERS["rival10"].sizes.values())


@pytest.mark.parametrize("transform", ("resize", "resize_crop"))
def test_image_and_mask_are_squeezed_alike(written, transform):
    table = read("rival10", written / "rival10", transform=transform)["test"]
    grey = list(rival10_labels())[0]
    for stem in (f"{grey}_{grey}_0", f"{grey}_{grey}_1"):
        i = stems(table).index(stem)
        path = table.columns["path"][i]
        mask_path = written / "rival10" / "test" / "entire_object_masks" / path.name
        with Image.open(path) as image, Image.open(mask_path) as mask:
            assert image.size == (60, 48) and image.mode == ("L" if stem[-1] == "0" else "RGB")
            image, mask = image.convert("RGB"), mask.convert("L")
        side = 224 if transform == "resize" else 256
        images = (np.asarray(x.resize((side, side), BILINEAR)) for x in (image, mask))
        first, last = (side - 224) // 2, (side + 224) // 2
        image, mask = (x[first:last, first:last] for x in images)
        np.testing.assert_array_equal(table[i]["image"], image)
        np.testing.assert_array_equal(table[i]["mask"][..., 0], mask)


def test_the_entire_object_is_the_mask_and_not_the_merged_attributes(root):
    for path in (root / "test" / "ordinary").glob("*_merged_mask.JPEG"):
        Image.new("L", (60, 48)).save(path)
    assert read_one(root)["mask"].max() == 255


def test_a_pickled_mask_is_as_good_as_the_file(root, place):
    got = read_one(root)["mask"][..., 0]
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


def test_a_hostile_pickle_is_not_executed(root, tmp_path, place):
    mark = tmp_path / "executed"
    gadget = Gadget(os.system, f"touch {mark}")
    in_list = [{"entire-object": "AAAA"}, gadget]
    for hostile in (gadget, {"entire-object": gadget}, {gadget: "x"}, in_list):
        for protocol in (0, 2, 4):
            place.write_bytes(pickle.dumps(hostile, protocol))
            with pytest.raises(InputError, match=f"{place.name} has no mask 'entire-") as error:
                read_one(root)
            assert not mark.exists() and "\n" not in str(error.value)


def test_a_pickle_without_the_mask_is_named(root, place):
    whole = ({"ears": "AAAA"}, None, collections.OrderedDict())
    masks = ({"entire-object": value} for value in (7, "not base64 %", "é"))
    for content in (b"", b"\x80\x04", *map(pickle.dumps, (*whole, *masks))):
        place.write_bytes(content)
        refused(f"{place.name} has no mask 'entire-object'", read_one, root)
    place.write_bytes(pickle.dumps({"entire-object": base64.b64encode(b"no PNG").decode()}))
    refused(f"{place.name} is not a readable image", read_one, root)


def test_an_opaque_alpha_marks_nothing(root, place):
    """Masks of the second loader are RGBA at times; the colour is the mask."""
    mask = Image.new("RGBA", (60, 48), (0, 0, 0, 255))
    mask.paste((255, 255, 255, 255), (0, 0, 30, 48))
    attributes = {"entire-object": base64.b64encode(encode(mask)).decode()}
    place.write_bytes(pickle.dumps(attributes))
    got = read_one(root)["mask"]
    assert np.all(got[:, :100] == 255) and not got[:, 124:].any()


@pytest.mark.parametrize("size", ((48, 60), (224, 224)))
def test_a_mask_of_another_size_is_resized_on_its_own(root, size):
    """As the official loader does, which brings image and mask to 224 x 224; with a warning."""
    stem = f"{PICKLED}_{PICKLED}_1"
    before = read_one(root, stem=stem)["image"]
    mask = Image.fromarray(np.random.default_rng(0).integers(0, 256, size[::-1], np.uint8))
    mask.save(root / "test" / "entire_object_masks" / f"{stem}.JPEG", format="PNG")
    with pytest.warns(UserWarning, match="test/ordinary: masks and images differ in size"):
        found = read_one(root, stem=stem)
    np.testing.assert_array_equal(found["mask"][..., 0], mask.resize((224, 224), BILINEAR))
    np.testing.assert_array_equal(found["image"], before)


def test_val_only_tests_on_validation_images_of_both_splits(written):
    plain = read("rival10", written / "rival10")
    parts = read("rival10", written / "rival10", val_only=True)
    plane = list(rival10_labels())[4]
    names = [f"{plane}_ILSVRC2012_val_0000000{place}" for place in (6, 1)]
    assert stems(parts["test"]) == names
    splits = {path.parent.parent.name for path in parts["test"].columns["path"]}
    assert splits == {"train", "test"}
    assert stems(parts["train"]) == [s for s in stems(plain["train"]) if s != names[0]]
    assert len(parts["train"]) == 39 and parts["test"].columns["label"].tolist() == [2, 2]

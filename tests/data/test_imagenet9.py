"""ImageNet-9: variants, masks of the objects, and what pairs the images of two variants."""

import numpy as np
import pytest
from PIL import Image

from advspur._checks import InputError
from advspur.data import imagenet9
from advspur.data.label_maps import IMAGENET9
from tests.data.fake_layouts import cut_short, picture, read, save, write_imagenet9

FOLDERS = tuple(IMAGENET9)


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    return write_imagenet9(tmp_path_factory.mktemp("imagenet9"), per_class=2)


def test_variants_are_labelled_by_folders_with_spaces(written):
    parts = read("imagenet9", written)
    assert list(parts) == list(imagenet9.VARIANTS)
    for table in parts.values():
        assert table.columns["label"].tolist() == [i // 2 for i in range(18)]
        folders = [path.parent.name for path in table.columns["path"]]
        assert folders == [f for f in FOLDERS for _ in range(2)]


def test_images_are_paired_by_the_object_and_not_by_the_background(root):
    """Names are fg_<object>_bg_<background>: those of the two variants are never equal."""
    parts = read("imagenet9", root)
    pairs = {variant: parts[variant].columns["pair"] for variant in ("mixed_same", "mixed_rand")}
    names = {variant: [p.name for p in parts[variant].columns["path"]] for variant in pairs}
    assert pairs["mixed_same"] == pairs["mixed_rand"] and len(set(pairs["mixed_rand"])) == 18
    assert not set(names["mixed_same"]) & set(names["mixed_rand"])
    path = parts["mixed_rand"].columns["path"][3]
    path.rename(path.with_name("fg_n00000001_7_bg_n00000002_1.JPEG"))
    again = read("imagenet9", root)["mixed_rand"].columns["pair"]
    assert [a == b for a, b in zip(again, pairs["mixed_rand"], strict=True)].count(False) == 1


def test_images_are_taken_as_they_are_stored_with_their_masks(written):
    table = read("imagenet9", written)["original"]
    example = table[5]
    with Image.open(table.columns["path"][5]) as image:
        np.testing.assert_array_equal(example["image"], np.asarray(image))
    mask = np.load(written / "fg_mask" / "val" / FOLDERS[2] / "n00000002_2.npy")
    assert mask.dtype == bool and 0 < mask.mean() < 1
    np.testing.assert_array_equal(example["mask"][..., 0], 255 * mask)


def test_the_standard_transform_goes_over_image_and_mask(written):
    table = read("imagenet9", written, transform="standard")["original"]
    with Image.open(table.columns["path"][0]) as image:
        resized = np.asarray(image.resize((256, 256), Image.Resampling.BILINEAR))
    np.testing.assert_array_equal(table[0]["image"], resized[16:240, 16:240])
    mask = np.load(table.columns["mask_path"][0])
    grown = Image.fromarray(np.uint8(255) * mask).resize((256, 256), Image.Resampling.BILINEAR)
    np.testing.assert_array_equal(table[0]["mask"][..., 0], np.asarray(grown)[16:240, 16:240])


@pytest.mark.parametrize(
    "mask, message",
    (
        (np.ones((224, 224)), r"is float64 \(224, 224\); expected bool"),
        (np.ones((224, 224, 3), bool), r"is bool \(224, 224, 3\)"),
        (np.ones((224, 100), bool), "is 100 x 224, its image 224 x 224"),
        (np.array([{}, None]), "is no readable mask: .*allow_pickle=False"),
        (None, "is no readable mask"),
    ),
    ids=("numbers", "colours", "another size", "objects", "cut short"),
)
def test_damaged_masks_are_named(root, mask, message):
    path = root / "fg_mask" / "val" / FOLDERS[6] / "n00000006_2.npy"
    if mask is None:
        cut_short(path)
    else:
        np.save(path, mask, allow_pickle=True)
    with pytest.raises(InputError, match=f"n00000006_2.npy {message}"):
        read("imagenet9", root)["original"][13]


def test_images_of_another_size_are_named(root):
    """The batch resizes images that are not 224 x 224; a mask left behind would fit no more."""
    stored = read("imagenet9", root)["original"]
    save(picture(np.random.default_rng(0), (300, 300))[0], stored.columns["path"][3], format="JPEG")
    np.save(stored.columns["mask_path"][3], np.eye(300, dtype=bool))
    with pytest.raises(InputError, match="n00000001_2.JPEG is 300 x 300: 224 x 224 is needed"):
        stored[3]
    assert read("imagenet9", root, transform="standard")["original"][3]["mask"].shape[0] == 224

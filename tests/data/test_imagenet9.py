"""ImageNet-9: masks, the 1000 -> 9 map at work, gaps, pairing and the challenge by hand."""

import shutil

import jax
import numpy as np
import pytest
from PIL import Image
from tests.benchmarks.layouts import (
    Passes,
    coded,
    cut_short,
    paint,
    picture,
    save,
    write_imagenet9,
)

from advspur._checks import InputError
from advspur.benchmarks import imagenet9, metrics
from advspur.data.label_maps import IMAGENET9
from advspur.data.layouts import MissingData

NO_ATTACKS = {"l2_epsilons": (), "linf_epsilons": ()}
# One ImageNet index of each superclass, at the ends of its ranges.
MEMBERS = (268, 7, 407, 68, 388, 300, 889, 384, 0)
FOLDERS = tuple(IMAGENET9)


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    return write_imagenet9(tmp_path_factory.mktemp("imagenet9"), per_class=2)


def evaluate(model, root, **options):
    records = imagenet9.evaluate(
        model,
        root,
        batch_size=8,
        key=jax.random.key(0),
        allow_partial=True,
        **{"regions": NO_ATTACKS} | options,
    )
    return {(r.metric, r.options.get("variant")): r for r in records}


def files(root, variant):
    return [path for f in FOLDERS for path in sorted((root / variant / "val" / f).iterdir())]


def paint_all(root, model_says):
    """Paint each image with the grey of the class that the model shall see: 250 is none."""
    for variant, said in model_says.items():
        for path, superclass in zip(files(root, variant), said, strict=True):
            paint(path, 250 if superclass < 0 else 10 * superclass)


def test_variants_are_labelled_by_folders_with_spaces(written):
    parts = imagenet9.load(written, allow_partial=True)
    assert list(parts) == list(imagenet9.VARIANTS)
    for table in parts.values():
        assert table.columns["label"].tolist() == [i // 2 for i in range(18)]
        folders = [path.parent.name for path in table.columns["path"]]
        assert folders == [f for f in FOLDERS for _ in range(2)]


def test_images_are_taken_as_they_are_stored_with_their_masks(written):
    table = imagenet9.load(written, allow_partial=True)["original"]
    example = table[5]
    path = table.columns["path"][5]
    with Image.open(path) as image:
        np.testing.assert_array_equal(example["image"], np.asarray(image))
    mask = np.load(written / "fg_mask" / "val" / FOLDERS[2] / "n00000002_2.npy")
    assert mask.dtype == bool and 0 < mask.mean() < 1
    assert example["mask"].shape == (224, 224, 1)
    np.testing.assert_array_equal(example["mask"][..., 0], 255 * mask)


def test_the_standard_transform_goes_over_image_and_mask(written):
    table = imagenet9.load(written, transform="standard", allow_partial=True)["original"]
    with Image.open(table.columns["path"][0]) as image:
        resized = np.asarray(image.resize((256, 256), Image.Resampling.BILINEAR))
    np.testing.assert_array_equal(table[0]["image"], resized[16:240, 16:240])
    mask = np.load(table.columns["mask_path"][0])
    grown = Image.fromarray(np.uint8(255) * mask).resize((256, 256), Image.Resampling.BILINEAR)
    np.testing.assert_array_equal(table[0]["mask"][..., 0], np.asarray(grown)[16:240, 16:240])
    with pytest.raises(InputError, match="transform = 'crop' is not known"):
        imagenet9.load(written, transform="crop")


def answers(spread_out):
    """Grey 10 s -> an ImageNet class of superclass s; grey 250 -> one of none."""
    return {10 * s: MEMBERS[s] for s in range(9)} | {250: spread_out}


@pytest.mark.parametrize("unmapped", (171, 172, 281, 30, 999))
def test_gaps_by_hand_and_unmapped_predictions_are_wrong(root, unmapped):
    """MIXED-SAME: 15 of 18 right; MIXED-RAND: 9 of 18, three of the others unmapped."""
    labels = np.arange(18) // 2
    same, rand = labels.copy(), labels.copy()
    same[[0, 5]], same[17] = (labels[[0, 5]] + 1) % 9, -1
    rand[:6] = (labels[:6] + 1) % 9
    rand[6:9] = -1
    paint_all(root, {"mixed_same": same, "mixed_rand": rand})
    found = evaluate(coded(answers(unmapped), 1000), root)
    assert found["accuracy", "mixed_same"].value == pytest.approx(15 / 18)
    assert found["accuracy", "mixed_rand"].value == pytest.approx(9 / 18)
    gap, relative = found["background_gap", None], found["relative_background_gap", None]
    assert gap.value == pytest.approx(6 / 18) and relative.value == pytest.approx(6 / 15)


def test_the_largest_of_1000_logits_decides_not_the_largest_mapped_one(root):
    paint_all(root, {"mixed_same": [0] * 18, "mixed_rand": [-1] * 18})
    model = coded({0: (151, 0), 250: (171, 151, 152)}, 1000)
    found = evaluate(model, root)
    assert found["accuracy", "mixed_same"].value == pytest.approx(2 / 18)
    assert found["accuracy", "mixed_rand"].value == 0
    found = evaluate(model, root, mapped_only=True)
    assert found["accuracy", "mixed_same"].value == pytest.approx(2 / 18)
    assert found["accuracy", "mixed_rand"].value == pytest.approx(2 / 18)


def test_a_model_of_nine_classes_needs_no_map(root):
    paint_all(root, {"mixed_same": np.arange(18) // 2, "mixed_rand": [8] * 18})
    found = evaluate(coded({10 * s: s for s in range(9)}, 9), root)
    assert found["accuracy", "mixed_same"].value == 1
    assert found["background_gap", None].value == pytest.approx(16 / 18)
    with pytest.raises(InputError, match="10 classes; this benchmark needs 1000 or 9"):
        evaluate(coded({}, 10), root)


def test_images_are_paired_by_the_object_and_not_by_the_background(root):
    """Names are fg_<object>_bg_<background>: those of the two variants are never equal.

    15 of 18 right on both, 2 on MIXED-SAME alone, 1 on MIXED-RAND alone: correlated, so that the
    paired interval is the narrower one.
    """
    labels = np.arange(18) // 2
    same, rand = labels.copy(), labels.copy()
    rand[[4, 9]], same[13] = 0, 0
    paint_all(root, {"mixed_same": same, "mixed_rand": rand})
    model = coded({10 * s: s for s in range(9)}, 9)
    paired = evaluate(model, root)["background_gap", None]
    path = files(root, "mixed_rand")[3]
    path.rename(path.with_name("fg_n00000001_7_bg_n00000002_1.JPEG"))
    imagenet9.load.cache_clear()
    unpaired = evaluate(model, root)["background_gap", None]
    assert unpaired.options == {"paired": False}
    assert paired.value == pytest.approx(unpaired.value) == pytest.approx(1 / 18)
    assert paired.options == {"paired": True}
    outcomes = [np.equal(said, labels) for said in (same, rand)]
    assert paired[1:5] == metrics.background_gap(*outcomes)
    assert unpaired[1:5] == metrics.background_gap(*outcomes, paired=False) != paired[1:5]


def test_an_unreadable_image_is_left_out_of_its_variant(root):
    """One right image of MIXED-RAND is lost: 18 of 18 against 1 of 17."""
    paint_all(root, {"mixed_same": np.arange(18) // 2, "mixed_rand": [0] * 18})
    cut_short(files(root, "mixed_rand")[1])
    model = coded({10 * s: s for s in range(9)}, 9)
    with pytest.warns(UserWarning, match="mixed_rand: 1 of 18 images are unreadable"):
        found = evaluate(model, root, skip_unreadable=True)
    counts = {v: found["accuracy", v].num_examples for v in imagenet9.VARIANTS}
    assert counts == dict.fromkeys(imagenet9.VARIANTS, 18) | {"mixed_rand": 17}
    gap = found["background_gap", None]
    assert gap.value == pytest.approx(1 - 1 / 17)
    with pytest.raises(InputError, match="fg_n00000000_2_bg_.* is no readable image"):
        evaluate(model, root)


def test_an_object_that_one_background_turns_wrong_is_vulnerable(root):
    """Object 4 (of class 2) fails on one background; two objects are wrong on any."""
    paint_all(root, {"original": np.arange(18) // 2, "only_bg_t": [15] * 18})
    paint(files(root, "original")[17], 0)
    paint(files(root, "original")[16], 0)
    paint(files(root, "original")[4], 200)
    paint(files(root, "only_bg_t")[11], 230)
    table = {(10 * s, b): s for s in range(9) for b in (150, 230)}
    table |= {(200, 150): 2, (200, 230): 3}  # (object, background)
    progress = Passes()
    options = {"challenge_backgrounds": 18, "progress": progress}
    found = evaluate(coded(table, 9), root, **options)["challenge_accuracy", None]
    assert found.value == pytest.approx(15 / 18) and found.num_examples == 18
    assert found.options == {"backgrounds": 18}
    passes = imagenet9.num_passes(
        root, allow_partial=True, regions=NO_ATTACKS, challenge_backgrounds=18
    )
    assert passes == progress.done
    # Two backgrounds are the first and the last: the one that hurts is not among them.
    found = evaluate(coded(table, 9), root, challenge_backgrounds=2)["challenge_accuracy", None]
    assert found.value == pytest.approx(16 / 18) and found.options == {"backgrounds": 2}


def test_missing_and_damaged_masks_are_named_or_left_out(root):
    path = root / "fg_mask" / "val" / FOLDERS[6] / "n00000006_2.npy"

    def load_one(mask=None, **options):
        np.save(path, mask, **options)
        imagenet9.load.cache_clear()
        imagenet9.load(root, allow_partial=True)["original"][13]

    with pytest.raises(InputError, match=r"n00000006_2.npy is float64 \(224, 224\); expected bool"):
        load_one(np.ones((224, 224)))
    with pytest.raises(InputError, match=r"n00000006_2.npy is bool \(224, 224, 3\)"):
        load_one(np.ones((224, 224, 3), bool))
    with pytest.raises(InputError, match="n00000006_2.npy is 100 x 224, its image 224 x 224"):
        load_one(np.ones((224, 100), bool))
    with pytest.raises(
        InputError, match="n00000006_2.npy is no readable mask: .*allow_pickle=False"
    ):
        load_one(np.array([{}, None]), allow_pickle=True)
    np.save(path, np.ones((224, 224), bool))
    cut_short(path)
    with pytest.raises(InputError, match="n00000006_2.npy is no readable mask"):
        imagenet9.load(root, allow_partial=True)["original"][13]
    path.unlink()
    imagenet9.load.cache_clear()
    parts = imagenet9.load(root, allow_partial=True)
    assert len(parts["original"]) == 17 and len(parts["mixed_same"]) == 18
    assert parts["original"].columns["label"].tolist() == [i // 2 for i in range(18) if i != 13]


def test_images_of_another_size_keep_with_their_masks_or_are_named(root):
    """The batch resizes images that are not 224 x 224; a mask left behind fits no more."""
    path = files(root, "original")[3]
    save(picture(np.random.default_rng(0), (300, 300))[0], path, format="JPEG")
    np.save(root / "fg_mask" / "val" / FOLDERS[1] / "n00000001_2.npy", np.eye(300, dtype=bool))
    try:
        found = evaluate(coded({}, 9), root)
    except InputError as error:
        assert "n00000001_2" in str(error)
    else:
        assert found["accuracy", "original"].num_examples == 18


def test_incomplete_copies_are_refused(root, monkeypatch, tmp_path):
    with pytest.raises(InputError, match="18 images, 4,050 are published"):
        imagenet9.load(root)
    monkeypatch.setattr(imagenet9, "SIZES", dict.fromkeys(imagenet9.VARIANTS, 18))
    assert len(imagenet9.load(root)) == 8
    mask = root / "fg_mask" / "val" / FOLDERS[6] / "n00000006_2.npy"
    mask.rename(tmp_path / "kept.npy")
    imagenet9.load.cache_clear()
    with pytest.raises(InputError, match="1 of 18 masks are missing, .*n00000006_2.npy"):
        imagenet9.load(root)
    (tmp_path / "kept.npy").rename(mask)
    (root / "no_fg" / "val" / "00_dog").rename(root / "no_fg" / "val" / "00_Dog")
    with pytest.raises(InputError, match="no_fg.val has 1 folders that are no class, first 00_Dog"):
        imagenet9.load(root)
    shutil.rmtree(root / "no_fg" / "val" / "00_Dog")
    with pytest.raises(InputError, match="no_fg.val is incomplete: 1 of 9 class folders"):
        imagenet9.load(root)
    shutil.rmtree(root / "no_fg")
    with pytest.raises(InputError, match="no_fg.val is missing"):
        imagenet9.load(root)
    with pytest.raises(MissingData, match="no ImageNet-9 in .*fg_mask/val"):
        imagenet9.load(tmp_path / "nowhere")


@pytest.mark.parametrize("variant", ("original", "mixed_rand", "only_bg_t"))
def test_a_partial_copy_gives_what_it_can_or_is_refused_in_words(root, variant):
    """No KeyError: the variant that is not there is named, or what needs it is left out."""
    shutil.rmtree(root / variant)
    model = coded({10 * s: s for s in range(9)}, 9)
    try:
        found = evaluate(model, root, challenge_backgrounds=2)
    except InputError as error:
        assert variant in str(error)
    else:
        needs = {"mixed_rand": "background_gap"}.get(variant, "challenge_accuracy")
        assert ("accuracy", "mixed_same") in found and (needs, None) not in found

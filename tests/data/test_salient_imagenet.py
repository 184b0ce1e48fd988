"""Salient ImageNet: the workers' votes, joined masks, the dilation, release against manifest."""

import csv
import os
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image
from scipy import ndimage
from tests.benchmarks.layouts import Coded, Passes, coded, cut_short, write_salient

from advspur._checks import InputError
from advspur.benchmarks import salient_imagenet
from advspur.data.label_maps import imagenet_wnids
from advspur.data.layouts import MissingData, standard_transform
from configs import evaluate as evaluate_config

FIRST, SECOND = (imagenet_wnids()[index] for index in (0, 7))  # feature 11 of SECOND is spurious
CROSS = np.array([[abs(x) * abs(y) == 0 for x in range(-2, 3)] for y in range(-2, 3)])
QUIET = {"trials": 1, "l2_epsilons": (), "linf_epsilons": ()}


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    root = tmp_path_factory.mktemp("salient")
    write_salient(root / "salient", root / "imagenet" / "train")
    return root


@pytest.fixture
def root(written, tmp_path):
    return shutil.copytree(written, tmp_path / "copy") / "salient"


def load(root, **options):
    salient_imagenet.load.cache_clear()
    return salient_imagenet.load(root, **{"allow_partial": True} | options)["images"]


def of_stem(table, stem):
    return table[[path.stem for path in table.columns["path"]].index(stem)]


def stored(root, wnid, feature, stem):
    with Image.open(root / wnid / f"feature_{feature}" / f"{stem}.JPEG") as mask:
        assert mask.mode == "L"
        return np.asarray(mask)


def test_images_without_a_core_mask_are_dropped(written):
    """Image 2 of the second class has only the spurious feature."""
    table = load(written / "salient")
    names = [path.stem for path in table.columns["path"]]
    assert names == [f"{FIRST}_{i}" for i in range(3)] + [f"{SECOND}_{i}" for i in range(2)]
    assert table.columns["label"].tolist() == [0, 0, 0, 7, 7]
    assert {p.parent.parent for p in table.columns["path"]} == {written / "imagenet" / "train"}


def test_masks_of_a_kind_are_joined_by_their_maximum(written):
    root = written / "salient"
    table = load(root)
    none = np.zeros((224, 224), np.uint8)
    both = [stored(root, FIRST, f, f"{FIRST}_1") for f in (10, 11)]
    for stem, core, spurious in (
        (f"{FIRST}_0", stored(root, FIRST, 10, f"{FIRST}_0"), none),
        (f"{FIRST}_1", np.maximum(*both), none),
        (f"{SECOND}_1", *(stored(root, SECOND, f, f"{SECOND}_1") for f in (10, 11))),
    ):
        mask = of_stem(table, stem)["mask"]
        assert mask.shape == (224, 224, 2)
        np.testing.assert_array_equal(mask, np.stack([core, spurious], axis=-1))
    assert of_stem(table, f"{FIRST}_1")["mask"][110, [55, 165], 0].min() > 150


def test_masks_lie_in_the_frame_of_the_crop_unless_legacy(written):
    root, stem = written / "salient", f"{FIRST}_0"
    example, legacy = (of_stem(load(root, legacy=legacy), stem) for legacy in (False, True))
    with Image.open(written / "imagenet" / "train" / FIRST / f"{stem}.JPEG") as image:
        expected = np.asarray(standard_transform(image))
    np.testing.assert_array_equal(example["image"], expected)
    np.testing.assert_array_equal(legacy["image"], expected)
    mask = Image.fromarray(stored(root, FIRST, 10, stem)).resize((256, 256), 2)
    np.testing.assert_array_equal(legacy["mask"][..., 0], np.asarray(mask)[16:240, 16:240])
    assert np.any(legacy["mask"] != example["mask"])


def test_legacy_masks_are_joined_before_they_are_resized(root):
    """As the official loader does; it matters where one mask ends beside the other."""
    stem, both = f"{FIRST}_1", []
    for feature, columns in ((10, slice(0, 100)), (11, slice(100, 224))):
        mask = np.zeros((224, 224), np.uint8)
        mask[:, columns] = 200
        Image.fromarray(mask).save(root / FIRST / f"feature_{feature}" / f"{stem}.JPEG")
        both.append(stored(root, FIRST, feature, stem))

    def magnified(mask):
        return np.asarray(Image.fromarray(mask).resize((256, 256), 2))[16:240, 16:240]

    expected = magnified(np.maximum(*both))
    assert np.any(expected != np.maximum(*map(magnified, both)))
    found = of_stem(load(root, legacy=True), stem)["mask"][..., 0]
    np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("votes", range(6))
def test_three_of_five_workers_make_a_feature_spurious(tmp_path, votes):
    kinds = ["background", "separate_object", "separate_object", "background", "background"]
    with (tmp_path / "answers.csv").open("w", newline="") as file:
        table = csv.writer(file)
        table.writerow(["Answer.main", "Input.feature_index", "Input.wordnet_id"])
        for worker in range(5):
            table.writerow([kinds[worker] if worker < votes else "main_object", 31, FIRST])
            table.writerow(["main_object", 3, FIRST])
    found = salient_imagenet.read_answers(tmp_path / "answers.csv")
    assert found == {(FIRST, 31): votes >= 3, (FIRST, 3): False}


def test_damaged_answers_are_named_by_their_line(root):
    file = root / "mturk_results" / "discover_spurious_features.csv"
    text = file.read_text()
    file.write_text(text.replace("separate_object", "seperate_object", 1))
    with pytest.raises(InputError, match="line 3: answer 'seperate_object' is none of"):
        load(root)
    file.write_text(text.replace("Answer.main", "Answer"))
    with pytest.raises(InputError, match="csv line 2 is damaged"):
        load(root)
    file.write_text("\n".join(line for line in text.splitlines() if f"{SECOND},7,11" not in line))
    with pytest.raises(InputError, match="image_names_map.csv: no worker answered on feature 11"):
        load(root)
    file.write_text(f"{text}{text.splitlines()[-1]}\n")
    with pytest.raises(InputError, match="lines 21 and 22 are one worker's"):
        load(root)
    file.unlink()
    with pytest.raises(MissingData, match="no Salient ImageNet answers"):
        load(root)


def test_a_manifest_gives_the_same_examples(written, tmp_path):
    release = load(written / "salient")
    with (tmp_path / "manifest.csv").open("w", newline="") as file:
        table = csv.writer(file)
        table.writerow(["image", "note", "spurious_masks", "core_masks", "wnid"])
        for i in range(len(release)):
            row = {name: column[i] for name, column in release.columns.items()}
            masks = [";".join(os.path.relpath(p, tmp_path) for p in row[k]) for k in
                     ("spurious", "core")]  # fmt: skip
            path = os.path.relpath(row["path"], tmp_path)
            table.writerow([path, "", *masks, row["path"].parent.name])
        table.writerow(["no_core.JPEG", "", "some.JPEG", "", FIRST])
    with pytest.warns(UserWarning, match="csv: 5 images are outside its folder, first line 2"):
        listed = load(tmp_path, allow_partial=False)
    assert len(listed) == len(release) == 5
    for i in range(5):
        assert listed[i]["label"] == release[i]["label"]
        for name in ("image", "mask"):
            np.testing.assert_array_equal(listed[i][name], release[i][name])


def test_damaged_manifests_are_named_by_their_line(tmp_path):
    file = tmp_path / "manifest.csv"
    for text in (
        "image,wnid,core_masks\nx.JPEG,n01440764,m.JPEG\n",
        "image,wnid,core_masks,spurious_masks\nx.JPEG,n00000001,m.JPEG,\n",
        "image,wnid,core_masks,spurious_masks\nx.JPEG,n01440764\n",
    ):
        file.write_text(text)
        with pytest.raises(InputError, match="manifest.csv line 2: the columns are image, wnid"):
            load(tmp_path)
    header, line = "image,wnid,core_masks,spurious_masks", "x.JPEG,n01440764,m.JPEG,"
    for again in (
        "x.JPEG,n01440764,m.JPEG,",
        "./x.JPEG,n01443537,k.JPEG,",
        "a/../x.JPEG,n01440764,,",
    ):
        file.write_text("\n".join([header, line, "y.JPEG,n01440764,m.JPEG,", again]))
        with pytest.raises(InputError, match="csv lines 2 and 4 name the same file, x.JPEG"):
            load(tmp_path)
    file.write_text(f"{header},wnid,image\n{line},n01440764,x.JPEG\n")
    with pytest.raises(InputError, match="line 1 repeats columns: image, wnid"):
        load(tmp_path)
    file.write_text("image,wnid,core_masks,spurious_masks\nx.JPEG,n01440764,m.JPEG,\n")
    with pytest.raises(InputError, match="2 image or mask files are missing, first .*x.JPEG"):
        load(tmp_path, allow_partial=False)


@pytest.mark.parametrize(
    "text",
    (
        "wordnet_dict = {{0: __import__('os').system('touch {mark}')}}",
        "wordnet_dict = {{[1]: 'n01440764'}}",
        "wordnet_dict = {{None: 'n01440764'}}",
        "wordnet_dict = {{'a'}}",
        "wordnet_dict = ",
        "}}{{",
        "{{" * 5000 + "}}" * 5000,
    ),
    ids=("call", "list key", "none key", "set", "nothing", "turned", "deep"),
)
def test_a_wordnet_dict_is_parsed_and_not_executed(root, tmp_path, text):
    mark = tmp_path / "executed"
    (root / "wordnet_dict.py").write_text(text.format(mark=mark))
    with pytest.raises(InputError, match="wordnet_dict.py is no dictionary of wnids"):
        load(root)
    assert not mark.exists()


def test_code_beside_the_dictionary_is_ignored(root, tmp_path):
    mark = tmp_path / "executed"
    code = f"\nopen({str(mark)!r}, 'w')\n"
    text = (root / "wordnet_dict.py").read_text()
    (root / "wordnet_dict.py").write_text(code + text + code)
    assert len(load(root)) == 5 and not mark.exists()


def test_a_wordnet_dict_in_another_order_is_refused(root):
    (root / "wordnet_dict.py").write_text(f"{{0: {SECOND!r}, 7: {FIRST!r}}}")
    with pytest.raises(InputError, match=f"class 0 is {SECOND!r}, which is not its ImageNet wnid"):
        load(root)


def test_missing_files_are_named_or_left_out(root):
    with pytest.raises(InputError, match="998 of 1000 classes are missing, first n0144"):
        load(root, allow_partial=False)
    (root / FIRST / "feature_10" / f"{FIRST}_1.JPEG").unlink()
    table = load(root)
    assert len(table) == 4 and f"{FIRST}_1" not in [p.stem for p in table.columns["path"]]
    with pytest.raises(MissingData, match="no complete images in"):
        load(root, image_dir=str(root / "nowhere"))
    with pytest.raises(MissingData, match="no Salient ImageNet in .*wordnet_dict.py"):
        load(root / "nowhere")


def test_masks_of_another_size_are_refused_and_unreadable_ones_left_out(root):
    path = root / FIRST / "feature_11" / f"{FIRST}_2.JPEG"
    Image.new("L", (256, 224)).save(path)
    with pytest.raises(InputError, match=f"{path.name} is 256 x 224; masks are 224 x 224"):
        of_stem(load(root), path.stem)
    cut_short(root / SECOND / "feature_10" / f"{SECOND}_0.JPEG")
    with pytest.warns(UserWarning, match="images: 2 of 5 images are unreadable"):
        table = load(root, skip_unreadable=True)
    assert [p.stem for p in table.columns["path"]] == [f"{FIRST}_0", f"{FIRST}_1", f"{SECOND}_1"]


def test_the_dilation_is_scipys_with_a_cross():
    masks = np.random.default_rng(0).random((3, 50, 40, 1)).astype(np.float32) ** 40
    got = np.asarray(salient_imagenet.dilate(jnp.asarray(masks), 3))
    for mask, result in zip(masks[..., 0], got[..., 0], strict=True):
        expected = mask
        for _ in range(3):
            expected = ndimage.grey_dilation(expected, footprint=CROSS, mode="constant", cval=0)
        np.testing.assert_allclose(result, expected / expected.max(), rtol=1e-6)


def test_fifteen_rounds_reach_1801_pixels_from_a_point():
    """{ceil(|x| / 2) + ceil(|y| / 2) <= 15}: 1 + 2 * 60 + 16 * 105, not a diamond's 1,861."""
    mask = np.zeros((1, 224, 224, 1), np.float32)
    mask[0, 100, 90] = 0.5
    got = np.asarray(salient_imagenet.dilate(jnp.asarray(mask), 15))[0, ..., 0]
    y, x = np.indices((224, 224)) - np.array([100, 90])[:, None, None]
    expected = (np.abs(x) + 1) // 2 + (np.abs(y) + 1) // 2 <= 15
    assert expected.sum() == 1 + 2 * 60 + 16 * 105 == 1801
    np.testing.assert_array_equal(got, expected)


def test_the_maximum_is_of_the_image_and_not_of_the_batch():
    masks = np.zeros((3, 30, 30, 1), np.float32)
    masks[0, 10, 10], masks[1, 10, 10] = 0.2, 1
    got = np.asarray(salient_imagenet.dilate(jnp.asarray(masks), 2))
    np.testing.assert_array_equal(got[0], got[1])
    assert got[0].max() == 1 and not got[2].any()


def test_columns_of_unequal_length_and_names_with_a_suffix_are_read(root):
    text = f",10,11\n0,{FIRST}_0.JPEG,{FIRST}_2\n1,{FIRST}_1,\n2\n"
    (root / FIRST / "image_names_map.csv").write_text(text)
    table = load(root)
    assert [[p.parent.name[8:] for p in c] for c in table.columns["core"][:3]] == [
        ["10"],
        ["10"],
        ["11"],
    ]
    assert [p.stem for p in table.columns["path"][:3]] == [f"{FIRST}_{i}" for i in range(3)]


def evaluate(root, **options):
    progress, options = Passes(), {"regions": QUIET, "allow_partial": True} | options
    salient_imagenet.load.cache_clear()
    records = salient_imagenet.evaluate(
        coded({}, 1000),
        root,
        batch_size=8,
        key=jax.random.key(0),
        progress=progress,
        **options,
    )
    assert progress.done == salient_imagenet.num_passes(root, **options)
    return {r.metric: r for r in records}


@pytest.mark.parametrize("rounds", (0, 15))
def test_the_rest_is_the_complement_of_the_dilated_core(written, rounds):
    table = load(written / "salient")
    shares = []
    for i in range(len(table)):
        core = table[i]["mask"][..., 0] / 255
        for _ in range(rounds):
            core = ndimage.grey_dilation(core, footprint=CROSS, mode="constant", cval=0)
        shares.append(np.mean(1 - (core / core.max() if rounds else core)))
    found = evaluate(written / "salient", dilation_rounds=rounds)
    assert found["spurious_area"].value == pytest.approx(np.mean(shares), abs=1e-5)
    assert found["spurious_area"].num_examples == 5
    options = found["core_noise_accuracy"].options
    assert options["dilation_rounds"] == rounds and options["spurious_region"] == "complement"


def test_the_rest_may_be_the_spurious_masks(written):
    """One image alone has masks of both kinds."""
    mask = stored(written / "salient", SECOND, 11, f"{SECOND}_1") / 255
    found = evaluate(written / "salient", spurious_region="masks")
    assert {r.num_examples for m, r in found.items() if m != "accuracy"} <= {0, 1}
    assert found["spurious_area"].num_examples == 1
    assert found["spurious_area"].value == pytest.approx(mask.mean(), abs=1e-6)
    with pytest.raises(InputError, match="spurious_region = 'rest' is not known"):
        evaluate(written / "salient", spurious_region="rest")


def test_a_black_core_mask_is_none(root):
    Image.new("L", (224, 224)).save(root / FIRST / "feature_10" / f"{FIRST}_0.JPEG")
    assert len(load(root)) == 5
    found = evaluate(root)
    assert found["accuracy"].num_examples == 5 and found["spurious_area"].num_examples == 4


def test_noise_on_the_core_turns_what_is_read_there(root):
    """The model reads the central pixel: wrong where noise lies on it, right elsewhere.

    Core accuracy is that with intact core. One mask covers the centre, the others are far.
    """
    for path in root.rglob("feature_*/*.JPEG"):
        mask = Image.new("L", (224, 224))
        mask.paste(255, (60, 60, 160, 160) if FIRST in path.name else (0, 0, 20, 20))
        mask.save(path)
    for path in (root.parent / "imagenet" / "train").rglob("*.JPEG"):
        Image.new("RGB", (224, 224), (120,) * 3).save(path)
    table = np.zeros((26, 26, 1000), np.float32)
    table[..., 5] = 1  # any other grey: a class that is not there
    table[12, :, 0] = 2
    salient_imagenet.load.cache_clear()
    records = salient_imagenet.evaluate(
        Coded(jnp.asarray(table)),
        root,
        batch_size=8,
        key=jax.random.key(0),
        allow_partial=True,
        dilation_rounds=0,
        regions=QUIET | {"linf_noise_levels": (1.0,), "trials": 8},
    )
    found = {r.metric: r.value for r in records if "level" in r.options}
    clean = next(r for r in records if r.metric == "accuracy")
    assert clean.value == pytest.approx(3 / 5)  # the first class; the second is never right
    # Noise of standard deviation 1 leaves the grey within a twentieth about 4 times in 100.
    assert found["spurious_noise_accuracy"] == pytest.approx(0.5)
    assert found["core_noise_accuracy"] < 0.5 * 5 / 24


def test_missing_images_are_answered_with_a_flag_that_exists(tmp_path):
    (tmp_path / "manifest.csv").write_text(
        f"image,wnid,core_masks,spurious_masks\ngone.JPEG,{FIRST},mask.JPEG,\n"
    )
    with pytest.raises(
        InputError, match="2 image or mask files are missing, first .*gone.JPEG"
    ) as e:
        salient_imagenet.load(tmp_path)
    flag = next(word for word in str(e.value).split() if "image_dir" in word)
    keys = flag.rstrip(",").removeprefix("--config.").removesuffix("=DIR").split(".")
    value = evaluate_config.get_config()
    for key in keys:
        value = value[key]
    assert value == ""

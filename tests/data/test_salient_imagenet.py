"""Salient ImageNet: the workers' votes, joined masks, release against manifest."""

import os

import numpy as np
import pytest
from PIL import Image

from advspur._checks import InputError
from advspur.data import salient_imagenet
from advspur.data.label_maps import imagenet_wnids
from advspur.data.transforms import STANDARD
from configs import evaluate as evaluate_config
from tests.data.fake_layouts import read, write_table
from tests.refusals import refused

FIRST, SECOND = (imagenet_wnids()[index] for index in (0, 7))  # feature 11 of SECOND is spurious


@pytest.fixture
def root(copy):
    return copy("salient_imagenet")


def load(root, **options):
    return read("salient_imagenet", root, **options)["images"]


def of_stem(table, stem):
    return table[[path.stem for path in table.columns["path"]].index(stem)]


def stored(root, wnid, feature, stem):
    with Image.open(root / wnid / f"feature_{feature}" / f"{stem}.JPEG") as mask:
        assert mask.mode == "L"
        return np.asarray(mask)


def test_images_without_a_core_mask_are_dropped(written):
    """Image 2 of the second class has only the spurious feature."""
    table = load(written / "salient_imagenet")
    names = [path.stem for path in table.columns["path"]]
    assert names == [f"{FIRST}_{i}" for i in range(3)] + [f"{SECOND}_{i}" for i in range(2)]
    assert table.columns["label"].tolist() == [0, 0, 0, 7, 7]
    assert {p.parent.parent for p in table.columns["path"]} == {written / "imagenet" / "train"}


def test_masks_of_a_kind_are_joined_by_their_maximum(written):
    root = written / "salient_imagenet"
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


def test_masks_are_in_the_frame_of_the_crop_unless_legacy(written):
    root, stem = written / "salient_imagenet", f"{FIRST}_0"
    example, legacy = (of_stem(load(root, legacy=legacy), stem) for legacy in (False, True))
    with Image.open(written / "imagenet" / "train" / FIRST / f"{stem}.JPEG") as image:
        expected = np.asarray(STANDARD(image))
    np.testing.assert_array_equal(example["image"], expected)
    np.testing.assert_array_equal(legacy["image"], expected)
    mask = Image.fromarray(stored(root, FIRST, 10, stem)).resize((256, 256), 2)
    np.testing.assert_array_equal(legacy["mask"][..., 0], np.asarray(mask)[16:240, 16:240])
    assert np.any(legacy["mask"] != example["mask"])


def test_legacy_masks_are_joined_before_they_are_resized(root):
    """As in the official loader; it matters where one mask touches the other."""
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
    answers = kinds[:votes] + ["main_object"] * (5 - votes)
    rows = [[answer, 31, FIRST] for answer in answers] + 5 * [["main_object", 3, FIRST]]
    header = ["Answer.main", "Input.feature_index", "Input.wordnet_id"]
    write_table(tmp_path / "answers.csv", header, *rows)
    found = salient_imagenet.read_answers(tmp_path / "answers.csv")
    assert found == {(FIRST, 31): votes >= 3, (FIRST, 3): False}


def test_damaged_answers_are_named_by_their_line(root):
    file = root / "mturk_results" / "discover_spurious_features.csv"
    text = file.read_text()
    lines = text.splitlines()
    without = "\n".join(line for line in lines if f"{SECOND},7,11" not in line)
    for damaged, message in (
        (text.replace("separate_object", "x", 1), "line 3: answer 'x' is not one of"),
        (text.replace("Answer.main", "Answer"), "csv line 2 is damaged"),
        (without, "image_names_map.csv: no worker judged feature 11"),
        (f"{text}{lines[-1]}\n", "lines 21 and 22 are by one worker"),
    ):
        file.write_text(damaged)
        refused(message, load, root)


def test_a_manifest_gives_the_same_examples(written, tmp_path):
    release = load(written / "salient_imagenet")
    rows = [["image", "note", "spurious_masks", "core_masks", "wnid"]]
    for i in range(len(release)):
        row = {name: column[i] for name, column in release.columns.items()}
        kinds = ([row["path"]], row["spurious_mask_path"], row["mask_path"])
        files = [";".join(os.path.relpath(p, tmp_path) for p in kind) for kind in kinds]
        rows.append([files[0], "", *files[1:], row["path"].parent.name])
    write_table(tmp_path / "manifest.csv", *rows, ["no_core.JPEG", "", "some.JPEG", "", FIRST])
    with pytest.warns(UserWarning, match="csv: 5 images are outside its folder, first line 2"):
        listed = load(tmp_path, allow_partial=False)
    assert len(listed) == len(release) == 5
    for i in range(5):
        assert listed[i]["label"] == release[i]["label"]
        for name in ("image", "mask"):
            np.testing.assert_array_equal(listed[i][name], release[i][name])


@pytest.mark.parametrize(
    "rows, message",
    (
        ("image,wnid,core_masks|x,n01440764,m", "line 1 has no column spurious_masks; the columns"),
        ("{head}|x.JPEG,n00000001,m,", "line 2: 'n00000001' is not one of ImageNet's 1000"),
        ("{head}|{x}|y,n01440764,m,|a/../x.JPEG,n01443537,,", "lines 2 and 4 name the same file"),
        ("{head}|{x}", "2 image or mask files are missing, first .*x.JPEG; .* name ImageNet's"),
    ),
)
def test_damaged_manifests_are_named_by_their_line(tmp_path, rows, message):
    names = {"head": "image,wnid,core_masks,spurious_masks", "x": "x.JPEG,n01440764,m.JPEG,"}
    (tmp_path / "manifest.csv").write_text(rows.format(**names).replace("|", "\n"))
    with pytest.raises(InputError, match=message) as error:
        load(tmp_path, allow_partial=False)
    flags = [word for word in str(error.value).split() if "image_dir" in word]
    for flag in flags:  # it exists
        value = evaluate_config.get_config()
        for key in flag.rstrip(",").removeprefix("--config.").removesuffix("=DIR").split("."):
            value = value[key]
        assert value == ""


def test_a_wordnet_dict_is_parsed_and_not_executed(root, tmp_path):
    mark, file = tmp_path / "executed", root / "wordnet_dict.py"
    code, text = f"\nopen({str(mark)!r}, 'w')\n", file.read_text()
    file.write_text(code + text + code)
    assert len(load(root)) == 5 and not mark.exists()
    hostile = f"{{0: __import__('os').system('touch {mark}')}}"
    nested, wrong = "{" * 5000 + "}" * 5000, ("{[1]: 'n01440764'}", "{None: 'n01440764'}")
    for damaged in (hostile, nested, *wrong, "{'a'}", "", "}{"):
        file.write_text(f"wordnet_dict = {damaged}")
        refused("wordnet_dict.py is not a dictionary of wnids", load, root)
        assert not mark.exists()


def test_a_wordnet_dict_in_another_order_is_refused(root):
    (root / "wordnet_dict.py").write_text(f"{{0: {SECOND!r}, 7: {FIRST!r}}}")
    refused(f"class 0 is {SECOND!r}, which is not its ImageNet wnid", load, root)


def test_masks_of_another_size_are_refused(root):
    path = root / FIRST / "feature_11" / f"{FIRST}_2.JPEG"
    Image.new("L", (256, 224)).save(path)
    refused(f"{path.name} is 256 x 224; masks are 224 x 224", of_stem, load(root), path.stem)
    with pytest.warns(UserWarning, match="images: 1 of 5 images are unreadable"):
        table = load(root, skip_unreadable=True)
    assert path.stem not in [p.stem for p in table.columns["path"]]


def test_columns_of_unequal_length_and_names_with_a_suffix_are_read(root):
    text = f",10,11\n0,{FIRST}_0.JPEG,{FIRST}_2\n1,{FIRST}_1,\n2\n"
    (root / FIRST / "image_names_map.csv").write_text(text)
    table = load(root)
    features = [[p.parent.name[8:] for p in c] for c in table.columns["mask_path"][:3]]
    assert features == [["10"], ["10"], ["11"]]
    assert [p.stem for p in table.columns["path"][:3]] == [f"{FIRST}_{i}" for i in range(3)]

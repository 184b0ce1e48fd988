"""Salient ImageNet: the workers' votes, joined masks, release against manifest."""

import csv
import os
import shutil

import numpy as np
import pytest
from PIL import Image

from advspur._checks import InputError
from advspur.data import salient_imagenet
from advspur.data.label_maps import imagenet_wnids
from advspur.data.layouts import standard_transform
from configs import evaluate as evaluate_config
from tests.data.fake_layouts import read, write_salient

FIRST, SECOND = (imagenet_wnids()[index] for index in (0, 7))  # feature 11 of SECOND is spurious


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    root = tmp_path_factory.mktemp("salient")
    write_salient(root / "salient", root / "imagenet" / "train")
    return root


@pytest.fixture
def root(written, tmp_path):
    return shutil.copytree(written, tmp_path / "copy") / "salient"


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


def test_masks_of_another_size_are_refused(root):
    path = root / FIRST / "feature_11" / f"{FIRST}_2.JPEG"
    Image.new("L", (256, 224)).save(path)
    with pytest.raises(InputError, match=f"{path.name} is 256 x 224; masks are 224 x 224"):
        of_stem(load(root), path.stem)
    with pytest.warns(UserWarning, match="images: 1 of 5 images are unreadable"):
        table = load(root, skip_unreadable=True)
    assert path.stem not in [p.stem for p in table.columns["path"]]


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


def test_missing_images_are_answered_with_a_flag_that_exists(tmp_path):
    (tmp_path / "manifest.csv").write_text(
        f"image,wnid,core_masks,spurious_masks\ngone.JPEG,{FIRST},mask.JPEG,\n"
    )
    message = "2 image or mask files are missing, first .*gone.JPEG"
    with pytest.raises(InputError, match=message) as e:
        load(tmp_path, allow_partial=False)
    flag = next(word for word in str(e.value).split() if "image_dir" in word)
    keys = flag.rstrip(",").removeprefix("--config.").removesuffix("=DIR").split(".")
    value = evaluate_config.get_config()
    for key in keys:
        value = value[key]
    assert value == ""

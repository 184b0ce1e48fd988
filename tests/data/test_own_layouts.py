"""Layouts of users' own data: tables of other projects, class folders, and their descriptions."""

import csv
import json
import os
from pathlib import Path

import numpy as np
import pytest

from advspur.data.groups import group_codes, group_counts, group_names
from advspur.data.layouts import MissingData
from advspur.data.own import own, read_own
from tests.data.own_files import names, png, put, table
from tests.refusals import refused


def columns(parts, *chosen):
    """{part: the columns as lists}."""
    return {
        part: [np.asarray(of_part.columns[name]).tolist() for name in chosen]
        for part, of_part in parts.items()
    }


# Waterbirds as it is released, and as SubpopBench rewrites it.

BIRDS = {"label": ("landbird", "waterbird"), "place": ("land", "water")}


@pytest.fixture(scope="module")
def waterbirds(tmp_path_factory):
    """(folder with the released metadata.csv and one tiny file for each image, its facts)."""
    shared = Path(__file__).resolve().parents[3] / "shared"
    source = shared / "data" / "waterbirds" / "metadata.csv"
    if not source.is_file():
        pytest.skip(f"{source} is absent: this test reads Waterbirds' released metadata")
    root = tmp_path_factory.mktemp("waterbirds")
    rows = list(csv.DictReader(source.read_text().splitlines()))
    put(root / "metadata.csv", source.read_text())
    image = put(root / "image.jpg", png())
    for row in rows:
        (root / row["img_filename"]).parent.mkdir(exist_ok=True)
        os.link(image, root / row["img_filename"])
    return root, rows, json.loads((shared / "facts" / "waterbirds_groups.json").read_text())


def test_waterbirds_has_its_published_groups_and_majority(waterbirds):
    root, rows, facts = waterbirds
    parts, said = read_own(root, names=BIRDS)
    assert list(parts) == ["train", "val", "test"]
    for part, of_part in parts.items():
        assert group_counts(of_part).tolist() == [group[part] for group in facts["groups"]]
        chosen = [row for row in rows if facts["split"][row["split"]] == part]
        codes = [2 * int(row["y"]) + int(row["place"]) for row in chosen]
        assert group_codes(of_part).tolist() == codes
        np.testing.assert_array_equal(of_part.columns["group"], codes)
        assert of_part.names["group"] == group_names(of_part)
        majority = [g["kind"] == "majority" for g in facts["groups"]]
        np.testing.assert_array_equal(of_part.columns["is_majority"], np.array(majority)[codes])
    assert said[1:] == [
        "ignored columns: img_id (11,788 values), place_filename (11,788 values)",
        "majority: the groups more frequent in train than if label and attributes were independent",
        "parts: train 4,795, val 1,199, test 5,794; evaluated: test",
        "2 classes: 0 landbird, 1 waterbird",
        "groups, label x place  train  val   test",
        "landbird, land         3,498  467  2,255  majority",
        "landbird, water          184  466  2,255",
        "waterbird, land           56  133    642",
        "waterbird, water       1,057  133    642  majority",
    ]
    assert said[0] == (
        f"{root / 'metadata.csv'} is read as the metadata of WILDS and group DRO: image = "
        "img_filename, label = y, split = split"
    )


def test_subpopbench_reads_the_same_waterbirds(waterbirds, tmp_path):
    root, rows, _ = waterbirds
    (tmp_path / "waterbird_complete95_forest2water2").symlink_to(root)
    names = ("img_id", "img_filename", "split", "y", "place")
    lines = [",".join(row[name] for name in names) for row in rows]
    put(tmp_path / "metadata_waterbirds.csv", "\n".join(["id,filename,split,y,a", *lines]))
    parts, said = read_own(tmp_path)
    assert "is read as the metadata of SubpopBench: image = filename, label = y" in said[0]
    assert any("waterbird_complete95" in text for text in said)
    for number, part in enumerate(parts.values()):
        codes = [2 * int(r["y"]) + int(r["place"]) for r in rows if r["split"] == str(number)]
        np.testing.assert_array_equal(group_codes(part), codes)
        assert group_names(part)[1] == "label 0, a 1"


def test_the_majority_is_unknown_without_a_part_train(tmp_path):
    table(tmp_path, "image,label,place\na.png,0,x\nb.png,1,x\nc.png,1,y")
    parts, said = read_own(tmp_path)
    assert "is_majority" not in parts["test"].columns and "group" in parts["test"].columns
    assert said[2].startswith("majority: unknown without a part train: only each group and")
    assert said[2].endswith("; name the groups with majority")
    _, said = read_own(tmp_path, majority="label 1, x")
    assert said[2] == "majority: the groups named"


def test_absolute_names_are_read_below_image_dir(tmp_path):
    """MetaShift and ImagenetBG, as SubpopBench writes them: whole paths, other parts."""
    folder = tmp_path / "images" / "elsewhere"
    lines = [f"{folder}/{i}.png,{i % 2},0,{part}" for i, part in enumerate(["train", "no_fg"] * 2)]
    file = table(tmp_path / "lists", "\n".join(["filename,y,a,split", *lines]), "metadata.csv")
    refused("line 2: /.*0.png is outside .*/lists; .* image_dir", own, file)
    said = "line 3: split is 'no_fg' .and 1 more.; .* columns.variant"
    refused(said, own, file, image_dir="/")
    parts, said = read_own(file, image_dir="/", columns={"variant": "split"})
    assert columns(parts, "label") == {"train": [[0, 0]], "no_fg": [[1, 1]]}
    assert "ignored columns: a (one value)" in said
    assert own(file, image_dir=tmp_path, columns={"variant": "split"}).keys() == parts.keys()


METASHIFT = """filename,y,a,split,breed
    1.png,cat,indoor,0,7
    2.png,dog,outdoor,0,8
    3.png,dog,at the beach,2,7
    4.png,cat,outdoor,2,8"""


def test_names_and_numbers_any_number_of_attributes_and_empty_groups(tmp_path):
    table(tmp_path, METASHIFT, "metadata.csv")
    parts = own(tmp_path)
    test = parts["test"]
    a = ("at the beach", "indoor", "outdoor")
    assert names(test) == {"label": ("cat", "dog"), "a": a, "breed": ("7", "8")}
    found = {"train": [[0, 1], [1, 2], [0, 1]], "test": [[1, 0], [0, 2], [0, 1]]}
    assert columns(parts, "label", "a", "breed") == found
    assert group_names(test)[5] == "cat, outdoor, breed 8" and len(group_names(test)) == 12
    assert group_counts(test).tolist() == [0] * 5 + [1, 1] + [0] * 5
    assert group_codes(test).tolist() == [6, 5]
    chosen = own(tmp_path, columns={"attributes": "a"}, names={"label": ("dog", "cat")})
    assert columns(chosen, "label", "a")["test"] == [[0, 1], [0, 2]]
    assert list(names(chosen["test"])) == ["label", "a"]
    named = own(tmp_path, majority=("cat, indoor, breed 7", "cat, outdoor, breed 8"))
    assert columns(named, "is_majority") == {"train": [[True, False]], "test": [[False, True]]}


def test_label_numbers_are_the_models_own(tmp_path):
    table(tmp_path, "image,label\na.png,3\nb.png,0\nc.png,1\nd.png,0")
    refused("line 2: label is 3; no row has 2: .* give num_classes", own, tmp_path)
    test = own(tmp_path, num_classes=5)["test"]
    assert test.num_classes == 5 and test.columns["label"].tolist() == [3, 0, 1, 0]
    refused("line 2: label is 3; allowed: 0 to 2", own, tmp_path, num_classes=3)
    assert own(tmp_path, names={"label": tuple("abcd")})["test"].names["label"] == tuple("abcd")


# CelebA.

ATTRIBUTES = ("Bald", "Blond_Hair", "Male")
FACES = ((-1, 1, -1), (-1, -1, 1), (1, -1, 1), (-1, 1, 1))
CHOICE = {"label": "Blond_Hair", "attributes": ("Male",)}


def celeba(root, form, partition=(0, 0, 1, 2)):
    """CelebA's two lists: csv, or the text of the release."""
    images = [f"{i:06d}.jpg" for i in range(1, 5)]
    for name in images:
        put(root / "img_align_celeba" / name, png())
    separator = "," if form == "csv" else " "
    values = [[f"{v:>2}" if form == "txt" else str(v) for v in face] for face in FACES]
    lines = [separator.join([name, *face]) for name, face in zip(images, values, strict=True)]
    head = ["image_id," + ",".join(ATTRIBUTES)] if form == "csv" else ["4", " ".join(ATTRIBUTES)]
    put(root / f"list_attr_celeba.{form}", "\n".join(head + lines))
    head = ["image_id,partition"] if form == "csv" else []
    lines = [f"{n}{separator}{p}" for n, p in zip(images, partition, strict=False)]
    put(root / f"list_eval_partition.{form}", "\n".join(head + lines))
    return root


@pytest.mark.parametrize("form", ("csv", "txt"))
def test_the_attribute_lists_of_celeba(tmp_path, form):
    parts, said = read_own(celeba(tmp_path, form), columns=CHOICE)
    expected = {"label": ("not Blond_Hair", "Blond_Hair"), "Male": ("not Male", "Male")}
    assert all(names(part) == expected for part in parts.values())
    found = {"train": [[1, 0], [0, 1]], "val": [[0], [1]], "test": [[1], [1]]}
    assert columns(parts, "label", "Male") == found
    assert parts["test"].columns["path"] == [tmp_path / "img_align_celeba" / "000004.jpg"]
    assert any("attribute list of CelebA: label = Blond_Hair" in text for text in said)
    for chosen, text in (({}, ""), ({"label": "blond"}, ", but not 'blond'")):
        said = f"has 3 attributes{text}: .* among Bald, Blond_Hair, Male"
        refused(said, own, tmp_path, columns=chosen)


@pytest.mark.parametrize("form, first", (("csv", 2), ("txt", 1)))
def test_damage_in_the_lists_of_celeba(tmp_path, form, first):
    root = celeba(tmp_path, form, (0, 5, 1, 2))
    refused(f"partition.{form} line {first + 1}: partition is '5'", own, root, columns=CHOICE)
    celeba(root, form, (0, 1, 2))
    line = f"attr_celeba.{form} line {5 if form == 'csv' else 6}"
    refused(f"{line}: 000004.jpg is not in .*partition", own, root, columns=CHOICE)
    file = root / f"list_attr_celeba.{form}"
    text = file.read_text()
    put(file, text.replace("000001.jpg,-1,1", "000001.jpg,-1,7").replace("-1  1 -1", "-1  7 -1"))
    refused(f"line {first + 2 * (form == 'txt')}: Blond_Hair is '7'", own, root, columns=CHOICE)
    put(file, text.rpartition("1")[0])
    refused(f"line {5 if form == 'csv' else '6 has 3 words'}", own, root, columns=CHOICE)


# Folders.


def folders(root, files):
    for name in files:
        put(root / name, png())
    return root


def test_class_folders_with_and_without_parts(tmp_path):
    flat = folders(tmp_path / "flat", ("dog/b.png", "dog/a.JPEG", "cat/c.jpg", "cat/my_mask.png"))
    put(flat / "dog" / "notes.txt", "no image")
    (flat / ".cache").mkdir()
    parts, said = read_own(flat)
    assert columns(parts, "label") == {"test": [[0, 0, 1, 1]]}
    assert parts["test"].names == {"label": ("cat", "dog")}
    assert said[:3] == [
        f"{flat} is read as folders, <class>/<image>",
        f"not read: 1 files such as {flat / 'dog' / 'notes.txt'}",
        "no split is named: all rows are test",
    ]
    put(tmp_path / "deep" / "labels.csv", "label")
    files = ("valid/0/a.png", "valid/10/b.png", "mixed/2/c.png", "train/1/d.png")
    deep = folders(tmp_path / "deep", files)
    parts, said = read_own(deep, num_classes=11)
    assert said[1] == f"not read: 1 files such as {deep / 'labels.csv'}"
    assert list(parts) == ["train", "val", "mixed"]
    assert columns(parts, "label") == {"train": [[1]], "val": [[0, 10]], "mixed": [[2]]}


@pytest.mark.parametrize(
    "files, message",
    (
        (("train/a/1.png", "train/b/x.txt"), "train/b has no image: move or remove it"),
        (("a/1.png", "b/2.png", "b/c/3.png"), "b contains folders: move or remove it"),
        (("val/a/1.png", "valid/a/2.png"), "two folders for one part, valid"),
        (("train/a/1.png", "train/A/2.png"), "label is 'a', and 'A' in .*A/2.png"),
        (("x.txt",), "no images in .*: expected manifest.csv"),
    ),
)
def test_folders_without_data_are_refused(tmp_path, files, message):
    refused(message, own, folders(tmp_path, files))


def test_a_path_without_data_is_missing_data(tmp_path):
    with pytest.raises(MissingData, match="no data in .*nowhere: expected manifest.csv"):
        own(tmp_path / "nowhere")
    table(tmp_path, METASHIFT, "metadata_a.csv")
    table(tmp_path, METASHIFT, "metadata_b.csv")
    refused("2 tables, metadata_a.csv, metadata_b.csv: name one", own, tmp_path)
    table(tmp_path, METASHIFT, "metadata.csv")
    assert read_own(tmp_path)[1][0] == "not read: metadata_a.csv, metadata_b.csv"


@pytest.mark.parametrize(
    "options, message",
    (
        ({"columns": {"lable": "y"}}, "columns.lable is not known; allowed: image, label"),
        ({"columns": {"label": "z"}}, "line 1 has no column 'z'; it has filename, y, a, split"),
        ({"columns": {"attributes": ("a", "y")}}, "line 1: y cannot be an attribute"),
        ({"names": {"b": ("x",)}}, "names.b: no such column is read; allowed: label, a, breed"),
        ({"names": {"label": ("cat", "cow")}}, "line 3: label is 'dog'.*; allowed: cat, cow"),
        ({"names": {"breed": ("x", "y")}}, "line 2: breed is 7 .*; allowed: 0 to 1"),
        ({"num_classes": 3}, "num_classes = 3, but the 2 classes have names: cat, dog"),
        ({"majority": "cat, mars"}, "majority names 'cat, mars', which is not a group; the groups"),
        ({"resize": "long"}, "resize = 'long' is not known; allowed: 'short', 'square', 'none'"),
        ({"interpolation": "box"}, "interpolation = 'box' is not known"),
        ({"names": {"label": ("cat", "cat")}}, "names.label has a name twice: cat, cat"),
        ({"image_dir": "nowhere"}, "image_dir = nowhere is not a folder"),
        ({"image_size": 0}, "image_size = 0"),
    ),
)
def test_options_that_do_not_fit_are_refused(tmp_path, options, message):
    table(tmp_path, METASHIFT, "metadata.csv")
    refused(message, own, tmp_path, **options)


def test_names_of_columns_are_options(tmp_path):
    table(tmp_path, "bild,art,ort\na.png,x,land\nb.png,y,see\nc.png,x,see", "mein.csv")
    parts = own(tmp_path / "mein.csv", columns={"image": "bild", "label": "art", "pair": ""})
    assert columns(parts, "label", "ort") == {"test": [[0, 1, 0], [0, 1, 1]]}


def test_the_description_of_variants_pairs_and_masks(tmp_path):
    put(tmp_path / "m.png", png(255, mode="L"))
    rows = "\n".join(f"{v}{i}.png,{i},{v},{i},m.png,m.png" for v in "ab" for i in range(2))
    table(tmp_path, f"image,label,variant,pair,mask,spurious_mask\n{rows}")
    _, said = read_own(tmp_path)
    assert said[1:] == [
        "no split is named: all rows are test",
        "parts: a 2, b 2; evaluated: a, b",
        "2 classes: 0, 1",
        "images of a class: a 1 to 1, b 1 to 1",
    ]


def test_the_manifest_of_the_docs_is_read(tmp_path):
    text = (Path(__file__).parents[2] / "docs" / "own_data.md").read_text()
    block = text.split("A manifest, in full")[1].split("\n\n")[1]
    mask = png(255, mode="L")
    put(tmp_path / "masks" / "7.png", mask)
    table(tmp_path, block)
    parts = own(tmp_path, image_size=8, resize="square", num_classes=1)
    assert columns(parts, "label", "pair") == {"original": [[0], [0]], "swapped": [[0], [0]]}
    assert parts["swapped"][0]["mask"].shape == (8, 8, 1)
    assert parts["swapped"].names["label"] == ("landbird",)

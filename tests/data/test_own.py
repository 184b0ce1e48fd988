"""Users' own data: a table in many forms, damaged and whole; masks, parts, pairs."""

import re

import numpy as np
import pytest
from PIL import Image

from advspur._checks import InputError
from advspur.data.own import own, read_own
from advspur.data.own_parts import evaluation_parts
from advspur.data.transforms import SQUARED, STANDARD
from tests.data.own_files import SIDE, names, png, put, table
from tests.refusals import refused

SMALL = {"image_size": 8, "resize": "square"}
# A clean table of a thousand rows, and what a damaged one says or still reads.
HEADER = "image,label,place,split,mask"
L = 500  # the line that is damaged


@pytest.fixture(scope="module")
def thousand(tmp_path_factory):
    """(folder, lines of its clean table): 1,000 images of 2 labels, 3 places and 3 splits."""
    root = tmp_path_factory.mktemp("thousand")
    content = png()
    for i in range(1000):
        put(root / f"img/{i:04d}.png", content)
    for name in ("img/a, b.png", "img/with spaces.png"):
        put(root / name, content)
    put(root / "img/cut.png", png(size=(60, 60))[:-60])
    put(root / "img/text.png", "no image")
    put(root / "img/tiny.png", png(size=(4, 4)))
    put(root / "core.png", png(255, mode="L"))
    put(root / "small.png", png(255, (SIDE, SIDE - 1), "L"))
    put(root / "colour.png", png())
    put(root / "text.npy", "no array")
    np.save(root / "negative.npy", np.full((SIDE, SIDE), -1))
    lines = [HEADER]
    for i in range(1000):
        label, place = ("cat", "dog")[i % 2], ("air", "land", "water")[i % 3]
        split = "train" if i < 700 else "val" if i < 800 else "test"
        lines.append(f"img/{i:04d}.png,{label},{place},{split},core.png")
    return root, lines


def cell(column, text):
    """Damage one cell of line L."""

    def damage(lines):
        row = lines[L - 1].split(",")
        row[HEADER.split(",").index(column)] = text
        return [*lines[: L - 1], ",".join(row), *lines[L:]]

    return damage


def every(function):
    """Change each line."""
    return lambda lines: list(map(function, lines))


def line(text):
    """Replace line L."""
    return lambda lines: [*lines[: L - 1], text, *lines[L:]]


def numbered(text):
    """Make labels numbers, and damage that of line L."""
    number = every(lambda x: x.replace("cat", "0").replace("dog", "1"))
    return lambda lines: cell("label", text)(number(lines))


LACKS = "1 of 1000 rows lack a file, first line 500"
SAME, OTHER = "img/0498.png,cat,land,train,core.png", "img/0002.png,cat,water,test,core.png"
REFUSED = [
    (cell("image", "img/none.png"), LACKS),
    (cell("image", "img"), LACKS),
    (cell("mask", "none.png"), LACKS),
    (cell("mask", ""), f"{LACKS}: the mask of img/0498.png"),
    (lambda x: x[:L] + [x[3]] + x[L:], "lines 4 and 501 name the same file"),
    (line(OTHER), "lines 4 and 500 name the same file"),
    (cell("split", "tset"), "line 500: split is 'tset'; allowed: train"),
    (cell("split", ""), "line 500: split is ''"),
    (cell("label", ""), "line 500: label is empty"),
    (cell("label", "NaN"), "line 500: label is NaN"),
    (cell("place", " "), "line 500: place is empty"),
    (cell("image", ""), "line 500: no image"),
    (cell("label", "1"), "line 500: label is '1' among names"),
    (numbered("cat"), "line 500: label is 'cat' among whole numbers"),
    (numbered("0.5"), "line 500: label is '0.5' among whole numbers"),
    (numbered("7"), "line 500: label is 7; no row has 2: labels are 0, 1, 2"),
    (numbered("-1"), "line 500: label is -1"),
    (cell("label", "Dog"), "line 500: label is 'Dog', and 'dog' in .* line 3"),
    (cell("image", "/etc/x.png"), "line 500: /etc/x.png is outside"),
    (cell("image", "img/../../x.png"), "line 500: ../x.png is outside"),
    (cell("mask", "../core.png"), "line 500: ../core.png is outside"),
    (lambda x: ["image,label,place,split,label"] + x[1:], "line 1 repeats columns: label"),
    (line("img/0498.png,cat"), "line 500 has 2 cells, the header 5"),
    (line(SAME.replace("img/", "a, b")), "line 500 has 6 cells, the header 5: .*quote a text"),
    (line(f'"{SAME}'), "line 500 opens a quote"),
    (cell("label", "ch\xe2t"), "is not readable: line 500 is not in UTF-8"),
    (cell("label", "c\0t"), "line 500 holds a NUL character"),
    (lambda x: x[1:], "line 1 has no image and label columns .*; it has img/0000.png, cat"),
    (lambda x: x[:1], "has no rows below its header"),
    (lambda x: [], "has no rows"),
    (cell("image", "img/text.png"), r"text.png is not a readable.*line 500\)"),
    (cell("image", "img/cut.png"), r"cut.png is not a readable.*line 500\)"),
    (cell("image", "img/tiny.png"), r"is 4 x 4: too small \(.*line 500\)"),
    (cell("mask", "small.png"), r"small.png is 10 x 9, its image 10 x 10: .*line 500\)"),
    (cell("mask", "colour.png"), r"is not a mask: it is coloured.*line 500\)"),
    (cell("mask", "text.npy"), r"text.npy is not a readable .npy.*line 500\)"),
    (cell("mask", "negative.npy"), r"int64 \(10, 10\), not a mask.*line 500\)"),
]
NUMBERS = {"train": "0", "val": "1", "test": "2.0"}
READ = {
    "as it is": lambda x: x,
    "quoted commas": line('"img/a, b.png",cat,land,train,core.png'),
    "spaces in a name": line("img/with spaces.png,cat,land,train,core.png"),
    "spaces around": every(lambda x: x.replace(",", " , ")),
    "semicolons": every(lambda x: x.replace(",", ";")),
    "tabs": every(lambda x: x.replace(",", "\t")),
    "Windows line ends": every(lambda x: x + "\r"),
    "byte-order mark": lambda x: ["\ufeff" + x[0], *x[1:]],
    "empty lines": lambda x: x[:L] + ["", ",,,,"] + x[L:],
    "a comma more": every(lambda x: x if x == HEADER else x + ","),
    "backslashes": every(lambda x: x.replace("/", "\\")),
    "capitals": every(lambda x: x.replace("train", "Train").replace("val", "valid")),
    "splits by number": every(lambda x: re.sub("train|val|test", lambda m: NUMBERS[m[0]], x)),
    "ids": lambda x: ["," + x[0]] + [f"{i},{text}" for i, text in enumerate(x[1:])],
    "quotes": lambda x: [f'"{text}"'.replace(",", '","') for text in x],
}


def load_line(parts, number):
    """The example that is in this line of the table."""
    for part in parts.values():
        for row in np.flatnonzero(part.columns["line"] == number):
            return part[row]


@pytest.mark.parametrize("damage, message", REFUSED)
def test_a_damaged_table_is_refused_in_one_line(thousand, damage, message):
    root, lines = thousand
    file = put(root / "damaged.csv", "\n".join(damage(list(lines))).encode("latin-1"))
    with pytest.raises(InputError, match=message) as error:
        load_line(own(file, **SMALL), L)
    text = str(error.value)
    assert "\n" not in text and "damaged.csv" in text and len(text) < 600


@pytest.mark.parametrize("kind", READ)
def test_a_table_in_another_form_is_read_right(thousand, kind):
    root, lines = thousand
    file = put(root / "other.csv", "\n".join(READ[kind](list(lines))))
    parts = own(file, **SMALL)
    assert {name: len(p) for name, p in parts.items()} == {"train": 700, "val": 100, "test": 200}
    test = parts["test"]
    assert names(test) == {"label": ("cat", "dog"), "place": ("air", "land", "water")}
    np.testing.assert_array_equal(test.columns["label"], np.arange(800, 1000) % 2)
    np.testing.assert_array_equal(test.columns["place"], np.arange(800, 1000) % 3)
    assert test.columns["path"] == [root / f"img/{i:04d}.png" for i in range(800, 1000)]
    example = load_line(parts, L)
    assert example["image"].shape == (8, 8, 3) and example["mask"].shape == (8, 8, 1)


def test_what_is_missing_or_unreadable_is_left_out_and_reported_on_demand(thousand):
    root, lines = thousand
    some = [x.replace("img/0002", "img/x").replace("img/0999", "img/y") for x in lines]
    parts, said = read_own(put(root / "partial.csv", "\n".join(some)), allow_partial=True)
    assert [len(part) for part in parts.values()] == [699, 100, 199]
    assert any("left out: 2 of 1000 rows lack a file, first line 4: " in text for text in said)
    assert 4 not in parts["train"].columns["line"]
    file = put(root / "damaged.csv", "\n".join(cell("image", "img/cut.png")(lines[:L])))
    with pytest.warns(UserWarning, match=f"train: 1 of 499 .* first: .*cut.png .* line {L}"):
        part = own(file, **SMALL, skip_unreadable=True)["train"]
    assert len(part) == 498 and part.skipped == 1 and L not in part.columns["line"]


# Masks.


SQUARE = np.zeros((20, 20), bool)  # off the centre
SQUARE[2:11, 5:14] = True


def save_mask(path, mask, kind):
    if kind == "palette":
        image = Image.fromarray(mask.astype(np.uint8)).convert("P")
        image.putpalette([0, 0, 0, 255, 255, 255])
        image.save(path)
    elif path.suffix == ".png":
        Image.fromarray(mask.astype(np.uint8) * np.uint8(kind)).save(path)
    else:
        np.save(path, (mask * kind)[..., None] if kind == 0.5 else mask.astype(kind))


MASKS = [("png", 255), ("png", 1), ("png", 128), ("png", "palette"), ("npy", bool)]
MASKS += [("npy", np.uint8), ("npy", np.int64), ("npy", np.float32), ("npy", 0.5)]


@pytest.mark.parametrize("suffix, kind", MASKS)
@pytest.mark.parametrize("is_named", (True, False))
def test_masks_of_every_kind_are_named_or_beside_the_image(tmp_path, suffix, kind, is_named):
    put(tmp_path / "x.png", png(size=(20, 20)))
    name, level = f"x_mask.{suffix}", 128 if kind in (128, 0.5) else 255
    save_mask(tmp_path / name, SQUARE, kind)
    rows = f"image,label,mask\nx.png,0,{name}" if is_named else "image,label\nx.png,0"
    put(tmp_path / "manifest.csv", rows)
    parts = own(tmp_path, image_size=20, resize="none")
    mask = parts["test"][0]["mask"]
    assert mask.dtype == np.uint8 and mask.shape == (20, 20, 1)
    np.testing.assert_array_equal(mask[..., 0], level * SQUARE.astype(int))


def test_the_core_comes_before_the_spurious_mask_and_both_go_with_the_image(tmp_path):
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 256, (30, 20, 3), np.uint8)
    core, spurious = (rng.integers(0, 256, (30, 20), np.uint8) for _ in range(2))
    for name, array in (("a", pixels), ("b", pixels), ("core", core), ("spurious", spurious)):
        Image.fromarray(array).save(tmp_path / f"{name}.png")
    rows = "a.png,0,core.png,spurious.png\nb.png,0,core.png,"
    put(tmp_path / "manifest.csv", f"image,label,mask,spurious_mask\n{rows}")
    test = own(tmp_path, image_size=14, interpolation="bicubic")["test"]

    def expected(array):  # short side 20 -> 16 = 14 * 256 / 224, then the centre
        resized = Image.fromarray(array).resize((16, 24), Image.Resampling.BICUBIC)
        return np.asarray(resized.crop((1, 5, 15, 19)))

    np.testing.assert_array_equal(test[0]["image"], expected(pixels))
    np.testing.assert_array_equal(test[0]["mask"][..., 0], expected(core))
    np.testing.assert_array_equal(test[0]["mask"][..., 1], expected(spurious))
    np.testing.assert_array_equal(test[1]["mask"][..., 0], expected(core))
    assert not test[1]["mask"][..., 1].any()


def test_the_transform_is_the_standard_one(tmp_path):
    table(tmp_path, "image,label\na.png,0")
    assert own(tmp_path)["test"].transform == STANDARD
    assert own(tmp_path, resize="square")["test"].transform == SQUARED
    assert own(tmp_path, image_size=160)["test"].transform.side == 183  # rounded
    with pytest.raises(InputError, match="a.png is 10 x 10: 224 x 224 is needed .*line 2"):
        own(tmp_path, resize="none")["test"][0]


def test_a_mask_in_one_part_is_needed_there_only(tmp_path):
    put(tmp_path / "core.png", png(255, mode="L"))
    rows = "a.png,0,train,\nb.png,1,test,core.png\nc.png,0,test,core.png"
    table(tmp_path, f"image,label,split,mask\n{rows}")
    parts = own(tmp_path, **SMALL)
    assert [part.has_mask for part in parts.values()] == [False, True]
    assert len({part.digest for part in parts.values()} | {own(tmp_path)["test"].digest}) == 3
    assert parts["test"].image_size == 8
    assert "mask" not in parts["train"][0] and parts["test"][1]["mask"].shape == (8, 8, 1)
    table(tmp_path, "image,label,spurious_mask\na.png,0,core.png\nb.png,1,core.png")
    refused("line 2: a spurious_mask without a mask", own, tmp_path)


# Parts, variants and pairs.


@pytest.mark.parametrize(
    "rows, parts",
    (
        ("split|0|1|2|0", {"train": 2, "val": 1, "test": 1}),
        ("split|validation|valid|Val|dev", {"val": 4}),
        ("variant|same|rand|same|rand", {"same": 2, "rand": 2}),
        ("split,variant|test,a|test,b|test,a|test,b", {"a": 2, "b": 2}),
        ("split,variant|train,|test,a|test,b|train,", {"train": 2, "test/a": 1, "test/b": 1}),
        ("split,variant|test,a|val,a|val,b|val,a", {"val/a": 2, "val/b": 1, "test/a": 1}),
        ("other|1|2|1|2", {"test": 4}),
    ),
)
def test_parts_are_splits_and_variants(tmp_path, rows, parts):
    header, *cells = rows.split("|")
    lines = [f"{i}.png,{i % 2},{text}" for i, text in enumerate(cells)]
    table(tmp_path, "\n".join([f"image,label,{header}", *lines]))
    found = own(tmp_path)
    assert {name: len(part) for name, part in found.items()} == parts
    assert list(found) == list(parts)  # train, val, test, the others


@pytest.mark.parametrize(
    "names, evaluated",
    (
        (("train", "val", "test"), ["test"]),
        (("train", "val"), ["val"]),
        (("train",), ["train"]),
        (("train", "test/a", "test/b"), ["test/a", "test/b"]),
        (("same", "rand"), ["same", "rand"]),
        (("train", "val", "test", "mixed"), ["test", "mixed"]),
        (("train", "mixed"), ["mixed"]),
    ),
)
def test_the_test_part_is_evaluated_else_what_is_next(names, evaluated):
    assert evaluation_parts(dict.fromkeys(names)) == evaluated


PAIRED = """image,label,split,variant,pair
    a1.png,cat,test,same,n7
    b1.png,dog,test,same,n3
    c1.png,cat,test,same,n5
    c2.png,cat,test,rand,n5
    a2.png,cat,test,rand,n7
    b2.png,dog,test,rand,n3
    t1.png,dog,train,,n9
    t2.png,cat,train,,n9"""


def test_row_i_of_each_variant_shows_the_same_object(tmp_path):
    table(tmp_path, PAIRED)
    parts = own(tmp_path)
    stems = {name: [path.stem for path in part.columns["path"]] for name, part in parts.items()}
    assert stems["test/same"] == ["b1", "c1", "a1"] and stems["test/rand"] == ["b2", "c2", "a2"]
    assert stems["train"] == ["t1", "t2"]
    for name in ("label", "pair"):
        same, rand = (parts[f"test/{variant}"].columns[name] for variant in ("same", "rand"))
        np.testing.assert_array_equal(same, rand)
    assert parts["test/rand"].index.tolist() == [0, 1, 2]


@pytest.mark.parametrize(
    "old, new, message",
    (
        ("same,n3", "same,n7", "line 3: its object is in test/same already"),
        ("b2.png,dog", "b2.png,cat", "line 7: its label differs from that of its pair in test"),
        ("rand,n3", "rand,n4", r"line 3: its pair is not in every variant \(and 1 more"),
        ("same,n3", "same,", "line 3: pair is empty"),
        ("test,same,n3", "test,,n3", "line 3: variant is empty"),
    ),
)
def test_faulty_pairs_are_refused(tmp_path, old, new, message):
    table(tmp_path, PAIRED.replace(old, new))
    refused(message, own, tmp_path)


def test_objects_without_a_pair_or_an_image_are_left_out_on_demand(tmp_path):
    table(tmp_path, PAIRED.replace("rand,n3", "rand,n4"))
    parts, said = read_own(tmp_path, allow_partial=True)
    assert [len(parts[f"test/{variant}"]) for variant in ("same", "rand")] == [2, 2]
    assert "left out: 2 rows whose pair is not in every variant" in said
    table(tmp_path, PAIRED)
    put(tmp_path / "c2.png", "no image")
    with pytest.warns(UserWarning, match="test/rand: 1 of 3 images are unreadable"):
        parts = own(tmp_path, **SMALL, skip_unreadable=True)
    for variant, skipped in (("same", 0), ("rand", 1)):
        part = parts[f"test/{variant}"]
        assert [path.stem[0] for path in part.columns["path"]] == ["b", "a"]
        assert part.skipped == skipped and part.index.tolist() == [0, 2]

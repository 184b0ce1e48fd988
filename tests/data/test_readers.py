"""All readers: complete, missing and unreadable data, and their messages."""

import io
import os
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from advspur._checks import InputError
from advspur._progress import Progress
from advspur.data import imagenet, imagenet9, imagenet_c, objectnet, rival10, waterbirds
from advspur.data.label_maps import OBJECTNET, imagenet_wnids, rival10_labels
from advspur.data.layouts import MissingData
from advspur.data.readers import READERS, check_directory
from tests.data.fake_layouts import cut_short, read
from tests.refusals import refused

WRITTEN = {
    "imagenet": {"val": 10},
    "imagenet_c": dict.fromkeys(imagenet_c.SIZES, 4),
    "objectnet": {"images": 8},
    "rival10": {"train": 40, "test": 40},
    "salient_imagenet": {"images": 5},
    "imagenet9": dict.fromkeys(imagenet9.VARIANTS, 18),
    "waterbirds": {"train": 8, "val": 8, "test": 8},
    "cifar10": {"test": 60},
}
TENCH, SHARK = imagenet_wnids()[0], imagenet_wnids()[7]
PICKLED = f"{list(rival10_labels())[1]}_{list(rival10_labels())[1]}_0"  # it has no mask file
NO_MASK = f"1 of 40 masks of test images are missing, first {PICKLED}.JPEG"
MASK = "fg_mask/val/06_musical instrument/n00000006_2.npy"


@pytest.fixture
def published(monkeypatch):
    """Let the written copies count as complete."""
    of_imagenet = {p: imagenet_wnids()[p] for p in (0, 1, 207, 404, 999)}
    monkeypatch.setattr(imagenet, "imagenet_wnids", lambda: tuple(of_imagenet.values()))
    of_c = tuple(imagenet_wnids()[index] for index in (3, 500))
    monkeypatch.setattr(imagenet_c, "imagenet_wnids", lambda: of_c)
    folders = ("alarm_clock", "chair", "still_camera", "mug")
    monkeypatch.setattr(objectnet, "OBJECTNET", {name: OBJECTNET[name] for name in folders})
    for module, name in ((imagenet, "imagenet"), (imagenet9, "imagenet9"), (rival10, "rival10")):
        monkeypatch.setattr(module, "SIZES", WRITTEN[name])
    monkeypatch.setattr(objectnet, "SIZES", {"images": 8})
    monkeypatch.setattr(waterbirds, "GROUP_COUNTS", dict.fromkeys(waterbirds.SIZES, (2,) * 4))


def counts(parts):
    return {part: len(table) for part, table in parts.items()}


@pytest.mark.parametrize("name", WRITTEN)
def test_the_examples_of_every_part(name, written, monkeypatch):
    """Also of a home directory that is abbreviated."""
    monkeypatch.setenv("HOME", str(written))
    parts = read(name, Path("~") / name)
    assert counts(parts) == WRITTEN[name]
    masked = {"rival10": ["test"], "imagenet9": ["original"], "salient_imagenet": ["images"]}
    assert [part for part in parts if parts[part].has_mask] == masked.get(name, [])
    for table in parts.values():
        example, size = table[len(table) - 1], table.image_size
        assert example["image"].shape == (size, size, 3) and example["image"].dtype == np.uint8
        assert 0 <= example["label"] < table.num_classes
        assert table.index.tolist() == list(range(len(table)))
        if table.has_mask:
            channels = 2 if name == "salient_imagenet" else 1
            assert example["mask"].shape == (224, 224, channels)
            assert example["mask"].dtype == np.uint8 and example["mask"].max() > 100
        assert ("mask" in example) == table.has_mask


PLACES = {
    "imagenet": "no ImageNet in .*nowhere: expected val/<wnid>",
    "imagenet_c": "no ImageNet-C in .*<corruption>/<severity 1-5>/<wnid>",
    "objectnet": "no ObjectNet in .*expected images/<folder>",
    "rival10": "no RIVAL10 in .*entire_object_masks",
    "salient_imagenet": "no Salient ImageNet in .*wordnet_dict.py",
    "imagenet9": "no ImageNet-9 in .*fg_mask/val",
    "waterbirds": "no Waterbirds in .*expected metadata.csv",
    "cifar10": "no CIFAR-10 in .*TFDS array_record",
}


@pytest.mark.parametrize("name", PLACES)
@pytest.mark.parametrize("is_there", (False, True))
def test_missing_data_are_answered_with_the_place_and_the_layout(name, is_there, tmp_path):
    """Without a folder, and with one that contains something else."""
    if is_there:
        (tmp_path / "nowhere" / "speckle_noise" / "1").mkdir(parents=True)
    with pytest.raises(MissingData, match=f"{PLACES[name]}.*docs/benchmarks.md says where"):
        read(name, tmp_path / "nowhere")


SMALL = {  # the message for a copy with few of the published images
    "imagenet": "995 of 1000 class folders are missing, first n01484850",
    "imagenet_c": "998 of 1000 class folders are missing, first n0144",
    "objectnet": "109 of 113 class folders are missing, first backpack",
    "rival10": "40 images, 21,178 are published",
    "salient_imagenet": "998 of 1000 classes are missing, first n0144",
    "imagenet9": "18 images, 4,050 are published",
    "waterbirds": r"train have \(2, 2, 2, 2\) images, \(3498, 184, 56, 1057\) are published",
    "cifar10": "60 images, 10,000 are published",
}


@pytest.mark.parametrize("name", SMALL)
def test_small_copies_are_refused(name, written):
    with pytest.raises(InputError, match=f"is incomplete: .*{SMALL[name]}.*allow_partial=True"):
        read(name, written / name, allow_partial=False)


@pytest.mark.parametrize("name", ("imagenet", "imagenet_c", "objectnet"))
def test_too_few_images_of_all_classes_are_refused(name, written, published, monkeypatch):
    sizes = {"imagenet": {"val": 50_000}, "objectnet": {"images": 18_514}}
    if name in sizes:
        monkeypatch.setattr(globals()[name], "SIZES", sizes[name])
    said = {"imagenet": "10 images, 50,000 are", "imagenet_c": "4 images, 50,000 are"}
    with pytest.raises(InputError, match=said.get(name, "8 images, version 1.0-beta had 18,514")):
        read(name, written / name, allow_partial=False)


@pytest.mark.parametrize("name", ("imagenet", "objectnet", "rival10", "imagenet9", "waterbirds"))
def test_whole_copies_are_read_without_a_message(name, written, published):
    assert counts(read(name, written / name, allow_partial=False)) == WRITTEN[name]


def test_published_sizes():
    sizes = {name: reader.sizes for name, reader in READERS.items()}
    assert sizes["imagenet"] == {"val": 50_000} and sizes["cifar10"] == {"test": 10_000}
    assert list(sizes["imagenet_c"].values()) == [50_000] * 75
    assert sizes["imagenet9"] == dict.fromkeys(imagenet9.VARIANTS, 4050)
    assert sum(sizes["waterbirds"].values()) == 4795 + 1199 + 5794
    assert sum(sizes["rival10"].values()) == 26_484


def remove(name):
    """Take files away, or a whole folder."""
    return lambda root: [shutil.rmtree(p) if p.is_dir() else p.unlink() for p in root.glob(name)]


def rename(names, old, new):
    return lambda root: [p.rename(str(p).replace(old, new)) for p in sorted(root.glob(names))]


def another_image(root):
    Image.new("RGB", (9, 9)).save(root / "train/ordinary/n00000001_x.JPEG")


def without_val(root):
    lines = (root / "metadata.csv").read_text().splitlines()
    kept = [line for line in lines if line.split(",")[3] != "1"]
    (root / "metadata.csv").write_text("\n".join(kept))


def in_both_splits(root):
    name = f"ordinary/{PICKLED}.JPEG"
    shutil.copy(root / "test" / name, root / "train" / name)


ONE = f"{imagenet_wnids()[3]}/ILSVRC2012_val_00000031.JPEG"
FIRST, LAST = "gaussian_noise/1", "jpeg_compression/5"
LACKS, CELLS = f"lacks 1 images that .* has, first {ONE}", dict.fromkeys(imagenet_c.SIZES, 3)
FEW = "998 of 1000 classes"
# (reader, damage, what is said of it; where a partial copy is allowed: the sizes that change, None
# is a part less; or what else is said; or None: the same)
DAMAGED = {
    "a class": ("imagenet", remove(f"val/{TENCH}"), "1 of 5 class folders", {"val": 8}),
    "no class": ("imagenet", lambda root: (root / "val/n0").mkdir(), "not classes, first n0", None),
    "of 113": ("objectnet", remove("images/mug"), "1 of 4 .*, first mug", {"images": 6}),
    "in one cell": ("imagenet_c", remove(f"{FIRST}/{ONE}"), f"{FIRST} {LACKS}", CELLS),
    "in the last": ("imagenet_c", remove(f"{LAST}/{ONE}"), f"{LAST} {LACKS}", CELLS),
    "severity": ("imagenet_c", remove("pixelate/4"), "pixelate/4 is missing", None),
    "corruption": ("imagenet_c", remove("pixelate"), "pixelate/1 is missing", None),
    "none shared": ("imagenet_c", rename("snow/1/*/*", "ILS", "X"), "snow/1 lacks 4", "no image"),
    "mask": ("imagenet9", remove(MASK), "1 of 18 masks .*n00000006_2.npy", {"original": 17}),
    "a dog": ("imagenet9", remove("no_fg/val/00_dog"), "no_fg.val is incom", {"no_fg": 16}),
    "a Dog": ("imagenet9", rename("no_fg/val/00*", "dog", "Dog"), "not classes, first 00_D", None),
    "a variant": ("imagenet9", remove("no_fg"), "no_fg.val is missing", {"no_fg": None}),
    "original": ("imagenet9", remove("original"), "val is missing", "has no original, which"),
    "mixed": ("imagenet9", remove("mixed_rand"), "val is missing", "has no mixed_rand, which"),
    "scenes": ("imagenet9", remove("only_bg_t"), "val is missing", "has no only_bg_t, which"),
    "pickle": ("rival10", remove(f"test/*/{PICKLED}_attr_dict.pkl"), NO_MASK, {"test": 39}),
    "of no class": ("rival10", another_image, "n00000001_x.JPEG has no RIVAL10", None),
    "split": ("rival10", remove("test"), "test/ordinary is missing: both splits are needed", None),
    "both": ("rival10", in_both_splits, "41 images", f"1 images are in both .* {PICKLED}.JPEG"),
    "bird": ("waterbirds", remove("004.*/*"), "1 of 24 .* line 5: .*Bird_0004_0", {"train": 7}),
    "birds": ("waterbirds", without_val, "groups of val have", "no val images"),
    "salient": ("salient_imagenet", remove(f"*/feature_10/{TENCH}_1.*"), FEW, {"images": 4}),
    "photographs": ("salient_imagenet", remove("../imagenet"), FEW, "no complete images in"),
    "answers": ("salient_imagenet", remove("mturk_results/*"), FEW, "no Salient ImageNet answers"),
}


@pytest.mark.parametrize("what", DAMAGED)
def test_what_is_missing_is_named_or_left_out(what, copy, published):
    name, damage, strictly, partly = DAMAGED[what]
    root = copy(name)
    damage(root)
    refused(strictly, read, name, root, allow_partial=False)
    if not isinstance(partly, dict):
        with pytest.raises(InputError, match=partly or strictly) as error:
            read(name, root)
        # What was allowed already is not advised.
        assert "allow_partial" not in str(error.value)
        return
    expected = {part: n for part, n in (WRITTEN[name] | partly).items() if n is not None}
    assert counts(read(name, root)) == expected


UNREADABLE = [  # (reader, file, part, how many are left)
    ("imagenet", f"val/{imagenet_wnids()[207]}/ILSVRC2012_val_00000006.JPEG", "val", 9),
    ("imagenet_c", f"frost/2/{ONE}", "frost/2", 3),
    ("objectnet", "images/chair/*1.png", "images", 7),
    ("rival10", f"train/ordinary/{PICKLED[:-1]}6.JPEG", "train", 39),
    ("rival10", f"test/entire_object_masks/{PICKLED[:-1]}1.JPEG", "test", 39),
    ("salient_imagenet", f"{SHARK}/feature_10/{SHARK}_0.JPEG", "images", 4),
    ("imagenet9", "mixed_rand/val/00_dog/fg_n00000000_2_bg_*", "mixed_rand", 17),
    ("imagenet9", MASK, "original", 17),
    ("waterbirds", "021.*/*.jpg", "test", 7),
]


@pytest.mark.parametrize("name, file, part, left", UNREADABLE)
def test_what_cannot_be_read_is_named_or_left_out_and_counted(name, file, part, left, copy):
    root = copy(name)
    (file,) = root.glob(file)
    cut_short(file)
    table = read(name, root)[part]
    kept, total = [], len(table)
    for i in range(total):
        try:
            table[i]
            kept.append(i)
        except InputError as error:
            assert f"{file.name} is not a readable " in str(error)
    assert len(kept) == left
    with pytest.warns(UserWarning, match=f"{part}: 1 of {total} images are unreadable") as warned:
        parts = read(name, root, skip_unreadable=True)
    assert len(warned) == 1
    lost = set(parts) if name == "imagenet_c" else {part}  # a cell is of the same images as others
    expected = {p: (n - (p in lost), int(p in lost)) for p, n in WRITTEN[name].items()}
    assert {p: (len(t), t.skipped) for p, t in parts.items()} == expected
    for p in lost:
        assert parts[p].index.tolist() == kept
        np.testing.assert_array_equal(parts[p].columns["label"], table.columns["label"][kept])


def digests(name, root):
    return {part: table.digest for part, table in read(name, root).items()}


@pytest.mark.parametrize("name", WRITTEN)
def test_a_copy_elsewhere_has_the_same_digests(name, written, copy):
    found = digests(name, copy(name))
    assert digests(name, written / name) == found


@pytest.mark.parametrize("name, file, part, left", UNREADABLE)
def test_the_digest_of_a_part_is_of_the_bytes_of_its_files(name, file, part, left, copy):
    """Images and masks, of equal size and time, which decode to the same or to other pixels."""
    root = copy(name)
    before = digests(name, root)
    (path,) = root.glob(file)
    times, content = path.stat(), bytearray(path.read_bytes())
    content[15 if path.suffix in (".JPEG", ".jpg") else -1] ^= 1  # 15: what an inch is
    path.write_bytes(content)
    os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))
    after = digests(name, root)
    assert [p for p in before if before[p] != after[p]] == [part]


@pytest.mark.parametrize(
    "name, options, message",
    (
        ("objectnet", {"resize": 255}, "resize = 255 is not known; allowed: 256, 224"),
        ("imagenet9", {"transform": "crop"}, "transform = 'crop' is not known; allowed: 'none'"),
        ("rival10", {"transform": "crop"}, "transform = 'crop' is not known; allowed: 'resize'"),
    ),
)
def test_options_are_refused_by_name(name, options, message, written):
    refused(message, read, name, written / name, **options)


# Checking a directory.


@pytest.fixture
def check(published, monkeypatch):
    """check(...) -> (whether complete, the lines said)."""
    for split in waterbirds.SIZES:
        monkeypatch.setitem(waterbirds.SIZES, split, 8)

    def call(name, directory, **options):
        said, stream = [], io.StringIO()
        complete = check_directory(
            name,
            directory,
            line=said.append,
            progress_of=lambda total: Progress(total, "check", stream=stream),
            **options,
        )
        return complete, said

    return call


def cut_second_bird(root):
    cut_short(*root.glob("002.*/*.jpg"))


BIRDS = [rf"waterbirds {split}: 8 of 8 images" for split in ("train", "val", "test")]
FEWER = [BIRDS[0].replace("8 of", "7 of"), *BIRDS[1:]]
LOST = "fault: .* 1 of 24 rows lack a file, .*Bird_0003_0.jpg; .*"
CUT = "fault: 1 of 8 images of train are unreadable, first: .*Bird_0002_0.jpg is .*"
PARTS = [f"imagenet9 {v}: 18 of 4,050 images" for v in imagenet9.VARIANTS if v != "only_fg"]
PARTS += ["imagenet9 only_fg: 0 of 4,050 images", "fault: .*only_fg.val is missing.*"]
CHECKED = {  # (data set, damage, options, the lines said)
    "whole": ("waterbirds", lambda root: None, {}, BIRDS),
    "a file less": ("waterbirds", remove("003.*/*.jpg"), {}, [*FEWER, LOST]),
    "cut short": ("waterbirds", cut_second_bird, {}, [*BIRDS, CUT]),
    "not in the sample": ("waterbirds", cut_second_bird, {"sample": 2}, BIRDS),
    "a part less": ("imagenet9", remove("only_fg"), {}, PARTS),
}


@pytest.mark.parametrize("what", CHECKED)
def test_a_check_says_what_is_there_and_names_the_first_fault(what, check, copy):
    name, damage, options, lines = CHECKED[what]
    root = copy(name)
    damage(root)
    complete, said = check(name, root, **options)
    assert complete == (not lines[-1].startswith("fault"))
    assert re.fullmatch("\n".join(lines), "\n".join(said))


def test_records_of_arrays_are_checked_and_data_made_of_others_are_not(check, written):
    complete, said = check("cifar10", written / "cifar10")
    assert not complete and said[0] == "cifar10 test: 60 of 10,000 images"
    for name in ("cifar_color_shift", "spurious_shapes"):
        refused(f"NAME = '{name}' is not known; .* 'cifar10'", check, name, written / "cifar10")


def test_nothing_there_and_no_such_data_set(check, tmp_path):
    with pytest.raises(MissingData, match=r"no Waterbirds in .*: expected metadata.csv"):
        check("waterbirds", tmp_path)
    refused("NAME = 'mnist' is not known; allowed: 'imagenet'", check, "mnist", tmp_path)

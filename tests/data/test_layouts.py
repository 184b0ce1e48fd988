"""What the official layouts share: listing, reading, transforms, damaged and missing files."""

import itertools

import numpy as np
import pytest
from PIL import Image

from advspur._checks import InputError
from advspur.data import layouts
from tests.data.fake_layouts import cut_short, picture, save

LABELS = {"b bird": 0, "a": 2, "c": 1}  # neither order is that of the names


def tree(root, folders=("a", "b bird", "c"), count=2):
    rng = np.random.default_rng(0)
    for folder, i in itertools.product(folders, range(count)):
        save(picture(rng)[0], root / folder / f"{folder[0]}{i}.JPEG", format="JPEG")
    return root


def test_labels_follow_the_map_whatever_the_order_of_the_folders(tmp_path):
    (tree(tmp_path) / ".cache").mkdir()
    (tmp_path / "readme.txt").write_text("no class")
    (tmp_path / "a" / "thumbs.db").write_text("no image")
    paths, labels = layouts.list_classes(tmp_path, LABELS, allow_partial=False)
    assert len(paths) == 6
    assert [LABELS[path.parent.name] for path in paths] == labels.tolist()
    assert sorted(path.name for path in paths) == [
        "a0.JPEG",
        "a1.JPEG",
        "b0.JPEG",
        "b1.JPEG",
        "c0.JPEG",
        "c1.JPEG",
    ]


def test_folders_that_are_no_class_are_named_or_ignored(tmp_path):
    tree(tmp_path, ("a", "b bird", "c", "zebra"))
    with pytest.raises(InputError, match="1 folders that are no class, first zebra; classes are"):
        layouts.list_classes(tmp_path, LABELS, allow_partial=True)
    paths, labels = layouts.list_classes(tmp_path, LABELS, allow_partial=False, ignore_others=True)
    assert {p.parent.name for p in paths} == set(LABELS) and len(labels) == 6


def test_a_missing_class_folder_is_named(tmp_path):
    tree(tmp_path, ("b bird", "c"))
    with pytest.raises(InputError, match="1 of 3 class folders are missing, first a;"):
        layouts.list_classes(tmp_path, LABELS, allow_partial=False)
    _, labels = layouts.list_classes(tmp_path, LABELS, allow_partial=True)
    assert sorted(labels.tolist()) == [0, 0, 1, 1]


def test_an_empty_class_folder_is_as_good_as_missing(tmp_path):
    """A copy that stopped after making the folders must not pass as whole."""
    (tree(tmp_path, ("b bird", "c")) / "a").mkdir()
    with pytest.raises(InputError, match="1 of 3 class folders are missing, first a;"):
        layouts.list_classes(tmp_path, LABELS, allow_partial=False)


def test_folders_without_images_are_missing_data(tmp_path):
    for name in LABELS:
        (tmp_path / name).mkdir()
    with pytest.raises(layouts.MissingData, match="no images in .*docs/benchmarks.md"):
        layouts.list_classes(tmp_path, LABELS, allow_partial=True)


def test_resource_forks_are_no_images(tmp_path):
    """Archives that went through macOS hold a "._name" beside each file."""
    (tree(tmp_path) / "a" / "._a0.JPEG").write_bytes(b"\0\5\x16\7")
    paths, _ = layouts.list_classes(tmp_path, LABELS, allow_partial=False)
    assert len(paths) == 6


def test_a_file_name_in_two_class_folders_is_warned_of(tmp_path):
    root = tree(tmp_path)
    (root / "c" / "a0.JPEG").write_bytes((root / "a" / "a0.JPEG").read_bytes())
    with pytest.warns(UserWarning, match="1 file names appear in two .* first a0.JPEG in a and c"):
        layouts.list_classes(root, LABELS, allow_partial=False)


@pytest.mark.parametrize("size", ((500, 375), (375, 500), (256, 256), (41, 300), (257, 999)))
def test_the_standard_transform_is_256_then_the_central_224(size):
    image, _ = picture(np.random.default_rng(1), size)
    short, long = min(size), max(size)
    new = 256, int(256 * long / short)
    new = new if size[0] <= size[1] else new[::-1]
    left, top = (int(round((side - 224) / 2.0)) for side in new)
    resized = image.resize(new, Image.Resampling.BILINEAR)
    expected = resized.crop((left, top, left + 224, top + 224))
    np.testing.assert_array_equal(layouts.standard_transform(image), expected)


@pytest.mark.parametrize("mode", ("L", "CMYK", "RGB"))
def test_all_jpeg_modes_are_read_as_rgb(tmp_path, mode):
    path = tmp_path / "x.JPEG"
    save(picture(np.random.default_rng(3), mode=mode)[0], path, format="JPEG")
    with Image.open(path) as stored:
        assert stored.mode == mode
        expected = np.asarray(stored.convert("RGB"))
    np.testing.assert_array_equal(layouts.open_file(path), expected)


def test_unreadable_files_are_named(tmp_path):
    path = tree(tmp_path) / "a" / "a0.JPEG"
    cut_short(path)
    with pytest.raises(InputError, match=r"a0.JPEG is no readable image: .*truncated"):
        layouts.open_file(path)
    path.write_bytes(b"")
    with pytest.raises(InputError, match="a0.JPEG is no readable image"):
        layouts.open_file(path)
    path.unlink()
    with pytest.raises(InputError, match="a0.JPEG cannot be read: No such file"):
        layouts.open_file(path)
    path.mkdir()
    with pytest.raises(InputError, match="a0.JPEG cannot be read"):
        layouts.open_file(path)


def test_image_and_mask_go_through_one_transform():
    image, _ = picture(np.random.default_rng(4), (260, 250))
    mark = Image.new("L", image.size)
    mark.paste(255, (10, 20, 30, 40))
    shifted = layouts.with_mask(image, mark, lambda x: x.crop((5, 7, 229, 231)), "x.png", "m.npy")
    assert shifted["image"].shape == (224, 224, 3) and shifted["mask"].shape == (224, 224, 1)
    where = np.argwhere(shifted["mask"][..., 0])
    assert (where.min(0).tolist(), where.max(0).tolist()) == ([13, 5], [32, 24])
    np.testing.assert_array_equal(shifted["image"], np.asarray(image)[7:231, 5:229])
    with pytest.raises(InputError, match="x.png is 260 x 250: 224 x 224 is needed"):
        layouts.with_mask(image, mark, lambda x: x, "x.png", "m.npy")
    small = Image.new("L", (5, 5))
    with pytest.raises(InputError, match="m.npy is 5 x 5: too small"):
        layouts.with_mask(image.resize((224, 224)), small, lambda x: x, "x.png", "m.npy")


def test_unreadable_images_are_left_out_and_counted(tmp_path):
    paths, labels = layouts.list_classes(tree(tmp_path), LABELS, allow_partial=False)
    table = layouts.file_table(3, paths, labels, layouts.standard_transform)
    for index in (1, 4):
        cut_short(paths[index])
    faults = layouts.unreadable(table)
    assert sorted(faults) == [1, 4] and all(str(paths[i]) in faults[i] for i in faults)
    first = paths[1].name
    with pytest.warns(UserWarning, match=f"x: 2 of 6 images are unreadable .* first: .*{first}"):
        kept = layouts.without_unreadable({"x": table}, True)["x"]
    rest = [0, 2, 3, 5]
    assert kept.skipped == 2 and kept.columns["path"] == [paths[i] for i in rest]
    np.testing.assert_array_equal(kept.columns["label"], labels[rest])
    assert layouts.without_unreadable({"x": kept}, True)["x"].skipped == 0  # and no warning


@pytest.mark.parametrize(
    "count, number", ((10, 4), (10, 10), (10, 25), (7, 1), (4050, 500), (9, 0))
)
def test_a_sample_is_spread_over_all_without_repeats(count, number):
    chosen = layouts.spread(count, number)
    assert len(chosen) == len(set(chosen.tolist())) == min(number or count, count)
    assert chosen[0] == 0 and (number == 1 or chosen[-1] == count - 1)
    if len(chosen) > 2:
        gaps = np.diff(chosen)
        assert gaps.max() - gaps.min() <= 1


def test_a_sample_of_nothing_is_nothing():
    assert len(layouts.spread(0, 5)) == 0

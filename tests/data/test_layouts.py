"""What the official layouts share: class folders, image files and their masks."""

import itertools

import numpy as np
import pytest
from PIL import Image

from advspur._checks import InputError
from advspur.data.files import file_table
from advspur.data.layouts import MissingData, list_classes
from advspur.data.table import spread
from advspur.data.transforms import Transform
from tests.data.fake_layouts import picture, save
from tests.refusals import refused

CLASSES = ("b bird", "c", "a")  # not in the order of the names


def tree(root, folders=("a", "b bird", "c"), count=2):
    rng = np.random.default_rng(0)
    for folder, i in itertools.product(folders, range(count)):
        save(picture(rng)[0], root / folder / f"{folder[0]}{i}.JPEG", format="JPEG")
    return root


def test_labels_follow_the_map_in_any_order_of_the_folders(tmp_path):
    """Hidden folders, other files and the "._name" of macOS archives do not count."""
    (tree(tmp_path) / ".cache").mkdir()
    for name in ("readme.txt", "a/thumbs.db", "a/._a0.JPEG"):
        (tmp_path / name).write_text("no image")
    paths, labels = list_classes(tmp_path, CLASSES, False)
    assert [CLASSES.index(path.parent.name) for path in paths] == labels.tolist()
    assert sorted(path.stem for path in paths) == ["a0", "a1", "b0", "b1", "c0", "c1"]
    (tmp_path / "zebra").mkdir()
    again, _ = list_classes(tmp_path, CLASSES, False, ignore_others=True)
    assert again == paths
    with pytest.raises(InputError, match="1 folders that are not classes, first zebra; classes"):
        list_classes(tmp_path, CLASSES, True)


def test_empty_class_folders_are_missing(tmp_path):
    """A copy that stopped after making the folders must not pass as whole."""
    for name in CLASSES:
        (tmp_path / name).mkdir()
    with pytest.raises(MissingData, match="no images in .*docs/benchmarks.md"):
        list_classes(tmp_path, CLASSES, True)
    tree(tmp_path, ("b bird", "c"))
    refused("1 of 3 class folders are missing, first a;", list_classes, tmp_path, CLASSES, False)


def test_a_file_name_in_two_class_folders_is_warned_of(tmp_path):
    root = tree(tmp_path)
    (root / "c" / "a0.JPEG").write_bytes((root / "a" / "a0.JPEG").read_bytes())
    with pytest.warns(UserWarning, match="1 file names appear in two .* first a0.JPEG in c and a"):
        list_classes(root, CLASSES, False)


def test_image_and_masks_go_through_one_transform(tmp_path):
    image, _ = picture(np.random.default_rng(4), (260, 250))
    mark = Image.new("L", image.size)
    mark.paste(255, (28, 33, 48, 53))
    for name, saved in (("x.png", image), ("m.png", mark), ("small.png", mark.resize((5, 5)))):
        saved.save(tmp_path / name)
    files = {"path": ["x.png"], "mask_path": [tmp_path / "m.png"], "label": [0]}
    crop = Transform(resize="crop")
    example = file_table(1, crop, root=tmp_path, **files, spurious_mask_path=[None])[0]
    assert example["image"].shape == (224, 224, 3) and example["mask"].shape == (224, 224, 2)
    where = np.argwhere(example["mask"][..., 0])
    assert (where.min(0).tolist(), where.max(0).tolist()) == ([20, 10], [39, 29])
    np.testing.assert_array_equal(example["image"], np.asarray(image)[13:237, 18:242])
    assert not example["mask"][..., 1].any()
    files["mask_path"] = [tmp_path / "small.png"]
    with pytest.raises(InputError, match="small.png is 5 x 5, its image 260 x 250: a mask has"):
        file_table(1, crop, root=tmp_path, **files)[0]


@pytest.mark.parametrize(
    "count, number", ((10, 4), (10, 10), (10, 25), (7, 1), (4050, 500), (9, 0))
)
def test_a_sample_is_spread_over_all_without_repeats(count, number):
    chosen = spread(count, number)
    assert len(chosen) == len(set(chosen.tolist())) == min(number or count, count)
    assert chosen[0] == 0 and (number == 1 or chosen[-1] == count - 1)
    assert number == 1 or np.ptp(np.diff(chosen)) <= 1
    assert len(spread(0, 5)) == 0

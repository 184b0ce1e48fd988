"""Table: rows that keep their numbers, and a digest that knows all that is measured on."""

import os
import shutil

import numpy as np
import pytest

from advspur._checks import InputError
from advspur.data import array_source
from advspur.data.files import file_table
from advspur.data.table import Table
from advspur.data.transforms import BICUBIC, SQUARED, STANDARD, Transform
from tests.data.fake_layouts import picture, save
from tests.refusals import refused

NUM = 11
IMAGES = np.random.default_rng(0).integers(0, 256, (NUM, 8, 8, 3), np.uint8)
LABELS = np.arange(NUM) % 2
MASKS = np.random.default_rng(1).random((NUM, 8, 8, 1)) < 0.5


@pytest.fixture(scope="module")
def photographs(tmp_path_factory):
    """NUM photographs and their masks."""
    root, rng = tmp_path_factory.mktemp("photos"), np.random.default_rng(0)
    for i in range(NUM):
        image, mask = picture(rng, (70 + i, 60))
        save(image, root / "images" / f"{i:02d}.png")
        save(mask, root / "masks" / f"{i:02d}.png")
    return root


def photos(root, labels=LABELS, transform=STANDARD, **columns):
    paths = sorted((root / "images").iterdir())
    return file_table(2, transform, path=paths, label=labels, **columns)


def masked(root, **columns):
    return photos(root, mask_path=sorted((root / "masks").iterdir()), **columns)


def arrays(images=IMAGES, labels=LABELS, masks=MASKS, **columns):
    return array_source(images, labels, num_classes=2, mask=masks, **columns)


def test_a_subset_keeps_numbers_names_and_facts():
    columns = {"label": np.arange(5), "mask_path": list("abcde")}
    columns |= {"names": {"label": "ab"}, "image_size": 9}
    table = Table(2, lambda row: {"x": row["label"]}, **columns)
    table.facts["share"], table.order = 0.5, "tfds"
    assert table.digest != table.subset([4, 0, 3]).digest
    part = table.subset([4, 0, 3], skipped=2).subset([2, 1])
    assert (part.index.tolist(), part.columns["mask_path"], len(part)) == ([3, 0], ["d", "a"], 2)
    assert (part.names, part.image_size, part.has_mask) == ({"label": "ab"}, 9, True)
    assert (part.facts, part.skipped, part.order) == (table.facts, 0, "tfds")
    assert table.subset([1], skipped=2).skipped == 2
    assert part[1] == {"label": 0, "mask_path": "a", "x": 0}
    assert arrays().image_size == 8 and arrays().has_mask


def flip(path):
    """Change the last byte, but neither size nor time of the file."""
    before, content = path.stat(), bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


@pytest.mark.parametrize("make", (photos, masked), ids=("images", "masks"))
def test_the_digest_is_of_the_bytes_and_not_of_their_place(make, photographs, tmp_path):
    root = shutil.copytree(photographs, tmp_path / "copy")
    assert make(root).digest == make(photographs).digest == make(root).digest
    files = sorted((root / ("images" if make is photos else "masks")).iterdir())
    for path in files[3:5]:  # the pixels of 03 are not looked at
        flip(path)
        assert make(root).digest != make(photographs).digest
        flip(path)
    listed = make(root)
    files[4].unlink()
    with pytest.raises(InputError, match="04.png cannot be read: No such file"):
        _ = listed.digest


def test_what_else_is_measured_on_is_in_the_digest(photographs):
    mirrored = photos(photographs)
    mirrored.load = lambda row: {"image": photos(photographs).load(row)["image"][::-1]}
    other = photos(photographs)
    other.transform = SQUARED  # although the sampled pixels stay the same
    changes = {
        "as it is": photos(photographs),
        "the transform": other,
        "the order": photos(photographs).subset(np.arange(NUM)[::-1]),
        "a subset": photos(photographs).subset(np.arange(6)),
        "the same files counted from elsewhere": photos(photographs).subset([*range(5), 10]),
        "the labels": photos(photographs, labels=1 - LABELS),
        "an attribute": photos(photographs, group=LABELS),
        "its values": photos(photographs, group=1 - LABELS),
        "its name": photos(photographs, place=LABELS),
        "the pixels": mirrored,
        "with masks": masked(photographs),
        "of two kinds": masked(photographs, spurious_mask_path=[None] * NUM),
    }
    others = (SQUARED, Transform(160), Transform(side=255), Transform(interpolation=BICUBIC))
    changes |= {transform: photos(photographs, transform=transform) for transform in others}
    assert len({table.digest for table in changes.values()}) == len(changes)
    moved = IMAGES.copy()
    moved[5, 3, 2, 1] ^= 1
    others = {
        "arrays": arrays(),
        "a pixel": arrays(images=moved),
        "a label": arrays(labels=np.where(np.arange(NUM) == 9, 0, LABELS)),
        "a mask": arrays(masks=~MASKS),
        "their type": arrays(labels=LABELS.astype(np.uint8)),
        "another side": arrays(images=IMAGES[:, :4, :4], masks=MASKS[:, :4, :4]),
        "rows": arrays().subset(np.arange(NUM - 1)),
        "order": arrays().subset(np.arange(NUM)[::-1]),
    }
    assert len({table.digest for table in others.values()}) == len(others)
    assert arrays().digest == arrays(images=IMAGES.copy()).digest


def test_equal_rows_at_other_places_are_other_data():
    """Noise and attacks are drawn from the rows' numbers."""
    same = array_source(np.repeat(IMAGES[:1], 6, axis=0), np.zeros(6, int), num_classes=2)
    found = {same.subset(rows).digest for rows in ([0, 1, 5], [0, 2, 5], [1, 2, 5], [0, 1, 4])}
    assert len(found) == 4


@pytest.mark.parametrize(
    "change, message",
    (
        ({"images": IMAGES / 255}, "images are float64"),
        ({"images": IMAGES[..., :1]}, r"images are uint8 \(11, 8, 8, 1\)"),
        ({"images": IMAGES[:0]}, "images is empty"),
        ({"labels": LABELS[:4]}, "label has 4 entries for 11 images"),
        ({"group": LABELS[:2]}, "group has 2 entries"),
        ({"masks": np.ones((1, 8, 8, 1))}, "mask has 1 entries"),
        ({"labels": LABELS + 1}, r"labels are in \[1, 2\]; expected \[0, 1\]"),
        ({"labels": LABELS - 1}, r"labels are in \[-1, 0\]"),
        *(
            ({"labels": labels}, "labels have shape .* expected 11 integers")
            for labels in (LABELS + 0.5, LABELS[:, None], LABELS > 0, LABELS.astype(str))
        ),
    ),
)
def test_arrays_that_do_not_fit_are_refused(change, message):
    refused(message, arrays, **change)

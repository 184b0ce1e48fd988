"""Table: rows that keep their numbers, and a digest that knows all that is measured on."""

import os

import numpy as np
import pytest
from PIL import Image

from advspur._checks import InputError
from advspur.data import array_source
from advspur.data.layouts import (
    file_table,
    open_file,
    squared_transform,
    standard_transform,
    with_mask,
)
from advspur.data.table import Table
from tests.data.fake_layouts import picture, save

NUM = 11
IMAGES = np.random.default_rng(0).integers(0, 256, (NUM, 8, 8, 3), np.uint8)
LABELS = np.arange(NUM) % 2
MASKS = np.random.default_rng(1).random((NUM, 8, 8, 1)) < 0.5


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """NUM photographs and their masks."""
    root, rng = tmp_path_factory.mktemp("photos"), np.random.default_rng(0)
    for i in range(NUM):
        image, mask = picture(rng, (70 + i, 60))
        save(image, root / "images" / f"{i:02d}.png")
        save(mask, root / "masks" / f"{i:02d}.png")
    return root


def photos(root, labels=LABELS, transform=standard_transform, **columns):
    paths = sorted((root / "images").iterdir())
    return file_table(2, paths, labels, transform, **columns)


def masked(root, cut=lambda mask: mask, spurious=()):
    def load(row):
        image, mask = open_file(row["path"]), cut(open_file(row["masks"][0], "L"))
        return with_mask(image, mask, standard_transform, row["path"], row["masks"][0])

    paths = sorted((root / "images").iterdir())
    masks = [[path] for path in sorted((root / "masks").iterdir())]
    columns = {"path": paths, "masks": masks, "spurious": [list(spurious)] * NUM}
    return Table(2, load, has_mask=True, label=LABELS, **columns)


def arrays(images=IMAGES, labels=LABELS, masks=MASKS, **columns):
    return array_source(images, labels, num_classes=2, mask=masks, **columns)


def test_a_subset_keeps_numbers_names_and_facts():
    table = Table(2, lambda row: {"x": row["label"]}, names={"label": "ab"}, image_size=9,
                  has_mask=True, label=np.arange(5), path=list("abcde"))  # fmt: skip
    table.facts["share"] = 0.5
    part = table.subset([4, 0, 3], skipped=2).subset([2, 1])
    assert (part.index.tolist(), part.columns["path"], len(part)) == ([3, 0], ["d", "a"], 2)
    assert (part.names, part.image_size, part.has_mask) == ({"label": "ab"}, 9, True)
    assert (part.facts, part.skipped, table.subset([1], skipped=2).skipped) == (table.facts, 0, 2)
    assert part[1] == {"label": 0, "path": "a", "x": 0}
    assert arrays().image_size == 8 and arrays().has_mask


def flip(path):
    """Another last byte; neither size nor time of the file tells."""
    before, content = path.stat(), bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


@pytest.mark.parametrize("make", (photos, masked), ids=("images", "masks"))
def test_the_digest_is_of_the_bytes_and_not_of_their_place(make, written, root):
    assert make(root).digest == make(written).digest == make(root).digest
    files = sorted((root / ("images" if make is photos else "masks")).iterdir())
    for path in files:  # each counts, and not only those whose pixels are looked at
        flip(path)
        assert make(root).digest != make(written).digest
        flip(path)
    listed = make(root)
    files[4].unlink()
    with pytest.raises(InputError, match="04.png cannot be read: No such file"):
        _ = listed.digest


def test_what_else_is_measured_on_is_in_the_digest(written):
    resized = Table(2, photos(written).load, image_size=160, **photos(written).columns)
    changes = {
        "as it is": photos(written),
        "the order": photos(written).subset(np.arange(NUM)[::-1]),
        "a subset": photos(written).subset(np.arange(6)),
        "the same files counted from elsewhere": photos(written).subset([*range(5), 10]),
        "the labels": photos(written, labels=1 - LABELS),
        "an attribute": photos(written, group=LABELS),
        "its values": photos(written, group=1 - LABELS),
        "its name": photos(written, place=LABELS),
        "the transform": photos(written, transform=squared_transform),
        "the size": resized,
        "with masks": masked(written),
        "masks turned": masked(written, lambda mask: Image.eval(mask, lambda level: 255 - level)),
        "of two kinds": masked(written, spurious=[written / "masks" / "00.png"]),
    }
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

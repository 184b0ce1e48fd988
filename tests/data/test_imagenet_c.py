"""ImageNet-C: 75 cells of the same images, cropped only; mean accuracy and mCE by hand."""

import json
import shutil

import numpy as np
import pytest
from PIL import Image
from tests.benchmarks.layouts import (
    Passes,
    coded,
    cut_short,
    paint,
    picture,
    save,
    write_imagenet_c,
)

from advspur._checks import InputError
from advspur.benchmarks import imagenet_c
from advspur.data.label_maps import imagenet_wnids
from advspur.data.layouts import MissingData

CELLS = [f"{c}/{s}" for c in imagenet_c.ALEXNET_ERRORS for s in range(1, 6)]


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    return write_imagenet_c(tmp_path_factory.mktemp("imagenet_c"))


@pytest.fixture
def two_classes(monkeypatch):
    """As if ImageNet had the two classes that are written."""
    wnids = imagenet_wnids()[3], imagenet_wnids()[500]
    monkeypatch.setattr(imagenet_c, "imagenet_wnids", lambda: wnids)


def names(root, cell):
    return sorted(str(p.relative_to(root / cell)) for p in (root / cell).rglob("*.JPEG"))


def test_alexnets_errors_are_the_published_ones(shared):
    facts = json.loads((shared / "facts" / "published_numbers.json").read_text())
    assert facts["alexnet_error_for_mCE"]["values"] == imagenet_c.ALEXNET_ERRORS


def test_all_cells_hold_the_same_images_and_extra_corruptions_do_not_count(root):
    shutil.copytree(root / "snow", root / "speckle_noise")
    parts = imagenet_c.load(root, allow_partial=True)
    assert list(parts) == CELLS and len(parts) == 75
    listed = [table.columns["path"] for table in parts.values()]
    assert all(paths == listed[0] for paths in listed)
    assert all(t.columns["label"].tolist() == [3, 3, 500, 500] for t in parts.values())


def test_images_are_cropped_and_never_resized(root):
    name = names(root, "fog/3")[0]
    save(picture(np.random.default_rng(7), (300, 260))[0], root / "fog/3" / name, format="JPEG")
    parts = imagenet_c.load(root, allow_partial=True)
    for cell, size in (("fog/3", (300, 260)), ("fog/4", (224, 224))):
        with Image.open(root / cell / name) as image:
            assert image.size == size
            left, top = (size[0] - 224) // 2, (size[1] - 224) // 2
            expected = np.asarray(image)[top : top + 224, left : left + 224]
        np.testing.assert_array_equal(parts[cell][0]["image"], expected)


def test_accuracy_and_mce_by_hand(root):
    """Of the four images of corruption k at severity s, the first (k + s) % 5 are right."""
    right = np.array([[(k + s) % 5 for s in range(1, 6)] for k in range(15)])
    right[3] = [4, 4, 4, 1, 0]
    for cell, count in zip(CELLS, right.ravel(), strict=True):
        for i, name in enumerate(names(root, cell)):
            is_first_class = i < 2
            paint(root / cell / name, 0 if is_first_class == (i < count) else 10)
    model = coded({0: 3, 10: 500}, 1000)
    progress = Passes()
    records = imagenet_c.evaluate(model, root, batch_size=8, progress=progress, allow_partial=True)
    assert progress.done == imagenet_c.num_passes(root, allow_partial=True) == 300
    found = {r.metric: r.value for r in records if not r.options}
    errors = 1 - right / 4
    alexnet = list(imagenet_c.ALEXNET_ERRORS.values())
    mce = sum(e.mean() / a for e, a in zip(errors, alexnet, strict=True)) / 15
    assert found["mean_corruption_accuracy"] == pytest.approx(1 - errors.mean(), abs=1e-9)
    assert found["mean_corruption_error"] == pytest.approx(mce, abs=1e-9)
    cells = {
        f"{r.options['corruption']}/{r.options['severity']}": r.value for r in records if r.options
    }
    expected = dict(zip(CELLS, (right / 4).ravel().tolist(), strict=True))
    assert cells == pytest.approx(expected, abs=1e-12)


class Killed(Passes):
    """A progress that is killed at the 31st image, in the eighth cell."""

    def advance(self, amount=1, note=""):
        super().advance(amount)
        if self.done > 30:
            raise KeyboardInterrupt


def test_a_killed_evaluation_goes_on_at_the_cell_it_was_in(root, tmp_path):
    model, other = (coded({level: 3}, 1000) for level in (0, 10))
    for number, cell in enumerate(CELLS):  # no two cells are the same
        for i, name in enumerate(names(root, cell)):
            paint(root / cell / name, 10 * (number // 3**i % 3))
    call = {"batch_size": 8, "allow_partial": True}
    expected = [r[:5] for r in imagenet_c.evaluate(model, root, **call)]
    kept = tmp_path / "kept"
    with pytest.raises(KeyboardInterrupt):
        imagenet_c.evaluate(model, root, progress=Killed(), cache_dir=kept, **call)
    assert len(list(kept.iterdir())) == 7

    def again(model, **change):
        progress = Passes()
        found = imagenet_c.evaluate(model, root, progress=progress, cache_dir=kept, **call | change)
        return [r[:5] for r in found], progress.done, progress.skipped

    assert again(model) == (expected, 4 * 68, 4 * 7)
    assert again(model) == (expected, 0, 300)
    assert again(other)[1:] == (300, 0)  # of other weights
    damaged = sorted(kept.iterdir())[3]
    cut_short(damaged)
    assert again(model)[0] == expected and len(list(kept.iterdir())) == 150
    cell = root / CELLS[9]
    save(picture(np.random.default_rng(9), (224, 224))[0], cell / names(root, CELLS[9])[0])
    imagenet_c.load.cache_clear()
    assert again(model)[1:] == (4, 296)  # of another image


def test_an_image_unreadable_in_one_cell_is_dropped_from_all(root):
    name = names(root, "frost/2")[1]
    cut_short(root / "frost/2" / name)
    with pytest.warns(UserWarning, match="frost/2: 1 of 4 images are unreadable"):
        parts = imagenet_c.load(root, allow_partial=True, skip_unreadable=True)
    for table in parts.values():
        assert len(table) == 3 and table.skipped == 1 and name not in table.columns["path"]
        assert table.columns["label"].tolist() == [3, 500, 500]
    model = coded({}, 1000)
    reading = {"allow_partial": True, "skip_unreadable": True}
    records = imagenet_c.evaluate(model, root, batch_size=8, **reading)
    assert {r.num_examples for r in records} == {3} and len(records) == 77
    with pytest.raises(InputError, match=f"frost/2/{name} is no readable image"):
        imagenet_c.evaluate(model, root, batch_size=8, allow_partial=True)


@pytest.mark.parametrize("cell", ("gaussian_noise/1", "jpeg_compression/5"))
def test_a_cell_that_lacks_an_image_is_named_with_it(root, cell, two_classes):
    name = names(root, cell)[1]
    (root / cell / name).unlink()
    with pytest.raises(InputError, match=f"{cell} lacks 1 images that .* has, first {name}"):
        imagenet_c.load(root)
    parts = imagenet_c.load(root, allow_partial=True)
    assert {len(table) for table in parts.values()} == {3}
    assert all(name not in table.columns["path"] for table in parts.values())
    assert all(t.columns["label"].tolist() == [0, 1, 1] for t in parts.values())


def test_missing_classes_are_refused(root):
    with pytest.raises(InputError, match="998 of 1000 class folders are missing"):
        imagenet_c.load(root)


def test_too_few_images_are_refused(root, two_classes):
    with pytest.raises(InputError, match="4 images, 50,000 are published"):
        imagenet_c.load(root)


def test_a_missing_severity_is_named(root, two_classes):
    shutil.rmtree(root / "pixelate/4")
    with pytest.raises(InputError, match="pixelate/4 is missing"):
        imagenet_c.load(root)


def test_what_was_allowed_already_is_not_advised(root):
    """A mean over 14 corruptions is no mean over 15: still refused, but not with this advice."""
    shutil.rmtree(root / "pixelate")
    with pytest.raises(InputError, match="pixelate/1 is missing") as error:
        imagenet_c.load(root, allow_partial=True)
    assert "allow_partial" not in str(error.value)


def test_cells_without_a_common_image_are_refused(root):
    for name in names(root, "snow/1"):
        (root / "snow/1" / name).rename(root / "snow/1" / name.replace("ILSVRC", "X"))
    with pytest.raises(InputError, match="no image is in all 75 cells"):
        imagenet_c.load(root, allow_partial=True)


def test_a_wrong_place_is_answered_with_the_layout(tmp_path):
    (tmp_path / "speckle_noise" / "1").mkdir(parents=True)
    with pytest.raises(MissingData, match="no ImageNet-C .*<corruption>/<severity 1-5>/<wnid>"):
        imagenet_c.load(tmp_path)

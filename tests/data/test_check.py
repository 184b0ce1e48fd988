"""Checking a data set's directory: counts, the first missing and the first unreadable file."""

import io
import shutil

import pytest

from advspur._checks import InputError
from advspur._progress import Progress
from advspur.data import waterbirds
from advspur.data.layouts import MissingData
from advspur.data.readers import check_directory


@pytest.fixture
def check(monkeypatch):
    """check(...) -> (whether complete, the lines said); tiny copies count as published."""
    counts = dict.fromkeys(waterbirds.SIZES, (2, 2, 2, 2))
    monkeypatch.setattr(waterbirds, "GROUP_COUNTS", counts)
    for split in counts:
        monkeypatch.setitem(waterbirds.SIZES, split, 8)

    def call(name, directory, **options):
        said = []
        complete = check_directory(
            name,
            directory,
            line=said.append,
            progress_of=lambda total: Progress(total, "check", stream=io.StringIO()),
            **options,
        )
        return complete, said

    return call


def test_a_complete_directory_has_no_fault(check, written):
    complete, said = check("waterbirds", written / "waterbirds")
    assert complete
    assert said == [f"waterbirds {split}: 8 of 8 images" for split in ("train", "val", "test")]


def test_the_first_missing_file_is_named(check, copy):
    root = copy("waterbirds")
    gone = sorted(root.glob("003.*/*.jpg"))[0]
    gone.unlink()
    complete, said = check("waterbirds", root)
    assert not complete
    assert said[0] == "waterbirds train: 7 of 8 images"
    assert "1 of 24 rows lack a file" in said[-1] and gone.name in said[-1]


def test_the_first_unreadable_file_is_named_unless_the_sample_passes_it_by(check, copy):
    root = copy("waterbirds")
    cut = sorted(root.glob("002.*/*.jpg"))[0]
    cut.write_bytes(cut.read_bytes()[:200])
    complete, said = check("waterbirds", root)
    assert not complete
    assert "1 of 8 images of train are unreadable" in said[-1] and cut.name in said[-1]
    assert check("waterbirds", root, sample=2)[0]  # the first and the last of each split


def test_parts_that_are_not_there_are_said(check, copy):
    root = copy("imagenet9")
    shutil.rmtree(root / "only_fg")
    complete, said = check("imagenet9", root)
    assert not complete
    assert "imagenet9 original: 18 of 4,050 images" in said
    assert "imagenet9 only_fg: nothing of 4,050 images" in said


def test_records_of_arrays_are_checked_and_data_made_of_others_are_not(check, written):
    complete, said = check("cifar10", written / "cifar10")
    assert not complete and said[0] == "cifar10 test: 60 of 10,000 images"
    for name in ("cifar_color_shift", "spurious_shapes"):
        with pytest.raises(InputError, match=f"NAME = '{name}' is not known; .* 'cifar10'"):
            check(name, written / "cifar10")


def test_nothing_there_and_no_such_data_set(check, tmp_path):
    with pytest.raises(MissingData, match=r"no Waterbirds in .*: expected metadata.csv"):
        check("waterbirds", tmp_path)
    with pytest.raises(InputError, match="NAME = 'mnist' is not known; allowed: 'imagenet'"):
        check("mnist", tmp_path)

"""Kept features: read where nothing has changed, computed again where anything has."""

import jax
import numpy as np
import pytest
from PIL import Image

from advspur._checks import InputError
from advspur.benchmarks import features
from advspur.data.layouts import file_table, standard_transform
from advspur.models import with_head
from tests.benchmarks.layouts import Passes, picture, save

NUM = 11
TRANSFORM = "short side 256, crop 224"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    root, rng = tmp_path_factory.mktemp("photos"), np.random.default_rng(0)
    for i in range(NUM):
        save(picture(rng, (70 + i, 60))[0], root / f"{i:02d}.png")
    return root


@pytest.fixture(scope="module")
def table(folder):
    return table_of(folder)


def table_of(folder):
    paths = sorted(folder.iterdir())
    return file_table(2, paths, np.arange(len(paths)) % 2, standard_transform)


@pytest.fixture
def get(tiny_classifier, table, tmp_path):
    """cached_features with changes -> (features, images computed, images skipped)."""

    def call(**change):
        progress = Passes()
        options = {
            "classifier": tiny_classifier, "table": table, "transform": TRANSFORM,
            "cache_dir": tmp_path / "kept", "batch_size": 8, "progress": progress,
        } | change  # fmt: skip
        return features.cached_features(**options), progress.done, progress.skipped

    return call


def test_features_are_those_of_the_transformed_images(get, tiny_classifier, folder):
    """The whole way, written with Pillow: 256 on the short side, the central 224."""
    found, computed, _ = get()
    assert computed == NUM and found.shape == (NUM, 16)
    images = []
    for path in sorted(folder.iterdir())[:4]:
        image = Image.open(path)
        short = min(image.size)
        resized = image.resize(tuple(256 * side // short for side in image.size), Image.BILINEAR)
        left, top = (round((side - 224) / 2) for side in resized.size)
        images.append(np.asarray(resized.crop((left, top, left + 224, top + 224))) / 255)
    expected = tiny_classifier.features(np.float32(images))
    np.testing.assert_allclose(found[:4], expected, rtol=1e-4, atol=1e-4)
    assert np.ptp(found, axis=0).max() > 1e-3


def test_what_is_kept_is_read_and_not_computed(get, tmp_path):
    first, computed, skipped = get()
    assert (computed, skipped) == (NUM, 0)
    (file,) = (tmp_path / "kept").iterdir()
    before = file.read_bytes()
    again, computed, skipped = get()
    assert (computed, skipped) == (0, NUM)
    np.testing.assert_array_equal(again, first)
    assert again.dtype == first.dtype == np.float32
    assert file.read_bytes() == before and len(list(file.parent.iterdir())) == 1
    # Batches do not matter to what is kept.
    assert get(batch_size=4)[1:] == (0, NUM)


def test_without_a_folder_nothing_is_kept(get, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert get(cache_dir=None)[1] == get(cache_dir=None)[1] == NUM
    assert not list(tmp_path.iterdir())


@pytest.fixture
def stubbed(get, monkeypatch):
    """`get` with numbers instead of a network, for many files."""
    numbers = np.random.default_rng(0).normal(size=(NUM, 16)).astype(np.float32)

    def fake(function, source, *, progress, **_):
        progress.advance(len(source))
        return numbers[: len(source)].copy()

    monkeypatch.setattr(features, "for_each_example", fake)
    return get


def other_weights(classifier, factor=1.001):
    params = classifier.variables["params"]
    first = jax.tree.map(lambda x: x * factor, params["conv1"])
    variables = classifier.variables | {"params": params | {"conv1": first}}
    return classifier.replace(variables=variables)


def test_another_last_layer_does_not_matter(stubbed, tiny_classifier):
    stubbed()
    rng = np.random.default_rng(0)
    kernel, bias = rng.normal(size=(16, 5)).astype("float32"), np.zeros(5, "float32")
    assert stubbed(classifier=with_head(tiny_classifier, kernel, bias))[1:] == (0, NUM)


def test_other_weights_statistics_and_normalisation_do(stubbed, tiny_classifier):
    stubbed()
    variables = tiny_classifier.variables
    moved = jax.tree.map(lambda x: x + 1e-3, variables["batch_stats"])
    others = (
        other_weights(tiny_classifier),
        tiny_classifier.replace(variables=variables | {"batch_stats": moved}),
        tiny_classifier.replace(mean=(0.4, 0.5, 0.5)),
        tiny_classifier.replace(std=(0.25, 0.25, 0.3)),
        tiny_classifier.replace(network=tiny_classifier.network.clone(stem="cifar")),
    )
    for other in others:
        assert stubbed(classifier=other)[1:] == (NUM, 0)
        assert stubbed(classifier=other)[1:] == (0, NUM)
    assert stubbed()[1:] == (0, NUM)  # what was there stays


def test_another_transform_and_another_order_matter(stubbed, table):
    stubbed()
    assert stubbed(transform="short side 224")[1:] == (NUM, 0)
    assert stubbed(table=table.subset(np.arange(NUM)[::-1]))[1:] == (NUM, 0)
    assert stubbed(table=table.subset(np.arange(NUM - 1)))[1:] == (NUM - 1, 0)


def test_a_changed_byte_of_an_image_matters_and_its_name_does_not(stubbed, folder, tmp_path):
    stubbed()
    copy = tmp_path / "copy"
    copy.mkdir()
    for path in folder.iterdir():
        (copy / f"x{path.name}").write_bytes(path.read_bytes())
    assert stubbed(table=table_of(copy))[1:] == (0, NUM)
    last = copy / "x10.png"
    data = bytearray(last.read_bytes())
    data[-1] ^= 1
    last.write_bytes(data)
    assert stubbed(table=table_of(copy))[1:] == (NUM, 0)


def kept_file(tmp_path):
    (file,) = (tmp_path / "kept").iterdir()
    return file


def test_a_file_cut_short_is_made_again(stubbed, tmp_path):
    expected = stubbed()[0]
    file = kept_file(tmp_path)
    whole = file.read_bytes()
    for keep in (0, 1, 5, 8, 9, 60, 127, 128, 129, 400, len(whole) - 33, len(whole) - 1):
        file.write_bytes(whole[:keep])
        found, computed, skipped = stubbed()
        assert (computed, skipped) == (NUM, 0), keep
        np.testing.assert_array_equal(found, expected)
        assert file.read_bytes() == whole
    file.write_bytes(whole + b"x")
    assert stubbed()[1] == NUM


def test_a_flipped_bit_anywhere_is_noticed(stubbed, tmp_path):
    """In magic, header, numbers and checksum. Python's parser reads the header."""
    expected = stubbed()[0]
    file = kept_file(tmp_path)
    whole = file.read_bytes()
    places = [*range(128), *range(128, len(whole), 29)]
    for place in places:
        for bits in (0x01, 0x04, 0x10, 0x80):
            file.write_bytes(whole[:place] + bytes([whole[place] ^ bits]) + whole[place + 1 :])
            found, computed, _ = stubbed()
            np.testing.assert_array_equal(found, expected)
            # A bit of the blanks that pad the header may change nothing.
            assert computed == NUM or place < 128


HEADERS = {
    "empty": b"",
    "open bracket": b"{'descr': '<f4', 'fortran_order': False, ('shape': 3",
    "deep brackets": b"(" * 110,
    "terabytes": b"{'descr': '<f4', 'fortran_order': False, 'shape': (99999999999, 999)}",
    "negative": b"{'descr': '<f4', 'fortran_order': False, 'shape': (-1, 16)}",
    "objects": b"{'descr': '|O', 'fortran_order': False, 'shape': (11, 16)}",
    "columns first": b"{'descr': '<f4', 'fortran_order': True, 'shape': (11, 16)}",
}


@pytest.mark.parametrize("header", HEADERS.values(), ids=HEADERS)
def test_a_header_of_nonsense_is_noticed(stubbed, tmp_path, header):
    expected = stubbed()[0]
    file = kept_file(tmp_path)
    numbers = file.read_bytes()[128:]
    file.write_bytes(b"\x93NUMPY\x01\x00\x76\x00" + header.ljust(117) + b"\n" + numbers)
    found, computed, _ = stubbed()
    assert computed == NUM
    np.testing.assert_array_equal(found, expected)


def test_a_write_that_fails_leaves_nothing(stubbed, tmp_path, monkeypatch):
    write = np.lib.format.write_array

    def half(file, array, **_):
        file.write(b"\x93NUMPY half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(np.lib.format, "write_array", half)
    with pytest.raises(OSError, match="No space left"):
        stubbed()
    assert not list((tmp_path / "kept").iterdir())
    monkeypatch.setattr(np.lib.format, "write_array", write)
    assert stubbed()[1:] == (NUM, 0)
    assert stubbed()[1:] == (0, NUM)


def test_an_interrupt_during_a_write_leaves_the_kept_file(stubbed, tmp_path, monkeypatch):
    stubbed()
    before = kept_file(tmp_path).read_bytes()

    def interrupted(file, array, **_):
        file.write(b"\x93NUMPY half")
        raise KeyboardInterrupt

    monkeypatch.setattr(np.lib.format, "write_array", interrupted)
    with pytest.raises(KeyboardInterrupt):
        stubbed(transform="another")
    assert kept_file(tmp_path).read_bytes() == before


def test_an_image_that_is_gone_is_one_error_with_its_name(stubbed, folder, tmp_path):
    """Removed between listing and reading."""
    copy = tmp_path / "copy"
    copy.mkdir()
    for path in folder.iterdir():
        (copy / path.name).write_bytes(path.read_bytes())
    listed = table_of(copy)
    (copy / "04.png").unlink()
    with pytest.raises(InputError, match="04.png"):
        stubbed(table=listed)

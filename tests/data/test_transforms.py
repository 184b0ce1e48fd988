"""Host transforms against direct Pillow calls."""

import io
import itertools

import numpy as np
import pytest
from PIL import Image

from advspur._checks import InputError
from advspur.data.transforms import (
    center_crop,
    decode,
    resize_and_crop,
    resize_short,
    resize_square,
    to_unit,
)

PHOTO = np.random.default_rng(0).integers(0, 256, (40, 60, 3), np.uint8)


def encode(image, suffix):
    file = io.BytesIO()
    image.save(file, suffix)
    return file.getvalue()


@pytest.mark.parametrize("height, width", ((40, 60), (61, 40), (33, 33), (10, 14)))
def test_resize_and_crop_is_short_side_times_8_7_and_the_centre(height, width):
    image = np.random.default_rng(1).integers(0, 256, (height, width, 3), np.uint8)
    short = 18  # 16 * 256 / 224, truncated
    scale = short / min(height, width)
    new = (short, int(height * scale)) if width <= height else (int(width * scale), short)
    resized = Image.fromarray(image).resize(new, Image.Resampling.BILINEAR)
    left, top = round((new[0] - 16) / 2), round((new[1] - 16) / 2)
    expected = np.asarray(resized.crop((left, top, left + 16, top + 16)))
    got = resize_and_crop(image, 16)
    assert got.shape == (16, 16, 3)
    np.testing.assert_array_equal(got, expected)


# (size, long, short) where the scale size / short, rounded first, misses a whole number.
NEAR_WHOLE = [
    (256, long, short)
    for short in range(100, 700)
    for long in range(short, 1200)
    if int(long * (256 / short)) != 256 * long // short
]


def test_the_long_side_is_torchvisions_int_of_a_quotient():
    """`int(size * long / short)` of torchvision's _compute_resized_output_size."""
    assert len(NEAR_WHOLE) > 100
    chosen = NEAR_WHOLE[:: len(NEAR_WHOLE) // 12]
    for size, long, short in chosen:
        expected = int(size * long / short)
        assert expected != int(long * (size / short))
        assert resize_short(Image.new("L", (long, short)), size).size == (expected, size)
        assert resize_short(Image.new("L", (short, long)), size).size == (size, expected)


@pytest.mark.parametrize("width, height", ((500, 375), (333, 500), (75, 56), (224, 224), (1, 9)))
def test_resized_sizes_are_torchvisions(width, height):
    short, long = sorted((width, height))
    expected = (32, int(32 * long / short)) if width <= height else (int(32 * long / short), 32)
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (height, width, 3), np.uint8))
    found = resize_short(image, 32)
    assert found.size == expected
    direct = image.resize(expected, Image.Resampling.BILINEAR)
    np.testing.assert_array_equal(np.asarray(found), np.asarray(direct))


def test_a_square_resize_loses_the_aspect_ratio():
    found = resize_square(Image.fromarray(PHOTO), 16)
    direct = Image.fromarray(PHOTO).resize((16, 16), Image.Resampling.BILINEAR)
    np.testing.assert_array_equal(np.asarray(found), np.asarray(direct))


@pytest.mark.parametrize("height, width", ((16, 16), (17, 16), (19, 18), (16, 21), (39, 60)))
def test_the_centre_begins_at_the_rounded_half_of_what_is_left(height, width):
    """torchvision's int(round((side - size) / 2.0)): halves go to the even number."""
    pixels = np.arange(height * width).astype(np.uint8).reshape(height, width)
    top, left = (int(round((side - 16) / 2.0)) for side in (height, width))
    found = np.asarray(center_crop(Image.fromarray(pixels), 16))
    np.testing.assert_array_equal(found, pixels[top : top + 16, left : left + 16])


def test_images_of_the_right_size_pass_through():
    np.testing.assert_array_equal(resize_and_crop(PHOTO[:16, :16], 16), PHOTO[:16, :16])


@pytest.mark.parametrize(
    "mode, color, expected",
    [
        ("RGB", (250, 120, 10), (250, 120, 10)),
        ("L", 77, (77, 77, 77)),
        ("CMYK", (255, 0, 255, 0), (0, 255, 0)),
    ],
)
def test_jpegs_of_all_modes_decode_to_rgb(mode, color, expected):
    got = decode(encode(Image.new(mode, (9, 7), color), "JPEG"))
    assert got.shape == (7, 9, 3) and got.dtype == np.uint8
    np.testing.assert_allclose(got, np.broadcast_to(expected, got.shape), rtol=0, atol=3)


def test_pngs_decode_exactly_and_arrays_pass_through():
    np.testing.assert_array_equal(decode(encode(Image.fromarray(PHOTO), "PNG")), PHOTO)
    assert decode(PHOTO) is PHOTO


@pytest.mark.parametrize("suffix", ("PNG", "JPEG"))
def test_damaged_files_raise_one_clear_error(suffix):
    """Cut short at many places, and with bytes flipped: a decoded image or an InputError."""
    data = encode(Image.fromarray(PHOTO), suffix)
    for keep in (0, 5, 30, 45, 100, len(data) // 2):
        with pytest.raises(InputError, match="photo.x is no readable image"):
            decode(data[:keep], "photo.x")
    refused = 0
    for place, bits in itertools.product(range(8, 72), (0xFF, 0x01, 0x80)):  # headers
        flipped = data[:place] + bytes([data[place] ^ bits]) + data[place + 1 :]
        try:
            assert decode(flipped).ndim == 3
        except InputError as error:
            refused += 1
            assert "a record of" in str(error)
    assert refused > 0 or suffix == "JPEG"


def test_to_unit():
    np.testing.assert_array_equal(
        to_unit(np.array([0, 51, 255], np.uint8)), np.float32([0, 0.2, 1])
    )

"""Host transforms against direct Pillow calls."""

import io
import itertools

import numpy as np
import pytest
from PIL import Image

from advspur._checks import InputError
from advspur.data import transforms
from advspur.data.transforms import BICUBIC, SQUARED, STANDARD, Transform, decode, open_image
from tests.data.fake_layouts import direct
from tests.data.own_files import encode
from tests.refusals import refused

PHOTO = np.random.default_rng(0).integers(0, 256, (40, 60, 3), np.uint8)


@pytest.mark.parametrize("width, height", ((60, 40), (40, 61), (33, 33), (41, 300), (257, 99)))
@pytest.mark.parametrize(
    "fields",
    (
        {"size": 16, "side": 18, "resize": "short", "interpolation": 2},
        {"size": 16, "side": 21, "resize": "short", "interpolation": BICUBIC, "border": 2},
        {"size": 17, "side": 18, "resize": "square", "interpolation": 2},
        {"size": 16, "side": 18, "resize": "crop", "interpolation": 2},
    ),
)
def test_transforms_are_pillows(width, height, fields):
    pixels = np.random.default_rng(1).integers(0, 256, (height, width, 3), np.uint8)
    image = Image.fromarray(pixels)
    expected = direct(image, **fields)
    np.testing.assert_array_equal(Transform(**fields)(image), expected)
    np.testing.assert_array_equal(Transform(**fields).pixels(image, "x"), expected)


def test_the_transforms_of_protocols():
    """256 and 224; for other sizes of arrays, the short side is truncated."""
    assert (STANDARD.side, STANDARD.size, STANDARD.resize) == (256, 224, "short")
    assert SQUARED == STANDARD._replace(resize="square")
    found = transforms.resize_and_crop(PHOTO, 16)
    np.testing.assert_array_equal(found, Transform(16, 18)(Image.fromarray(PHOTO)))
    assert transforms.resize_and_crop(PHOTO, 33).shape == (33, 33, 3)  # of 37, not 38
    np.testing.assert_array_equal(transforms.resize_and_crop(PHOTO[:16, :16], 16), PHOTO[:16, :16])


@pytest.mark.parametrize(
    "transform, size, message",
    (
        (Transform(resize="none"), (260, 250), "260 x 250: 224 x 224 is needed"),
        (Transform(resize="crop"), (300, 223), "300 x 223: 224 x 224 is needed"),
        (STANDARD, (300, 7), "300 x 7: too small"),
        (Transform(border=2), (3, 3), "3 x 3: too small"),
    ),
)
def test_images_that_do_not_come_to_the_size_are_refused(transform, size, message):
    refused(f"x.png is {message}", transform.pixels, Image.new("RGB", size), "x.png")


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
    for size, *shape in NEAR_WHOLE[:: len(NEAR_WHOLE) // 6]:
        image = Image.effect_noise(tuple(shape), 50)
        for turned in (image, image.transpose(Image.Transpose.ROTATE_90)):
            expected = direct(turned, 8, size, "short", 2)
            np.testing.assert_array_equal(Transform(8, size)(turned), expected)


@pytest.mark.parametrize("mode", ("L", "CMYK", "RGB"))
def test_jpegs_of_all_modes_decode_to_rgb(mode):
    encoded = encode(Image.fromarray(PHOTO).convert(mode), "JPEG")
    with Image.open(io.BytesIO(encoded)) as stored:
        assert stored.mode == mode
        np.testing.assert_array_equal(decode(encoded), np.asarray(stored.convert("RGB")))
    assert decode(PHOTO) is PHOTO


@pytest.mark.parametrize("suffix", ("PNG", "JPEG"))
def test_damaged_files_raise_one_clear_error(suffix):
    """Cut short at many places, and with bytes flipped: a decoded image or an InputError."""
    data = encode(Image.fromarray(PHOTO), suffix)
    for keep in (0, 5, 30, 45, 100, len(data) // 2):
        refused("photo.x is not a readable image", decode, data[:keep], "photo.x")
    num_refused = 0
    for place, bits in itertools.product(range(8, 72), (0xFF, 0x01, 0x80)):  # headers
        flipped = data[:place] + bytes([data[place] ^ bits]) + data[place + 1 :]
        try:
            assert decode(flipped).ndim == 3
        except InputError as error:
            num_refused += 1
            assert "a record of" in str(error)
    assert num_refused > 0 or suffix == "JPEG"


RAMP = np.arange(256, dtype=np.uint8).reshape(16, 16)
COLORS = np.stack([RAMP, RAMP[::-1], RAMP.T], axis=-1)
PALETTE = np.random.default_rng(1).integers(0, 256, (256, 3), np.uint8)
# Greys of 16 bits halfway between those of 8: 128.5 x 257 = 33024.5.
DEEP = np.array([[0, 1, 128, 129, 256, 257, 33024, 33025, 65406, 65407, 65535]], np.uint16)
EIGHT = [[0, 0, 0, 1, 1, 1, 128, 129, 254, 255, 255]]


def palette(greys=False, **options):
    image = Image.fromarray(RAMP).convert("P")
    image.putpalette(np.repeat(np.arange(256), 3).tolist() if greys else PALETTE.ravel().tolist())
    return encode(image, "PNG", **options)


def animation(kind, **options):
    frames = [Image.fromarray(x) for x in (COLORS, 255 - COLORS)]
    return encode(frames[0], kind, save_all=True, append_images=frames[1:], **options)


def with_alpha(colors, *alpha):
    alpha = np.resize(np.uint8(alpha), (16, 16, 1))
    colors = colors[..., None] if colors.ndim == 2 else colors
    return np.concatenate([colors, alpha], axis=-1)


def turned():
    exif = Image.Exif()
    exif[0x0112] = 6  # turned by a right angle
    return exif


def profiled():
    from PIL import ImageCms

    return ImageCms.ImageCmsProfile(ImageCms.createProfile("LAB")).tobytes()


GREYS = np.repeat(RAMP[..., None], 3, axis=-1)
CMYK = Image.new("CMYK", (16, 16), (0, 60, 120, 30))
DEEP_RGB = np.repeat(np.uint8(EIGHT)[..., None], 3, axis=-1)
PICTURES = {  # file -> RGB pixels by hand: torchvision's loader has the same, but for 16-bit greys
    "8 bits": (encode(COLORS), COLORS),
    "grey": (encode(RAMP), GREYS),
    "16-bit grey": (encode(DEEP), DEEP_RGB),
    "16-bit grey of 8": (encode(RAMP.astype(np.uint16) * 257), GREYS),
    "16-bit grey, a TIFF": (encode(DEEP, "TIFF"), DEEP_RGB),
    "16-bit grey, big-endian": (
        encode(Image.frombytes("I;16B", (11, 1), DEEP.astype(">u2").tobytes()), "TIFF"),
        DEEP_RGB,
    ),
    "1 bit": (encode(RAMP > 99), np.where(GREYS > 99, 255, 0)),
    "palette": (palette(), PALETTE[RAMP]),
    "palette with a transparent colour": (palette(transparency=7), PALETTE[RAMP]),
    "palette with alphas": (palette(transparency=bytes(range(256))), PALETTE[RAMP]),
    "grey with alpha": (encode(with_alpha(RAMP, 0, 99, 255)), GREYS),
    "colour with alpha": (encode(with_alpha(COLORS, 0, 99, 255)), COLORS),
    "a transparent grey": (encode(RAMP, transparency=9), GREYS),
    "CMYK": (encode(CMYK, "TIFF"), GREYS * 0 + np.uint8([225, 172, 119])),
    "turned by EXIF": (encode(COLORS, exif=turned()), COLORS),
    "with a profile": (encode(COLORS, icc_profile=profiled()), COLORS),
    "animated PNG": (animation("PNG"), COLORS),
    "several TIFF pages": (animation("TIFF"), COLORS),
    "animated WebP": (animation("WEBP", lossless=True), COLORS),
}  # fmt: skip


@pytest.mark.parametrize("kind", PICTURES)
def test_pictures_of_every_mode(kind):
    encoded, expected = PICTURES[kind]
    np.testing.assert_array_equal(decode(encoded), expected)


@pytest.mark.parametrize("mode", ("RGB", "L"))
def test_a_palette_without_colours_is_refused(mode):
    encoded = palette()
    start = encoded.index(b"PLTE") - 4
    length = int.from_bytes(encoded[start : start + 4], "big")
    with pytest.raises(InputError, match="x.png lacks the palette of its colours"):
        open_image(encoded[:start] + encoded[start + 12 + length :], "x.png", mode)


def test_lab_is_converted():
    encoded = encode(Image.fromarray(GREYS).convert("LAB"), "TIFF")
    np.testing.assert_allclose(decode(encoded).astype(int), GREYS, rtol=0, atol=3)


def test_a_profile_of_cmyk_and_the_second_picture_of_a_camera_change_nothing():
    image = CMYK
    np.testing.assert_array_equal(
        decode(encode(image, "JPEG", icc_profile=profiled())), decode(encode(image, "JPEG"))
    )
    first = encode(COLORS, "JPEG", quality=75)
    np.testing.assert_array_equal(decode(animation("MPO", quality=75)), decode(first))


FLOATS = np.linspace(0, 1, 256, dtype=np.float32).reshape(16, 16)
REFUSED = {"32-bit integers .mode I": RAMP.astype(np.int32), "floating-point numbers .m": FLOATS}


@pytest.mark.parametrize("mode", ("RGB", "L"))
@pytest.mark.parametrize("message", REFUSED)
def test_pictures_whose_white_is_not_known_are_refused(message, mode):
    with pytest.raises(InputError, match=f"x.tif has {message}") as error:
        open_image(encode(REFUSED[message], "TIFF"), "x.tif", mode)
    assert "\n" not in str(error.value)


MASKS = {  # file -> greys, or the message
    "grey": (encode(RAMP), RAMP),
    "1 bit": (encode(RAMP > 99), np.where(RAMP > 99, 255, 0)),
    "16 bits": (encode(RAMP.astype("uint16") * 257), RAMP),
    "three equal channels": (encode(GREYS), RAMP),
    "a palette of greys": (palette(greys=True), RAMP),
    "opaque": (encode(with_alpha(GREYS, 255)), RAMP),
    "opaque grey": (encode(with_alpha(RAMP, 255)), RAMP),
    "coloured": (encode(COLORS), "not a mask: it is coloured"),
    "a palette of colours": (palette(), "not a mask: it is coloured"),
    "transparent": (
        encode(with_alpha(RAMP, 0, 255)), "not a mask: it is transparent"
    ),
    "transparent palette": (
        palette(greys=True, transparency=7), "not a mask: it is transparent"
    ),
    "CMYK": (encode(CMYK, "TIFF"), "not a mask: it is coloured"),
}  # fmt: skip


@pytest.mark.parametrize("kind", MASKS)
def test_masks_are_greys_or_refused(kind):
    encoded, expected = MASKS[kind]
    if not isinstance(expected, str):
        np.testing.assert_array_equal(open_image(encoded, "m.png", "L"), expected)
        return
    refused(expected, open_image, encoded, "m.png", "L")


def test_greys_that_jpeg_made_coloured_are_a_mask():
    image = Image.fromarray(np.repeat(RAMP[..., None], 3, axis=-1))
    found = np.asarray(open_image(encode(image, "JPEG", quality=60), "m.jpg", "L"), int)
    assert np.abs(found - RAMP).mean() < 8


def test_arrays_that_are_not_pictures_are_refused():
    """16 bits, floats, no channels, one channel."""
    deep, floats = (x[..., None] * np.ones(3, x.dtype) for x in (DEEP, FLOATS))
    for array in (deep, floats, RAMP, COLORS[..., :1]):
        refused(r"x is .*; expected uint8 \[height, width, 3\]", decode, array, "x")


def test_to_unit():
    pixels = np.array([0, 51, 255], np.uint8)
    np.testing.assert_array_equal(transforms.to_unit(pixels), np.float32([0, 0.2, 1]))

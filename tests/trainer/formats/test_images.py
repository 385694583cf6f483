from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image

from tests.drawn.encoded import chunk, png_head, saved
from trainer.formats.images import (
    ImageError,
    check,
    decode,
    decode_image,
    encode_jpeg,
    encode_png,
    header,
    shrink,
    shrunk_size,
)
from trainer.formats.label_images import decode_label


def ramp(height: int = 5, width: int = 7) -> np.ndarray:
    return np.arange(height * width * 3, dtype=np.uint8).reshape(height, width, 3)


def test_png_round_trip_is_lossless_for_colours_and_ids():
    np.testing.assert_array_equal(decode_image(encode_png(ramp())), ramp())
    np.testing.assert_array_equal(decode_label(encode_png(ramp()[..., 0])), ramp()[..., 0])


def test_jpeg_keeps_channel_order():
    red = np.zeros((16, 16, 3), np.uint8)
    red[..., 0] = 250
    decoded = decode_image(encode_jpeg(red))
    assert decoded[..., 0].min() > 240
    assert decoded[..., 1:].max() < 15


@pytest.mark.parametrize("shape", [(1, 65_500), (65_500, 1)])
def test_a_side_that_no_jpeg_can_have_is_named(shape):
    assert decode_image(encode_jpeg(np.zeros((*shape, 3), np.uint8))).shape[:2] == shape
    longer = np.zeros((*(side + (side > 1) for side in shape), 3), np.uint8)
    with pytest.raises(ImageError, match=r"(65501x1|1x65501) pixels cannot be written as a JPEG, .* 65,500 on a side"):
        encode_jpeg(longer)


@pytest.mark.parametrize("mode", ["RGB", "L"])
@pytest.mark.parametrize("subsampling", ["4:4:4", "4:2:2", "4:2:0", "4:1:1"])
@pytest.mark.parametrize("size", [(1, 1), (7, 9), (16, 16), (33, 70)])
def test_a_sound_jpeg_is_decoded_without_pillow_to_the_pixels_of_pillow(mode, subsampling, size, monkeypatch):
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 256, (*size, 3)).astype(np.uint8)).convert(mode)
    options = {} if mode == "L" else {"subsampling": subsampling, "restart_marker_blocks": 2}
    data = saved(noise, format="JPEG", quality=80, **options)
    expected = np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))
    monkeypatch.setattr("trainer.formats.images.load_pillow", None)
    np.testing.assert_array_equal(decode_image(data), expected)


@pytest.mark.parametrize("progressive", [False, True])
def test_a_jpeg_may_have_fill_bytes_before_its_end(progressive):
    data = saved(Image.new("RGB", (40, 30), (128, 128, 128)), format="JPEG", progressive=progressive)
    for fill in (1, 2, 7):
        np.testing.assert_array_equal(decode_image(data[:-2] + b"\xff" * fill + data[-2:]), decode_image(data))


@pytest.mark.parametrize(
    ("image", "options"),
    [
        (ramp(33, 70), {"format": "JPEG", "subsampling": "4:2:0"}),
        (ramp(33, 70)[..., 0], {"format": "JPEG"}),
        (ramp(33, 70), {"format": "PNG"}),
        (ramp(33, 70)[..., 0], {"format": "PNG"}),
    ],
)
def test_sound_images_are_checked_without_being_decoded(image, options, monkeypatch):
    data = saved(image, **options)
    expected = decode(data)[0]
    monkeypatch.setattr("trainer.formats.images.decode", None)
    assert check(data) == expected


def test_header_tells_size_and_orientation_without_decoding():
    exif = Image.Exif()
    exif[0x0112] = 6
    data = saved(ramp(), format="JPEG", exif=exif)
    found = header(data)
    assert (found.format, found.width, found.height, found.mode, found.orientation) == ("jpeg", 7, 5, "RGB", 6)
    assert found.upright_size == (7, 5)


def test_exif_orientation_is_applied():
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was turned: rotate by 90 degrees clockwise to see it upright
    image = np.zeros((8, 16, 3), np.uint8)
    image[:, :8] = 255
    upright = decode_image(saved(image, format="PNG", exif=exif))
    assert upright.shape == (16, 8, 3)
    assert upright[0].min() == 255 and upright[-1].max() == 0


@pytest.mark.parametrize(
    ("image", "expected"),
    [
        (Image.new("L", (2, 2), 9), 9),
        (Image.new("P", (2, 2), 9), None),
        (Image.fromarray(np.full((2, 2), 9 * 257, np.uint16)), 9),
    ],
)
def test_other_modes_become_rgb(image, expected):
    decoded = decode_image(saved(image, format="PNG"))
    assert decoded.shape == (2, 2, 3) and decoded.dtype == np.uint8
    if expected is not None:
        assert (decoded == expected).all()


@pytest.mark.parametrize("format", ["JPEG", "PNG"])
def test_truncated_images_are_refused(format):
    noise = np.random.default_rng(1).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    data = saved(noise, format=format)
    with pytest.raises(ImageError, match="truncated"):
        decode_image(data[: len(data) // 2])


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "empty"),
        (b"this is a text\n", "not an image: begins with"),
        (b"\xff\xd8\xff", "truncated JPEG"),
        (saved(Image.new("L", (9, 9)), format="GIF"), "is a GIF, which is not read; save it as PNG"),
        (saved(Image.new("RGB", (9, 9)), format="AVIF"), "is AVIF, which is not read"),
        (saved(Image.new("RGB", (9, 9)), format="JPEG2000"), "is JPEG 2000, which is not read"),
        (b"\0\0\0\x18ftypmif1", "is HEIC, which is not read"),
        (b'<?xml version="1.0"?>\n<svg xmlns="x"/>', "is an SVG, which is not read"),
        (b'<?xml version="1.0"?>\n<Error>', "not an image but a web page or an XML file"),
        (b"\n<!doctype HTML>", "not an image but a web page"),
        (b"version https://git-lfs.github.com/spec/v1\n", "`git lfs pull`"),
    ],
)
def test_what_is_not_an_image_is_refused_with_the_reason(data, message):
    with pytest.raises(ImageError, match=message):
        decode_image(data)


def test_size_is_bounded_before_pixels_are_decoded():
    # A few hundred bytes that would become 400 million pixels.
    data = saved(Image.new("1", (20_000, 20_000)), format="PNG")
    with pytest.raises(ImageError, match=r"limit|bomb"):
        decode_image(data)
    with pytest.raises(ImageError, match=r"over the limit of 178,956,970; shrink it, or cut it into tiles$"):
        header(data)
    cures = "shrink it, or cut it into tiles, or raise --max-pixels if memory allows"
    with pytest.raises(ImageError, match=f"5x5 is 25 pixels, over the limit of 24; {cures}$"):
        decode_image(encode_png(ramp(5, 5)), max_pixels=24)
    decode_image(encode_png(ramp(5, 5)), max_pixels=25)
    largest = png_head(10_922, 16_385) + chunk(b"IDAT", b"") + chunk(b"IEND")
    assert header(largest).width * header(largest).height == 178_956_970


@pytest.mark.parametrize(
    ("size", "max_side", "expected"),
    [
        ((360, 480), 0, (360, 480)),
        ((360, 480), 480, (360, 480)),
        ((360, 480), 240, (180, 240)),
        ((480, 360), 241, (241, 181)),
        ((1, 3000), 100, (1, 100)),
    ],
)
def test_the_longest_side_is_shrunk_and_never_enlarged(size, max_side, expected):
    assert shrunk_size(*size, max_side) == expected
    assert shrink(np.zeros((*size, 3), np.uint8), max_side).shape == (*expected, 3)


def test_shrinking_averages_areas_and_leaves_what_fits_as_it_is():
    image = np.array([[0, 10, 4, 8], [20, 30, 0, 0]], np.uint8)[..., None].repeat(3, axis=2)
    np.testing.assert_array_equal(shrink(image, 2)[..., 0], [[15, 3]])
    assert shrink(image, 4) is image

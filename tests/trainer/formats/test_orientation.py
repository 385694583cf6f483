"""EXIF orientation: read from damaged bytes without harm, applied by a table, the same in every format."""

from __future__ import annotations

import io
import struct
import zlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageOps

from tests.drawn.encoded import chunk, exif_block, noise, palette_png, saved, with_exif
from trainer.formats.containers import exif_orientation
from trainer.formats.images import ImageError, decode_image, header
from trainer.formats.label_images import decode_label, read_label

ORIENTATIONS = range(1, 9)


def upright(pixels: np.ndarray, orientation: int) -> np.ndarray:
    image = Image.fromarray(pixels)
    image.getexif()[0x0112] = orientation
    return np.asarray(ImageOps.exif_transpose(image))


def png_with(pixels: np.ndarray, *before: tuple[bytes, bytes], after: tuple[tuple[bytes, bytes], ...] = ()) -> bytes:
    data = saved(pixels)
    end = data.index(b"IEND") - 4
    return (
        data[:33]
        + b"".join(chunk(*each) for each in before)
        + data[33:end]
        + b"".join(chunk(*each) for each in after)
        + data[end:]
    )


def raw_profile(block: bytes) -> bytes:
    lines = f"\nexif\n{len(block):8}\n".encode() + block.hex().encode()
    return b"Raw profile type exif\0\0" + zlib.compress(lines)


FORMATS = {
    "jpeg": lambda pixels, block: saved(pixels, "JPEG", exif=b"Exif\0\0" + block, quality=100, subsampling=0),
    "png": lambda pixels, block: png_with(pixels, (b"eXIf", block)),
    "png, behind the pixels": lambda pixels, block: png_with(pixels, after=((b"eXIf", block),)),
    "png, as text": lambda pixels, block: png_with(pixels, (b"zTXt", raw_profile(block))),
    "webp": lambda pixels, block: saved(pixels, "WEBP", exif=block, lossless=True),
    "tiff": lambda pixels, block: saved(pixels, "TIFF", tiffinfo={0x0112: exif_orientation(block)}),
    "tiff, compressed": lambda pixels, block: saved(
        pixels, "TIFF", tiffinfo={0x0112: exif_orientation(block)}, compression="tiff_lzw"
    ),
}


@pytest.mark.parametrize("orientation", ORIENTATIONS)
@pytest.mark.parametrize("format", FORMATS)
def test_every_orientation_is_applied_in_every_format(format, orientation):
    pixels = noise(8, 16)
    data = FORMATS[format](pixels, exif_block(orientation))
    found = header(data)
    assert (found.width, found.height, found.orientation) == (16, 8, orientation)
    decoded = decode_image(data)
    assert decoded.shape[:2] == found.upright_size and decoded.flags.c_contiguous
    expected = upright(pixels, orientation)
    if format == "jpeg":
        stored = decode_image(FORMATS["jpeg"](pixels, exif_block(1)))
        expected = upright(stored, orientation)
    np.testing.assert_array_equal(decoded, expected)


@pytest.mark.parametrize("orientation", ORIENTATIONS)
def test_labels_are_turned_as_images_are(orientation):
    ids = noise(8, 16, 1)
    block = exif_block(orientation, "<")
    np.testing.assert_array_equal(decode_label(png_with(ids, (b"eXIf", block))), upright(ids, orientation))
    tiff = saved(ids, "TIFF", tiffinfo={0x0112: orientation})
    np.testing.assert_array_equal(decode_label(tiff), upright(ids, orientation))
    indexed = palette_png(ids, noise(256, 3, 1))
    indexed = indexed[:33] + chunk(b"eXIf", block) + indexed[33:]
    np.testing.assert_array_equal(decode_label(indexed), upright(ids, orientation))


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("value", [0, 9, 255, 65535])
def test_an_orientation_that_there_is_not_is_upright(value, order):
    assert exif_orientation(exif_block(value, order)) == 1


def test_an_orientation_is_read_whichever_whole_number_it_is():
    block = exif_block(1)
    place = block.index(b"\x01\x12")
    for kind, value in ((1, b"\x06\0\0\0"), (4, struct.pack(">I", 6))):
        wide = block[: place + 2] + struct.pack(">HI", kind, 1) + value + block[place + 12 :]
        assert exif_orientation(wide) == 6
    text = block[: place + 2] + struct.pack(">HI", 2, 1) + b"6\0\0\0" + block[place + 12 :]
    assert exif_orientation(text) == 1


@pytest.mark.parametrize("byte", range(len(exif_block(6))))
def test_no_byte_of_exif_costs_a_turned_image(byte):
    jpeg, block = saved(noise(8, 16), "JPEG"), exif_block(6)
    for value in (0, 1, 5, 11, 13, 27, 84, 127, 255):
        damaged = block[:byte] + bytes([value]) + block[byte + 1 :]
        assert decode_image(with_exif(jpeg, damaged)).shape in ((8, 16, 3), (16, 8, 3))


def test_of_several_profiles_in_texts_the_last_counts_alone_as_for_pillow():
    """Each may take as long to unpack as a megabyte."""
    data = png_with(noise(8, 16), *((b"zTXt", raw_profile(exif_block(orientation))) for orientation in (6, 3)))
    np.testing.assert_array_equal(decode_image(data), ImageOps.exif_transpose(Image.open(io.BytesIO(data))))
    assert header(data).orientation == 3


@settings(max_examples=100, deadline=None, derandomize=True)
@given(st.one_of(st.binary(max_size=80), st.builds(lambda tail: exif_block(6)[:20] + tail, st.binary(max_size=80))))
def test_no_exif_costs_an_image(block):
    assert exif_orientation(block) in ORIENTATIONS
    for data in (
        with_exif(saved(noise(8, 16), "JPEG"), block),
        png_with(noise(8, 16), (b"eXIf", block)),
        png_with(noise(8, 16), (b"zTXt", raw_profile(block))),
        png_with(noise(8, 16), (b"tEXt", b"Raw profile type exif\0" + block)),
    ):
        assert decode_image(data).shape in ((8, 16, 3), (16, 8, 3))
        assert decode_label((data[:2] == b"\xff\xd8" and png_with(noise(8, 16))) or data).size


@settings(max_examples=100, deadline=None, derandomize=True)
@given(st.binary(max_size=60), st.integers(8, 120))
def test_a_damaged_directory_of_a_tiff_costs_that_image_alone(damage, place):
    data = saved(noise(8, 16), "TIFF", tiffinfo={0x0112: 6})
    begin = struct.unpack_from("<I", data, 4)[0]
    data = data[: begin + place - 8] + damage + data[begin + place - 8 + len(damage) :]
    for decode in (header, decode_image, read_label):
        try:
            decode(data, max_pixels=10_000)
        except ImageError as error:
            assert str(error)

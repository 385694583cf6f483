"""TIFFs as satellites, microscopes and CTs write them: read to the right values, or refused by what they are."""

from __future__ import annotations

import itertools
import zlib

import numpy as np
import pytest
from PIL import Image

from tests.drawn.encoded import noise, saved, tiff, tiff_file, tiff_of_12_bits, tiff_of_jpeg, ycbcr_tiff
from trainer.formats.containers import directories
from trainer.formats.images import ImageError, decode, decode_image
from trainer.formats.label_images import decode_label

LAYOUTS = [
    dict(zip(("order", "packed", "planes", "tile"), layout, strict=True))
    for layout in itertools.product("<>", (False, True), (False, True), (0, 16))
]


def decoded_or_refused(data: bytes, expected: np.ndarray) -> bool:
    """Whether it is decoded; refused, it is by a message that says what it is and what to do."""
    try:
        found = decode_image(data)
    except ImageError as error:
        assert "is a TIFF of" in str(error) and "gdal_translate" in str(error), error
        return False
    assert np.abs(found.astype(int) - expected).max() <= 1
    return True


@pytest.mark.parametrize("samples", [1, 2, 3, 4, 5])
@pytest.mark.parametrize("bits", [8, 16])
def test_every_arrangement_of_samples_is_read_rightly_or_refused(samples, bits):
    pixels = noise(21, 34, 5)[..., :samples]
    expected = pixels[..., :3] if samples >= 3 else pixels[..., [0, 0, 0]]
    stored = pixels if bits == 8 else pixels.astype(np.uint16) * 257
    read = [layout for layout in LAYOUTS if decoded_or_refused(tiff(stored, **layout), expected)]
    if samples in (1, 3, 4):
        assert all(layout in read for layout in LAYOUTS if not layout["planes"] or samples == 1)


@pytest.mark.parametrize("kind", [np.uint8, np.uint16])
@pytest.mark.parametrize("samples", [3, 4, 5, 6])
def test_samples_that_are_called_greys_are_read_as_red_green_and_blue(samples, kind):
    pixels = noise(21, 34, 6)[..., :samples]
    stored = pixels.astype(kind) * kind(np.iinfo(kind).max // 255)
    read = [layout for layout in LAYOUTS if decoded_or_refused(tiff(stored, **layout, meaning=1), pixels[..., :3])]
    if samples <= 4 or kind is np.uint8:
        assert all(layout in read for layout in LAYOUTS if not layout["planes"])
    np.testing.assert_array_equal(decode_label(tiff(noise(), meaning=1)), noise())


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("bits", [1, 2, 4, 8])
def test_palette_indices_whose_bits_are_stored_in_reverse_are_read(bits, order, packed):
    indices = np.random.default_rng(0).integers(0, 1 << bits, (9, 16), np.uint8)
    rows = np.packbits(np.unpackbits(indices[..., None], axis=2)[..., -bits:].reshape(9, -1), axis=1)
    stored = rows.tobytes() if not packed else zlib.compress(rows.tobytes())
    reverse = np.packbits(np.unpackbits(np.frombuffer(stored, np.uint8)), bitorder="little").tobytes()
    tags = {256: [16], 257: [9], 258: [bits], 259: [8 if packed else 1], 262: [3], 266: [2], 277: [1], 278: [9]}
    tags |= {320: [3 * index for index in range(1 << bits)] * 3}
    np.testing.assert_array_equal(decode_label(tiff_file(tags, [reverse], order)), indices)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_greys_with_a_sign_are_read_unless_their_bytes_would_be_swapped(layout):
    grey = np.arange(21 * 34, dtype=np.int16).reshape(21, 34) * 40
    is_swapped = layout["order"] == ">" and layout["packed"]
    assert decoded_or_refused(tiff(grey, **layout), np.round(grey / 257).astype(int)[..., None]) != is_swapped


def test_deep_greys_in_which_0_is_white_are_refused():
    grey = noise(9, 14, 1).astype(np.uint16) * 257
    with pytest.raises(ImageError, match="1 sample of 16 bits, in which 0 is white"):
        decode_image(tiff(grey, meaning=0))
    np.testing.assert_array_equal(decode_image(tiff(noise(9, 14, 1), meaning=0))[..., 0], 255 - noise(9, 14, 1))


@pytest.mark.parametrize(
    ("values", "found"), [((-1000, 3000), "-1000 to 3000"), ((0, 1_000_000), "0 to 1000000"), ((-5, -1), "-5 to -1")]
)
def test_greys_of_unknown_range_are_refused_rather_than_cut(values, found):
    grey = np.resize(np.int32(values), (9, 14))
    with pytest.raises(ImageError, match=f"values are {found}, of unknown range; expected 0 to 65535"):
        decode_image(tiff(grey))


def test_samples_that_no_decoder_takes_are_named():
    cube = noise(9, 14, 5).astype(np.float32)
    with pytest.raises(
        ImageError, match="is a TIFF of 5 floating-point samples of 32 bits, in separate planes, which"
    ):
        decode_image(tiff(cube, planes=True))


@pytest.mark.parametrize(
    ("samples", "kind", "flags"),
    [
        (3, np.uint16, ""),
        (4, np.uint16, ""),
        (6, np.uint16, "-b 1 -b 2 -b 3 "),
        (2, np.uint32, "-b 1 -ot UInt16 "),
        (4, np.int16, "-ot UInt16 "),
        (5, np.float32, "-b 1 -b 2 -b 3 -ot UInt16 -scale "),
    ],
)
def test_the_cure_of_a_tiff_changes_only_what_is_wrong_with_it(samples, kind, flags):
    with pytest.raises(ImageError, match=f"convert it by gdal_translate {flags}-co INTERLEAVE=PIXEL$"):
        decode_image(tiff(noise(9, 14, 6)[..., :samples].astype(kind), planes=True))


def test_deep_labels_are_read_rightly_or_refused():
    ids = np.resize(np.int16([0, 1, 2]), (9, 14))
    for layout in LAYOUTS:
        if layout["order"] == ">" and layout["packed"]:
            with pytest.raises(ImageError, match="is a TIFF of 1 signed sample of 16 bits, in Motorola's byte order"):
                decode_label(tiff(ids, **layout))
        else:
            np.testing.assert_array_equal(decode_label(tiff(ids, **layout)), ids)


SUBSAMPLING = [(1, 1), (1, 2), (2, 1), (2, 2), (4, 1), (4, 2)]


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize(("across", "down"), SUBSAMPLING)
def test_ycbcr_is_read_alike_with_and_without_compression(across, down, order):
    ycbcr = np.repeat(np.repeat(noise(6, 9), 4, axis=0), 4, axis=1)[:21, :34]
    ycbcr[..., 0] = noise(21, 34, 1)
    expected = np.asarray(Image.fromarray(ycbcr, "YCbCr").convert("RGB"))
    for packed in (False, True):
        found = decode_image(ycbcr_tiff(ycbcr, across, down, order, packed))
        assert np.abs(found.astype(int) - expected).max() <= 2
    cut = ycbcr_tiff(ycbcr, across, down, order)[:-1]
    with pytest.raises(ImageError, match="damaged or truncated TIFF"):
        decode_image(cut)


def test_ycbcr_that_libtiff_decodes_wrongly_is_refused():
    for across, down in ((4, 4), (1, 4)):
        with pytest.raises(
            ImageError, match=f"in YCbCr colours with chroma of {across}x{down} pixels, which cannot be decoded rel"
        ):
            decode_image(ycbcr_tiff(noise(), across, down))


def test_greys_of_12_bits_are_scaled_by_their_own_range():
    grey = np.arange(4096).reshape(64, 64)
    header, pixels = decode(tiff_of_12_bits(grey))
    np.testing.assert_array_equal(pixels[..., 0], np.round(grey / 4095 * 255))
    assert header.brightest == 65535
    assert decode(tiff_of_12_bits(grey // 16))[0].brightest == 255


def test_greys_of_8_bits_with_a_sign_are_refused_if_they_are_negative():
    grey = np.resize(np.arange(128, dtype=np.int8), (9, 14))
    np.testing.assert_array_equal(decode_image(tiff(grey))[..., 0], grey)
    for decoder in (decode_image, decode_label):
        with pytest.raises(ImageError, match="is a TIFF of 1 signed sample of 8 bits, which cannot be decoded rel"):
            decoder(tiff(-grey))


def test_old_style_jpegs_are_read_if_they_are_whole_and_their_colours_known():
    image = np.repeat(np.repeat(noise(2, 4), 16, axis=0), 16, axis=1)
    grey, color = (saved(pixels, "JPEG", quality=98, subsampling=0) for pixels in (image[..., 0], image))
    for data, expected in (
        (tiff_of_jpeg(grey, (32, 64), 1, 1), image[..., :1]),
        (tiff_of_jpeg(color, (32, 64)), image),
    ):
        assert np.abs(decode_image(data).astype(int) - expected).max() <= 6
        with pytest.raises(ImageError, match="damaged or truncated TIFF: its JPEG ends after the file"):
            decode_image(data[:-20])
    with pytest.raises(ImageError, match="3 samples of 8 bits, compressed as old-style JPEG, which cannot be decoded"):
        decode_image(tiff_of_jpeg(saved(image, "JPEG", keep_rgb=True), (32, 64), meaning=2))


def test_what_is_not_read_is_named_by_its_coding_and_colours():
    for tag, value, found in (
        (259, 50002, "compressed as JPEG XL, .*; expected no compression, or LZW, deflate or JPEG; "),
        (259, 50001, "compressed as WebP; expected no compression"),
        (259, 65000, "compressed as number 65000 of codings, "),
        (262, 9, "in ICCLab colours, which is not read; expected greys, RGB, CMYK, or a palette of 8 bits"),
    ):
        with pytest.raises(ImageError, match=f"is a TIFF of 3 samples of 8 bits, {found}"):
            decode_image(changed(tiff(noise()), tag, value))
    big = (
        b"MM\0+\0\x08\0\0"
        + (16).to_bytes(8, "big")
        + (1).to_bytes(8, "big")
        + bytes.fromhex("0100 0004 0000000000000001 0000000900000000".replace(" ", ""))
        + bytes(8)
    )
    with pytest.raises(ImageError, match="is a BigTIFF in Motorola's byte order, which is not read; save it as PNG"):
        decode_image(big)


def changed(data: bytes, tag: int, value: int) -> bytes:
    """A little-endian TIFF with another value of a tag."""
    place = next(directories(data)).places[tag] + 8
    return data[:place] + value.to_bytes(4, "little") + data[place + 4 :]

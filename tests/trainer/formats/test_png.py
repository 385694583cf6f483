"""PNGs: whatever is damaged is refused, in images and labels alike; what is odd but whole is read."""

from __future__ import annotations

import io
import zlib

import numpy as np
import pytest
from PIL import Image

from tests.drawn.encoded import chunk, noise, palette_png, png, png_head, saved
from trainer.formats.containers import check_png, png_chunks
from trainer.formats.images import ImageError, check, decode_image, header
from trainer.formats.label_images import decode_label

ROWS = b"".join(b"\0" + noise(1, 14 * 3, 1, seed=y).tobytes() for y in range(9))
STREAM = zlib.compress(ROWS)
TEXT = (b"tEXt", b"Comment\0drawn by hand")


def flipped(data: bytes, byte: int) -> bytes:
    return data[:byte] + bytes([data[byte] ^ 1 << byte % 8]) + data[byte + 1 :]


@pytest.mark.parametrize(
    "data",
    [
        png(before=[TEXT], after=[TEXT]),
        png(colors=0),
        png(depth=16),
        palette_png(noise(5, 6, 1), noise(256, 3, 1)),
    ],
    ids=["rgb and texts", "grey", "16 bits", "palette"],
)
def test_one_flipped_bit_anywhere_is_found(data):
    assert decode_image(data).any() and decode_label(data if data[24] == 8 else png(colors=0)).any()
    for byte in range(len(data)):
        with pytest.raises(ImageError):
            decode_image(flipped(data, byte))
        with pytest.raises(ImageError):
            decode_label(flipped(data, byte))


def test_one_flipped_bit_of_a_large_image_is_found_at_its_chunk():
    data = saved(noise(200, 300))
    check_png(data, png_chunks(data))
    for byte in range(60, len(data) - 20, 997):
        with pytest.raises(ImageError, match=r"checksum of chunk b'IDAT' at byte|claims"):
            damaged = flipped(data, byte)
            check_png(damaged, png_chunks(damaged))


@pytest.mark.parametrize("end", [1, 4, 8, 12, 13, 16, 40, 200])
def test_a_png_without_its_end_is_refused(end):
    with pytest.raises(ImageError, match="truncated"):
        decode_image(png()[:-end])


@pytest.mark.parametrize(
    "stream",
    [
        STREAM[:-1] + bytes([STREAM[-1] ^ 1]),
        STREAM[:-4],
        STREAM[:-2],
        zlib.compress(ROWS[:-1]),
        zlib.compress(ROWS[:-43]),
        zlib.compress(b"\7" + ROWS[1:]),
        b"",
        b"no zlib stream",
    ],
    ids=["checksum", "no checksum", "half", "a byte short", "a row short", "unknown filter", "empty", "not zlib"],
)
def test_faults_of_the_compressed_pixels_are_found_behind_right_checksums_of_chunks(stream):
    data = png(stream=stream)
    check_png(data, png_chunks(data))
    for decode in (decode_image, decode_label):
        with pytest.raises(ImageError, match="compressed pixels"):
            decode(data)


@pytest.mark.parametrize("depth", [1, 2, 4, 8])
def test_faults_of_the_compressed_indices_are_found_as_well(depth):
    line = -(-14 * depth // 8)
    short = zlib.compress((b"\0" + b"\0" * line) * 8)
    with pytest.raises(ImageError, match="compressed pixels"):
        decode_label(png(depth, 3, stream=short, before=[(b"PLTE", bytes(3 << depth))]))


@pytest.mark.parametrize(
    "data",
    [
        png(before=[(b"IHDR", png_head(14, 9)[16:29])]),
        png(before=[(b"ABCD", b"")]),
        png(before=[(b"\x7fHRM", b"")]),
        png(stream=STREAM[:50], after=[TEXT, (b"IDAT", STREAM[50:])]),
        png(colors=3),
        png(after=[(b"PLTE", bytes(12))]),
        png(before=[(b"PLTE", bytes(12)), (b"PLTE", bytes(12))]),
        png_head(14, 9) + chunk(b"IEND"),
        png()[:8] + chunk(b"IDAT", STREAM) + png()[8:],
        png()[:-12] + chunk(b"IEND", b"x"),
        png(depth=3),
        png_head(14, 9, interlace=2) + png()[33:],
        png_head(0, 9) + png()[33:],
        png_head(14, 1 << 31) + png()[33:],
    ],
    ids=[
        *(
            "two headers",
            "unknown chunk",
            "no name of a chunk",
            "pixels in two places",
            "no palette",
            "late palette",
            "two palettes",
        ),
        *("no pixels", "pixels before the header", "an end that holds something", "3 bits", "interlace", "no width"),
        "negative height",
    ],
)
def test_chunks_that_no_reader_takes_are_refused(data):
    for read in (header, decode_image, decode_label):
        with pytest.raises(ImageError):
            read(data)


@pytest.mark.parametrize(
    "data",
    [
        png(stream=STREAM + b"more"),
        png(rows=ROWS + b"more"),
        png(stream=STREAM[:50], after=[(b"IDAT", STREAM[50:]), (b"IDAT", b"")]),
        png(rows=ROWS) + b"more",
        png(rows=ROWS, before=[(b"gAMA", (90909).to_bytes(4, "big")), (b"iCCP", b"no profile"), (b"tRNS", b"x")]),
        png(rows=ROWS, before=[(b"zTXt", b"k\0\0" + b"no zlib")], after=[(b"eXIf", b"no EXIF"), (b"iTXt", b"x")]),
        png(rows=ROWS, before=[(b"zTXt", b"k\0\0" + zlib.compress(bytes(70 << 20)))]),
        png(rows=ROWS, before=[(b"abCd", b"private")]),
    ],
    ids=["more stream", "more rows", "parts", "trailing bytes", "profiles", "texts", "text bomb", "private"],
)
def test_damage_outside_the_pixels_costs_no_image(data):
    expected = np.frombuffer(ROWS, np.uint8).reshape(9, 43)[:, 1:].reshape(9, 14, 3)
    np.testing.assert_array_equal(decode_image(data), expected)
    np.testing.assert_array_equal(decode_label(data), expected)


@pytest.mark.parametrize(
    ("colors", "depth"),
    [
        *((0, depth) for depth in (1, 2, 4, 8, 16)),
        *((3, depth) for depth in (1, 2, 4, 8)),
        *((colors, depth) for colors in (2, 4, 6) for depth in (8, 16)),
    ],
)
def test_every_kind_of_png_becomes_the_rgb_that_pillow_gives(colors, depth):
    data = png(depth, colors, before=[(b"PLTE", noise(1 << depth, 3, 1).tobytes())] if colors == 3 else ())
    image = Image.open(io.BytesIO(data))
    if (colors, depth) == (0, 16):
        grey = (np.asarray(image) / 257).round().astype(np.uint8)
        np.testing.assert_array_equal(decode_image(data), np.repeat(grey[..., None], 3, axis=2))
    else:
        np.testing.assert_array_equal(decode_image(data), np.asarray(image.convert("RGB")))
    if colors == 3:
        np.testing.assert_array_equal(decode_label(data), np.asarray(image))


def test_an_interlaced_png_is_read():
    rows = b""
    for height, width in ((1, 1), (1, 1), (1, 2), (2, 2), (2, 4), (4, 4), (4, 8)):
        rows += (b"\0" + b"\x07\x08\x09" * width) * height
    data = png_head(8, 8, interlace=1) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND")
    assert (decode_image(data) == [7, 8, 9]).all()


@pytest.mark.parametrize("interlace", [0, 1])
@pytest.mark.parametrize(("depth", "colors"), [(8, 2), (8, 0), (1, 0), (16, 6), (4, 3)])
def test_pixels_that_go_on_behind_the_image_are_refused_but_for_a_few(depth, colors, interlace):
    palette = [(b"PLTE", bytes(range(48)))] if colors == 3 else []
    whole = png(depth, colors, (8, 8), before=palette)
    rows = bytes(999) if interlace else zlib.decompress(whole[whole.index(b"IDAT") + 4 : -16])
    begin = png_head(8, 8, depth, colors, interlace) + b"".join(chunk(*each) for each in palette)
    longer = lambda count: begin + chunk(b"IDAT", zlib.compress(rows + bytes(count))) + chunk(b"IEND")
    expected = decode_image(longer(0))
    for count in (1, 33, 5000):
        np.testing.assert_array_equal(decode_image(longer(count)), expected)
        assert check(longer(count)).width == 8
    for decode in (decode_image, check, decode_label)[: 3 if depth == 8 else 2]:
        with pytest.raises(
            ImageError, match=r"damaged PNG: its compressed data continue after the [\d,]+ bytes of its pix"
        ):
            decode(longer(8 << 20))

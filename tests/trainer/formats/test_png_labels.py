"""PNGs of one channel with simple filters, as labels are: decoded without libpng, to the same values and errors."""

from __future__ import annotations

import functools
import io
import zlib

import cv2
import numpy as np
import pytest
from PIL import Image

from tests.drawn.encoded import noise, palette_png, png, saved
from trainer.formats import images
from trainer.formats.containers import png_chunks
from trainer.formats.images import ImageError
from trainer.formats.label_images import decode_label, encode_label
from trainer.train import crops

SIZE = 40, 14
ROWS = b"".join(b"\0" + noise(1, 14, 1, seed=y).tobytes() for y in range(40))
STREAM = zlib.compress(ROWS)
PALETTE = (b"PLTE", noise(256, 3, 1).tobytes())


def filters(data: bytes) -> bytes:
    """The number of the filter of every row of a PNG of 8 bits and one channel."""
    rows = zlib.decompress(b"".join(data[begin:end] for kind, begin, end in png_chunks(data) if kind == b"IDAT"))
    return rows[:: 1 + int.from_bytes(data[16:20], "big")]


def png_of_opencv(ids: np.ndarray) -> bytes:
    return cv2.imencode(".png", ids)[1].tobytes()


@pytest.fixture
def no_libpng(monkeypatch):
    monkeypatch.setattr(images.cv2, "imdecode", None)


@pytest.mark.parametrize("size", [(1, 1), (1, 300), (300, 1), (16, 5), (17, 5), (360, 480)])
def test_a_label_is_decoded_without_libpng(size, no_libpng):
    ids = noise(*size, channels=1)
    for decode in (decode_label, crops.decode_label):
        found = decode(encode_label(ids))
        np.testing.assert_array_equal(found, ids)
        assert found.flags.c_contiguous


def test_the_indices_of_a_palette_are_decoded_without_libpng(no_libpng):
    ids = noise(33, 21, 1)
    np.testing.assert_array_equal(decode_label(palette_png(ids, noise(256, 3, 1))), ids)


def boxes(height: int, width: int) -> np.ndarray:
    """A label as they are drawn: few values, in areas; 0 in front or not."""
    rng = np.random.default_rng(height + width)
    ids = np.full((height, width), rng.integers(2), np.uint8)
    for _ in range(6):
        y, x = rng.integers(height), rng.integers(width)
        ids[y : y + height // 3 + 1, x : x + width // 3 + 1] = rng.integers(256)
    return ids


@pytest.mark.parametrize("size", [(1, 2), (1, 300), (300, 2), (16, 5), (33, 40), (90, 120), (91, 120)])
@pytest.mark.parametrize("draw", [boxes, functools.partial(noise, channels=1)])
def test_a_label_of_opencv_is_decoded_without_libpng(size, draw, no_libpng):
    ids = draw(*size)
    data = png_of_opencv(ids)
    assert set(filters(data)) == {1}
    np.testing.assert_array_equal(decode_label(data), ids)
    np.testing.assert_array_equal(crops.decode_label(data), ids)


@pytest.mark.parametrize("colors", [0, 3])
@pytest.mark.parametrize("row", [0, 15, 16, 39])
@pytest.mark.parametrize("number", range(5))
@pytest.mark.parametrize("others", [0, 1])
def test_a_filter_of_any_row_is_undone(others, number, row, colors):
    rows = bytearray(ROWS)
    rows[::15] = bytes([others]) * 40
    rows[15 * row] = number
    data = png(8, colors, SIZE, bytes(rows), before=[PALETTE] if colors else ())
    np.testing.assert_array_equal(decode_label(data), np.asarray(Image.open(io.BytesIO(data))))


@pytest.mark.parametrize("colors", [0, 3])
@pytest.mark.parametrize(
    "stream",
    [
        STREAM[:-1] + bytes([STREAM[-1] ^ 1]),
        STREAM[:-4],
        STREAM[: len(STREAM) // 2],
        zlib.compress(ROWS[:-1]),
        zlib.compress(ROWS[:-15]),
        zlib.compress(ROWS[:-15] + b"\7" + ROWS[-14:]),
        b"",
        b"no zlib stream",
    ],
    ids=["checksum", "no checksum", "half", "a byte short", "a row short", "unknown filter", "empty", "not zlib"],
)
def test_faults_of_the_compressed_values_are_found(stream, colors):
    with pytest.raises(ImageError, match="compressed pixels"):
        decode_label(png(8, colors, SIZE, stream=stream, before=[PALETTE] if colors else ()))


@pytest.mark.parametrize("stream", [STREAM + b"more", zlib.compress(ROWS + b"more"), zlib.compress(ROWS + bytes(999))])
def test_what_follows_the_values_costs_no_label(stream):
    expected = np.frombuffer(ROWS, np.uint8).reshape(40, 15)[:, 1:]
    np.testing.assert_array_equal(decode_label(png(8, 0, SIZE, stream=stream)), expected)


def test_training_reads_a_grey_label_with_filters_and_no_other_format():
    ids = noise(20, 30, 1)
    data = saved(ids)
    assert set(filters(data)) > {1}, "Pillow chooses a filter for every row"
    np.testing.assert_array_equal(crops.decode_label(data), ids)
    with pytest.raises(ValueError, match="its label is not a PNG"):
        crops.decode_label(cv2.imencode(".bmp", ids)[1].tobytes())

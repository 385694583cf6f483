"""BMPs with a colour table are read by their indices, whatever their colours and however their rows are coded."""

from __future__ import annotations

import struct

import cv2
import numpy as np
import pytest

from trainer.formats.containers import ImageError
from trainer.formats.images import check, decode, decode_image
from trainer.formats.label_images import read_label

GREYS = [(value,) * 3 for value in range(256)]
TABLES = {
    "black and white": [(0, 0, 0), (255, 255, 255)],
    "white and black": [(255, 255, 255), (0, 0, 0)],
    "black": [(0, 0, 0)],
    "greys of their indices": GREYS,
    "half of them": GREYS[:8],
    "colours": [(3 * value % 256, value, 255 - value) for value in range(256)],
}


def drawn(width: int, colors: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, colors, (5, width), np.uint8)


def bmp(
    indices: np.ndarray, bits: int, colors: list[tuple[int, ...]], coded: bytes = b"", old: bool = False, up: int = 1
) -> bytes:
    """A BMP of indices, uint8 [H, W], as rows or as given run lengths; with OS/2's header, or rows from the top."""
    height, width = indices.shape
    pad = np.pad(indices, ((0, 0), (0, -width % (32 // bits))))
    packed = np.packbits(np.unpackbits(pad[..., None], axis=2)[..., -bits:].reshape(height, -1), axis=1)
    rows = coded or packed[::-up].tobytes()
    table = b"".join(bytes(color[::-1]) + (b"" if old else b"\0") for color in colors)
    coding = {4: 2, 8: 1}[bits] if coded else 0
    header = struct.pack("<IiiHHIIiiII", 40, width, up * height, 1, bits, coding, len(rows), 1, 1, len(colors), 0)
    header = struct.pack("<IHHHH", 12, width, height, 1, bits) if old else header
    begin = 14 + len(header) + len(table)
    return b"BM" + struct.pack("<IHHI", begin + len(rows), 0, 0, begin) + header + table + rows


def run_lengths(indices: np.ndarray, bits: int, literal: int) -> bytes:
    """Run lengths as of programs: some literal indices at the beginning of a row, then runs of one."""
    coded = b""
    for row in indices[::-1].tolist():
        plain = row[:literal] + [0] * (literal % 2)
        packed = (
            bytes(row[:literal]) if bits == 8 else bytes(a << 4 | b for a, b in zip(*[iter(plain)] * 2, strict=True))
        )
        coded += bytes([0, literal]) + packed + bytes(len(packed) % 2)
        coded += b"".join(bytes([1, index << (8 - bits)]) for index in row[literal:]) + b"\0\0"
    return coded + b"\0\1"


def read_as(data: bytes, indices: np.ndarray, colors: list[tuple[int, ...]]) -> None:
    rgb = np.uint8(colors)[indices]
    np.testing.assert_array_equal(decode_image(data), rgb)
    assert check(data) == decode(data)[0]
    label = read_label(data)
    np.testing.assert_array_equal(label.codes, indices)
    if label.colormap is not None:
        np.testing.assert_array_equal(label.rgb, rgb)


@pytest.mark.parametrize("old", [False, True])
@pytest.mark.parametrize("table", TABLES)
@pytest.mark.parametrize("bits", [1, 4, 8])
@pytest.mark.parametrize("width", [1, 7, 8, 33])
def test_a_bmp_is_read_by_its_indices_whatever_its_colours(width, bits, table, old):
    colors = TABLES[table][: 1 << bits]
    indices = drawn(width, len(colors))
    read_as(bmp(indices, bits, colors + [(9, 9, 9)] * (old * (1 << bits) - len(colors)), old=old), indices, colors)
    if not old:
        read_as(bmp(indices, bits, colors, up=-1), indices, colors)


@pytest.mark.parametrize("table", ["colours", "greys of their indices"])
@pytest.mark.parametrize("bits", [4, 8])
def test_a_table_whose_length_is_not_stated_holds_every_index(bits, table):
    colors = TABLES[table][: 1 << bits]
    data = bytearray(bmp(indices := drawn(33, len(colors)), bits, colors))
    data[46:50] = bytes(4)
    read_as(bytes(data), indices, colors)


def test_a_bmp_is_read_as_opencv_reads_it():
    indices = drawn(33, 2)
    for bits in (4, 8):
        data = bmp(indices, bits, TABLES["black and white"])
        expected = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)
        np.testing.assert_array_equal(decode_image(data), expected)


@pytest.mark.parametrize("table", TABLES)
@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize("literal", range(3, 10))
def test_run_lengths_are_read_whatever_the_number_of_literal_indices(literal, bits, table):
    colors = TABLES[table][: 1 << bits]
    indices = drawn(33, len(colors))
    coded = run_lengths(indices, bits, literal)
    read_as(bmp(indices, bits, colors, coded), indices, colors)
    with pytest.raises(ImageError, match="damaged or truncated BMP: its run lengths end before its pixels"):
        decode_image(bmp(indices, bits, colors, coded[: len(coded) // 2]))
    with pytest.raises(ImageError, match="damaged BMP: its run lengths end in row 3 of 5"):
        decode_image(bmp(indices, bits, colors, run_lengths(indices[-2:], bits, literal)))


def test_run_lengths_may_skip_pixels_and_leave_their_row():
    colors = TABLES["colours"]
    coded = bytes([2, 7, 0, 2, 1, 1, 9, 5, 0, 0, 0, 2, 1, 0, 3, 6, 0, 1])
    expected = np.uint8([[0, 6, 6, 6], [0, 0, 0, 5], [7, 7, 0, 0]])
    read_as(bmp(expected, 8, colors, coded), expected, colors)


def test_run_lengths_of_other_pixels_are_refused():
    data = bytearray(bmp(drawn(33, 2), 1, TABLES["black and white"]))
    data[30] = 1
    with pytest.raises(ImageError, match="damaged BMP: run lengths of 8 bits for pixels of 1"):
        decode_image(bytes(data))


def test_a_sound_bmp_whose_channels_have_an_odd_order_is_not_called_damaged():
    masks = struct.pack("<4I", 0xFF, 0xFF00, 0xFF0000, 0)
    head = struct.pack("<IiiHHIIiiII", 56, 2, 2, 1, 32, 3, 16, 0, 0, 0, 0) + masks
    data = b"BM" + struct.pack("<IHHI", 14 + len(head) + 16, 0, 0, 14 + len(head)) + head + bytes(range(16))
    with pytest.raises(
        ImageError, match=r"^is a BMP of a kind that is not read \(.*bitfields layout\); save it as PNG$"
    ):
        decode_image(data)

"""The indices of BMPs with a colour table, which Pillow misreads if their colours are greys or their rows run lengths.

In Pillow 12.3 a table of black and white makes a BMP of 4 or 8 bits one of single bits, one of the greys 0, 1, 2, ...
makes a BMP of 4 bits one of bytes, and the last of an odd number of literal indices of 4 bits is lost.
"""

from __future__ import annotations

import io
import struct

from PIL import BmpImagePlugin, ImagePalette

from trainer.formats.containers import ImageError

_FILE_HEADER, _OLD_HEADER = 14, 12  # bytes
_CODED = {1: "P;1", 4: "P;4", 8: "P"}
"""Bits per index -> Pillow's name of such rows."""
_OWN_GREYS = (("1", 1), ("L", 8))
"""Modes and bits of the BMPs whose greys Pillow may take for the indices, as there is a grey for every one."""
_RUN_LENGTHS = {1: 8, 2: 4}
"""Numbers of the codings by run lengths -> bits per index."""


def use_indices(image: BmpImagePlugin.BmpImageFile, data: bytes) -> None:
    """Lets Pillow read the indices of an opened BMP, where it would take their bytes for greys."""
    size, bits = _sizes(data)
    if image.mode not in ("1", "L") or (image.mode, bits) in _OWN_GREYS:
        return
    colors, entry = 1 << bits, 3
    if size != _OLD_HEADER:
        colors, entry = struct.unpack_from("<I", data, 46)[0] or colors, 4
    begin = _FILE_HEADER + size
    table = data[begin : begin + entry * min(colors, 1 << bits)]
    image._mode = "P"
    image.palette = ImagePalette.raw("BGRX" if entry == 4 else "BGR", table)
    image.tile = [tile._replace(args=(_CODED[bits], *tile.args[1:])) for tile in image.tile]


def expand(image: BmpImagePlugin.BmpImageFile, data: bytes) -> None:
    """Replaces the run lengths of an opened BMP by rows of indices. Raises ImageError if some are missing."""
    bits = _RUN_LENGTHS.get(image.info.get("compression"))
    if bits is None:
        return
    if bits != _sizes(data)[1]:
        raise ImageError(f"damaged BMP: run lengths of {bits} bits for pixels of {_sizes(data)[1]}")
    (tile,) = image.tile
    rows = _expanded(data[tile.offset :], *image.size, bits)
    image.fp = io.BytesIO(rows)
    image.tile = [tile._replace(codec_name="raw", offset=0, args=(image.mode, image.width, tile.args[-1]))]


def _sizes(data: bytes) -> tuple[int, int]:
    """The sizes of a BMP's second header, in bytes, and of a pixel, in bits."""
    (size,) = struct.unpack_from("<I", data, _FILE_HEADER)
    return size, struct.unpack_from("<H", data, 24 if size == _OLD_HEADER else 28)[0]


def _expanded(coded: bytes, width: int, height: int, bits: int) -> bytes:
    """The indices that run lengths stand for, row by row, a byte each; those that are skipped are 0."""
    indices = bytearray(width * height)
    at = x = y = 0
    while y < height - 1 or (y < height and x < width):
        if at + 2 > len(coded):
            raise ImageError("damaged or truncated BMP: its run lengths end before its pixels")
        count, value = coded[at], coded[at + 1]
        at += 2
        if count:
            run = _unpacked(bytes([value]) * count, bits)[:count]
        elif value == 0:
            x, y = 0, y + 1
            continue
        elif value == 1:
            raise ImageError(f"damaged BMP: its run lengths end in row {y + 1} of {height}")
        elif value == 2:
            right, up = coded[at : at + 2].ljust(2, b"\0")
            x, y, at = x + right, y + up, at + 2
            continue
        else:
            literal = coded[at : at + -(-value * bits // 8)]
            run = _unpacked(literal, bits)[:value]
            at += len(literal) + len(literal) % 2
        kept = max(0, min(len(run), width - x))  # of a run that leaves its row
        indices[y * width + x : y * width + x + kept] = run[:kept]
        x += len(run)
    return bytes(indices)


def _unpacked(packed: bytes, bits: int) -> bytes:
    return packed if bits == 8 else bytes(index for byte in packed for index in (byte >> 4, byte & 15))

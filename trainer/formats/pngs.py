"""The pixels of PNGs: OpenCV decodes them with libpng, as TensorFlow does, which detects all damage.

zlib-ng decompresses labels with simple filters or none, tells whether an image is intact without its pixels, and
compresses labels and masks.
"""

from __future__ import annotations

import contextlib
import struct

import cv2
import numpy as np
from zlib_ng import zlib_ng

from trainer.formats.containers import PNG_SIGNATURE, Chunk, ImageError, check_png, png_chunk, png_chunks
from trainer.formats.headers import Header

_GREY, _RGB, _INDEXED = 0, 2, 3  # colour types of PNG
_SUB, _PAETH = 1, 4  # filters of PNG: differences from the left; the last one
_CHANNELS = {_GREY: 1, _RGB: 3, _INDEXED: 1, 4: 2, 6: 4}
_SURPLUS = 1 << 20
"""The most bytes behind the pixels of a PNG; some encoders write a few, which libpng ignores, but decompresses."""
_LONGEST_SIDE = 1_000_000  # of the PNGs that libpng decodes

PEEK = 16
"""The number of rows of a PNG that are decompressed to see whether the others are worth it."""


def decode_png(data: bytes, flags: int, as_grey: bool = False) -> np.ndarray:
    """Decodes a PNG as OpenCV does.

    Args:
      flags: OpenCV's; they determine channels (BGR, BGRA or RGB) and dtype.
      as_grey: whether to return the indices of a palette PNG, scaled from its depth to 0-255.

    Returns:
      uint8 or uint16 [H, W], [H, W, 3] or [H, W, 4].

    Raises:
      ImageError: the PNG is damaged.
      MemoryError: there is not enough memory for its pixels.
    """
    chunks = png_chunks(data)
    check_png(data, chunks)
    if flags in (cv2.IMREAD_GRAYSCALE, cv2.IMREAD_UNCHANGED):
        values = _decompressed(data, chunks, _INDEXED if as_grey else _GREY)
        if values is not None:
            return values
    _check_surplus(data, chunks)
    kinds = (b"IHDR", b"IDAT", b"IEND") if as_grey else (b"IHDR", b"PLTE", b"IDAT", b"IEND")
    if as_grey or any(chunk.kind not in kinds for chunk in chunks) or chunks[-1].end + 4 < len(data):
        kept = [data[begin - 8 : end + 4] for kind, begin, end in chunks if kind in kinds]
        if as_grey:
            kept[0] = _grey_header(kept[0])
        data = b"".join((PNG_SIGNATURE, *kept))
    try:
        pixels = cv2.imdecode(np.frombuffer(data, np.uint8), flags)
    except cv2.error as error:
        if error.code == cv2.Error.StsNoMem:
            raise MemoryError(str(error)) from None
        raise ImageError(f"damaged PNG: {error.err}") from None
    if pixels is None:
        raise ImageError("damaged or truncated PNG: its compressed pixels cannot be decoded")
    return pixels


def _decompressed(data: bytes, chunks: list[Chunk], color: int) -> np.ndarray | None:
    """The values, uint8 [H, W], of a PNG of 8 bits and that colour type whose rows are all not filtered, or all "Sub".

    Most labels are such PNGs; OpenCV writes the latter. With zlib-ng the former take 0.3 to 0.4 of libpng's time, the
    latter a fifth to an eighth. None for any other PNG.
    """
    width, height, *coding = struct.unpack_from(">IIBBBBB", data, chunks[0].begin)
    if coding != [8, color, 0, 0, 0] or not (width and height):
        return None
    row = 1 + width  # begins with the number of its filter
    coded = _coded(data, chunks)
    try:
        first = zlib_ng.decompressobj().decompress(coded, row * min(PEEK, height))
    except zlib_ng.error:
        return None
    if not first or first[0] > _SUB or len(set(first[::row])) > 1:
        return None
    rows = _rows(coded, height, row)
    if rows is None or (rows[:, 0] != first[0]).any():
        return None
    return _summed(rows[:, 1:]) if first[0] == _SUB else np.ascontiguousarray(rows[:, 1:])


def is_sound_png(data: bytes, header: Header) -> bool:
    """Whether a PNG of 8-bit greys or RGB colours, not interlaced, is intact; False for any other.

    Raises ImageError if the checksum of a chunk is wrong.
    """
    chunks = png_chunks(data)
    check_png(data, chunks)
    *_, depth, color, compression, filters, interlacing = struct.unpack_from(">IIBBBBB", data, chunks[0].begin)
    if (depth, compression, filters, interlacing) != (8, 0, 0, 0) or max(header.upright_size) > _LONGEST_SIDE:
        return False
    if color not in (_GREY, _RGB) or any(chunk.kind == b"PLTE" for chunk in chunks):
        return False
    rows = _rows(_coded(data, chunks), header.height, 1 + header.width * (3 if color == _RGB else 1))
    return rows is not None and rows[:, 0].max() <= _PAETH


def _coded(data: bytes, chunks: list[Chunk]) -> bytes:
    """The compressed pixels of a PNG."""
    return b"".join(data[begin:end] for kind, begin, end in chunks if kind == b"IDAT")


def _check_surplus(data: bytes, chunks: list[Chunk]) -> None:
    """Raises ImageError for a PNG whose data go on behind its pixels, if it has more of them than without compression.

    To look at the others would take a third of the time of decoding them.
    """
    width, height, depth, color, _, _, interlacing = struct.unpack_from(">IIBBBBB", data, chunks[0].begin)
    size = height * (1 + -(-width * depth * _CHANNELS[color] // 8)) * (1 + interlacing)
    stored = size + size // 100 + 1000
    if sum(chunk.end - chunk.begin for chunk in chunks if chunk.kind == b"IDAT") <= stored:
        return
    with contextlib.suppress(zlib_ng.error):  # which libpng finds as well
        if len(zlib_ng.decompressobj().decompress(_coded(data, chunks), size + _SURPLUS)) == size + _SURPLUS:
            raise ImageError(f"damaged PNG: its compressed data continue after the {size:,} bytes of its pixels")


def _rows(coded: bytes, height: int, row: int) -> np.ndarray | None:
    """The rows of the pixels of a PNG, each with the number of its filter before it, uint8 [height, row].

    None if the compressed pixels are damaged, or more or fewer than that.
    """
    stream = zlib_ng.decompressobj()
    try:
        # One byte more than expected: too long a stream shows without being decompressed as a whole.
        values = stream.decompress(coded, row * height + 1)
    except zlib_ng.error:
        return None
    if len(values) != row * height or not stream.eof or stream.unused_data:
        return None
    return np.frombuffer(values, np.uint8).reshape(height, row)


def _summed(steps: np.ndarray) -> np.ndarray:
    """The values, uint8 [H, W], whose differences from the left are `steps`; before the first of a row there is 0.

    In labels few values differ from those before them, so runs of equal values are faster than sums.
    """
    changes = steps.copy()  # from the value before, which for the first of a row is the last of the row above
    changes[1:, 0] -= np.add.reduce(steps[:-1], axis=1, dtype=np.uint8)
    is_new = changes.ravel() != 0
    is_new[0] = True
    begins = np.flatnonzero(is_new)
    if begins.size > steps.size / 16:
        return np.add.accumulate(steps, axis=1, dtype=np.uint8)
    values = np.add.accumulate(changes.ravel()[begins], dtype=np.uint8)
    return np.repeat(values, np.diff(begins, append=steps.size)).reshape(steps.shape)


def _grey_header(chunk: bytes) -> bytes:
    """The IHDR chunk with colour type grey instead of palette."""
    head = bytearray(chunk[8:-4])
    head[9] = _GREY
    return png_chunk(b"IHDR", head)


def encode_indices(values: np.ndarray, colormap: np.ndarray | None = None) -> bytes:
    """Encodes class ids or indices of colours as PNG.

    Rows are not filtered: PNG's filters predict shades from their neighbours, which does not suit ids. What suits them
    is zlib's Z_RLE, which looks for runs of equal values alone: it is faster than a search for other repetitions, and
    of labels of real sets the files are smaller than those of zlib's lower levels.

    Args:
      values: uint8 [H, W].
      colormap: the RGB colours of the values, uint8 [n, 3]; None for a PNG of greys.
    """
    height, width = values.shape
    rows = np.zeros((height, 1 + width), np.uint8)  # each begins with the number of its filter
    rows[:, 1:] = values
    stream = zlib_ng.compressobj(strategy=zlib_ng.Z_RLE)
    head = struct.pack(">IIBBBBB", width, height, 8, _GREY if colormap is None else _INDEXED, 0, 0, 0)
    chunks = [(b"IHDR", head)]
    if colormap is not None:
        chunks.append((b"PLTE", colormap.tobytes()))
    chunks += [(b"IDAT", stream.compress(rows) + stream.flush()), (b"IEND", b"")]
    return PNG_SIGNATURE + b"".join(png_chunk(*chunk) for chunk in chunks)

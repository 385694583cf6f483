"""The structure of image files: the segments of a JPEG, the chunks of a PNG, and the directories of a TIFF.

Pixels are not decoded here. Directories are yielded one by one, since a short file can claim a long chain of them.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Iterator
from typing import NamedTuple

from zlib_ng import zlib_ng

PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
PNG_HEAD = 33
"""Bytes of a PNG before its second chunk: its signature, and the chunk IHDR."""
_PNG_CRITICAL = (b"IHDR", b"PLTE", b"IDAT", b"IEND")
# A marker that ends or interrupts the coded pixels of a JPEG: not a stuffed byte, a fill byte or a restart.
_JPEG_MARKER = re.compile(rb"\xff([\x01-\xcf\xd8-\xfe])")
_MOST_CHUNKS = 100_000
"""Of a PNG. Encoders write at least some kilobytes into each, so that so many have hundreds of megabytes."""
_MOST_SCANS = 100
"""Of a JPEG, each of which may take the time of all its pixels in a few bytes. Encoders write about ten, and libtiff
reads as many as this."""
ORIENTATION_TAG = 0x0112
_XMP_TAG = 0x02BC
_MEANING_TAG, _SAMPLES_TAG, _PLANES_TAG, _EXTRA_TAG = 0x0106, 0x0115, 0x011C, 0x0152
_GREYS, _RGB = 1, 2  # meanings of samples
_MOST_SAMPLES = 6  # of a TIFF that Pillow reads
_MOST_PAGES = 10_000  # of a TIFF of which one image is expected; stacks of microscopes have some thousands
_PRIVATE_TAG = 0xFDFD  # from the private range, which readers ignore
_TIFF_ORDERS = {b"II": "<", b"MM": ">"}
_TIFF_NUMBERS = {1: "B", 3: "H", 4: "I", 16: "Q"}
_TIFF_BYTES = {
    kind: size
    for size, kinds in {1: (1, 2, 6, 7), 2: (3, 8), 4: (4, 9, 11, 13), 8: (5, 10, 12, 16, 17, 18)}.items()
    for kind in kinds
}


class ImageError(ValueError):
    """The bytes cannot be used as an image. The message gives the reason, without the file's name."""


def jpeg_segments(data: bytes) -> Iterator[tuple[int, int, int]]:
    """Yields (marker, begin, end) of the segments before a JPEG's coded pixels; [begin, end) includes the marker.

    The last one is the marker of the first scan, or of the end of the image, as an empty segment.
    """
    at = 2
    while at + 4 <= len(data):
        marker = data[at + 1]
        if data[at] != 0xFF or marker in (0x00, 0xFF):
            at = data.find(b"\xff", at + 1)
            if at < 0:
                return
        elif marker in (0xD9, 0xDA):
            yield marker, at, at
            return
        elif marker == 0xD8:
            raise ImageError("damaged JPEG: begins twice")
        elif marker == 0x01 or 0xD0 <= marker <= 0xD7:
            at += 2
        else:
            end = at + 2 + max(2, struct.unpack_from(">H", data, at + 2)[0])
            yield marker, at, end
            at = end


def jpeg_pixels(data: bytes) -> bytes:
    """A JPEG without EXIF data, profiles and comments: only the data that its pixels are decoded from."""
    parts = [b"\xff\xd8"]
    for marker, begin, end in jpeg_segments(data):
        # Application segments but those of JFIF (E0) and Adobe (EE), which define the meaning of the channels.
        if not (0xE1 <= marker <= 0xEF or marker == 0xFE) or marker == 0xEE:
            parts.append(data[begin:end])
    return b"".join((*parts, data[begin:]))


def jpeg_end(data: bytes) -> int:
    """The offset after a JPEG's end marker, in bytes. Phones append further images, videos and maps there.

    Raises:
      ImageError: it has no end marker, which Pillow accepts if no pixels seem to be missing, but TensorFlow does not;
        or over _MOST_SCANS scans.
    """
    scans = 0
    at = max(begin for _, begin, _ in jpeg_segments(data))
    while match := _JPEG_MARKER.search(data, at):
        marker = match[1][0]
        if marker == 0xD9:
            return match.end()
        at = match.end()
        scans += marker == 0xDA
        if scans > _MOST_SCANS:
            raise ImageError(f"is a JPEG of over {_MOST_SCANS} scans, which take long to decode; save it again")
        if marker == 0xD8:
            break
        if marker != 0x01 and at + 2 <= len(data):
            at += struct.unpack_from(">H", data, at)[0]
    raise ImageError("damaged or truncated JPEG: its end marker is missing")


def png_chunk(kind: bytes, body: bytes) -> bytes:
    """A chunk of a PNG as it stands in the file: with its size before it and its checksum behind."""
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib_ng.crc32(body, zlib_ng.crc32(kind)))


def png_with_text(png: bytes, text: bytes) -> bytes:
    """The PNG with a text chunk after its header, at PNG_HEAD."""
    return png[:PNG_HEAD] + png_chunk(b"tEXt", text) + png[PNG_HEAD:]


class Chunk(NamedTuple):
    """A chunk of a PNG: its kind, and the bytes [begin, end) of its data."""

    kind: bytes
    begin: int
    end: int


def png_chunks(data: bytes) -> list[Chunk]:
    """The chunks of a PNG up to its end.

    Raises:
      ImageError: their order or sizes violate the format, or they are over _MOST_CHUNKS.
    """
    chunks: list[Chunk] = []
    at = len(PNG_SIGNATURE)
    while not chunks or chunks[-1].kind != b"IEND":
        if at + 8 > len(data):
            raise ImageError(f"damaged or truncated PNG: ends at byte {len(data)}, without its last chunk")
        length, kind = struct.unpack_from(">I4s", data, at)
        if at + 12 + length > len(data):
            raise ImageError(
                f"damaged or truncated PNG: chunk {kind!r} at byte {at} claims {length:,} bytes of {len(data):,}"
            )
        if not kind.isalpha() or (kind[:1].isupper() and kind not in _PNG_CRITICAL):
            raise ImageError(f"damaged PNG: unknown chunk {kind!r} at byte {at}")
        if len(chunks) == _MOST_CHUNKS:
            raise ImageError(f"is a PNG of over {_MOST_CHUNKS:,} chunks, which take much memory; save it again")
        chunks.append(Chunk(kind, at + 8, at + 8 + length))
        at += 12 + length
    kinds = [chunk.kind for chunk in chunks]
    pixels = [place for place, kind in enumerate(kinds) if kind == b"IDAT"]
    if not (
        kinds[0] == b"IHDR"
        and chunks[0].end - chunks[0].begin == 13
        and kinds.count(b"IHDR") == 1
        and pixels
        and pixels[-1] - pixels[0] + 1 == len(pixels)
        and kinds.count(b"PLTE") <= 1
        and b"PLTE" not in kinds[pixels[0] :]
        and chunks[-1].begin == chunks[-1].end
    ):
        raise ImageError("damaged PNG: its chunks are not in the order IHDR, PLTE, IDAT, IEND")
    return chunks


def check_png(data: bytes, chunks: list[Chunk]) -> None:
    """Raises ImageError if the checksum of a chunk of a PNG is wrong."""
    view = memoryview(data)
    for kind, begin, end in chunks:
        if zlib_ng.crc32(view[begin - 4 : end]) != int.from_bytes(view[end : end + 4], "big"):
            raise ImageError(f"damaged PNG: the checksum of chunk {kind!r} at byte {begin - 8} is wrong")


class Directory(NamedTuple):
    """A directory of a TIFF.

    Attributes:
      values: tag -> value, for tags with a single integer.
      places: tag -> the offset of its entry in the file, in bytes.
      claimed: the total size of the values of all tags, as they state it, in bytes.
    """

    values: dict[int, int]
    places: dict[int, int]
    claimed: int

    @property
    def orientation(self) -> int:
        value = self.values.get(ORIENTATION_TAG, 1)
        return value if 1 <= value <= 8 else 1


def exif_orientation(exif: bytes) -> int:
    """The orientation in an EXIF block, 1 to 8; 1 if it has none or is damaged."""
    first = next(directories(exif.removeprefix(b"Exif\0\0")), None)
    return first.orientation if first else 1


def directories(data: bytes) -> Iterator[Directory]:
    """Yields the chain of TIFF directories, whose format EXIF shares, until the end or the first damage.

    Raises:
      ImageError: there are over _MOST_PAGES, or they overlap: a chain could then take the square of the file's size.
    """
    order = _TIFF_ORDERS.get(data[:2])
    if order is None or len(data) < 8:
        return
    is_big = data[2:4] in (b"\x2b\0", b"\0\x2b")
    word, size, entry = ("Q", 8, 20) if is_big else ("I", 4, 12)
    seen: set[int] = set()
    read = 0  # entries
    try:
        (at,) = struct.unpack_from(order + word, data, 8 if is_big else 4)
        while at and at not in seen:
            seen.add(at)
            if len(seen) > _MOST_PAGES:
                raise ImageError(
                    f"holds over {_MOST_PAGES:,} images (pages), expected one; save the intended one as a separate "
                    "file"
                )
            (count,) = struct.unpack_from(order + ("Q" if is_big else "H"), data, at)
            begin = at + (8 if is_big else 2)
            values: dict[int, int] = {}
            places: dict[int, int] = {}
            claimed = 0
            entries = range(begin, min(begin + count * entry, len(data) - entry + 1), entry)
            read += len(entries)
            if read * entry > len(data):
                raise ImageError("damaged TIFF: its directories overlap")
            for place in entries:
                tag, kind, number = struct.unpack_from(f"{order}HH{word}", data, place)
                places[tag] = place
                claimed += number * _TIFF_BYTES.get(kind, 0)
                if number == 1 and kind in _TIFF_NUMBERS:
                    values[tag] = struct.unpack_from(order + _TIFF_NUMBERS[kind], data, place + 4 + size)[0]
            yield Directory(values, places, claimed)
            (at,) = struct.unpack_from(order + word, data, begin + count * entry)
    except (struct.error, OverflowError):
        return


def tiff_pixels(data: bytes) -> bytes:
    """A TIFF without the tags that mislead Pillow.

    It would apply the orientation on loading, even from damaged EXIF or from XMP. And it reads the bytes of greys in a
    plane of their own, which is the only one, as if each were a sample. Of several samples called greys, as programs
    call bands of any meaning, it reads none; the first three are called red, green and blue here.
    """
    order = _TIFF_ORDERS[data[:2]]
    first = next(directories(data))
    places = first.places
    samples = first.values.get(_SAMPLES_TAG, 1)
    are_bands = 3 <= samples <= _MOST_SAMPLES and first.values.get(_MEANING_TAG) == _GREYS
    tags = {ORIENTATION_TAG, _XMP_TAG} | ({_PLANES_TAG} if samples == 1 else set())
    tags |= {_EXTRA_TAG} if are_bands and samples == 3 else set()
    tags &= places.keys()
    if not tags and not are_bands:
        return data
    changed = bytearray(data)
    for tag in tags:
        struct.pack_into(order + "H", changed, places[tag], _PRIVATE_TAG)
    if are_bands:
        _call_rgb(changed, order, places, samples - 3)
    return bytes(changed)


def _call_rgb(data: bytearray, order: str, places: dict[int, int], extra: int) -> None:
    """Changes the tags of a TIFF of greys to those of RGB with that many more samples, of no meaning."""
    word, at = ("Q", 12) if data[2:4] in (b"\x2b\0", b"\0\x2b") else ("I", 8)
    (kind,) = struct.unpack_from(order + "H", data, places[_MEANING_TAG] + 2)
    struct.pack_into(order + _TIFF_NUMBERS[kind], data, places[_MEANING_TAG] + at, _RGB)
    if extra and _EXTRA_TAG in places:
        place = places[_EXTRA_TAG]
        struct.pack_into(f"{order}HH{word}", data, place, _EXTRA_TAG, 3, extra)
        if 2 * extra <= at - 4:
            data[place + at : place + 2 * at - 4] = bytes(at - 4)

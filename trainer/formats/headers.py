"""Reads the header of an image file, before any pixel is decoded.

JPEG, PNG, WebP and TIFF are parsed here rather than by Pillow, which decodes a PNG to look for its EXIF, allocates two
canvases to open a WebP and raises arbitrary exceptions on damaged EXIF. Nothing here takes more memory than the file.
"""

from __future__ import annotations

import contextlib
import dataclasses
import io
import re
import struct
import zlib
from collections.abc import Iterator
from typing import NamedTuple

from PIL import Image

# Sizes are checked against our own limit, before Pillow sees the file.
Image.MAX_IMAGE_PIXELS = None

ORIENTATION_TAG = 0x0112
PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_PNG_CRITICAL = (b"IHDR", b"PLTE", b"IDAT", b"IEND")
_PNG_MODES = {
    **{(depth, 0): "L" for depth in (2, 4, 8)},
    **{(depth, 3): "P" for depth in (1, 2, 4, 8)},
    **{(1, 0): "1", (16, 0): "I;16"},
    **{(depth, colors): mode for depth in (8, 16) for colors, mode in ((2, "RGB"), (4, "LA"), (6, "RGBA"))},
}
_MAX_PROFILE = 1 << 20
_JPEG_FRAMES = frozenset({*range(0xC0, 0xD0)} - {0xC4, 0xC8, 0xCC})
# A marker that ends or interrupts the coded pixels of a JPEG: not a stuffed byte, a fill byte or a restart.
_JPEG_MARKER = re.compile(rb"\xff([\x01-\xcf\xd8-\xfe])")
_XMP_TAG = 0x02BC
_PRIVATE_TAG = 0xFDFD  # a tag that no reader knows
_TIFF_ORDERS = {b"II": "<", b"MM": ">"}
_TIFF_NUMBERS = {1: "B", 3: "H", 4: "I", 16: "Q"}
_TIFF_BYTES = {
    kind: size
    for size, kinds in {1: (1, 2, 6, 7), 2: (3, 8), 4: (4, 9, 11, 13), 8: (5, 10, 12, 16, 17, 18)}.items()
    for kind in kinds
}
_LOSSY_TIFF = {6: "JPEG", 7: "JPEG", 34712: "JPEG 2000", 50001: "WebP", 50002: "JPEG XL"}


class ImageError(ValueError):
    """The bytes cannot be used as an image. The message gives the reason, without the file's name."""


@dataclasses.dataclass(frozen=True)
class Header:
    """The header of an image.

    Attributes:
      format: "jpeg", "png", "bmp", "webp" or "tiff".
      width, height: pixels, as stored (before the EXIF orientation is applied).
      mode: Pillow's mode, such as "RGB", "L", "P", "CMYK".
      depth: bits per sample.
      orientation: EXIF orientation, 1 to 8; 1 is upright.
      images: number of images in the file: frames of an animation, or pages. Further images of the same view, such as
        the gain map or depth map in a phone's JPEG or the smaller copies in a TIFF, do not count.
      lossy: the lossy coding of the pixels, such as "JPEG"; "" for none.
      is_common: whether the coding is one that every reader of this format knows.
      is_sequential: whether the data of a pixel are in one place; not so in a progressive JPEG.
      end: bytes up to the end of the image; what follows does not belong to it. 0 for a JPEG that is not decoded:
        finding its end takes 2 % of the time of decoding.
    """

    format: str
    width: int
    height: int
    mode: str
    depth: int = 8
    orientation: int = 1
    images: int = 1
    lossy: str = ""
    is_common: bool = True
    is_sequential: bool = True
    end: int = 0

    @property
    def upright_size(self) -> tuple[int, int]:
        """(height, width) after the EXIF orientation is applied."""
        return (self.width, self.height) if self.orientation >= 5 else (self.height, self.width)


def read(data: bytes, max_pixels: int) -> Header:
    """Reads the header of an image. Raises ImageError if it is not an image, or has more than `max_pixels`."""
    if not data:
        raise ImageError("the file is empty")
    try:
        header = _read(data)
    except (struct.error, IndexError):
        header = None
    if header is None:
        raise ImageError(f"not an image: begins with {data[:12]!r}, expected JPEG, PNG, BMP, WebP or TIFF")
    if header.width < 1 or header.height < 1:
        raise ImageError(f"damaged {header.format.upper()}: claims to be {header.width}x{header.height} pixels")
    pixels = header.width * header.height
    if pixels > max_pixels:
        raise ImageError(f"{header.width}x{header.height} is {pixels:,} pixels, over the limit of {max_pixels:,}")
    return header


def _read(data: bytes) -> Header | None:
    if data.startswith(b"\xff\xd8\xff"):
        return _jpeg(data)
    if data.startswith(PNG_SIGNATURE):
        return _png(data)
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        return _webp(data)
    if data[:4] in (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+"):
        return _tiff(data)
    return _bmp(data) if data[:2] == b"BM" else None


class _Directory(NamedTuple):
    """A directory of a TIFF.

    Attributes:
      values: tag -> value, for tags with a single integer.
      places: tag -> offset of its entry, in bytes.
      claimed: bytes that the values of all tags claim to take together.
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
    first = next(_directories(exif.removeprefix(b"Exif\0\0")), None)
    return first.orientation if first else 1


def _directories(data: bytes) -> Iterator[_Directory]:
    """Yields the chain of TIFF directories, whose format EXIF shares, until the end or the first damage."""
    order = _TIFF_ORDERS.get(data[:2])
    if order is None or len(data) < 8:
        return
    is_big = data[2:4] in (b"\x2b\0", b"\0\x2b")
    word, size, entry = ("Q", 8, 20) if is_big else ("I", 4, 12)
    seen: set[int] = set()
    try:
        (at,) = struct.unpack_from(order + word, data, 8 if is_big else 4)
        while at and at not in seen:
            seen.add(at)
            (count,) = struct.unpack_from(order + ("Q" if is_big else "H"), data, at)
            begin = at + (8 if is_big else 2)
            values: dict[int, int] = {}
            places: dict[int, int] = {}
            claimed = 0
            for place in range(begin, min(begin + count * entry, len(data) - entry + 1), entry):
                tag, kind, number = struct.unpack_from(f"{order}HH{word}", data, place)
                places[tag] = place
                claimed += number * _TIFF_BYTES.get(kind, 0)
                if number == 1 and kind in _TIFF_NUMBERS:
                    values[tag] = struct.unpack_from(order + _TIFF_NUMBERS[kind], data, place + 4 + size)[0]
            yield _Directory(values, places, claimed)
            (at,) = struct.unpack_from(order + word, data, begin + count * entry)
    except (struct.error, OverflowError):
        return


def tiff_pixels(data: bytes) -> bytes:
    """The TIFF without its orientation: Pillow would apply it on loading, even from damaged EXIF, or from XMP."""
    order = _TIFF_ORDERS[data[:2]]
    places = next(_directories(data)).places
    tags = {ORIENTATION_TAG, _XMP_TAG} & places.keys()
    if not tags:
        return data
    changed = bytearray(data)
    for tag in tags:
        struct.pack_into(order + "H", changed, places[tag], _PRIVATE_TAG)
    return bytes(changed)


def _jpeg_segments(data: bytes) -> Iterator[tuple[int, int, int]]:
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


def _jpeg(data: bytes) -> Header | None:
    frame: tuple[int, int, int, int] | None = None
    coding, orientation = 0, 1
    for marker, begin, end in _jpeg_segments(data):
        segment = data[begin + 4 : end]
        if marker in _JPEG_FRAMES and frame is None:
            coding, frame = marker, struct.unpack_from(">BHHB", segment)
        elif marker == 0xE1 and segment.startswith(b"Exif\0\0") and orientation == 1:
            orientation = exif_orientation(segment)
    if frame is None:
        return None
    depth, height, width, channels = frame
    if depth != 8 or channels not in (1, 3, 4):
        raise ImageError(f"is a JPEG of {depth} bits and {channels} channels; expected 8 bits and 1, 3 or 4 channels")
    return Header(
        "jpeg",
        width,
        height,
        {1: "L", 3: "RGB", 4: "CMYK"}[channels],
        orientation=orientation,
        lossy="JPEG",
        is_common=coding in (0xC0, 0xC1, 0xC2),  # Huffman-coded, sequential or progressive
        is_sequential=coding != 0xC2,
    )


def jpeg_pixels(data: bytes) -> bytes:
    """A JPEG without its EXIF, profiles and comments: only the data that its pixels are decoded from."""
    parts = [b"\xff\xd8"]
    for marker, begin, end in _jpeg_segments(data):
        # The segments of JFIF (E0) and Adobe (EE) define the meaning of the channels.
        if not (0xE1 <= marker <= 0xEF or marker == 0xFE) or marker == 0xEE:
            parts.append(data[begin:end])
    return b"".join((*parts, data[begin:]))


def jpeg_end(data: bytes) -> int:
    """The offset behind a JPEG's end marker, in bytes; phones append further images, videos and maps there.

    Raises:
      ImageError: it has no end marker. Pillow accepts that if all pixels seem to be there; TensorFlow does not.
    """
    at = max(begin for _, begin, _ in _jpeg_segments(data))
    while match := _JPEG_MARKER.search(data, at):
        marker = match[1][0]
        if marker == 0xD9:
            return match.end()
        at = match.end()
        if marker == 0xD8:
            break
        if marker != 0x01 and at + 2 <= len(data):
            at += struct.unpack_from(">H", data, at)[0]
    raise ImageError("damaged or truncated JPEG: its end marker is missing")


class Chunk(NamedTuple):
    """A chunk of a PNG: its kind, and the bytes [begin, end) of its data."""

    kind: bytes
    begin: int
    end: int


def png_chunks(data: bytes) -> list[Chunk]:
    """The chunks of a PNG up to its end.

    Raises:
      ImageError: their order or sizes violate the format, so that readers would refuse the file.
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


def check_png(data: bytes, chunks: list[Chunk] | None = None) -> None:
    """Raises ImageError if the checksum of a chunk of a PNG is wrong, or its chunks are out of order."""
    view = memoryview(data)
    for kind, begin, end in png_chunks(data) if chunks is None else chunks:
        if zlib.crc32(view[begin - 4 : end]) != int.from_bytes(view[end : end + 4], "big"):
            raise ImageError(f"damaged PNG: the checksum of chunk {kind!r} at byte {begin - 8} is wrong")


def _png(data: bytes) -> Header:
    chunks = png_chunks(data)
    width, height, depth, colors, method, filters, interlace = struct.unpack_from(">IIBBBBB", data, chunks[0].begin)
    mode = _PNG_MODES.get((depth, colors))
    if mode is None or method or filters or interlace > 1:
        raise ImageError(f"damaged PNG: colour type {colors} of {depth} bits, interlace method {interlace}")
    if mode == "P" and not any(chunk.kind == b"PLTE" for chunk in chunks):
        raise ImageError("damaged PNG: palette colours without a palette")
    orientation, frames = 1, 1
    for kind, begin, end in chunks:
        if kind == b"eXIf":
            orientation = exif_orientation(data[begin:end])
        elif kind in (b"zTXt", b"tEXt") and orientation == 1:
            orientation = exif_orientation(_raw_profile(kind, data[begin:end]))
        elif kind == b"acTL" and end - begin == 8:
            frames = max(1, struct.unpack_from(">I", data, begin)[0])
    return Header("png", width, height, mode, depth, orientation, frames, end=chunks[-1].end + 4)


def _raw_profile(kind: bytes, text: bytes) -> bytes:
    """EXIF as ImageMagick wrote it before PNG had a chunk for it: lines of hexadecimal digits; b"" for other texts."""
    keyword, _, value = text.partition(b"\0")
    if keyword != b"Raw profile type exif":
        return b""
    try:
        if kind == b"zTXt":
            value = zlib.decompressobj().decompress(value[1:], _MAX_PROFILE)
        return bytes.fromhex(b"".join(value.split(b"\n")[3:]).decode("ascii"))
    except (zlib.error, ValueError):
        return b""


def _webp(data: bytes) -> Header | None:
    size, has_alpha, lossy, frames, orientation = None, False, "", 0, 1
    at = 12
    while at + 8 <= len(data):
        kind, length = struct.unpack_from("<4sI", data, at)
        begin = at + 8
        if kind == b"VP8X" and size is None:
            flags, width, height = data[begin], data[begin + 4 : begin + 7], data[begin + 7 : begin + 10]
            size = (int.from_bytes(width, "little") + 1, int.from_bytes(height, "little") + 1)
            has_alpha = bool(flags & 0x10)
        elif kind == b"VP8 ":
            lossy = "WebP"
            size = size or tuple(side & 0x3FFF for side in struct.unpack_from("<HH", data, begin + 6))
        elif kind == b"VP8L" and size is None:
            (packed,) = struct.unpack_from("<I", data, begin + 1)
            size = ((packed & 0x3FFF) + 1, (packed >> 14 & 0x3FFF) + 1)
            has_alpha = bool(packed >> 28 & 1)
        elif kind == b"ANMF":
            frames += 1
            lossy = "WebP" if b"VP8 " in data[begin + 16 : begin + 40] else lossy
        elif kind == b"EXIF":
            orientation = exif_orientation(data[begin : begin + length])
        at = begin + length + length % 2
    if size is None:
        return None
    return Header(
        "webp",
        *size,
        "RGBA" if has_alpha else "RGB",
        orientation=orientation,
        images=max(1, frames),
        lossy=lossy,
    )


def _tiff(data: bytes) -> Header | None:
    pages = []
    for directory in _directories(data):
        if directory.claimed > 2 * len(data) + (1 << 20):
            raise ImageError(f"damaged TIFF: its tags claim {directory.claimed:,} bytes of {len(data):,} in the file")
        pages.append(directory)
    if not pages:
        return None
    first = pages[0].values
    width, height = first.get(256, 0), first.get(257, 0)
    tile = first.get(322, 0), first.get(323, 0)
    if tile[0] * tile[1] > max(4 * width * height, 1 << 24):
        raise ImageError(f"damaged TIFF: tiles of {tile[0]}x{tile[1]} for an image of {width}x{height} pixels")
    # Directories of smaller copies (bit 0 of NewSubfileType) and of masks (bit 2) show the same image.
    further = sum(not page.values.get(254, 0) & 0b101 for page in pages[1:])
    return Header(
        "tiff",
        width,
        height,
        open_pillow(tiff_pixels(data)).mode,
        first.get(258, 8),
        orientation=pages[0].orientation,
        images=1 + further,
        lossy=_LOSSY_TIFF.get(first.get(259, 1), ""),
    )


def _bmp(data: bytes) -> Header:
    if struct.unpack_from("<I", data, 14)[0] == 12:
        width, height = struct.unpack_from("<HH", data, 18)
    else:
        width, height = struct.unpack_from("<ii", data, 18)
    return Header("bmp", width, abs(height), open_pillow(data).mode)


def open_pillow(data: bytes) -> Image.Image:
    """Opens an image other than a PNG with Pillow, which reads its header. Raises ImageError for all its errors."""
    with pillow_errors("damaged image"):
        try:
            return Image.open(io.BytesIO(data), formats=("JPEG", "WEBP", "TIFF", "BMP"))
        except Image.UnidentifiedImageError:
            raise ImageError(f"damaged image: begins with {data[:12]!r}, but the rest is not one") from None


@contextlib.contextmanager
def pillow_errors(what: str) -> Iterator[None]:
    """Turns exceptions that Pillow raises in the block into ImageError, except MemoryError.

    On damaged bytes its parsers raise errors of every kind: struct.error, KeyError, TypeError, zlib.error and others.
    """
    try:
        yield
    except (ImageError, MemoryError):
        raise
    except Exception as error:
        raise ImageError(f"{what}: {str(error) or type(error).__name__}") from None

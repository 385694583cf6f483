"""The headers of image files, read before any pixel is decoded.

JPEG, PNG, WebP and TIFF are parsed here rather than by Pillow, which decodes a PNG to look for its EXIF, allocates two
canvases to open a WebP, and raises arbitrary exceptions on damaged EXIF. The memory taken here does not grow with what
a file claims.
"""

from __future__ import annotations

import contextlib
import dataclasses
import io
import re
import struct
import zlib
from collections.abc import Callable, Iterator

from PIL import Image

from trainer.formats import bmps, tiffs
from trainer.formats.containers import (
    PNG_SIGNATURE,
    ImageError,
    directories,
    exif_orientation,
    jpeg_segments,
    png_chunks,
    tiff_pixels,
)
from trainer.formats.options import MAX_PIXELS

# Sizes are checked against our own limit, before Pillow sees the file.
Image.MAX_IMAGE_PIXELS = None

_PNG_MODES = {
    **{(depth, 0): "L" for depth in (2, 4, 8)},
    **{(depth, 3): "P" for depth in (1, 2, 4, 8)},
    **{(1, 0): "1", (16, 0): "I;16"},
    **{(depth, colors): mode for depth in (8, 16) for colors, mode in ((2, "RGB"), (4, "LA"), (6, "RGBA"))},
}
_MAX_PROFILE = 1 << 20
_PROFILE = b"Raw profile type exif\0"  # the keyword of EXIF data in a text chunk
_JPEG_FRAMES = frozenset({*range(0xC0, 0xD0)} - {0xC4, 0xC8, 0xCC})
_UNREAD = {
    name: re.compile(beginning, re.DOTALL)
    for name, beginning in {
        "a GIF": rb"GIF8[79]a",
        "HEIC": rb".{4}ftyp(hei[cxms]|hev[cxms]|mif1|msf1)",
        "AVIF": rb".{4}ftypavi[fs]",
        "JPEG 2000": rb"\x00\x00\x00\x0cjP  |\xff\x4f\xff\x51",
        "JPEG XL": rb"\x00\x00\x00\x0cJXL |\xff\x0a",
        "a PSD of Photoshop": rb"8BPS",
        "OpenEXR": rb"v/1\x01",
        "DDS": rb"DDS ",
        "a PPM, PGM or PBM": rb"P[1-7]\s",
        "an ICO": rb"\x00\x00\x01\x00[^\x00]",
        "DICOM": rb".{128}DICM",
        "an array of NumPy": rb"\x93NUMPY",
        "a PDF": rb"%PDF-",
        "an SVG": rb"(<\?xml[^>]*>\s*)?<svg",
    }.items()
}
"""Formats that are not read, and how their files begin."""
_LOSSY_TIFF = {6: "JPEG", 7: "JPEG", 34712: "JPEG 2000", 50001: "WebP", 50002: "JPEG XL"}


@dataclasses.dataclass(frozen=True)
class Header:
    """The header of an image.

    Attributes:
      format: "jpeg", "png", "bmp", "webp" or "tiff".
      width, height: the size as stored, before the EXIF orientation is applied, in pixels.
      mode: Pillow's mode, such as "RGB", "L", "P", "CMYK".
      depth: bits per sample.
      orientation: the EXIF orientation, 1 to 8; 1 is upright.
      images: the number of images in the file: frames of an animation, or pages. Further images of the same view, such
        as the gain map or depth map in a phone's JPEG or the smaller copies in a TIFF, do not count.
      lossy: the lossy coding of the pixels, such as "JPEG"; "" for none.
      is_common: whether every reader of this format supports the coding.
      is_sequential: whether the data of a pixel are in one place, unlike in a progressive JPEG.
      end: the offset of the end of the image in the file, in bytes. 0 for a JPEG that was not decoded, since finding
        its end takes 2 % of the time of decoding.
      brightest: the largest value of greys or RGB of 16 bits, before they are scaled to 8; 0 if it was not decoded.
        That of 12 bits is scaled to 16.
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
    brightest: int = 0

    @property
    def upright_size(self) -> tuple[int, int]:
        """(height, width) after the EXIF orientation is applied."""
        return (self.width, self.height) if self.orientation >= 5 else (self.height, self.width)


def read(data: bytes, max_pixels: int) -> Header:
    """Reads the header of an image. Raises ImageError if it is not an image, or has more than `max_pixels`."""
    if not data:
        raise ImageError("the file is empty")
    form = _format(data)
    if not form:
        raise ImageError(_stranger(data))
    try:
        header = _READERS[form](data)
    except (struct.error, IndexError):
        header = None
    if header is None:
        raise ImageError(f"damaged or truncated {form.upper()}: its header is incomplete")
    if header.width < 1 or header.height < 1:
        raise ImageError(f"damaged {header.format.upper()}: claims to be {header.width}x{header.height} pixels")
    pixels = header.width * header.height
    if pixels > max_pixels:
        larger = ", or raise --max-pixels if memory allows" * (pixels <= MAX_PIXELS)
        raise ImageError(
            f"{header.width}x{header.height} is {pixels:,} pixels, over the limit of {max_pixels:,}; shrink it, or "
            f"cut it into tiles{larger}"
        )
    return header


def _format(data: bytes) -> str:
    """The format that the first bytes of a file state; "" for none that is read."""
    if data.startswith(b"\xff\xd8\xff"):
        return "jpeg"
    if data.startswith(PNG_SIGNATURE):
        return "png"
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        return "webp"
    if data[:4] in (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+"):
        return "tiff"
    return "bmp" if data[:2] == b"BM" else ""


def _stranger(data: bytes) -> str:
    """What is wrong with data of no format that is read: a fault, with the cure if it is a format that is known."""
    for name, beginning in _UNREAD.items():
        if beginning.match(data):
            return f"is {name}, which is not read; save it as PNG, or as JPEG if it is no label"
    if data.startswith(b"PK\x03\x04"):
        return "is a ZIP archive, which is not read; unpack it"
    if data.startswith(b"version https://git-lfs."):
        return "not an image but a pointer of Git LFS to one; fetch the images with `git lfs pull`"
    if re.match(rb"\s*<(!doctype html|html|\?xml)", data[:100], re.IGNORECASE):
        return "not an image but a web page or an XML file, such as a server's error; download the image again"
    return f"not an image: begins with {data[:12]!r}, expected JPEG, PNG, BMP, WebP or TIFF"


def _jpeg(data: bytes) -> Header | None:
    frame: tuple[int, int, int, int] | None = None
    coding, orientation = 0, 1
    for marker, begin, end in jpeg_segments(data):
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


def _png(data: bytes) -> Header:
    chunks = png_chunks(data)
    width, height, depth, colors, method, filters, interlace = struct.unpack_from(">IIBBBBB", data, chunks[0].begin)
    mode = _PNG_MODES.get((depth, colors))
    if mode is None or method or filters or interlace > 1:
        raise ImageError(f"damaged PNG: colour type {colors} of {depth} bits, interlace method {interlace}")
    if mode == "P" and not any(chunk.kind == b"PLTE" for chunk in chunks):
        raise ImageError("damaged PNG: palette colours without a palette")
    orientation, frames, profile = 1, 1, None
    for chunk in chunks:
        kind, begin, end = chunk
        if kind == b"eXIf":
            orientation = exif_orientation(data[begin:end])
        elif kind in (b"zTXt", b"tEXt") and data.startswith(_PROFILE, begin, end):
            profile = chunk  # of several the last, as for Pillow
        elif kind == b"acTL" and end - begin == 8:
            frames = max(1, struct.unpack_from(">I", data, begin)[0])
    if profile and orientation == 1:
        orientation = exif_orientation(_raw_profile(profile.kind, data[profile.begin : profile.end]))
    return Header("png", width, height, mode, depth, orientation, frames, end=chunks[-1].end + 4)


def _raw_profile(kind: bytes, text: bytes) -> bytes:
    """The EXIF data in such a chunk, in hexadecimal, of ImageMagick before PNG had eXIf; b"" if damaged."""
    value = text[len(_PROFILE) :]
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
    page, images = None, 1
    for directory in directories(data):
        if directory.claimed > 2 * len(data) + (1 << 20):
            raise ImageError(f"damaged TIFF: its tags claim {directory.claimed:,} bytes of {len(data):,} in the file")
        if page is None:
            page = directory
        else:  # bits 0 and 2 of NewSubfileType mark smaller copies and masks of the same image
            images += not directory.values.get(254, 0) & 0b101
    if page is None:
        return None
    first = page.values
    width, height = first.get(256, 0), first.get(257, 0)
    tile = first.get(322, 0), first.get(323, 0)
    if tile[0] * tile[1] > max(4 * width * height, 1 << 24):
        raise ImageError(f"damaged TIFF: tiles of {tile[0]}x{tile[1]} for an image of {width}x{height} pixels")
    image = open_pillow(tiff_pixels(data))
    return Header(
        "tiff",
        width,
        height,
        image.mode,
        tiffs.depth(image),
        orientation=page.orientation,
        images=images,
        lossy=_LOSSY_TIFF.get(first.get(259, 1), ""),
    )


def _bmp(data: bytes) -> Header:
    if struct.unpack_from("<I", data, 14)[0] == 12:
        width, height = struct.unpack_from("<HH", data, 18)
    else:
        width, height = struct.unpack_from("<ii", data, 18)
    return Header("bmp", width, abs(height), open_pillow(data).mode)


_READERS: dict[str, Callable[[bytes], Header | None]] = {
    "jpeg": _jpeg,
    "png": _png,
    "webp": _webp,
    "tiff": _tiff,
    "bmp": _bmp,
}


def open_pillow(data: bytes) -> Image.Image:
    """Opens an image other than a PNG with Pillow, which reads its header. Raises ImageError for all its errors."""
    what = f"damaged or truncated {_format(data).upper()}"
    with pillow_errors(what):
        try:
            image = Image.open(io.BytesIO(data), formats=("JPEG", "WEBP", "TIFF", "BMP"))
        except Image.UnidentifiedImageError:
            if data[:2] in (b"II", b"MM") and (reason := tiffs.unsupported(data)):
                raise ImageError(reason) from None
            raise ImageError(f"{what}: begins with {data[:12]!r}, but the rest is not one") from None
        except OSError as error:
            if not str(error).startswith("Unsupported BMP"):
                raise
            raise ImageError(f"is a BMP of a kind that is not read ({error}); save it as PNG") from None
        if image.format == "BMP":
            bmps.use_indices(image, data)
        return image


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

"""Bytes to images and back.

OpenCV decodes PNGs: by libpng, as TensorFlow does, which finds every fault of the compressed pixels. Pillow decodes
all else, because it refuses truncated files (OpenCV fills what is missing with grey). Both get what the pixels are
made of and nothing else, so that damaged EXIF, profiles and texts cost no image. OpenCV encodes, because it is faster.
"""

from __future__ import annotations

import dataclasses
import functools
import struct
import zlib

import cv2
import numpy as np
from PIL import Image

from trainer.formats import headers
from trainer.formats.headers import (
    PNG_SIGNATURE,
    Header,
    ImageError,
    check_png,
    open_pillow,
    pillow_errors,
    png_chunks,
)
from trainer.formats.options import MAX_PIXELS

__all__ = ["Header", "ImageError", "check_png"]

SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff")
"""How the names of image files end, in lower case."""

PADDING = 128
"""What stands outside an image: the middle of the range, which the network scales to nearly 0, as zero padding."""

FILLERS = (b"\0", b"\x55")
"""Codes of pixels: those of one of the two are not of grey, whatever the tables."""
NEARLY_GREY = 3
"""How far the last pixel of a JPEG without its last pixels may be from grey, through the colours before it."""

_TIFF_DEPTH, _TIFF_MEANING = 258, 262  # tags: bits a sample, and whether 0 is black, white or a colour
_UPRIGHT = {
    2: lambda pixels: cv2.flip(pixels, 1),
    3: lambda pixels: cv2.rotate(pixels, cv2.ROTATE_180),
    4: lambda pixels: cv2.flip(pixels, 0),
    5: cv2.transpose,
    6: lambda pixels: cv2.rotate(pixels, cv2.ROTATE_90_CLOCKWISE),
    7: lambda pixels: cv2.rotate(cv2.transpose(pixels), cv2.ROTATE_180),
    8: lambda pixels: cv2.rotate(pixels, cv2.ROTATE_90_COUNTERCLOCKWISE),
}
"""EXIF orientation -> what makes pixels stored in it upright."""


def header(data: bytes, max_pixels: int = MAX_PIXELS) -> Header:
    """Read the header alone. Raises ImageError for what is not an image, or over `max_pixels`."""
    return headers.read(data, max_pixels)


def upright(pixels: np.ndarray, orientation: int) -> np.ndarray:
    """Turns stored pixels, uint8 [H, W] or [H, W, 3], as their EXIF orientation, 1 to 8, has it."""
    return pixels if orientation == 1 else _UPRIGHT[orientation](pixels)


def mismatch(image: Header, label: Header) -> str | None:
    """Why a label does not lie on its image once both are upright, in words; None where it does.

    A label without an EXIF orientation was drawn on the upright image; one that has its image's is turned as that is.
    """
    (height, width), (label_height, label_width) = image.upright_size, label.upright_size
    turned = f" by its EXIF orientation {image.orientation}" if image.orientation != 1 else ""
    if (label_height, label_width) != (height, width):
        reason = f"label is {label_width}x{label_height}, its image {width}x{height} (upright{turned})"
        if (label_height, label_width) == (width, height) and turned:
            reason += "; if it was drawn on the image as stored, give both the same EXIF orientation, or none"
        return reason
    if label.orientation not in (1, image.orientation):
        return (
            f"label has EXIF orientation {label.orientation}, its image {image.orientation}, so that how they lie on "
            "each other is in doubt; expected none in the label, or that of its image"
        )
    return None


def decode_image(data: bytes, max_pixels: int = MAX_PIXELS) -> np.ndarray:
    """Decode an image.

    Args:
      data: an encoded image: JPEG, PNG, BMP, WebP or TIFF.
      max_pixels: bound on width x height, checked before decoding.

    Returns:
      [height, width, 3] uint8 RGB, upright (EXIF orientation applied). Transparency is left out, which shows the
      colours beneath; 16-bit greys are scaled to 8 bit.

    Raises:
      ImageError: empty, damaged, truncated, too large, an animation or several pages, or not an image.
    """
    return decode(data, max_pixels)[1]


def decode(data: bytes, max_pixels: int = MAX_PIXELS) -> tuple[Header, np.ndarray]:
    """The same, and the header, in which a JPEG's end is known."""
    header = _single(data, max_pixels)
    if header.format == "png":
        return header, upright(_png_image(data, header), header.orientation)
    if header.format == "jpeg":
        header = dataclasses.replace(header, end=headers.jpeg_end(data))
    with pillow_errors(f"damaged or truncated {header.format.upper()}"):
        pixels = _pillow_image(_load(data, header))
    if header.format == "jpeg":
        _check_whole(data, header, pixels)
    return header, upright(pixels, header.orientation)


def _check_whole(data: bytes, header: Header, pixels: np.ndarray) -> None:
    """Raises ImageError for a JPEG whose coded pixels end early, though the marker of its end stands behind them.

    Decoders fill what is missing with grey, and tell nobody. Bytes put before that marker mean nothing to a whole
    image, but are read as pixels where some are missing.
    """
    may_lack = not header.is_sequential or abs(int(pixels[-1, -1].mean()) - 128) <= NEARLY_GREY
    for filler in FILLERS if header.is_common and may_lack else ():
        longer = data[: header.end - 2] + filler * 64 + data[header.end - 2 : header.end]
        if (_pillow_image(_load(longer, header)) != pixels).any():
            raise ImageError("damaged or truncated JPEG: its coded pixels end early, before the marker of its end")


@dataclasses.dataclass(frozen=True)
class Label:
    """A label image as it is coded.

    Attributes:
      codes: uint8 [H, W], class ids or palette indices, or uint8 [H, W, 3], RGB colours; upright.
      colormap: where codes are indices of colours, uint8 [n, 3]: the RGB colours, of the first n indices; else None.
      opaque: bool [n]: whether those colours are seen at all.
    """

    codes: np.ndarray
    colormap: np.ndarray | None = None
    opaque: np.ndarray | None = None

    @functools.cached_property
    def used(self) -> np.ndarray:
        """The ids or indices that occur, in order."""
        return np.flatnonzero(cv2.calcHist([self.codes], [0], None, [256], [0, 256]))


def read_label(data: bytes, max_pixels: int = MAX_PIXELS) -> Label:
    """Decode a label image without touching its values; `codings.decode_ids` makes class ids of it.

    An EXIF orientation is applied, as to images. Greys of fewer than 8 bits are indices of a map of greys, since their
    readers differ in whether the numbers or the greys are the values.

    Raises:
      ImageError: as in `decode_image`; lossy, transparent, or values that do not fit into 8 bits.
    """
    header = _single(data, max_pixels)
    if header.lossy:
        raise ImageError(f"is a {header.lossy}, which blurs class ids; expected a lossless label (PNG)")
    if header.format == "png":
        label = _png_label(data, header)
    else:
        with pillow_errors(f"damaged or truncated {header.format.upper()}"):
            label = _pillow_label(_load(data, header), header)
    return dataclasses.replace(label, codes=upright(label.codes, header.orientation))


def decode_label(data: bytes, max_pixels: int = MAX_PIXELS) -> np.ndarray:
    """Decode a label image without touching its values.

    Returns:
      [height, width] uint8 class ids or palette indices, or [height, width, 3] uint8 RGB for colour-coded labels.
      Images whose three channels are equal everywhere are still colours: the palette decides.

    Raises:
      ImageError: empty, damaged, truncated, too large, lossy, transparent, not one image, or ids over 255.
    """
    return read_label(data, max_pixels).codes


def _single(data: bytes, max_pixels: int) -> Header:
    header = headers.read(data, max_pixels)
    if header.images > 1:
        raise ImageError(
            f"holds {header.images} images (the frames of an animation, or pages); expected one: save the one that is "
            "meant as a file of its own"
        )
    return header


def _load(data: bytes, header: Header) -> Image.Image:
    """Pixels of what is not a PNG, as they are stored."""
    pixels = {"jpeg": headers.jpeg_pixels, "tiff": headers.tiff_pixels}.get(header.format, bytes)
    image = open_pillow(pixels(data))
    if image.size != (header.width, header.height):
        raise ImageError(
            f"damaged {image.format}: claims to be {header.width}x{header.height} and {image.size} pixels"
        )
    image.load()
    return image


def _pillow_image(image: Image.Image) -> np.ndarray:
    if image.mode == "F":
        raise ImageError("its pixels are floating-point numbers, whose range is not known; save it with 8 or 16 bits")
    if image.mode.startswith("I"):
        return _grey_to_rgb(np.asarray(image))
    return np.asarray(image if image.mode == "RGB" else image.convert("RGB"))


def _grey_to_rgb(grey: np.ndarray) -> np.ndarray:
    scale = 257.0 if grey.max(initial=0) > 255 else 1.0
    return np.repeat(np.clip(grey / scale, 0, 255).round().astype(np.uint8)[..., None], 3, axis=2)


def _png_image(data: bytes, header: Header) -> np.ndarray:
    if header.mode == "I;16":
        return _grey_to_rgb(_decode_png(data, cv2.IMREAD_UNCHANGED))
    return _to_rgb(_decode_png(data, cv2.IMREAD_COLOR))


def _png_label(data: bytes, header: Header) -> Label:
    if header.mode == "P":
        indices = _scale_down(_decode_png(data, cv2.IMREAD_UNCHANGED, as_grey=True), header.depth)
        return _indexed(indices, *_png_colors(data))
    pixels = _decode_png(data, cv2.IMREAD_UNCHANGED)
    if header.mode in ("LA", "RGBA"):
        _check_opaque(pixels[..., 3])
        pixels = pixels[..., 0] if header.mode == "LA" else np.ascontiguousarray(pixels[..., :3])
    if pixels.ndim == 3:
        return Label(_to_rgb(_to_8_bit_colors(pixels)))
    return _greys(pixels, header.depth) if header.depth < 8 else Label(_to_8_bit_ids(pixels))


def _pillow_label(image: Image.Image, header: Header) -> Label:
    pixels = np.asarray(image)
    if header.format == "tiff":
        _check_tiff(image)
    if image.mode == "P":
        return _indexed(pixels, np.uint8(image.getpalette("RGB")).reshape(-1, 3))
    if image.mode == "1":
        return _greys(pixels.astype(np.uint8) * 255, 1)
    if image.mode in ("LA", "RGBA"):
        _check_opaque(pixels[..., -1])
        return Label(np.ascontiguousarray(pixels[..., 0] if image.mode == "LA" else pixels[..., :3]))
    if image.mode == "L" and header.depth < 8:
        return _greys(pixels, header.depth)
    if image.mode in ("L", "RGB"):
        return Label(pixels)
    if image.mode.startswith("I"):
        return Label(_to_8_bit_ids(pixels))
    raise ImageError(f"a label of mode {image.mode}; expected class ids, palette indices or RGB colours")


def _check_tiff(image: Image.Image) -> None:
    """Raises ImageError for a TIFF label of which Pillow does not give the values as they are stored."""
    tags = image.tag_v2
    depths = np.atleast_1d(tags.get(_TIFF_DEPTH, 8))
    if image.mode in ("RGB", "RGBA") and depths.max(initial=0) > 8:
        raise ImageError(f"is a TIFF of {depths.max()}-bit colours; save the label as a PNG, or with 8 bits a channel")
    if tags.get(_TIFF_MEANING) == 0 and image.mode in ("1", "L", "I", "I;16"):
        raise ImageError("is a TIFF in which 0 is white, so that its values are in doubt; save the label as a PNG")


def _greys(scaled: np.ndarray, depth: int) -> Label:
    """Greys of fewer than 8 bits, which decoders scale to 0-255."""
    levels = np.arange(1 << depth) * 255 // ((1 << depth) - 1)
    return _indexed(_scale_down(scaled, depth), levels.astype(np.uint8)[:, None].repeat(3, axis=1))


def _indexed(indices: np.ndarray, colormap: np.ndarray, opaque: np.ndarray | None = None) -> Label:
    """A label of indices; without its map where that gives every index its own level of grey, as in a grey image."""
    opaque = np.ones(len(colormap), bool) if opaque is None else opaque
    if len(colormap) > 1 and opaque.all() and (colormap == np.arange(len(colormap))[:, None]).all():
        return Label(indices)
    return Label(indices, colormap, opaque)


def _check_opaque(alpha: np.ndarray) -> None:
    hidden = alpha.size - int(np.count_nonzero(alpha == np.iinfo(alpha.dtype).max))
    if hidden:
        raise ImageError(
            f"is transparent in {hidden} pixel{'s' * (hidden != 1)}, whose class is in doubt; save the label without "
            "transparency"
        )


def _to_8_bit_ids(ids: np.ndarray) -> np.ndarray:
    if ids.dtype == np.uint8:
        return ids
    if ids.min(initial=0) < 0 or ids.max(initial=0) > 255:
        wrong = int(ids.min()) if ids.min() < 0 else int(ids.max())
        raise ImageError(f"class id {wrong} in a 16-bit label; expected ids from 0 to 255")
    return ids.astype(np.uint8)


def _to_8_bit_colors(colors: np.ndarray) -> np.ndarray:
    """Colours of 16 bits were scaled from 8, or were never scaled; both tell the 8 bits exactly."""
    if colors.dtype == np.uint8:
        return colors
    if colors.max(initial=0) <= 255:
        return colors.astype(np.uint8)
    scaled, rest = np.divmod(colors, 257)
    if rest.any():
        raise ImageError("16-bit colours that are no 8-bit colours; save the label with 8 bits a channel")
    return scaled.astype(np.uint8)


def _to_rgb(bgr: np.ndarray) -> np.ndarray:
    return cv2.cvtColor(bgr, cv2.COLOR_BGR2RGB)


def _scale_down(greys: np.ndarray, depth: int) -> np.ndarray:
    """The numbers of `depth` bits behind what a decoder scaled to 0-255."""
    return greys if depth == 8 else greys // (255 // ((1 << depth) - 1))


def _decode_png(data: bytes, flags: int, as_grey: bool = False) -> np.ndarray:
    """Decodes a PNG by OpenCV: BGR, or as `flags` have it; with `as_grey` a palette's indices, scaled to 0-255."""
    chunks = png_chunks(data)
    check_png(data, chunks)
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
        raise ImageError("damaged or truncated PNG: its compressed pixels cannot be read")
    return pixels


def _grey_header(chunk: bytes) -> bytes:
    """The chunk IHDR of the same PNG with greys in place of indices."""
    head = bytearray(chunk[4:-4])
    head[4 + 9] = 0
    return chunk[:4] + bytes(head) + struct.pack(">I", zlib.crc32(head))


def _png_colors(data: bytes) -> tuple[np.ndarray, np.ndarray]:
    """The colour map of a palette PNG, uint8 [n, 3], and bool [n]: whether its colours are opaque."""
    parts: dict[bytes, bytes] = {kind: data[begin:end] for kind, begin, end in png_chunks(data)}
    flat = parts[b"PLTE"]
    if len(flat) % 3 or not 3 <= len(flat) <= 768:
        raise ImageError(f"damaged PNG: a palette of {len(flat)} bytes; expected three for each of 1 to 256 colours")
    colormap = np.frombuffer(flat, np.uint8).reshape(-1, 3)
    opaque = np.ones(len(colormap), bool)
    alpha = np.frombuffer(parts.get(b"tRNS", b""), np.uint8)[: len(colormap)]
    opaque[: len(alpha)] = alpha == 255
    return colormap, opaque


def _encode(suffix: str, array: np.ndarray, parameters: list[int]) -> bytes:
    bgr = cv2.cvtColor(array, cv2.COLOR_RGB2BGR) if array.ndim == 3 else array
    ok, encoded = cv2.imencode(suffix, bgr, parameters)
    if not ok:
        raise ImageError(f"cannot encode an array of shape {array.shape} and type {array.dtype} as {suffix}")
    return encoded.tobytes()


def encode_png(array: np.ndarray, level: int = 1) -> bytes:
    """[height, width] or [height, width, 3] RGB uint8 to PNG; `level` is zlib's, 0 to 9."""
    return _encode(".png", array, [cv2.IMWRITE_PNG_COMPRESSION, level])


def encode_label(ids: np.ndarray) -> bytes:
    """Class ids, uint8 [height, width], to PNG.

    Rows are not filtered: PNG's filters predict shades from their neighbours, which ids are not, and take twice the
    time of all else.
    """
    return _encode(".png", ids, [cv2.IMWRITE_PNG_COMPRESSION, 1, cv2.IMWRITE_PNG_FILTER, cv2.IMWRITE_PNG_FILTER_NONE])


def encode_jpeg(rgb: np.ndarray, quality: int = 95) -> bytes:
    """[height, width, 3] RGB uint8 to JPEG; `quality` 0 to 100."""
    return _encode(".jpg", rgb, [cv2.IMWRITE_JPEG_QUALITY, quality])


def shrunk_size(height: int, width: int, max_side: int) -> tuple[int, int]:
    """(height, width) in pixels with the longest side shrunk to `max_side`; 0, or a smaller image: unchanged."""
    longest = max(height, width)
    if not 0 < max_side < longest:
        return height, width
    return max(1, round(height * max_side / longest)), max(1, round(width * max_side / longest))


def shrink(image: np.ndarray, max_side: int) -> np.ndarray:
    """uint8 [H, W, 3] to `shrunk_size` by area averages: images to learn from and images to segment alike."""
    height, width = shrunk_size(*image.shape[:2], max_side)
    if (height, width) == image.shape[:2]:
        return image
    return cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA)

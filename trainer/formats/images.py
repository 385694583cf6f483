"""Decoding and encoding of images and labels.

OpenCV decodes PNGs with libpng, as TensorFlow does, which detects all damage of the compressed pixels. Pillow decodes
the other formats, because it refuses truncated files, where OpenCV fills the missing pixels with grey. Metadata are
removed first, so that damaged EXIF data, profiles or texts do not cost an image. OpenCV encodes, because it is faster.
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
"""The suffixes of image files, in lower case."""

PADDING = 128
"""The value of pixels outside an image: the middle of the range, which the network scales to nearly 0."""

FILLERS = (b"\0", b"\x55")
"""Two fillers for the coded pixels of a JPEG; whatever its Huffman tables, at least one does not decode to grey."""

NEARLY_GREY = 3
"""The greatest difference from grey, 128, of the last pixel of a JPEG whose last pixels are missing.

It need not be 0, since chroma is interpolated from the pixels before it.
"""

_TIFF_DEPTH, _TIFF_MEANING = 258, 262  # tags BitsPerSample and PhotometricInterpretation
_UPRIGHT = {
    2: lambda pixels: cv2.flip(pixels, 1),
    3: lambda pixels: cv2.rotate(pixels, cv2.ROTATE_180),
    4: lambda pixels: cv2.flip(pixels, 0),
    5: cv2.transpose,
    6: lambda pixels: cv2.rotate(pixels, cv2.ROTATE_90_CLOCKWISE),
    7: lambda pixels: cv2.rotate(cv2.transpose(pixels), cv2.ROTATE_180),
    8: lambda pixels: cv2.rotate(pixels, cv2.ROTATE_90_COUNTERCLOCKWISE),
}
"""EXIF orientation -> the function that makes pixels stored in it upright."""


def header(data: bytes, max_pixels: int = MAX_PIXELS) -> Header:
    """Reads the header only. Raises ImageError if it is not an image's, or width x height exceeds `max_pixels`."""
    return headers.read(data, max_pixels)


def upright(pixels: np.ndarray, orientation: int) -> np.ndarray:
    """Applies an EXIF orientation, 1 to 8, to stored pixels, uint8 [H, W] or [H, W, 3]."""
    return pixels if orientation == 1 else _UPRIGHT[orientation](pixels)


def mismatch(image: Header, label: Header) -> str | None:
    """The reason, in words, why a label does not fit its image once both are upright; None if it does.

    A label without an EXIF orientation was drawn on the upright image; one with its image's orientation on the stored
    image.
    """
    (height, width), (label_height, label_width) = image.upright_size, label.upright_size
    turned = f" by its EXIF orientation {image.orientation}" if image.orientation != 1 else ""
    if (label_height, label_width) != (height, width):
        reason = f"label is {label_width}x{label_height}, its image {width}x{height} (upright{turned})"
        if (label_height, label_width) == (width, height) and turned:
            reason += "; if it was drawn on the stored image, give both the same EXIF orientation, or none"
        return reason
    if label.orientation not in (1, image.orientation):
        return (
            f"label has EXIF orientation {label.orientation}, its image {image.orientation}, so their alignment is "
            "ambiguous; expected no orientation in the label, or that of its image"
        )
    return None


def decode_image(data: bytes, max_pixels: int = MAX_PIXELS) -> np.ndarray:
    """Decodes an image.

    Args:
      data: an encoded image: JPEG, PNG, BMP, WebP or TIFF.
      max_pixels: bound on width x height, checked before decoding.

    Returns:
      uint8 [H, W, 3] RGB, upright. Transparency is dropped, which shows the colours beneath; 16-bit greys are scaled
      to 8 bits.

    Raises:
      ImageError: the data are empty, damaged, truncated, too large, several images in one, or not an image.
    """
    return decode(data, max_pixels)[1]


def decode(data: bytes, max_pixels: int = MAX_PIXELS) -> tuple[Header, np.ndarray]:
    """`decode_image` with the header, in which the end of a JPEG is set."""
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
    """Raises ImageError for a JPEG with pixels missing before its end marker.

    Decoders silently fill missing pixels with grey. Bytes inserted before the end marker do not change a complete
    image, but decode to pixels if some are missing.
    """
    is_suspect = not header.is_sequential or abs(int(pixels[-1, -1].mean()) - 128) <= NEARLY_GREY
    for filler in FILLERS if header.is_common and is_suspect else ():
        longer = data[: header.end - 2] + filler * 64 + data[header.end - 2 : header.end]
        if (_pillow_image(_load(longer, header)) != pixels).any():
            raise ImageError("damaged or truncated JPEG: pixels are missing before its end marker")


@dataclasses.dataclass(frozen=True)
class Label:
    """A decoded label image, whose codes are not translated to class ids yet.

    Attributes:
      codes: uint8 [H, W], class ids or palette indices, or uint8 [H, W, 3], RGB colours; upright.
      colormap: if codes are palette indices: the RGB colours of the indices 0 to n - 1, uint8 [n, 3]; else None.
      opaque: whether those colours are opaque, bool [n]; None if and only if `colormap` is.
    """

    codes: np.ndarray
    colormap: np.ndarray | None = None
    opaque: np.ndarray | None = None

    @functools.cached_property
    def used(self) -> np.ndarray:
        """The ids or indices that occur, in ascending order, int64 [number of them]."""
        return np.flatnonzero(cv2.calcHist([self.codes], [0], None, [256], [0, 256]))


def read_label(data: bytes, max_pixels: int = MAX_PIXELS) -> Label:
    """Decodes a label image without changing its values; `codings.decode_ids` translates them to class ids.

    An EXIF orientation is applied, as to images. Greys of fewer than 8 bits become indices of a colour map of greys,
    since some programs take the stored numbers for the values, others the greys.

    Args:
      data: an encoded label, in a lossless format.
      max_pixels: bound on width x height, checked before decoding.

    Raises:
      ImageError: as in `decode_image`; or the label is lossy or transparent, or has values of more than 8 bits.
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
    """The codes of `read_label`, without a colour map.

    Returns:
      uint8 [H, W], class ids or palette indices, or uint8 [H, W, 3], RGB colours. Labels of three equal channels are
      colours too: only a palette can tell.

    Raises:
      ImageError: as in `read_label`.
    """
    return read_label(data, max_pixels).codes


def _single(data: bytes, max_pixels: int) -> Header:
    header = headers.read(data, max_pixels)
    if header.images > 1:
        raise ImageError(
            f"holds {header.images} images (frames of an animation, or pages), expected one; save the intended one as "
            "a separate file"
        )
    return header


def _load(data: bytes, header: Header) -> Image.Image:
    """The stored pixels of an image in another format than PNG."""
    pixels = {"jpeg": headers.jpeg_pixels, "tiff": headers.tiff_pixels}.get(header.format, bytes)
    image = open_pillow(pixels(data))
    if image.size != (header.width, header.height):
        raise ImageError(
            f"damaged {image.format}: claims to be {header.width}x{header.height} and "
            f"{image.width}x{image.height} pixels"
        )
    image.load()
    return image


def _pillow_image(image: Image.Image) -> np.ndarray:
    if image.mode == "F":
        raise ImageError("its pixels are floating-point numbers of unknown range; save it with 8 or 16 bits")
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
    raise ImageError(f"is a label of mode {image.mode}; expected class ids, palette indices or RGB colours")


def _check_tiff(image: Image.Image) -> None:
    """Raises ImageError for a TIFF label whose stored values Pillow does not return."""
    tags = image.tag_v2
    depths = np.atleast_1d(tags.get(_TIFF_DEPTH, 8))
    if image.mode in ("RGB", "RGBA") and depths.max(initial=0) > 8:
        raise ImageError(f"is a TIFF of {depths.max()}-bit colours; save the label as a PNG, or with 8 bits a channel")
    if tags.get(_TIFF_MEANING) == 0 and image.mode in ("1", "L", "I", "I;16"):
        raise ImageError("is a TIFF in which 0 is white, so its values are ambiguous; save the label as a PNG")


def _greys(scaled: np.ndarray, depth: int) -> Label:
    """The label of greys of fewer than 8 bits, which decoders scale to 0-255."""
    levels = np.arange(1 << depth) * 255 // ((1 << depth) - 1)
    return _indexed(_scale_down(scaled, depth), levels.astype(np.uint8)[:, None].repeat(3, axis=1))


def _indexed(indices: np.ndarray, colormap: np.ndarray, opaque: np.ndarray | None = None) -> Label:
    """A label of indices; without its colour map if that maps every index to the grey of the same value."""
    opaque = np.ones(len(colormap), bool) if opaque is None else opaque
    if len(colormap) > 1 and opaque.all() and (colormap == np.arange(len(colormap))[:, None]).all():
        return Label(indices)
    return Label(indices, colormap, opaque)


def _check_opaque(alpha: np.ndarray) -> None:
    hidden = alpha.size - int(np.count_nonzero(alpha == np.iinfo(alpha.dtype).max))
    if hidden:
        raise ImageError(
            f"is transparent in {hidden} pixel{'s' * (hidden != 1)}, whose class is ambiguous; save the label without "
            "transparency"
        )


def _to_8_bit_ids(ids: np.ndarray) -> np.ndarray:
    if ids.dtype == np.uint8:
        return ids
    if ids.min(initial=0) < 0 or ids.max(initial=0) > 255:
        wrong = int(ids.min()) if ids.min() < 0 else int(ids.max())
        raise ImageError(f"has class id {wrong}; expected ids from 0 to 255")
    return ids.astype(np.uint8)


def _to_8_bit_colors(colors: np.ndarray) -> np.ndarray:
    """Colours as uint8, exactly. Those of 16 bits were scaled from 8 bits by 257, or not scaled at all."""
    if colors.dtype == np.uint8:
        return colors
    if colors.max(initial=0) <= 255:
        return colors.astype(np.uint8)
    scaled, rest = np.divmod(colors, 257)
    if rest.any():
        raise ImageError("has 16-bit colours that no 8-bit colours scale to; save the label with 8 bits a channel")
    return scaled.astype(np.uint8)


def _to_rgb(bgr: np.ndarray) -> np.ndarray:
    return cv2.cvtColor(bgr, cv2.COLOR_BGR2RGB)


def _scale_down(greys: np.ndarray, depth: int) -> np.ndarray:
    """The numbers of `depth` bits that a decoder has scaled to 0-255."""
    return greys if depth == 8 else greys // (255 // ((1 << depth) - 1))


def _decode_png(data: bytes, flags: int, as_grey: bool = False) -> np.ndarray:
    """Decodes a PNG with OpenCV.

    Args:
      flags: OpenCV's; they determine channels (BGR or BGRA) and dtype.
      as_grey: whether to return the indices of a palette PNG, scaled from its depth to 0-255.
    """
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
        raise ImageError("damaged or truncated PNG: its compressed pixels cannot be decoded")
    return pixels


def _grey_header(chunk: bytes) -> bytes:
    """The IHDR chunk with colour type grey instead of palette."""
    head = bytearray(chunk[4:-4])
    head[4 + 9] = 0
    return chunk[:4] + bytes(head) + struct.pack(">I", zlib.crc32(head))


def _png_colors(data: bytes) -> tuple[np.ndarray, np.ndarray]:
    """The colour map of a palette PNG, uint8 [n, 3], and whether its colours are opaque, bool [n]."""
    parts: dict[bytes, bytes] = {kind: data[begin:end] for kind, begin, end in png_chunks(data)}
    flat = parts[b"PLTE"]
    if len(flat) % 3 or not 3 <= len(flat) <= 768:
        raise ImageError(f"damaged PNG: a palette of {len(flat)} bytes, expected 3 for each of 1 to 256 colours")
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
    """Encodes uint8 [H, W] or [H, W, 3] RGB as PNG; `level` is zlib's, 0 to 9."""
    return _encode(".png", array, [cv2.IMWRITE_PNG_COMPRESSION, level])


def encode_label(ids: np.ndarray) -> bytes:
    """Encodes class ids, uint8 [H, W], as PNG.

    Rows are not filtered: PNG's filters predict shades from their neighbours, which does not suit ids, and take twice
    as long as all the rest.
    """
    return _encode(".png", ids, [cv2.IMWRITE_PNG_COMPRESSION, 1, cv2.IMWRITE_PNG_FILTER, cv2.IMWRITE_PNG_FILTER_NONE])


def encode_jpeg(rgb: np.ndarray, quality: int = 95) -> bytes:
    """Encodes uint8 [H, W, 3] RGB as JPEG; `quality` is 0 to 100."""
    return _encode(".jpg", rgb, [cv2.IMWRITE_JPEG_QUALITY, quality])


def shrunk_size(height: int, width: int, max_side: int) -> tuple[int, int]:
    """(height, width), in pixels, of an image shrunk to a longest side of `max_side`; 0 never shrinks."""
    longest = max(height, width)
    if not 0 < max_side < longest:
        return height, width
    return max(1, round(height * max_side / longest)), max(1, round(width * max_side / longest))


def shrink(image: np.ndarray, max_side: int) -> np.ndarray:
    """Shrinks uint8 [H, W, 3] to `shrunk_size` by area averaging, for `prepare` and `segment` alike."""
    height, width = shrunk_size(*image.shape[:2], max_side)
    if (height, width) == image.shape[:2]:
        return image
    return cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA)

"""Decoding of label images without changing their values, and encoding.

`trainer.formats.codings` translates the values to class ids.
"""

from __future__ import annotations

import dataclasses
import functools

import cv2
import numpy as np
from PIL import Image

from trainer.formats.containers import ImageError, png_chunks
from trainer.formats.headers import Header, pillow_errors
from trainer.formats.images import load_pillow, single_header, to_rgb, upright
from trainer.formats.options import MAX_PIXELS
from trainer.formats.pngs import decode_png, encode_indices
from trainer.formats.runs import pixels_of_ids

_TIFF_DEPTH, _TIFF_MEANING = 258, 262  # tags BitsPerSample and PhotometricInterpretation


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
        return np.flatnonzero(pixels_of_ids(self.codes))

    @property
    def rgb(self) -> np.ndarray:
        """The colours, uint8 [H, W, 3], of a label that has some; indices without a colour are black."""
        if self.colormap is None:
            return self.codes
        colormap = np.zeros((256, 3), np.uint8)
        colormap[: len(self.colormap)] = self.colormap
        return np.take(colormap, self.codes, axis=0)


class Transparent(ImageError):
    """A label with transparent pixels."""


def read_label(data: bytes, max_pixels: int = MAX_PIXELS) -> Label:
    """Decodes a label image without changing its values; `codings.decode_ids` translates them to class ids.

    An EXIF orientation is applied, as to images. Greys of fewer than 8 bits become indices of a colour map of greys,
    since some programs take the stored numbers for the values, others the greys.

    Args:
      data: an encoded label, in a lossless format.
      max_pixels: bound on width x height, checked before decoding.

    Raises:
      ImageError: as in `decode_image`; or the label is lossy, or has values of more than 8 bits.
      Transparent: it has transparent pixels.
    """
    header = single_header(data, max_pixels)
    if header.lossy:
        raise ImageError(f"is a {header.lossy}, which blurs class ids; expected a lossless label (PNG)")
    if header.format == "png":
        label = _png_label(data, header)
    else:
        with pillow_errors(f"damaged or truncated {header.format.upper()}"):
            label = _pillow_label(load_pillow(data, header), header)
    return dataclasses.replace(label, codes=upright(label.codes, header.orientation))


def decode_label(data: bytes) -> np.ndarray:
    """The codes of `read_label`, without a colour map.

    Returns:
      uint8 [H, W], class ids or palette indices, or uint8 [H, W, 3], RGB colours. Labels of three equal channels are
      colours too: only a palette can tell.

    Raises:
      ImageError: as in `read_label`.
    """
    return read_label(data).codes


def encode_label(ids: np.ndarray) -> bytes:
    """Encodes class ids, uint8 [H, W], as PNG, see `encode_indices`."""
    return encode_indices(ids)


def _png_label(data: bytes, header: Header) -> Label:
    if header.mode == "P":
        indices = _scale_down(decode_png(data, cv2.IMREAD_UNCHANGED, as_grey=True), header.depth)
        return _indexed(indices, *_png_colors(data))
    pixels = decode_png(data, cv2.IMREAD_UNCHANGED)
    if header.mode in ("LA", "RGBA"):
        _check_opaque(pixels[..., 3])
        pixels = pixels[..., 0] if header.mode == "LA" else np.ascontiguousarray(pixels[..., :3])
    if pixels.ndim == 3:
        return Label(to_rgb(_to_8_bit_colors(pixels)))
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
        raise Transparent(transparency(hidden))


def transparency(pixels: int) -> str:
    """The fault, in words, of a label with so many transparent pixels."""
    return (
        f"is transparent in {pixels} pixel{'s' * (pixels != 1)}, whose class is ambiguous; save the label without "
        "transparency"
    )


def _to_8_bit_ids(ids: np.ndarray) -> np.ndarray:
    if ids.dtype == np.uint8:
        return ids
    if ids.max(initial=0) == 65535 and np.isin(ids, (0, 65535)).all():
        return np.where(ids, 255, 0).astype(np.uint8)  # black and white, scaled from 8 bits as colours are
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


def _scale_down(greys: np.ndarray, depth: int) -> np.ndarray:
    """The numbers of `depth` bits that a decoder has scaled to 0-255."""
    return greys if depth == 8 else greys // (255 // ((1 << depth) - 1))


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

"""Decoding and encoding of images; `trainer.formats.label_images` has labels.

`trainer.formats.pngs` decodes PNGs, and libjpeg-turbo JPEGs that are sound. Pillow decodes the other formats, and
JPEGs of which libjpeg-turbo complains, because it refuses truncated files, where OpenCV fills the missing pixels with
grey. Metadata are removed first, so that damaged EXIF data, profiles or texts do not cost an image. OpenCV encodes
images, because it is faster.
"""

from __future__ import annotations

import dataclasses
import re

import cv2
import numpy as np
import simplejpeg
from PIL import Image

from trainer.formats import bmps, containers, headers, tiffs
from trainer.formats.containers import ImageError
from trainer.formats.headers import Header, open_pillow, pillow_errors
from trainer.formats.options import MAX_PIXELS
from trainer.formats.pngs import decode_png, is_sound_png

SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff")
"""The suffixes of image files, in lower case."""

PADDING = 128
"""The value of pixels outside an image: the middle of the range, which the network scales to nearly 0."""

FILLERS = (b"\0", b"\x55")
"""Two fillers for the coded pixels of a JPEG; whatever its Huffman tables, at least one does not decode to grey."""

MISSING = ("premature end of data segment", "instead of RST")
"""What libjpeg-turbo says of a JPEG that lacks coded pixels: at the end of a scan, or between two restart markers."""

REDUCED = 8
"""The greatest factor by which libjpeg-turbo can reduce a JPEG while it decodes it: a block becomes one pixel."""

MAX_JPEG_SIDE = 65_500
"""The longest side, in pixels, of a JPEG that libjpeg-turbo writes."""

_RESTART = re.compile(rb"\xff([\xd0-\xd7])")

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
      uint8 [H, W, 3] RGB, upright. Transparency is dropped, which shows the colours beneath; 16-bit values are
      scaled to 8 bits, unless none is over 255.

    Raises:
      ImageError: the data are empty, damaged, truncated, too large, several images in one, or not an image.
    """
    return decode(data, max_pixels)[1]


def decode(data: bytes, max_pixels: int = MAX_PIXELS) -> tuple[Header, np.ndarray]:
    """`decode_image` with the header, in which the end of a JPEG and the brightest of 16-bit values are set."""
    header = single_header(data, max_pixels)
    if header.format == "png":
        if header.mode == "I;16":
            return _greys(decode_png(data, cv2.IMREAD_UNCHANGED), header)
        if header.depth == 16:
            return _deep_colors(to_rgb(decode_png(data, cv2.IMREAD_UNCHANGED)[..., :3]), header)
        return header, upright(to_rgb(decode_png(data, cv2.IMREAD_COLOR)), header.orientation)
    if header.format == "jpeg":
        header = dataclasses.replace(header, end=containers.jpeg_end(data))
        pixels = _sound_pixels(data, header)
        if pixels is not None:
            return header, upright(pixels, header.orientation)
    with pillow_errors(f"damaged or truncated {header.format.upper()}"):
        image = load_pillow(data, header)
        if image.mode.startswith("I"):
            return _greys(np.asarray(image), header)
        if header.depth == 16 and image.mode in ("RGB", "RGBA"):
            return _deep_colors(_tiff_colors(data, header, image), header)
        pixels = _pillow_image(image)
        if header.format == "jpeg":
            _check_whole(data, header, pixels)
    return header, upright(pixels, header.orientation)


def check(data: bytes, max_pixels: int = MAX_PIXELS) -> Header:
    """`decode` without the pixels: returns the same header, and raises the same errors.

    Takes half to two thirds of its time for a JPEG, and a fifth to three fifths for a PNG.
    """
    header = single_header(data, max_pixels)
    if header.format == "png" and is_sound_png(data, header):
        return header
    if header.format == "jpeg":
        header = dataclasses.replace(header, end=containers.jpeg_end(data))
        if _sound_pixels(data, header, REDUCED) is not None:
            return header
    return decode(data, max_pixels)[0]


def _sound_pixels(data: bytes, header: Header, factor: int = 1) -> np.ndarray | None:
    """`sound_jpeg` of a JPEG with this header; None if it is better left to Pillow."""
    # Unlike Pillow, libjpeg-turbo does not mind missing scans of a progressive JPEG.
    if not (header.is_common and header.is_sequential and header.mode in ("L", "RGB")):
        return None
    pixels = sound_jpeg(data, factor)
    size = (-(-header.height // factor), -(-header.width // factor))
    return pixels if pixels is not None and pixels.shape[:2] == size else None


def sound_jpeg(data: bytes, factor: int = 1) -> np.ndarray | None:
    """The pixels of a JPEG as stored, uint8 [H, W, 3] RGB; None for CMYK, and if libjpeg-turbo warns of damage.

    They are those of Pillow and OpenCV to the bit, in two thirds and nine tenths of their time. A JPEG of which
    libjpeg-turbo warns may still be whole.

    Args:
      factor: by which height and width are reduced: 1, or REDUCED, for which all coefficients are still read.
    """
    size = {} if factor == 1 else {"min_height": 1, "min_width": 1, "min_factor": factor}
    try:
        is_cmyk = simplejpeg.decode_jpeg_header(data)[2] in ("CMYK", "YCCK")
        return None if is_cmyk else simplejpeg.decode_jpeg(data, strict=True, **size)
    except ValueError:
        return None


def _check_whole(data: bytes, header: Header, pixels: np.ndarray) -> None:
    """Raises ImageError for a JPEG with pixels missing before its end marker, which decoders silently fill with grey.

    libjpeg-turbo tells only the first fault it finds. If that is another, more coded pixels are put before the end
    marker: they do not change a complete image.
    """
    stored = containers.jpeg_pixels(data[: header.end])
    complaint = jpeg_complaint(stored, header.mode) if header.is_common else ""
    is_missing = any(sign in complaint for sign in MISSING)
    for filler in FILLERS if complaint and not is_missing else ():
        is_missing |= bool((_pillow_image(load_pillow(_longer(stored, filler), header)) != pixels).any())
    if is_missing:
        raise ImageError("damaged or truncated JPEG: pixels are missing before its end marker")


def jpeg_complaint(data: bytes, mode: str) -> str:
    """What libjpeg-turbo first finds wrong with a JPEG of that mode, in its words; "" for nothing."""
    space = "CMYK" if mode == "CMYK" else "RGB"
    try:
        simplejpeg.decode_jpeg(data, space, strict=True, min_height=1, min_width=1, min_factor=REDUCED)
    except ValueError as error:
        return str(error)
    return ""


def _longer(data: bytes, filler: bytes) -> bytes:
    """A JPEG with more coded pixels before its end marker, and again behind the restart marker that would be next."""
    end = len(data[:-2].rstrip(b"\xff"))  # a marker may have any number of these bytes before it
    restarts = _RESTART.findall(data, data.rfind(b"\xff\xda", 0, end), end)
    following = (restarts[-1][0] + 1) % 8 if restarts else 0
    return data[:end] + filler * 64 + bytes([0xFF, 0xD0 + following]) + filler * 64 + data[end:]


def single_header(data: bytes, max_pixels: int) -> Header:
    """Like `header`, but raises ImageError for an animation or several pages too."""
    header = headers.read(data, max_pixels)
    if header.images > 1:
        raise ImageError(
            f"holds {header.images} images (frames of an animation, or pages), expected one; save the intended one as "
            "a separate file"
        )
    return header


def load_pillow(data: bytes, header: Header, low: bool = False) -> Image.Image:
    """Decodes an image in another format than PNG, as stored: its orientation is not applied.

    `low` decodes the lower bytes of a TIFF's colours of 16 bits, instead of the upper ones.

    Raises ImageError if the sizes in header and pixels differ; other errors of Pillow are not caught.
    """
    pixels = {"jpeg": containers.jpeg_pixels, "tiff": containers.tiff_pixels}.get(header.format, bytes)
    image = open_pillow(pixels(data))
    if image.size != (header.width, header.height):
        raise ImageError(
            f"damaged {image.format}: claims to be {header.width}x{header.height} and "
            f"{image.width}x{image.height} pixels"
        )
    if header.format == "bmp":
        bmps.expand(image, data)
    if header.format != "tiff":
        image.load()
        return image
    tiffs.check(image)
    tiffs.use_libtiff(image)
    if low:
        tiffs.use_low_bytes(image)
    try:
        image.load()
    except (OSError, ValueError) as error:
        raise ImageError(f"damaged or truncated TIFF: {error}{tiffs.hint(image)}") from None
    tiffs.check_sign(image)
    return image


def _pillow_image(image: Image.Image) -> np.ndarray:
    if image.mode == "F":
        raise ImageError("its pixels are floating-point numbers of unknown range; save it with 8 or 16 bits")
    return np.asarray(image if image.mode == "RGB" else image.convert("RGB"))


def _greys(grey: np.ndarray, header: Header) -> tuple[Header, np.ndarray]:
    """`decode` of greys [H, W] of any integer type: scaled from 16 bits, or 12, to 8 if one is over 255.

    Raises ImageError for greys outside of 0 to 65535, such as the Hounsfield units of a CT, whose range is not known.
    """
    low, high = int(grey.min()), int(grey.max())
    if low < 0 or high > 65535:
        raise ImageError(f"its values are {low} to {high}, of unknown range; expected 0 to 65535; save it with 8 bits")
    white = 255 if high <= 255 else 4095 if header.depth == 12 else 65535
    rgb = np.repeat(np.clip(grey / (white / 255), 0, 255).round().astype(np.uint8)[..., None], 3, axis=2)
    brightest = high * 65535 // white if high > 255 else high
    return dataclasses.replace(header, brightest=brightest), upright(rgb, header.orientation)


def _deep_colors(rgb: np.ndarray, header: Header) -> tuple[Header, np.ndarray]:
    """`decode` of colours of 16 bits, uint16 [H, W, 3]: scaled to 8 bits if a value is over 255."""
    brightest = int(rgb.max())
    pixels = (rgb if brightest <= 255 else rgb >> 8).astype(np.uint8)
    return dataclasses.replace(header, brightest=brightest), upright(pixels, header.orientation)


def _tiff_colors(data: bytes, header: Header, image: Image.Image) -> np.ndarray:
    """The colours, uint16 [H, W, 3], of a TIFF of 16 bits, of which Pillow has decoded the upper bytes.

    Those in separate planes have no lower bytes in Pillow; they are scaled from 8 bits.
    """
    high = np.asarray(image)[..., :3].astype(np.uint16)
    if tiffs.in_planes(image):
        tiffs.check_bright(image)
        return high * 257
    return high << 8 | np.asarray(load_pillow(data, header, low=True))[..., :3]


def to_rgb(bgr: np.ndarray) -> np.ndarray:
    """[H, W, 3] in OpenCV's order of channels, as RGB."""
    return cv2.cvtColor(bgr, cv2.COLOR_BGR2RGB)


def encode(suffix: str, array: np.ndarray, parameters: list[int]) -> bytes:
    """Encodes uint8 [H, W] or [H, W, 3] RGB with OpenCV, in the format of the suffix."""
    bgr = cv2.cvtColor(array, cv2.COLOR_RGB2BGR) if array.ndim == 3 else array
    ok, encoded = cv2.imencode(suffix, bgr, parameters)
    if not ok:
        raise ImageError(f"cannot encode an array of shape {array.shape} and type {array.dtype} as {suffix}")
    return encoded.tobytes()


def encode_png(array: np.ndarray, level: int = 1) -> bytes:
    """Encodes uint8 [H, W] or [H, W, 3] RGB as PNG; `level` is zlib's, 0 to 9."""
    return encode(".png", array, [cv2.IMWRITE_PNG_COMPRESSION, level])


def encode_jpeg(rgb: np.ndarray, quality: int = 95) -> bytes:
    """Encodes uint8 [H, W, 3] RGB as JPEG; `quality` is 0 to 100. Raises ImageError if a side is too long."""
    height, width = rgb.shape[:2]
    if max(height, width) > MAX_JPEG_SIDE:
        raise ImageError(
            f"{width}x{height} pixels cannot be written as a JPEG, which has at most {MAX_JPEG_SIDE:,} on a side; "
            "omit --overlays of `segment`, or give --image-format png or a --max-side to `prepare`"
        )
    return encode(".jpg", rgb, [cv2.IMWRITE_JPEG_QUALITY, quality])


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

"""Bytes to images and back.

Pillow decodes, because it refuses truncated files (OpenCV fills what is missing with grey) and knows an image's size
before it touches a pixel; OpenCV encodes, because it is faster.
"""

from __future__ import annotations

import dataclasses
import io
import warnings

import cv2
import numpy as np
from PIL import Image, ImageOps

from trainer.formats.options import MAX_PIXELS

FORMATS = ("JPEG", "PNG", "BMP", "WEBP", "TIFF")
"""Formats that are opened at all; formats whose decoders start other programs (such as EPS) are not among them."""

SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff")
"""How the names of image files end, in lower case."""

PADDING = 128
"""What stands outside an image: the middle of the range, which the network scales to nearly 0, as zero padding."""

ORIENTATION_TAG = 0x0112


class ImageError(ValueError):
    """The bytes cannot be used as an image. The message says why, without the file's name."""


@dataclasses.dataclass(frozen=True)
class Header:
    """What an image says of itself before its pixels are decoded.

    Attributes:
      format: "jpeg", "png", "bmp", "webp" or "tiff".
      width, height: pixels, as stored (before the EXIF orientation is applied).
      mode: Pillow's mode, such as "RGB", "L", "P", "CMYK".
      orientation: EXIF orientation, 1 to 8; 1 is upright.
    """

    format: str
    width: int
    height: int
    mode: str
    orientation: int

    @property
    def upright_size(self) -> tuple[int, int]:
        """(height, width) after the EXIF orientation is applied."""
        return (self.width, self.height) if self.orientation >= 5 else (self.height, self.width)


def _open(data: bytes, max_pixels: int) -> Image.Image:
    if not data:
        raise ImageError("the file is empty")
    try:
        with warnings.catch_warnings():
            # The bound below replaces Pillow's own warning.
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            image = Image.open(io.BytesIO(data), formats=FORMATS)
    except Image.DecompressionBombError as error:
        raise ImageError(f"refused as a decompression bomb: {error}") from None
    except (OSError, SyntaxError, ValueError) as error:
        kind = "damaged image" if not isinstance(error, Image.UnidentifiedImageError) else "not an image"
        raise ImageError(f"{kind}: begins with {data[:12]!r}, expected JPEG, PNG, BMP, WebP or TIFF") from None
    if image.width * image.height > max_pixels:
        raise ImageError(
            f"{image.width}x{image.height} is {image.width * image.height:,} pixels, over the bound of {max_pixels:,}"
        )
    return image


def _orientation(image: Image.Image) -> int:
    try:
        value = image.getexif().get(ORIENTATION_TAG, 1)
    except Exception:  # damaged EXIF raises many kinds of error, and none of them must cost the image
        return 1
    return value if value in range(1, 9) else 1


def header(data: bytes, max_pixels: int = MAX_PIXELS) -> Header:
    """Read the header alone. Raises ImageError for what is not an image, or over `max_pixels`."""
    image = _open(data, max_pixels)
    return Header(image.format.lower(), image.width, image.height, image.mode, _orientation(image))


def _load(image: Image.Image) -> None:
    try:
        image.load()
    except (OSError, SyntaxError, ValueError, IndexError, Image.DecompressionBombError) as error:
        raise ImageError(f"damaged or truncated {image.format}: {error}") from None


def decode_image(data: bytes, max_pixels: int = MAX_PIXELS) -> np.ndarray:
    """Decode an image.

    Args:
      data: an encoded image in one of FORMATS.
      max_pixels: bound on width x height, checked before decoding.

    Returns:
      [height, width, 3] uint8 RGB, upright (EXIF orientation applied). Transparent images are composited onto black;
      16-bit greys are scaled to 8 bit.

    Raises:
      ImageError: empty, truncated, too large, or not an image.
    """
    image = _open(data, max_pixels)
    orientation = _orientation(image)
    _load(image)
    if orientation != 1:
        image = ImageOps.exif_transpose(image)
    if image.mode == "RGB":
        return np.asarray(image)
    if image.mode.startswith(("I", "F")):
        return np.repeat(_to_8_bit(np.asarray(image))[..., None], 3, axis=2)
    return np.asarray(image.convert("RGB"))


def _to_8_bit(grey: np.ndarray) -> np.ndarray:
    scale = 257.0 if grey.max(initial=0) > 255 else 1.0
    return np.clip(grey / scale, 0, 255).round().astype(np.uint8)


def decode_label(data: bytes, max_pixels: int = MAX_PIXELS) -> np.ndarray:
    """Decode a label image without touching its values.

    Returns:
      [height, width] uint8 class ids or palette indices, or [height, width, 3] uint8 RGB for colour-coded labels.
      Images whose three channels are equal everywhere are still colours: the palette decides.

    Raises:
      ImageError: empty, truncated, too large, not an image, or ids over 255.
    """
    image = _open(data, max_pixels)
    if image.format == "JPEG":
        raise ImageError("is a JPEG, which blurs class ids; expected a lossless label (PNG)")
    _load(image)
    if image.mode in ("L", "P"):
        return np.asarray(image)
    if image.mode == "1":
        return np.asarray(image).astype(np.uint8)
    if image.mode.startswith("I"):
        ids = np.asarray(image)
        if ids.min(initial=0) < 0 or ids.max(initial=0) > 255:
            raise ImageError(f"class id {int(ids.max())} in a 16-bit label; expected ids from 0 to 255")
        return ids.astype(np.uint8)
    if image.mode == "LA":
        return np.asarray(image)[..., 0]
    return np.asarray(image.convert("RGB"))


def _encode(suffix: str, array: np.ndarray, parameters: list[int]) -> bytes:
    bgr = cv2.cvtColor(array, cv2.COLOR_RGB2BGR) if array.ndim == 3 else array
    ok, encoded = cv2.imencode(suffix, bgr, parameters)
    if not ok:
        raise ImageError(f"cannot encode an array of shape {array.shape} and type {array.dtype} as {suffix}")
    return encoded.tobytes()


def encode_png(array: np.ndarray, level: int = 1) -> bytes:
    """[height, width] or [height, width, 3] RGB uint8 to PNG; `level` is zlib's, 0 to 9."""
    return _encode(".png", array, [cv2.IMWRITE_PNG_COMPRESSION, level])


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

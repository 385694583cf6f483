"""Turns records into crops: decodes and augments images and labels for training, by NumPy and OpenCV.

The decoders of `trainer.formats.images` give the same values as TensorFlow's (`tf.io.decode_jpeg` with
"INTEGER_ACCURATE") in less time; OpenCV's resize takes a fifth of TensorFlow's. All release Python's lock.
"""

from __future__ import annotations

import collections
import functools
import math
import weakref
from collections.abc import Callable, Sequence
from concurrent.futures import Executor
from typing import Any, NamedTuple

import cv2
import numpy as np
import tensorflow as tf

from trainer.formats.containers import PNG_SIGNATURE, ImageError
from trainer.formats.examples import decode_pixels
from trainer.formats.images import PADDING, sound_jpeg
from trainer.formats.labels import Palette
from trainer.formats.pngs import decode_png
from trainer.train.options import StreamOptions

ALIGNMENT = 64
"""Alignment in bytes: TensorFlow copies arrays that do not begin at a multiple of it."""

JPEG = b"\xff\xd8\xff"
JPEG_REACH = 2
"""Number of columns on either side from which a pixel's chroma is interpolated."""
COLOR = cv2.IMREAD_COLOR_RGB


def decode_image(data: bytes) -> np.ndarray:
    """A JPEG or PNG image as [height, width, 3] uint8 RGB. Raises ValueError if it is neither, or damaged."""
    if data.startswith(PNG_SIGNATURE):
        return _decode_png(data, COLOR, "image")
    if (pixels := sound_jpeg(data)) is not None:
        return pixels
    try:
        pixels = cv2.imdecode(np.frombuffer(data, np.uint8), COLOR | cv2.IMREAD_IGNORE_ORIENTATION) if data else None
    except cv2.error as error:
        if error.code == cv2.Error.StsNoMem:
            raise MemoryError(str(error)) from None
        raise ValueError(f"its image cannot be decoded: {error.err}") from None
    if pixels is None:
        raise ValueError("its image cannot be decoded")
    return pixels


def decode_label(data: bytes) -> np.ndarray:
    """A label PNG as [height, width] uint8 class ids. Raises ValueError if it is not a PNG, or damaged."""
    if not data.startswith(PNG_SIGNATURE):
        raise ValueError("its label is not a PNG")
    return _decode_png(data, cv2.IMREAD_GRAYSCALE, "label")


def _decode_png(data: bytes, flags: int, what: str) -> np.ndarray:
    try:
        return decode_png(data, flags)
    except ImageError as error:
        raise ValueError(f"its {what} cannot be decoded: {error}") from None


def _check_size(pixels: np.ndarray, height: int, width: int, what: str) -> np.ndarray:
    if pixels.shape[:2] != (height, width):
        raise ValueError(f"its {what} does not have the size that the record states")
    return pixels


def _check_ids(ids: np.ndarray, palette: Palette) -> np.ndarray:
    # Only the loss of TensorFlow's own kernels refuses them: that of XLA becomes NaN, and that of JAX counts their
    # pixels as predicted without a fault.
    if ((ids >= palette.num_classes) & (ids != palette.ignore_id)).any():
        raise ValueError("its label has ids that are not classes")
    return ids


def decode_whole(
    image: bytes, label: bytes, height: int, width: int, palette: Palette
) -> tuple[np.ndarray, np.ndarray]:
    """Image [height, width, 3] and label [height, width] uint8.

    Raises:
      ValueError: one of them is damaged or has another size, or the label has ids that are not classes.
    """
    pixels = _check_size(decode_image(image), height, width, "image")
    ids = _check_size(decode_label(label), height, width, "label")
    return pixels, _check_ids(ids, palette)


class Window(NamedTuple):
    """The square that becomes a crop, in pixels of the image; where it exceeds the image, it is filled.

    Attributes:
      y, x, height, width: the part that the image covers.
      above, before: rows and columns of the square before that part.
      side: the side of the square.
      mirrored: whether left and right are exchanged.
    """

    y: int
    x: int
    height: int
    width: int
    above: int
    before: int
    side: int
    mirrored: bool


def _offset(uniform: np.float32, length: int, side: int) -> int:
    """The first pixel of a square on an axis of `length` pixels; negative if the square is longer than the axis.

    It lies wholly within the image, or the image wholly within it; all places are equally likely.
    """
    room = length - side
    place = min(int(uniform * np.float32(abs(room) + 1)), abs(room))
    return place if room > 0 else -place


def window(uniform: np.ndarray, height: int, width: int, options: StreamOptions) -> Window:
    """A random window of an image of that size, at a random scale.

    Args:
      uniform: [4] float32 in [0, 1): for the scale, the place on each axis, and the mirroring.
    """
    scale, vertical, horizontal, mirror = uniform
    scale = np.float32(options.scale_min) + scale * np.float32(options.scale_max - options.scale_min)
    side = max(int(np.round(np.float32(options.crop) / scale)), 1)
    top, left = _offset(vertical, height, side), _offset(horizontal, width, side)
    y, x = max(top, 0), max(left, 0)
    part = (min(top + side, height) - y, min(left + side, width) - x)
    return Window(y, x, *part, y - top, x - left, side, bool(options.flip and mirror < 0.5))


def _decode_window(data: bytes, height: int, width: int, part: Window) -> np.ndarray:
    """Decodes the part of an image of that size that `part` covers, as [height, width, 3] uint8 RGB."""
    # TensorFlow's decoder skips what lies below a window and, except for reading its bits, beside it. In the outermost
    # columns it lacks the chroma of their neighbours, so the window is widened by these.
    if data.startswith(JPEG) and 2 * part.height * part.width < height * width:
        left, right = max(part.x - JPEG_REACH, 0), min(part.x + part.width + JPEG_REACH, width)
        wider = [part.y, left, part.height, right - left]
        try:
            with tf.device("CPU"):
                pixels = tf.io.decode_and_crop_jpeg(data, wider, channels=3, dct_method="INTEGER_ACCURATE").numpy()
        except tf.errors.InvalidArgumentError as error:
            raise ValueError(f"its image cannot be decoded: {error.message}") from None
        return pixels[:, part.x - left :][:, : part.width]
    whole = _check_size(decode_image(data), height, width, "image")
    return whole[part.y : part.y + part.height, part.x : part.x + part.width]


class Memory:
    """Memory for arrays that TensorFlow uses without a copy; it is reused once nothing refers to them.

    New pages cost a process as much time as filling them.
    """

    def __init__(self) -> None:
        self._free: dict[int, list[np.ndarray]] = collections.defaultdict(list)

    def array(self, shape: Sequence[int], dtype: str) -> np.ndarray:
        """An uninitialised array."""
        size = math.prod(shape) * np.dtype(dtype).itemsize
        try:
            buffer = self._free[size].pop()
        except IndexError:
            buffer = np.empty(size + ALIGNMENT, np.uint8)
        # In NumPy, a view refers to its base array, not to other views: only the base outlives all of them.
        lent = _Lent(buffer.__array_interface__)
        weakref.finalize(lent, self._free[size].append, buffer).atexit = False
        start = -buffer.ctypes.data % ALIGNMENT
        return np.asarray(lent)[start : start + size].view(dtype).reshape(shape)


class _Lent:
    def __init__(self, interface: dict[str, Any]) -> None:
        self.__array_interface__ = interface


class Crops(NamedTuple):
    """A batch for training.

    Attributes:
      image: [B, crop, crop, 3] uint8 RGB.
      label: [B, crop, crop] uint8 class ids; the palette's ignore_id where the window lies outside of the image.
    """

    image: np.ndarray
    label: np.ndarray


def _place(before: int, covered: int, side: int, crop: int) -> slice:
    """The part of a crop's axis that the image covers; see `Window`."""
    length = max(1, min(crop, round(covered * crop / side)))
    start = min(round(before * crop / side), crop - length)
    return slice(start, start + length)


def _frame(pixels: np.ndarray, rows: slice, columns: slice, value: int) -> None:
    """Fills the part of `pixels`, [height, width, ...], outside these rows and columns."""
    pixels[: rows.start] = value
    pixels[rows.stop :] = value
    pixels[rows, : columns.start] = value
    pixels[rows, columns.stop :] = value


def _sources(covered: int, place: slice, mirrored: bool = False) -> np.ndarray:
    """The indices of the nearest of `covered` pixels of an axis, for each pixel of the crop at `place`.

    Half-pixel centres, as in the image's resize, so that both stay aligned.
    """
    length = place.stop - place.start
    nearest = ((np.arange(length) + 0.5) * (covered / length)).astype(np.intp)
    return covered - 1 - nearest if mirrored else nearest


def _fill(
    crop: Crops, read: Callable[[], bytes], uniform: np.ndarray, options: StreamOptions, palette: Palette
) -> None:
    """Writes a random crop of a record into `crop`, the arrays of one image."""
    image, label, *size = decode_pixels(read())
    part = window(uniform, *size, options)
    pixels = _decode_window(image, *size, part)
    ids = _check_size(decode_label(label), *size, "label")
    ids = _check_ids(ids[part.y : part.y + part.height, part.x : part.x + part.width], palette)
    before = part.before
    if part.mirrored:
        pixels, before = cv2.flip(pixels, 1), part.side - before - part.width
    rows = _place(part.above, part.height, part.side, options.crop)
    columns = _place(before, part.width, part.side, options.crop)
    # Not the window with its margins: most windows are larger than the image.
    extent = (columns.stop - columns.start, rows.stop - rows.start)
    cv2.resize(pixels, extent, dst=crop.image[rows, columns], interpolation=cv2.INTER_LINEAR)
    _frame(crop.image, rows, columns, PADDING)
    # Takes whole rows: transposing twice with OpenCV is faster than taking columns with NumPy.
    turned = np.take(cv2.transpose(ids), _sources(part.width, columns, part.mirrored), axis=0)
    # The indices are valid. With the default mode NumPy would copy the result.
    np.take(cv2.transpose(turned), _sources(part.height, rows), axis=0, out=crop.label[rows, columns], mode="clip")
    _frame(crop.label, rows, columns, palette.ignore_id)


def crops(
    reads: Sequence[Callable[[], bytes]],
    uniforms: np.ndarray,
    options: StreamOptions,
    palette: Palette,
    workers: Executor,
    memory: Memory,
) -> Crops:
    """A batch of random crops, each written directly into the batch.

    Args:
      reads: for each record of the batch, a function that returns it serialised; called by the workers.
      uniforms: [B, 4] float32, see `window`.

    Raises:
      ValueError: a record cannot be used.
    """
    shape = (len(reads), options.crop, options.crop)
    batch = Crops(memory.array((*shape, 3), "uint8"), memory.array(shape, "uint8"))
    fill = functools.partial(_fill, options=options, palette=palette)
    for _ in workers.map(fill, map(Crops, *batch), reads, uniforms):
        pass
    return batch

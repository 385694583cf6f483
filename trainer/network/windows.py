"""Images too large for one pass of the network: it sees overlapping windows, whose inner parts are put together.

The overlap-tile strategy of U-Net (Ronneberger et al. 2015, section 2), without mirrored borders: at the edges of the
image a window ends there, as the image would.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from trainer.network.options import MARGIN, WINDOW

_CELLS = 32
"""Windows begin at multiples of every output stride, so that the features are those of the whole image."""


class Span(NamedTuple):
    """One window along one axis, in pixels.

    Attributes:
      seen: what the network sees.
      kept: the part of it that goes into the result; those of all windows cover the image once.
    """

    seen: slice
    kept: slice

    @property
    def inner(self) -> slice:
        """The part that is kept, within what is seen."""
        return slice(self.kept.start - self.seen.start, self.kept.stop - self.seen.start)


def spans(length: int, side: int) -> list[Span]:
    """The windows along an axis of `length` pixels: as few as possible, of at most `side` pixels."""
    if length <= side:
        return [Span(slice(0, length), slice(0, length))]
    most = (side - 2 * MARGIN) // _CELLS * _CELLS
    step = math.ceil(length / math.ceil(length / most) / _CELLS) * _CELLS
    parts = (slice(begin, min(begin + step, length)) for begin in range(0, length, step))
    return [Span(slice(max(0, part.start - MARGIN), min(length, part.stop + MARGIN)), part) for part in parts]


def passes(height: int, width: int, side: int) -> float:
    """The pixels that the network sees of an image of that size, as a multiple of the image's."""
    if height * width <= side**2:
        return 1.0
    rows, columns = (sum(seen.stop - seen.start for seen, _ in spans(length, side)) for length in (height, width))
    return rows * columns / (height * width)


def windowed(predict: Callable[[np.ndarray], Any], side: int = WINDOW) -> Callable[[np.ndarray], Any]:
    """The same function for images of any size; those of more than `side` x `side` pixels are seen in windows.

    Args:
      predict: a function of images, uint8 [B, H, W, 3], that returns an array [B, H, W, ...] or a tuple of them.
      side: largest side of a window, in pixels, MIN_WINDOW or more.
    """

    def predict_any(images: np.ndarray) -> Any:
        height, width = images.shape[1:3]
        if height * width <= side**2:
            return predict(images)
        results: list[np.ndarray] = []
        for rows in spans(height, side):
            for columns in spans(width, side):
                values = predict(images[:, rows.seen, columns.seen])
                values = values if isinstance(values, tuple) else (values,)
                if not results:
                    results = [np.empty((*images.shape[:3], *value.shape[3:]), value.dtype) for value in values]
                for result, value in zip(results, values, strict=True):
                    result[:, rows.kept, columns.kept] = value[:, rows.inner, columns.inner]
        return results[0] if len(results) == 1 else tuple(results)

    return predict_any

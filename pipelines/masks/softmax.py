"""What the softmax of an image says of its pixels: the most probable class, its probability, and the entropy.

The classes of a pixel are adjacent in memory, and NumPy is slow at comparing, or adding up, so few numbers. Therefore
blocks of pixels, which stay in a core's cache, are transposed, and whole planes of classes compared.
"""

from __future__ import annotations

from collections.abc import Iterator

import cv2
import numpy as np

BLOCK = 1 << 18
"""Values that are transposed at a time: 1 MiB."""


def maps(probabilities: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The decision for every pixel.

    Args:
      probabilities: float32 [..., C], values in [0, 1].

    Returns:
      The most probable class, uint8 [...], the lowest of equally probable ones; its probability, float32 [...]; and
      the entropy of the classes' probabilities, -sum(p log p) in nats, float32 [...], where 0 log 0 is 0.
    """
    ids, best, entropy = (np.empty(probabilities.shape[:-1], dtype) for dtype in (np.uint8, np.float32, np.float32))
    flat_ids, flat_best, flat_entropy = ids.reshape(-1), best.reshape(-1), entropy.reshape(-1)
    for part, planes in _blocks(probabilities):
        _decide(planes, flat_ids[part], flat_best[part])
        logarithms = np.log(np.maximum(planes, np.finfo(np.float32).tiny))
        logarithms *= planes
        np.negative(logarithms.sum(0), out=flat_entropy[part])
    return ids, best, entropy


def most_probable(probabilities: np.ndarray, height: int, width: int) -> tuple[np.ndarray, np.ndarray]:
    """The most probable class of every pixel of an image.

    Args:
      probabilities: float32 [h, w, C], values in [0, 1].
      height, width: the size of the result; probabilities of another size are enlarged bilinearly.

    Returns:
      Class ids, uint8 [height, width], the lowest of equally probable ones; and their probability, float32
      [height, width].
    """
    ids, best = np.zeros((height, width), np.uint8), np.empty((height, width), np.float32)
    if probabilities.shape[:2] == (height, width):
        flat_ids, flat_best = ids.reshape(-1), best.reshape(-1)
        for part, planes in _blocks(probabilities):
            _decide(planes, flat_ids[part], flat_best[part])
        return ids, best
    best.fill(-1)
    # Class by class, as all classes of a large image at full size would be the largest array of the job.
    for label in range(probabilities.shape[2]):
        plane = np.ascontiguousarray(probabilities[..., label], np.float32)
        plane = cv2.resize(plane, (width, height), interpolation=cv2.INTER_LINEAR)
        np.copyto(ids, label, where=plane > best)
        np.maximum(best, plane, out=best)
    return ids, best


def _blocks(probabilities: np.ndarray) -> Iterator[tuple[slice, np.ndarray]]:
    """Some of the pixels, and their probabilities, float32 [C, pixels]; until all pixels have had their turn."""
    pixels = probabilities.reshape(-1, probabilities.shape[-1])
    size = max(1, BLOCK // pixels.shape[1])
    for begin in range(0, len(pixels), size):
        part = slice(begin, begin + size)
        yield part, cv2.transpose(np.ascontiguousarray(pixels[part], np.float32))


def _decide(planes: np.ndarray, ids: np.ndarray, best: np.ndarray) -> None:
    """Writes the most probable class and its probability, of probabilities [C, pixels], into `ids` and `best`."""
    planes.max(0, out=best)
    ids.fill(0)
    for label in reversed(range(len(planes))):
        np.copyto(ids, label, where=planes[label] == best)

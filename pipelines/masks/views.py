"""Test-time augmentation: combines the softmaxes of several views of an image into one."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import cv2
import numpy as np

from pipelines.masks.options import Views

Predict = Callable[[np.ndarray, str], np.ndarray]
"""Images uint8 [B, H, W, 3] and "probabilities" -> their softmax, float32 [B, H, W, C]."""

CHANNELS = 4
"""Classes resized at a time: OpenCV's area averages take no more channels."""


def mean_softmax(predict: Predict, images: np.ndarray, views: Views) -> np.ndarray:
    """The mean of the softmaxes of all views, each resized to the size of the images.

    The same as in the evaluation of DeepLabV3+ (Chen et al. 2018, section 4: multi-scale inputs, left-right flips).

    Args:
      predict: the network.
      images: uint8 [B, H, W, 3] RGB.
      views: at least one.

    Returns:
      float32 [B, H, W, C]; the classes of a pixel add up to 1.
    """
    if views.is_single:
        return predict(images, "probabilities")
    softmaxes = _softmaxes(predict, images, views)
    total = np.require(next(softmaxes), requirements="W")
    for softmax in softmaxes:
        total += softmax
    total /= len(views.scales) * (1 + views.flip)
    return total


def _softmaxes(predict: Predict, images: np.ndarray, views: Views) -> Iterator[np.ndarray]:
    """The softmax of every view, float32 [B, H, W, C]."""
    size = images.shape[1:3]
    for scale in views.scales:
        view = resized(images, tuple(max(1, round(side * scale)) for side in size))
        yield resized(predict(view, "probabilities"), size)
        if views.flip:
            mirrored = predict(np.ascontiguousarray(view[:, :, ::-1]), "probabilities")
            yield resized(mirrored, size)[:, :, ::-1]


def resized(arrays: np.ndarray, size: tuple[int, ...]) -> np.ndarray:
    """Resizes [B, h, w, C] to [B, *size, C], by area averages or bilinearly; returns the same array if it fits."""
    if arrays.shape[1:3] == size:
        return arrays
    # Not by one side alone: of an image of one row, only the width shrinks.
    is_smaller = size[0] * size[1] < arrays.shape[1] * arrays.shape[2]
    interpolation = cv2.INTER_AREA if is_smaller else cv2.INTER_LINEAR
    result = np.empty((len(arrays), *size, arrays.shape[3]), arrays.dtype)
    for target, array in zip(result, arrays, strict=True):
        for first in range(0, array.shape[2], CHANNELS):
            part = np.ascontiguousarray(array[..., first : first + CHANNELS])
            patch = cv2.resize(part, size[::-1], interpolation=interpolation)
            target[..., first : first + CHANNELS] = patch.reshape(*size, -1)
    return result

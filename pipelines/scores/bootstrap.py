"""The confidence interval of a difference of scores, by a bootstrap over the images. NumPy only."""

from __future__ import annotations

import functools

import numpy as np

from trainer.metrics import LEVEL, RESAMPLES, Gain, iou, mean_iou


def bootstrap(before: np.ndarray, after: np.ndarray) -> Gain:
    """The gain in mIoU from `before` to `after`, with its percentile interval.

    The bootstrap (Efron, Annals of Statistics 1979) draws images with replacement and is paired: both scores of a
    resample come from the same images. The same arguments give the same interval.

    Args:
      before, after: int64 [n, 3, C], `trainer.metrics.class_counts` of n images, the same ones in both.
    """
    value = mean_iou(after.sum(0)) - mean_iou(before.sum(0))
    low, high = _interval(mean_iou(_resampled(after)) - mean_iou(_resampled(before)))
    return Gain(float(value), float(low), float(high))


def bootstrap_classes(before: np.ndarray, after: np.ndarray) -> list[Gain | None]:
    """`bootstrap` of the IoU of each of the C classes; None for one that is in no label or mask before or after."""
    values = iou(after.sum(0)) - iou(before.sum(0))
    known = ~np.isnan(values)
    differences = iou(_resampled(after[..., known])) - iou(_resampled(before[..., known]))
    gains = iter(zip(values[known], *_interval(differences), strict=True))
    return [Gain(*map(float, next(gains))) if present else None for present in known]


def _resampled(counts: np.ndarray) -> np.ndarray:
    """float64 [RESAMPLES, 3, C]: the sums over the images of each resample."""
    # Float64 sums of counts are exact up to 2**53 pixels, and only they run in BLAS.
    flat = counts.reshape(len(counts), -1).astype(np.float64)
    return (_draws(len(counts)) @ flat).reshape(RESAMPLES, *counts.shape[1:])


@functools.lru_cache(maxsize=2)
def _draws(images: int) -> np.ndarray:
    """float64 [RESAMPLES, images]: how often each image is in each resample; cached, as drawing takes longest."""
    return np.random.default_rng(0).multinomial(images, np.full(images, 1 / images), RESAMPLES).astype(np.float64)


def _interval(differences: np.ndarray) -> np.ndarray:
    """[2, ...]: the lower and the upper end of the interval, over the first axis of `differences`."""
    return np.nanquantile(differences, [(1 - LEVEL) / 2, (1 + LEVEL) / 2], axis=0)

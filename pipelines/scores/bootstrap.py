"""How certain a difference of scores is: its bootstrap interval over the images. NumPy only."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from trainer.metrics import mean_iou

RESAMPLES = 2000
LEVEL = 0.95


@dataclass(frozen=True)
class Gain:
    """A difference of scores, `value`, and its interval from `low` to `high` of confidence `level` (0 to 1)."""

    value: float
    low: float
    high: float
    level: float = LEVEL
    resamples: int = RESAMPLES


def bootstrap(before: np.ndarray, after: np.ndarray, seed: int = 0) -> Gain:
    """The gain in mIoU from `before` to `after` with its percentile interval.

    The bootstrap (Efron, Annals of Statistics 1979) draws images with replacement and is paired: both scores of a
    resample come from the same images.

    Args:
      before, after: int64 [n, 3, C], `trainer.metrics.class_counts` of n images, the same ones in both.
      seed: of the resamples; the same arguments give the same interval.
    """
    images = len(before)
    drawn = np.random.default_rng(seed).multinomial(images, np.full(images, 1 / images), RESAMPLES)

    def scores(counts: np.ndarray) -> np.ndarray:
        # Float64 sums of counts are exact up to 2**53 pixels, and only they run in BLAS.
        flat = counts.reshape(images, -1).astype(np.float64)
        return mean_iou((drawn.astype(np.float64) @ flat).reshape(RESAMPLES, *counts.shape[1:]))

    low, high = np.nanquantile(scores(after) - scores(before), [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    value = mean_iou(after.sum(0)) - mean_iou(before.sum(0))
    return Gain(float(value), float(low), float(high))

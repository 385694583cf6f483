"""Counts of pixels whose scores are known by hand."""

from __future__ import annotations

import numpy as np


def two_classes(right: np.ndarray) -> np.ndarray:
    """int64 [n, 3, 2] of images with 1000 pixels of each of two classes, of which `right` [n] are right in each."""
    hits = np.stack([right, right], -1)
    return np.stack([hits, np.full_like(hits, 1000), np.full_like(hits, 1000)], 1).astype(np.int64)


def score(right: float) -> float:
    """The mIoU of `two_classes` where on average `right` of 1000 are."""
    return right / (2000 - right)

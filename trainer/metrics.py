"""Scores of a segmentation, all from one confusion matrix. NumPy only."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np


def confusion(label: np.ndarray, prediction: np.ndarray, num_classes: int, ignore_id: int) -> np.ndarray:
    """Count pixels by true and predicted class.

    Args:
      label: integer class ids and `ignore_id`, any shape.
      prediction: integer class ids of the same shape.

    Returns:
      int64 [num_classes, num_classes]; entry [t, p] counts pixels of class t predicted as p. Pixels labelled
      `ignore_id` are left out.

    Raises:
      ValueError: shapes differ, or an id is outside the classes.
    """
    if label.shape != prediction.shape:
        raise ValueError(f"label and prediction differ in shape: {label.shape} and {prediction.shape}")
    valid = label != ignore_id
    truth, guess = label[valid].astype(np.int64), prediction[valid].astype(np.int64)
    for what, ids in (("label", truth), ("prediction", guess)):
        if ids.size and not 0 <= ids.min() <= ids.max() < num_classes:
            raise ValueError(f"{what} has class ids {ids.min()} to {ids.max()}; expected 0 to {num_classes - 1}")
    counts = np.bincount(truth * num_classes + guess, minlength=num_classes**2)
    return counts.reshape(num_classes, num_classes)


def intersection_over_union(confusion: np.ndarray) -> np.ndarray:
    """float64 [C]: true positives / (true positives + false positives + false negatives); NaN for absent classes."""
    hits = np.diag(confusion).astype(np.float64)
    union = confusion.sum(axis=0) + confusion.sum(axis=1) - hits
    return np.divide(hits, union, out=np.full_like(hits, np.nan), where=union > 0)


def mean_iou(confusion: np.ndarray) -> float:
    """Mean intersection over union (Jaccard index) of the classes in truth or prediction; NaN if there are none."""
    present = intersection_over_union(confusion)
    present = present[~np.isnan(present)]
    return float(present.mean()) if present.size else float("nan")


def scores(confusion: np.ndarray, names: Sequence[str]) -> dict[str, Any]:
    """The scores of a confusion matrix, ready for JSON.

    Returns:
      {"miou": float, "pixel_accuracy": float, "per_class": {name: IoU, or None where the class occurs neither in truth
      nor in prediction}}, all in [0, 1]; "miou" and "pixel_accuracy" are None when no pixel was counted.
    """
    ious = intersection_over_union(confusion)
    total = int(confusion.sum())
    return {
        "miou": mean_iou(confusion) if total else None,
        "pixel_accuracy": float(np.trace(confusion) / total) if total else None,
        "per_class": {name: None if np.isnan(iou) else float(iou) for name, iou in zip(names, ious, strict=True)},
    }

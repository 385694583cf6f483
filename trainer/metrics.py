"""The scores of a segmentation, from confusion matrices."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

RESAMPLES = 2000
LEVEL = 0.95


@dataclass(frozen=True)
class Gain:
    """A difference of scores, `value`, and its bootstrap interval from `low` to `high`.

    Attributes:
      level: the confidence of the interval, 0 to 1.
      resamples: the number of resamples it comes from.
    """

    value: float
    low: float
    high: float
    level: float = LEVEL
    resamples: int = RESAMPLES


def confusion(label: np.ndarray, prediction: np.ndarray, num_classes: int, ignore_id: int) -> np.ndarray:
    """Counts pixels by true and predicted class.

    Args:
      label: integer class ids and `ignore_id`, any shape.
      prediction: integer class ids of the same shape.

    Returns:
      int64 [num_classes, num_classes]; entry [t, p] counts pixels of class t predicted as p. Pixels labelled
      `ignore_id` do not count.

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


def class_counts(confusion: np.ndarray) -> np.ndarray:
    """The counts from which IoUs are computed. Unlike scores, those of several images can be added up.

    Args:
      confusion: int [..., C, C], rows are true classes, columns predicted ones.

    Returns:
      int [..., 3, C]: per class, the pixels with it in truth and prediction, in truth, and in prediction.
    """
    hits = np.diagonal(confusion, axis1=-2, axis2=-1)
    return np.stack([hits, confusion.sum(-1), confusion.sum(-2)], axis=-2)


def iou(counts: np.ndarray) -> np.ndarray:
    """Intersection over union (Jaccard index) of every class.

    Args:
      counts: [..., 3, C], from `class_counts`.

    Returns:
      float64 [..., C] in [0, 1]: true positives / (true positives + false positives + false negatives); NaN for
      classes in neither truth nor prediction.
    """
    if counts.ndim < 2 or counts.shape[-2] != 3:
        raise ValueError(f"expected counts [..., 3, C] of `class_counts`, got {list(counts.shape)}")
    hits, truth, prediction = np.moveaxis(np.asarray(counts, np.float64), -2, 0)
    union = truth + prediction - hits
    return np.divide(hits, union, out=np.full_like(hits, np.nan), where=union > 0)


def mean_iou(counts: np.ndarray) -> np.ndarray:
    """Mean over the classes in truth or prediction: counts [..., 3, C] -> float64 [...]; NaN without any class."""
    ious = iou(counts)
    rows = ious.reshape(-1, ious.shape[-1])
    # Absent classes are removed, not summed as zeros: the order of a sum affects its last digit.
    present = (row[~np.isnan(row)] for row in rows)
    means = [row.mean() if row.size else np.nan for row in present]
    return np.array(means, np.float64).reshape(ious.shape[:-1])[()]


def scores(confusion: np.ndarray, names: Sequence[str]) -> dict[str, Any]:
    """The scores of a confusion matrix, ready for JSON.

    Returns:
      {"miou": float, "pixel_accuracy": float, "per_class": {name: IoU, or None if the class is in neither truth nor
      prediction}}, all in [0, 1]; "miou" and "pixel_accuracy" are None if no pixel was counted.
    """
    counts, total = class_counts(confusion), int(confusion.sum())
    return {
        "miou": float(mean_iou(counts)) if total else None,
        "pixel_accuracy": float(np.trace(confusion) / total) if total else None,
        "per_class": {name: None if np.isnan(x) else float(x) for name, x in zip(names, iou(counts), strict=True)},
    }

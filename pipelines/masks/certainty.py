"""The certainty of the network on an image: three numbers, for choosing images to label and for analysis."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

ROWS = 64
"""Number of rows of an image whose logarithms are in memory at once."""
DIGITS, CHANGED_DIGITS = 4, 6
"""Decimals of the means, and of the share of pixels that the CRF has changed."""


@dataclass(frozen=True)
class Certainty:
    """Means of the network's own probabilities (before the CRF and enlargement) over the pixels that it saw.

    Attributes:
      confidence: the mean probability of the most probable class, 1 / classes to 1.
      entropy: the mean entropy -sum(p log p) of the classes' probabilities, 0 to log(classes), in nats.
      changed: share of these pixels that have another class after the CRF, 0 to 1; None without the CRF.
    """

    confidence: float
    entropy: float
    changed: float | None = None


def entropies(probabilities: np.ndarray) -> np.ndarray:
    """The entropy in nats of probabilities, float32 [H, W, C], as float32 [H, W]; 0 log 0 is 0."""
    result = np.empty(probabilities.shape[:-1], np.float32)
    for top in range(0, len(probabilities), ROWS):
        p = probabilities[top : top + ROWS]
        result[top : top + ROWS] = -(p * np.log(np.maximum(p, np.finfo(np.float32).tiny))).sum(-1)
    return result


def of_maps(best: np.ndarray, entropy: np.ndarray) -> Certainty:
    """The certainty, from the highest probability and the entropy of every pixel, float32 [H, W] each."""
    return Certainty(_mean(best), _mean(entropy))


def of_probabilities(probabilities: np.ndarray, refined: np.ndarray | None) -> Certainty:
    """The certainty, from the softmax before and after the CRF, float32 [H, W, C] each; None without the CRF."""
    changed = None
    if refined is not None:
        changed = round(float((probabilities.argmax(-1) != refined.argmax(-1)).mean()), CHANGED_DIGITS)
    return Certainty(_mean(probabilities.max(-1)), _mean(entropies(probabilities)), changed)


def _mean(values: np.ndarray) -> float:
    # More digits would depend on the other images in the batch.
    return round(float(values.mean(dtype=np.float64)), DIGITS)

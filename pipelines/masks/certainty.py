"""The certainty of the network on an image: three numbers, for choosing images to label and for analysis."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

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


def of_maps(best: np.ndarray, entropy: np.ndarray, changed: np.ndarray | None) -> Certainty:
    """The certainty of an image.

    Args:
      best: the highest probability of every pixel, float32 [H, W].
      entropy: the entropy of every pixel, float32 [H, W].
      changed: bool [H, W], where the CRF gives another class; None without the CRF.
    """
    share = None if changed is None else round(float(changed.mean()), CHANGED_DIGITS)
    return Certainty(_mean(best), _mean(entropy), share)


def _mean(values: np.ndarray) -> float:
    # More digits would depend on the other images in the batch. Sums of probabilities just above 1 give a -0.0.
    return abs(round(float(values.mean(dtype=np.float64)), DIGITS))

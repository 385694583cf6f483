"""Scores near the boundaries of a label, where segmentation is hard: distances, and confusion matrices by distance."""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np

from pipelines.scores.options import BANDS as BANDS


def boundaries(ids: np.ndarray) -> np.ndarray:
    """The pixels that differ from a neighbour above, below or beside them, bool [H, W]."""
    boundary = np.zeros(ids.shape, bool)
    across, down = ids[:, 1:] != ids[:, :-1], ids[1:] != ids[:-1]
    boundary[:, 1:] |= across
    boundary[:, :-1] |= across
    boundary[1:] |= down
    boundary[:-1] |= down
    return boundary


def trimap_distance(label: np.ndarray, ignore_id: int) -> np.ndarray:
    """The distance of every pixel from the nearest boundary between two classes.

    Pixels on either side of a boundary have distance 1, others 1 + the Euclidean distance to the nearest of those. Two
    classes also meet where only ignored pixels separate them, such as the void pixels around Pascal VOC's objects:
    every ignored pixel is assigned to the nearest labelled one (by distances that OpenCV approximates; to any of
    several that are as near), and where territories of different classes touch, the labelled pixels they belong to are
    the boundary. An ignored region inside one class creates no boundary. Scores in bands around boundaries are from
    Kohli, Ladicky, Torr, IJCV 2009, and Krähenbühl, Koltun, NIPS 2011.

    Args:
      label: uint8 [H, W] class ids and `ignore_id`.
      ignore_id: label id of pixels that do not count.

    Returns:
      float32 [H, W], in pixels, at least 1; infinite for ignored pixels, and everywhere in a label without boundaries.
    """
    valid = label != ignore_id
    territory, source = label, None
    if not valid.all():
        if not valid.any():
            return np.full(label.shape, np.inf, np.float32)
        _, nearest = cv2.distanceTransformWithLabels(
            (~valid).astype(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_5, labelType=cv2.DIST_LABEL_PIXEL
        )
        pixel_of = np.zeros(nearest.max() + 1, np.intp)
        pixel_of[nearest[valid]] = np.flatnonzero(valid)
        source = pixel_of[nearest]
        territory = label.ravel()[source]
    boundary = boundaries(territory)
    if source is not None:
        labelled = np.zeros(label.size, bool)
        labelled[source[boundary]] = True
        boundary = labelled.reshape(label.shape)
    if not boundary.any():
        return np.full(label.shape, np.inf, np.float32)
    distance = cv2.distanceTransform((~boundary).astype(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_PRECISE) + np.float32(1)
    distance[~valid] = np.inf
    return distance


def band_confusions(label: np.ndarray, masks: Sequence[np.ndarray], num_classes: int, ignore_id: int) -> np.ndarray:
    """Confusion matrices of one image, by distance from the label's boundaries.

    Args:
      label: uint8 [H, W] true class ids and `ignore_id`.
      masks: M predictions, uint8 [H, W], with class ids wherever the label is not ignored.
      num_classes: C, the number of classes.
      ignore_id: label id of pixels that are left out.

    Returns:
      int64 [M, B + 1, C, C]: rows are true classes, columns predicted ones. Entry b of the second axis counts the
      pixels beyond band b - 1 and up to band b of `BANDS`; the last one, those beyond all bands. Their sum over this
      axis is the confusion matrix of the whole image.
    """
    distance = trimap_distance(label, ignore_id)
    valid = label != ignore_id
    band = sum((distance > width).astype(np.intp) for width in BANDS)
    code = ((band * num_classes + label) * num_classes)[valid]
    shape = (len(BANDS) + 1, num_classes, num_classes)
    return np.stack([np.bincount(code + mask[valid], minlength=np.prod(shape)).reshape(shape) for mask in masks])

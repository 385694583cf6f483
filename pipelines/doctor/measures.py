"""Measures of the pixels of an image and its label: blended ids, a perceptual hash, and how well the two match."""

from __future__ import annotations

from typing import NamedTuple

import cv2
import numpy as np

from pipelines.doctor.tally import REACH
from pipelines.scores.trimap import boundaries
from trainer.formats import images

BLENDED = 0.15
"""Minimum share of blended steps between ids in a blended label; CamVid's labels have at most 2 %."""
MIN_BLENDED = 8
SOLE, FEW = 0.9, 3
"""Minimum share of a class drawn as a line among the ids between two others, and maximum number of such classes."""
SOLID, LONG = 0.01, 16.0
"""Maximum share of such a class's pixels that are inside of it, and minimum size of its pieces, in pixels: their mean,
weighted by size."""
MIN_BOUNDARY = 50
"""Minimum number of boundary pixels that a label needs for its position to be measured."""
BETTER = 1.5
"""Factor by which a label must fit its image better when turned, to count as one that should be turned."""


class Turn(NamedTuple):
    """The correlations of a label with its image as it is, and when turned, which fits better."""

    here: float
    there: float


def blended_share(codes: np.ndarray, is_class: np.ndarray | None = None) -> float:
    """The share, 0 to 1, of steps between neighbouring ids, uint8 [H, W], that pass through an id between two others.

    In ids that were scaled by interpolation or smoothed, a boundary between classes 2 and 9 passes through 4 and 7.
    Such steps do not count where a class is drawn as a line, such as a kerb or a pole. Returns 0 if there are fewer
    than MIN_BLENDED such pixels.

    Args:
      is_class: which ids are classes, bool [256]; steps through others, which are ignored, do no harm. None: all are.
    """
    steps = sum(int((rows[:, 1:] != rows[:, :-1]).sum()) for rows in (codes, codes.T))
    triples, counts = np.unique(np.concatenate([_triples(codes), _triples(codes.T)]), return_counts=True)
    if is_class is not None:
        counts = counts * is_class[triples & 255]
    blended = int(counts.sum())
    if blended >= max(MIN_BLENDED, BLENDED * steps):  # few labels: what follows takes longer
        blended -= int(counts[_drawn(codes, triples, counts)].sum())
    return blended / steps if blended >= MIN_BLENDED else 0.0


def _triples(codes: np.ndarray) -> np.ndarray:
    """The ids of `between` with those around them, int64: smaller neighbour, larger neighbour, id, a byte each."""
    inside = between(codes)
    one, here, other = (codes[:, cut][inside] for cut in (slice(-2), slice(1, -1), slice(2, None)))
    ends = np.stack([one, other]).astype(np.int64)
    return ends.min(axis=0) << 16 | ends.max(axis=0) << 8 | here


def _drawn(codes: np.ndarray, triples: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """Which of the triples, see `_triples`, are of a class that is drawn as a line, bool.

    Interpolation gives several ids between two classes, in short pieces, and others between other classes. So these
    are the FEW most frequent ids that are long lines all over the label, between two classes where there is hardly
    another.
    """
    pairs, ids = triples >> 8, triples & 255
    between_pair = np.bincount(pairs, counts, minlength=1 << 16)
    is_sole = counts >= SOLE * between_pair[pairs]
    frequency = np.bincount(ids[is_sole], counts[is_sole], minlength=256)
    lines = [number for number in np.flatnonzero(frequency) if _is_line((codes == number).astype(np.uint8))]
    few = sorted(lines, key=lambda number: -frequency[number])[:FEW]
    return is_sole & np.isin(ids, few)


def _is_line(mask: np.ndarray) -> bool:
    """Whether a class, uint8 [H, W] of 0 and 1, is at most two pixels wide, and mostly in long pieces."""
    if cv2.erode(mask, np.ones((3, 3), np.uint8)).sum(dtype=np.int64) > SOLID * mask.sum(dtype=np.int64):
        return False
    areas = cv2.connectedComponentsWithStats(mask)[2][1:, cv2.CC_STAT_AREA].astype(np.float64)
    return (areas**2).sum() >= LONG * areas.sum()


def between(codes: np.ndarray) -> np.ndarray:
    """Whether the id of a pixel, uint8 [H, W], lies between those to its left and right, bool [H, W - 2]."""
    before, here, after = codes[:, :-2], codes[:, 1:-1], codes[:, 2:]
    return ((before < here) & (here < after)) | ((before > here) & (here > after))


def perceptual_hash(image: np.ndarray) -> int:
    """A 64-bit hash of uint8 [H, W, 3] RGB that hardly changes if the image is scaled, re-encoded or brightened.

    Its bits compare each of the lowest 63 frequencies of the cosine transform of 32x32 greys with their median.
    """
    grey = cv2.resize(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY), (32, 32), interpolation=cv2.INTER_AREA)
    lowest = cv2.dct(grey.astype(np.float32))[:8, :8].ravel()[1:]
    bits = np.append(lowest > np.median(lowest), False)
    return int.from_bytes(np.packbits(bits).tobytes(), "big")


def likeness(one: np.ndarray, other: np.ndarray) -> float:
    """Correlation, -1 to 1, of two images, uint8 [H, W, 3] RGB of any sizes, as 64x64 greys."""
    greys = [
        cv2.resize(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY), (64, 64), interpolation=cv2.INTER_AREA).astype(np.float64)
        for image in (one, other)
    ]
    first, second = (grey - grey.mean() for grey in greys)
    norm = float(np.sqrt((first**2).sum() * (second**2).sum()))
    return float((first * second).sum() / norm) if norm else float(np.array_equal(*greys))


def edges(image: np.ndarray) -> np.ndarray:
    """The gradient magnitude of uint8 [H, W, 3] RGB, float32 [H, W], clipped at the top."""
    grey = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY).astype(np.float32)
    strength = cv2.magnitude(cv2.Sobel(grey, cv2.CV_32F, 1, 0), cv2.Sobel(grey, cv2.CV_32F, 0, 1))
    mean, deviation = cv2.meanStdDev(strength)
    return np.minimum(strength, float(mean[0, 0] + 2 * deviation[0, 0]))


def fit(image: np.ndarray, ids: np.ndarray) -> np.ndarray | None:
    """Measures how well the boundaries of a label match the edges of its image, for every shift.

    Args:
      image: uint8 [H, W, 3] RGB.
      ids: uint8 [H, W].

    Returns:
      float32 [2 REACH + 1, 2 REACH + 1], in standard deviations over all shifts: at (REACH + y, REACH + x) the fit of
      the label moved down by y and right by x. None if the image is too small, or the label has too few boundaries.
    """
    height, width = ids.shape
    if min(height, width) < 4 * REACH:
        return None
    inner = boundaries(ids)[REACH : height - REACH, REACH : width - REACH].astype(np.float32)
    if inner.sum() < MIN_BOUNDARY:
        return None
    scores = cv2.matchTemplate(edges(image), inner - inner.mean(), cv2.TM_CCORR)
    deviation = float(scores.std())
    return (scores - scores.mean()) / deviation if deviation > 1e-6 else None


def correlation(image: np.ndarray, ids: np.ndarray) -> float:
    """Correlation, -1 to 1, of the edges of an image and the boundaries of its label, without a shift.

    Args:
      image: uint8 [H, W, 3] RGB.
      ids: uint8 [H, W] class ids.
    """
    near = cv2.blur(boundaries(ids).astype(np.float32), (3, 3))
    strength = edges(image)
    near, strength = near - near.mean(), strength - strength.mean()
    norm = float(np.sqrt((near**2).sum() * (strength**2).sum()))
    return float((near * strength).sum() / norm) if norm else 0.0


def turn(image: np.ndarray, ids: np.ndarray, orientation: int, ignore_id: int) -> Turn | None:
    """How much better a label fits its upright image when turned as that was; None if it does not.

    Args:
      image: uint8 [H, W, 3] RGB, upright.
      ids: uint8 [H, W] class ids and `ignore_id`.
      orientation: the EXIF orientation of the image.
    """
    ids = _filled(ids, ignore_id)
    turned = images.upright(ids, orientation)
    if turned.shape != ids.shape:
        return None
    here, there = correlation(image, ids), correlation(image, turned)
    return Turn(here, there) if there > max(BETTER * here, 0.05) else None


def _filled(ids: np.ndarray, ignore_id: int) -> np.ndarray:
    """A label whose ignored pixels, such as a band along boundaries, have the nearest class."""
    is_ignored = ids == ignore_id
    if is_ignored.all():
        return ids
    # Every pixel gets the number of the nearest pixel that has a class.
    _, nearest = cv2.distanceTransformWithLabels(
        is_ignored.astype(np.uint8), cv2.DIST_L2, 3, labelType=cv2.DIST_LABEL_PIXEL
    )
    classes = np.zeros(int(nearest.max()) + 1, np.uint8)
    classes[nearest[~is_ignored]] = ids[~is_ignored]
    return classes[nearest]

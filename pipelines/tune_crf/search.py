"""Which parameters of the dense CRF suit a model best, and whether what they gain is real. NumPy only.

Everything follows from counts: per image and class the pixels that are of the class in label and mask, in the label,
and in the mask (`trainer.metrics.class_counts`). Counts of images add up, and so the score of any parameters on any
images costs one sum.

The recipe is DeepLab's (Chen et al., "Semantic Image Segmentation with Deep Convolutional Nets and Fully Connected
CRFs", ICLR 2015): the Gaussian kernel stays at weight 3 and width 3; weight and widths of the bilateral kernel are
searched coarse to fine. Parameters flatter themselves on the images they were chosen by, so the gain is measured by
cross-fitting: every fold of the images is scored with what the other folds chose, and its interval is that of a
bootstrap over images.
"""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from pipelines.crf.options import CrfOptions
from pipelines.crf.tuning import Tuning
from pipelines.scores.bootstrap import bootstrap
from trainer.metrics import iou, mean_iou
from trainer.options import InputError

RANGES = {"compat": (3.0, 6.0), "sxy": (30.0, 100.0), "srgb": (3.0, 6.0)}
"""Where the bilateral kernel is searched; the coarse grid has both ends and the middle of each."""
FOLDS = 5

Counts = Mapping[CrfOptions, np.ndarray]
"""Per point of the grid int64 [n, 3, C] counts; the images are the same and in the same order."""


def _grid(axes: Mapping[str, Iterable[float]]) -> list[CrfOptions]:
    gaussian = CrfOptions(sxy_gaussian=3.0, compat_gaussian=3.0)
    return [replace(gaussian, **dict(zip(axes, values, strict=True))) for values in itertools.product(*axes.values())]


def coarse_points() -> tuple[CrfOptions, ...]:
    """27 points over RANGES and the default parameters."""
    grid = _grid({name: (low, (low + high) / 2, high) for name, (low, high) in RANGES.items()})
    return tuple(dict.fromkeys([*grid, CrfOptions()]))


def fine_points(centre: CrfOptions) -> tuple[CrfOptions, ...]:
    """`centre` and what lies half a coarse step from it on any axes, within RANGES."""
    axes = {}
    for name, (low, high) in RANGES.items():
        value, half = getattr(centre, name), (high - low) / 4
        axes[name] = sorted({float(np.clip(value + step, low, high)) for step in (-half, 0.0, half)})
    return tuple(_grid(axes))


def folds(keys: Sequence[str]) -> np.ndarray:
    """Deals n images out to folds by the hash of their keys; the sizes of folds differ by one image at most.

    By the hash, so that consecutive video frames land in unrelated folds.

    Returns:
      int [n], 0 to FOLDS - 1.
    """
    hashes = [hashlib.sha256(key.encode("utf-8", "surrogatepass")).digest() for key in keys]
    order = sorted(range(len(keys)), key=lambda index: (hashes[index], index))
    fold = np.empty(len(keys), np.intp)
    fold[order] = np.arange(len(keys)) % FOLDS
    return fold


def best(points: Iterable[CrfOptions], counts: Counts, chosen: np.ndarray) -> CrfOptions:
    """The point of highest mIoU on the images that `chosen`, bool [n], selects; of equal ones the first."""
    return max(points, key=lambda point: float(np.nan_to_num(mean_iou(counts[point][chosen].sum(0)), nan=-1.0)))


def _trainings(fold: np.ndarray) -> list[np.ndarray]:
    """The sets of images that parameters are chosen by: all, and all but one fold."""
    return [np.ones(len(fold), bool), *(fold != held_out for held_out in range(FOLDS))]


def fine_points_to_score(counts: Counts, fold: np.ndarray) -> tuple[CrfOptions, ...]:
    """The fine points that `search` will need, given the counts of the coarse ones."""
    centres = dict.fromkeys(best(coarse_points(), counts, chosen) for chosen in _trainings(fold))
    return tuple(dict.fromkeys(point for centre in centres for point in fine_points(centre)))


def search(counts: Counts, chosen: np.ndarray) -> CrfOptions:
    """The parameters that the search, coarse to fine, chooses by the images that `chosen`, bool [n], selects."""
    centre = best(coarse_points(), counts, chosen)
    return best((centre, *fine_points(centre)), counts, chosen)


def cross_fit(counts: Counts, fold: np.ndarray) -> np.ndarray:
    """int64 [n, 3, C]: counts of every image under the parameters that the other folds choose."""
    after = np.empty_like(next(iter(counts.values())))
    for held_out in range(FOLDS):
        point = search(counts, fold != held_out)
        after[fold == held_out] = counts[point][fold == held_out]
    return after


def tune(
    before: np.ndarray,
    counts: Counts,
    keys: Sequence[str],
    names: Sequence[str],
    **about: Any,
) -> Tuning:
    """The verdict.

    Args:
      before: int64 [n, 3, C] counts without CRF.
      counts: of the coarse points and `fine_points_to_score`.
      keys: of the n images, at least `options.MIN_IMAGES`.
      names: of the C classes.
      about: the further fields of `Tuning`, copied.

    Raises:
      InputError: no labelled pixel that could be scored.
    """
    score = float(mean_iou(before.sum(0)))
    if np.isnan(score):
        raise InputError(f"none of the {len(keys)} images has a labelled pixel that could be scored")
    after = cross_fit(counts, folds(keys))
    gain = bootstrap(before, after)
    grid = tuple(
        {"compat": point.compat, "sxy": point.sxy, "srgb": point.srgb, "score": float(mean_iou(values.sum(0)))}
        for point, values in counts.items()
    )
    chosen = best(counts, counts, np.ones(len(keys), bool))
    is_real = gain.low > 0 and mean_iou(counts[chosen].sum(0)) > score
    ious = [[None if np.isnan(value) else float(value) for value in iou(part.sum(0))] for part in (before, after)]
    return Tuning(
        options=chosen if is_real else None,
        before=score,
        after=float(mean_iou(after.sum(0))),
        gain=gain,
        per_class=dict(zip(names, zip(*ious, strict=True), strict=True)),
        grid=grid,
        **about,
    )

"""Finds the parameters of the dense CRF that suit a model best, and whether their gain is certain. NumPy only.

Everything is computed from counts: for each image and class, the pixels of the class in both label and mask, in the
label, and in the mask (`trainer.metrics.class_counts`). Counts of images add up, so the score of any parameters on any
images is a single sum.

The recipe is DeepLab's (Chen et al., "Semantic Image Segmentation with Deep Convolutional Nets and Fully Connected
CRFs", ICLR 2015): the Gaussian kernel has weight 3 and width 3; weight and widths of the bilateral kernel are searched
coarse to fine, past the ends of the grid if the best point is there. The Gaussian kernel smooths regardless of the
image and costs a good network its thin objects, so it is tried with less weight as well. Then the classes that the CRF
harms are given less and less weight. Parameters look better on the images they were chosen on, so the gain is measured
by cross-fitting: every fold of the images is scored with the parameters that the whole search chooses on the other
folds; the interval is that of a bootstrap over images.
"""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from pipelines.scores.bootstrap import bootstrap, bootstrap_classes
from trainer.formats.options import CrfOptions
from trainer.formats.tuning import Change, Tuning
from trainer.metrics import Gain, iou, mean_iou
from trainer.options import InputError

RANGES = {"compat": (3.0, 6.0), "sxy": (30.0, 100.0), "srgb": (3.0, 6.0), "compat_gaussian": (3.0, 3.0)}
"""Ranges in which the kernels are searched; the coarse grid has the ends and the middle of each."""
BEYOND = {
    "compat": (1.0, 1.5, 2.0, 8.0, 12.0, 16.0),
    "sxy": (10.0, 15.0, 20.0, 140.0, 200.0, 280.0, 400.0),
    "srgb": (1.0, 1.5, 2.0, 8.0, 12.0, 16.0),
    "compat_gaussian": (0.0, 0.3, 1.0),
}
"""Values past the ends of RANGES, which are searched step by step as long as that gains."""
LIGHTER = (0.5, 0.25, 0.0)
"""Weights of a class that loses, step by step, in place of 1."""
LIGHTER_ROUNDS = 4
"""Maximum number of times that classes are given less weight."""
KEPT = 0.9
"""Minimum share of the gain in mIoU that class weights must keep."""
FOLDS = 5

Counts = Mapping[CrfOptions, np.ndarray]
"""Point of the search -> counts, int64 [n, 3, C]; all points have the same images in the same order."""


class Unscored(LookupError):
    """The search has reached `points` without counts; `stage` describes them in words."""

    def __init__(self, points: tuple[CrfOptions, ...], stage: str):
        super().__init__(f"{len(points)} points of the {stage} have no counts")
        self.points, self.stage = points, stage


def _grid(axes: Mapping[str, Iterable[float]]) -> tuple[CrfOptions, ...]:
    gaussian = CrfOptions(sxy_gaussian=3.0)
    products = itertools.product(*axes.values())
    return tuple(replace(gaussian, **dict(zip(axes, values, strict=True))) for values in products)


def coarse_points() -> tuple[CrfOptions, ...]:
    """27 points over RANGES and the default parameters."""
    grid = _grid({name: (low, (low + high) / 2, high) for name, (low, high) in RANGES.items()})
    return tuple(dict.fromkeys([*grid, CrfOptions()]))


def fine_points(centre: CrfOptions) -> tuple[CrfOptions, ...]:
    """`centre` and the points half a coarse step from it on any of the axes, within RANGES."""
    axes = {}
    for name, (low, high) in RANGES.items():
        value, half = getattr(centre, name), (high - low) / 4
        axes[name] = sorted({float(np.clip(value + step, low, high)) for step in (-half, 0.0, half)})
    return _grid(axes)


def points_beyond(centre: CrfOptions) -> tuple[CrfOptions, ...]:
    """`centre` and the points one step of BEYOND from it, on each axis where it is at or past an end of the range."""
    points = [centre]
    for name, (low, high) in RANGES.items():
        value = getattr(centre, name)
        below = [step for step in BEYOND[name] if step < value <= low][-1:]
        above = [step for step in BEYOND[name] if step > value >= high][:1]
        points += [replace(centre, **{name: step}) for step in (*below, *above)]
    return tuple(points)


def folds(keys: Sequence[str]) -> np.ndarray:
    """Assigns n images to folds by the hash of their keys; the sizes of folds differ by one image at most.

    The hash puts consecutive video frames into unrelated folds.

    Returns:
      int [n], 0 to FOLDS - 1.
    """
    hashes = [hashlib.sha256(key.encode("utf-8", "surrogatepass")).digest() for key in keys]
    order = sorted(range(len(keys)), key=lambda index: (hashes[index], index))
    fold = np.empty(len(keys), np.intp)
    fold[order] = np.arange(len(keys)) % FOLDS
    return fold


def best(points: Sequence[CrfOptions], counts: Counts, chosen: np.ndarray, stage: str) -> CrfOptions:
    """The point with the highest mIoU on the images that `chosen`, bool [n], selects; the first of equal points.

    Raises Unscored if counts are missing.
    """
    _require(points, counts, stage)
    return max(points, key=lambda point: _score(counts[point][chosen]))


def _require(points: Sequence[CrfOptions], counts: Counts, stage: str) -> None:
    if unscored := tuple(point for point in points if point not in counts):
        raise Unscored(unscored, stage)


def _score(counts: np.ndarray) -> float:
    return float(np.nan_to_num(mean_iou(counts.sum(0)), nan=-1.0))


def losses(before: np.ndarray, after: np.ndarray) -> dict[int, Gain]:
    """The classes that clearly lose, with their gain in IoU, whose whole interval is below 0.

    Args:
      before, after: int64 [n, 3, C] counts of the same images.
    """
    fewer = np.flatnonzero(iou(after.sum(0)) < iou(before.sum(0)))  # others cannot have their whole interval below 0
    gains = zip(fewer.tolist(), bootstrap_classes(before[..., fewer], after[..., fewer]), strict=True)
    return {class_id: gain for class_id, gain in gains if gain is not None and gain.high < 0}


def with_less_weight(point: CrfOptions, classes: Iterable[int], count: int) -> CrfOptions:
    """`point` with one step less weight for some of the `count` classes."""
    weights = list(point.class_weights or (1.0,) * count)
    for class_id in classes:
        weights[class_id] = next((step for step in LIGHTER if step < weights[class_id]), weights[class_id])
    return replace(point, class_weights=tuple(weights))


def with_class_weights(point: CrfOptions, before: np.ndarray, counts: Counts, chosen: np.ndarray) -> CrfOptions:
    """`point` with the class weights that do the least harm.

    As long as classes clearly lose, they are given less weight. Of the weights tried that keep the share KEPT of the
    gain in mIoU, those with the smallest sum of certain losses are chosen.
    """
    tried = []
    while True:
        after = counts[point][chosen]
        sure_losses = losses(before[chosen], after)
        harm = -sum(gain.value for gain in sure_losses.values())
        tried.append((harm, -_score(after), len(tried), point))
        next_point = with_less_weight(point, sure_losses, before.shape[-1])
        if next_point == point or len(tried) > LIGHTER_ROUNDS:
            break
        _require([next_point], counts, "class weights")
        point = next_point
    without, alike = _score(before[chosen]), -tried[0][1]
    least = min(alike, without + KEPT * (alike - without))
    return min(entry for entry in tried if -entry[1] >= least)[-1]


def search(before: np.ndarray, counts: Counts, chosen: np.ndarray) -> CrfOptions:
    """The parameters that the search chooses on the images that `chosen`, bool [n], selects.

    Raises Unscored if it needs further counts; called again with them, it gets further.
    """
    centre = best(coarse_points(), counts, chosen, "coarse grid")
    centre = best((centre, *fine_points(centre)), counts, chosen, "fine grid")
    while (further := best(points_beyond(centre), counts, chosen, "points beyond the grid")) != centre:
        centre = further
    return with_class_weights(centre, before, counts, chosen)


def _trainings(fold: np.ndarray) -> list[np.ndarray]:
    """The sets of images that parameters are chosen on: all, and all but one fold."""
    return [np.ones(len(fold), bool), *(fold != held_out for held_out in range(FOLDS))]


def unscored(before: np.ndarray, counts: Counts, fold: np.ndarray) -> Unscored | None:
    """The points that the searches on all images and on all but each fold need next; None if all have finished."""
    lacking = []
    for chosen in _trainings(fold):
        try:
            search(before, counts, chosen)
        except Unscored as error:
            lacking.append(error)
    if not lacking:
        return None
    return Unscored(tuple(dict.fromkeys(point for error in lacking for point in error.points)), lacking[0].stage)


def cross_fit(before: np.ndarray, counts: Counts, fold: np.ndarray) -> np.ndarray:
    """The counts of every image with the parameters chosen on the other folds, int64 [n, 3, C]."""
    after = np.empty_like(before)
    for held_out in range(FOLDS):
        point = search(before, counts, fold != held_out)
        after[fold == held_out] = counts[point][fold == held_out]
    return after


def tune(
    before: np.ndarray,
    counts: Counts,
    keys: Sequence[str],
    names: Sequence[str],
    **about: Any,
) -> Tuning:
    """The verdict: the parameters found, their gain, and whether it is certain.

    Args:
      before: int64 [n, 3, C] counts without CRF.
      counts: the counts of all points that `unscored` asked for.
      keys: the keys of the n images, at least `options.MIN_IMAGES`.
      names: the names of the C classes.
      about: the other fields of `Tuning`, which are copied.

    Raises:
      InputError: there is no labelled pixel that could be scored.
    """
    score = float(mean_iou(before.sum(0)))
    if np.isnan(score):
        raise InputError(f"none of the {len(keys)} images has a labelled pixel that could be scored")
    after = cross_fit(before, counts, folds(keys))
    gain = bootstrap(before, after)
    chosen = search(before, counts, np.ones(len(keys), bool))
    is_real = gain.low > 0 and mean_iou(counts[chosen].sum(0)) > score
    ious = [[None if np.isnan(value) else float(value) for value in iou(part.sum(0))] for part in (before, after)]
    own_losses = losses(before, counts[chosen])
    changes = map(Change, *ious, bootstrap_classes(before, after))
    return Tuning(
        options=chosen if is_real else None,
        before=score,
        after=float(mean_iou(after.sum(0))),
        gain=gain,
        per_class=dict(zip(names, changes, strict=True)),
        own_losses={names[class_id]: gain.value for class_id, gain in own_losses.items()},
        grid=tuple(_tried(point, values, names) for point, values in counts.items()),
        **about,
    )


def _tried(point: CrfOptions, counts: np.ndarray, names: Sequence[str]) -> dict[str, Any]:
    """An entry of `Tuning.grid`."""
    parameters = point.to_json(names)
    searched = {name: parameters[name] for name in (*RANGES, "class_weights") if name in parameters}
    return searched | {"score": float(mean_iou(counts.sum(0)))}

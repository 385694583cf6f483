"""Which parameters of the dense CRF are best for a model, and whether what they gain is real. NumPy only.

Everything follows from counts: per picture and class the pixels that are of the class in label and mask, in the label,
and in the mask. Counts of pictures add up, and so the score of any parameters on any pictures costs one sum.

The recipe is DeepLab's (Chen et al., "Semantic Image Segmentation with Deep Convolutional Nets and Fully Connected
CRFs", ICLR 2015): the Gaussian kernel stays at weight 3 and width 3; weight and widths of the bilateral kernel are
searched coarse to fine. Parameters flatter themselves on the pictures they were chosen by, so the gain is measured by
cross-fitting: every fold of the pictures is scored with what the other folds chose, and its interval is that of a
bootstrap over pictures.
"""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from typing import Any

import numpy as np

from pipelines.crf.refine import CrfOptions
from trainer import storage
from trainer.options import InputError

FORMAT = 1
TUNING_FILE = "crf.json"
RANGES = {"compat": (3.0, 6.0), "sxy": (30.0, 100.0), "srgb": (3.0, 6.0)}
"""Where the bilateral kernel is searched; the coarse grid has both ends and the middle of each."""
FOLDS = 5
MIN_PICTURES = 10
"""With fewer, a fold is a single picture and an interval means nothing."""
RESAMPLES = 2000
LEVEL = 0.95

Counts = Mapping[CrfOptions, np.ndarray]
"""Per point of the grid int64 [n, 3, C], see `class_counts`; the pictures are the same and in the same order."""


def class_counts(confusion: np.ndarray) -> np.ndarray:
    """Confusion matrices [..., C, C] (rows true, columns predicted) -> [..., 3, C]: hits, pixels in label, in mask."""
    hits = np.diagonal(confusion, axis1=-2, axis2=-1)
    return np.stack([hits, confusion.sum(-1), confusion.sum(-2)], axis=-2)


def iou(counts: np.ndarray) -> np.ndarray:
    """[..., 3, C] -> float64 [..., C]: intersection over union; NaN for classes in neither label nor mask."""
    hits, label, mask = np.moveaxis(np.asarray(counts, np.float64), -2, 0)
    union = label + mask - hits
    return np.divide(hits, union, out=np.full_like(hits, np.nan), where=union > 0)


def miou(counts: np.ndarray) -> np.ndarray:
    """[..., 3, C] -> float64 [...]: mean intersection over union of the classes in label or mask; NaN without any."""
    ious = iou(counts)
    present = ~np.isnan(ious)
    number = present.sum(-1)
    total = np.where(present, ious, 0.0).sum(-1)
    return np.divide(total, number, out=np.full_like(total, np.nan), where=number > 0)


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
    """int [n] in 0..FOLDS-1: which fold every picture is in. Folds differ by one picture at most; the hash of the keys
    decides, so that neighbours in a film fall where they fall."""
    order = sorted(range(len(keys)), key=lambda index: (hashlib.sha256(keys[index].encode()).digest(), index))
    fold = np.empty(len(keys), np.intp)
    fold[order] = np.arange(len(keys)) % FOLDS
    return fold


def best(points: Iterable[CrfOptions], counts: Counts, chosen: np.ndarray) -> CrfOptions:
    """The point of highest mIoU on the pictures of the mask `chosen`, bool [n]; of equal ones the first."""
    return max(points, key=lambda point: float(np.nan_to_num(miou(counts[point][chosen].sum(0)), nan=-1.0)))


def _trainings(fold: np.ndarray) -> list[np.ndarray]:
    """The sets of pictures that parameters are chosen by: all, and all but one fold."""
    return [np.ones(len(fold), bool), *(fold != held_out for held_out in range(FOLDS))]


def wanted_fine_points(counts: Counts, fold: np.ndarray) -> tuple[CrfOptions, ...]:
    """The fine points that `search` will ask for, given the counts of the coarse ones."""
    centres = dict.fromkeys(best(coarse_points(), counts, chosen) for chosen in _trainings(fold))
    return tuple(dict.fromkeys(point for centre in centres for point in fine_points(centre)))


def search(counts: Counts, chosen: np.ndarray) -> CrfOptions:
    """The parameters that the search, coarse to fine, finds with the pictures of the mask `chosen` alone."""
    centre = best(coarse_points(), counts, chosen)
    return best((centre, *fine_points(centre)), counts, chosen)


def cross_fit(counts: Counts, fold: np.ndarray) -> np.ndarray:
    """int64 [n, 3, C]: counts of every picture under the parameters that the other folds choose."""
    after = np.empty_like(next(iter(counts.values())))
    for held_out in range(FOLDS):
        point = search(counts, fold != held_out)
        after[fold == held_out] = counts[point][fold == held_out]
    return after


@dataclass(frozen=True)
class Gain:
    """A difference of scores and its bootstrap interval: `value`, `low` and `high` of confidence `level`."""

    value: float
    low: float
    high: float
    level: float = LEVEL
    resamples: int = RESAMPLES


def bootstrap(before: np.ndarray, after: np.ndarray, seed: int = 0) -> Gain:
    """The gain in mIoU from `before` to `after`, int64 [n, 3, C] each, with its percentile interval.

    The bootstrap (Efron, Annals of Statistics 1979) draws pictures with replacement and is paired: both scores of a
    resample come from the same pictures. The same arguments give the same interval.
    """
    pictures = len(before)
    drawn = np.random.default_rng(seed).multinomial(pictures, np.full(pictures, 1 / pictures), RESAMPLES)

    def scores(counts: np.ndarray) -> np.ndarray:
        # Float64 sums of counts are exact up to 2**53 pixels, and only they run in BLAS.
        flat = counts.reshape(pictures, -1).astype(np.float64)
        return miou((drawn.astype(np.float64) @ flat).reshape(RESAMPLES, *counts.shape[1:]))

    low, high = np.nanquantile(scores(after) - scores(before), [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    value = miou(after.sum(0)) - miou(before.sum(0))
    return Gain(float(value), float(low), float(high))


@dataclass(frozen=True)
class Tuning:
    """What `deeplab tune-crf` found; the contents of crf.json.

    Attributes:
      options: parameters worth using; None where the CRF gains nothing that is certain, and is better left off.
      metric: "miou", or "trimap": the mIoU of pixels up to `trimap_width` from a border of the label.
      trimap_width: pixels; None for "miou".
      before, after: the score without CRF, and with parameters chosen on other pictures (cross-fitted).
      gain: from before to after.
      per_class: class name -> IoU before and after, None for classes that occur in neither.
      grid: per point {"compat", "sxy", "srgb", "score"} on all pictures, in the order they were tried.
      split, pictures, rejects: which pictures: how many were looked at, and those of them that could not be used, each
        {"key", "path", "stage", "reason", "records"}.
      model_digest: SHA-256 of the model's weights.
      records_fingerprint: of the records.
    """

    options: CrfOptions | None
    metric: str
    trimap_width: int | None
    before: float
    after: float
    gain: Gain
    per_class: dict[str, tuple[float | None, float | None]]
    grid: tuple[dict[str, float], ...]
    split: str
    pictures: int
    rejects: tuple[dict[str, Any], ...]
    model_digest: str
    records_fingerprint: str

    @property
    def best(self) -> dict[str, float]:
        """The best point of the grid, whether it gains or not."""
        return max(self.grid, key=lambda point: point["score"])

    @property
    def scored(self) -> int:
        return self.pictures - len(self.rejects)

    def to_json(self) -> dict[str, Any]:
        return {"format": FORMAT, "verdict": "on" if self.options else "off", "scored": self.scored, **asdict(self)}

    @classmethod
    def from_json(cls, value: Any) -> Tuning:
        """The inverse of `to_json`. Raises InputError that says what is wrong."""
        if not isinstance(value, dict) or value.get("format") != FORMAT:
            found = value.get("format") if isinstance(value, dict) else type(value).__name__
            raise InputError(f"expected the result of tune-crf of format {FORMAT}, found {found!r}")
        try:
            values = {field.name: value[field.name] for field in fields(cls)}
            options = values["options"]
            if options is not None:
                # 30 and 30.0 are one number, and must give masks of one fingerprint.
                options = CrfOptions(**{name: type(getattr(CrfOptions, name))(options[name]) for name in options})
            if value["verdict"] != ("on" if options else "off"):
                raise InputError(f"the verdict {value['verdict']!r} does not go with the options {values['options']}")
            per_class = {name: (before, after) for name, (before, after) in values["per_class"].items()}
            kept = {"options": options, "gain": Gain(**values["gain"]), "per_class": per_class}
            return cls(**values | kept | {name: tuple(values[name]) for name in ("grid", "rejects")})
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            if isinstance(error, InputError):
                raise
            raise InputError(f"is damaged ({error!r})") from None


def load(model: str) -> Tuning | None:
    """The tuning in a model folder (local or gs://), None where there is none; InputError for a damaged one."""
    path = storage.join(model, TUNING_FILE)
    if not storage.exists(path):
        return None
    try:
        return Tuning.from_json(storage.read_json(path))
    except InputError as error:
        raise InputError(f"{path}: {error}; run `deeplab tune-crf` again, or delete the file") from None


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
      counts: of the coarse points and `wanted_fine_points`.
      keys: of the n pictures, at least MIN_PICTURES.
      names: of the C classes.
      about: the further fields of `Tuning`, copied.

    Raises:
      InputError: no labelled pixel that could be scored.
    """
    score = float(miou(before.sum(0)))
    if np.isnan(score):
        raise InputError(f"none of the {len(keys)} pictures has a labelled pixel that could be scored")
    after = cross_fit(counts, folds(keys))
    gain = bootstrap(before, after)
    grid = tuple(
        {"compat": point.compat, "sxy": point.sxy, "srgb": point.srgb, "score": float(miou(values.sum(0)))}
        for point, values in counts.items()
    )
    chosen = best(counts, counts, np.ones(len(keys), bool))
    real = gain.low > 0 and miou(counts[chosen].sum(0)) > score
    ious = [[None if np.isnan(value) else float(value) for value in iou(part.sum(0))] for part in (before, after)]
    return Tuning(
        options=chosen if real else None,
        before=score,
        after=float(miou(after.sum(0))),
        gain=gain,
        per_class=dict(zip(names, zip(*ious, strict=True), strict=True)),
        grid=grid,
        **about,
    )

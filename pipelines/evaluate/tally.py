"""The results of an evaluation: confusion matrices and scores that add up, their accounts, and evaluation.json."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from pipelines.evaluate.plan import Plan
from pipelines.runner import handover
from pipelines.scores.trimap import BANDS
from trainer import metrics
from trainer.accounts import Accounts, Reject, merged


@dataclass(frozen=True)
class EvaluationTally:
    """The results of some of the labels. Tallies of parts are added up.

    Attributes:
      confusion: int64 [masks folders, bands + 1, classes, classes], see `trimap.band_confusions`.
      parts: pairs of int64 [n], the numbers of evaluated labels, and float64 [n, masks folders], their mIoU, NaN if no
        pixel could be scored. They are not joined, since joining at every addition would take quadratic time.
      rejects: the labels that could not be used.
    """

    confusion: np.ndarray
    parts: tuple[tuple[np.ndarray, np.ndarray], ...] = ()
    rejects: tuple[Reject, ...] = ()

    @classmethod
    def empty(cls, folders: int, classes: int) -> EvaluationTally:
        """The tally of no labels."""
        return cls(np.zeros((folders, len(BANDS) + 1, classes, classes), np.int64))

    @classmethod
    def of(cls, number: int, confusion: np.ndarray) -> EvaluationTally:
        """The tally of one label, from its `band_confusions`."""
        mious = [metrics.mean_iou(metrics.class_counts(whole)) for whole in confusion.sum(1)]
        return cls(confusion, ((np.array([number], np.int64), np.array([mious], np.float64)),))

    def __add__(self, other: EvaluationTally) -> EvaluationTally:
        return EvaluationTally(
            self.confusion + other.confusion, self.parts + other.parts, self.rejects + other.rejects
        )

    @property
    def numbers(self) -> np.ndarray:
        """The numbers of the labels that have been evaluated, int64 [n]."""
        return np.concatenate([np.zeros(0, np.int64), *(numbers for numbers, _ in self.parts)])

    @property
    def mious(self) -> np.ndarray:
        """The mIoU of every label that has been evaluated, float64 [n, masks folders]."""
        return np.concatenate([np.zeros((0, len(self.confusion)), np.float64), *(mious for _, mious in self.parts)])


def write(tally: EvaluationTally, folder: str, digest: str) -> None:
    """Writes a tally beside the plan with that digest."""
    rejects = json.dumps([reject.to_json() for reject in tally.rejects]).encode()
    arrays = {"confusion": tally.confusion, "numbers": tally.numbers, "mious": tally.mious}
    handover.write_tally(folder, digest, **arrays, rejects=np.frombuffer(rejects, np.uint8))


def read(folder: str, digest: str) -> EvaluationTally:
    """The inverse of `write`; labels are sorted by number. Raises InputError if it cannot be read."""
    content = handover.read_tally(folder, digest)
    order = np.argsort(content["numbers"])
    rejects = json.loads(content["rejects"].tobytes())
    return EvaluationTally(
        content["confusion"],
        ((content["numbers"][order], content["mious"][order]),),
        tuple(Reject(**reject) for reject in rejects),
    )


def accounts(plan: Plan, tally: EvaluationTally) -> Accounts:
    """The accounts: labels of the plan = evaluated + rejected."""
    return Accounts("labels", plan.total, {"evaluated": len(tally.numbers)}, merged([*plan.rejects, *tally.rejects]))


def summarize(confusion: np.ndarray, names: Sequence[str]) -> dict[str, Any]:
    """Scores of one masks folder, from confusion matrices by band, int64 [bands + 1, classes, classes]."""
    whole = confusion.sum(0)
    bands = [metrics.scores(cumulated, names) for cumulated in np.cumsum(confusion, 0)[:-1]]
    return {
        **metrics.scores(whole, names),
        "confusion": whole.tolist(),
        "trimap": {str(width): band["miou"] for width, band in zip(BANDS, bands, strict=True)},
        "trimap_scores": {str(width): band for width, band in zip(BANDS, bands, strict=True)},
    }

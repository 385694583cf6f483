"""Tells from the tally of a set whether its labels are all offset from their images in the same direction."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from pipelines.doctor.plan import ALIGNED, Plan
from pipelines.doctor.tally import REACH, DoctorTally
from pipelines.doctor.verdict import SHOWN, WRONG, Example, Finding
from trainer.accounts import counted

MIN_VOTES = 3
AGREED = 0.6
"""Minimum share of labels that fit best at one offset, within a pixel, if the offset is constant."""
BETTER_FIT = 0.7
"""Minimum improvement of the fit at that offset, in standard deviations."""


def offset(tally: DoctorTally) -> tuple[int, int] | None:
    """(y, x): how far labels must be moved down and right to fit their images, in pixels; None if they fit."""
    votes, score = tally.alignment.votes, tally.alignment.score
    count = int(votes.sum())
    if count < MIN_VOTES:
        return None
    y, x = (int(place) for place in np.unravel_index(score.argmax(), score.shape))
    gain = (score[y, x] - score[REACH, REACH]) / count
    shift = (y - REACH, x - REACH)
    is_clear = max(map(abs, shift)) >= 2 and _agreeing(votes, shift) >= AGREED * count and gain >= BETTER_FIT
    return shift if is_clear else None


def _agreeing(votes: np.ndarray, shift: tuple[int, int]) -> int:
    """The number of labels that fit best when they are moved by `shift`, within a pixel."""
    y, x = (REACH + step for step in shift)
    return int(votes[max(0, y - 1) : y + 2, max(0, x - 1) : x + 2].sum())


def findings(tally: DoctorTally, plan: Plan) -> Iterator[Finding]:
    """The finding that all labels are offset, if they are."""
    shift = offset(tally)
    if shift is None:
        return
    votes = tally.alignment.votes
    ways = list(zip(shift, (("up", "down"), ("left", "right")), strict=True))
    moves = " and ".join(f"{counted(abs(step), 'pixel')} {words[step > 0]}" for step, words in ways if step)
    text = (
        "labels are offset from what they outline, in the same direction: they fit their images best when they are "
        f"moved {moves}"
    )
    cure = "--mend moves all labels accordingly, and ignores the rim that this uncovers"
    move = ", ".join(f"{abs(step)} {words[step > 0]}" for step, words in ways if step)
    compared = [subject for subject in plan.subjects if subject.effort == ALIGNED]
    examples = tuple(Example(subject.number, subject.label, f"move {move}") for subject in compared[:SHOWN])
    count, of = _agreeing(votes, shift), int(votes.sum())
    yield Finding(
        "misaligned", WRONG, count=count, of=of, unit="compared labels", text=text, cure=cure, examples=examples
    )

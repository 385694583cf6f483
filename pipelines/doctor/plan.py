"""Plans which pairs of a raw set to examine and which to decode, in chunks. Opens no file."""

from __future__ import annotations

import functools
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass

import numpy as np

from pipelines.inputs.pairs import Pair
from pipelines.runner import handover
from pipelines.runner.chunks import labels_per_chunk

HEADERS, DECODED, ALIGNED = 0, 1, 2
"""Levels of examination: headers and checksums; also pixels; also the match of boundaries and edges."""
MAX_ALIGNED = 256
"""Number of pairs whose boundaries are compared with their images: a few suffice to show a constant offset."""


@dataclass(frozen=True)
class Subject:
    """A pair to examine: its number in the plan, key, files, split, and level of examination."""

    number: int
    key: str
    image: str
    label: str
    split: str
    effort: int


@dataclass(frozen=True)
class Plan:
    """All pairs, sorted by key."""

    subjects: tuple[Subject, ...]

    @property
    def total(self) -> int:
        return len(self.subjects)

    @functools.cached_property
    def splits(self) -> list[str]:
        """The split of every pair."""
        return [subject.split for subject in self.subjects]

    @functools.cached_property
    def lines(self) -> tuple[bytes, ...]:
        """The contents of the plan's file: one line per chunk."""
        size = labels_per_chunk(self.total)
        rows = [asdict(subject) for subject in self.subjects]
        # Names may contain any character; JSON in ASCII escapes line separators.
        return tuple(json.dumps(rows[first : first + size]).encode() for first in range(0, len(rows), size))

    @functools.cached_property
    def digest(self) -> str:
        return handover.digest_of(self.lines)


def make_plan(pairs: Sequence[Pair], full: bool, sampled: int, seed: int) -> Plan:
    """Chooses the pairs to decode.

    Args:
      pairs: sorted by key.
      full: decode all of them.
      sampled: approximate number to decode otherwise; drawn as couples of neighbours, which reveal frames of a film.
      seed: the seed of the draw.
    """
    chosen = set(range(len(pairs)))
    rng = np.random.default_rng(seed)
    if not full and len(pairs) > sampled:
        firsts = rng.choice(len(pairs) // 2, sampled // 2, replace=False) * 2
        chosen = {int(first) + step for first in firsts for step in (0, 1)}
    aligned = set(rng.permutation(sorted(chosen))[:MAX_ALIGNED].tolist())

    def subject(number: int, pair: Pair) -> Subject:
        effort = ALIGNED if number in aligned else DECODED if number in chosen else HEADERS
        return Subject(number, pair.key, pair.image, pair.label, pair.split, effort)

    return Plan(tuple(subject(number, pair) for number, pair in enumerate(pairs)))


def read_chunk(folder: str, digest: str, number: int) -> list[Subject]:
    """The pairs of a chunk of the plan. Raises InputError if it was changed."""
    return [Subject(**row) for row in json.loads(handover.read_line(folder, digest, number))]

"""What there is to look at: the pairs of a raw set in chunks, and which of them are decoded. No file is opened."""

from __future__ import annotations

import functools
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass

import numpy as np

from pipelines.inputs.rawset import Pair
from pipelines.runner import handover

HEADERS, DECODED, ALIGNED = 0, 1, 2
"""How closely a pair is looked at: headers and checksums; pixels too; and how its boundaries lie on the image."""
MAX_ALIGNED = 256
"""Pairs whose boundaries are compared with their images: a constant offset shows in a few."""

_CHUNK = 64  # pairs per element at most: a second of work


@dataclass(frozen=True)
class Subject:
    """One pair to look at: its number in the plan, key, files, split, and how closely."""

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

    @property
    def decoded(self) -> int:
        """How many pairs are decoded."""
        return sum(subject.effort >= DECODED for subject in self.subjects)

    @functools.cached_property
    def lines(self) -> tuple[bytes, ...]:
        """The contents of the plan's file: a line of each chunk."""
        size = max(1, min(_CHUNK, self.total // 32))
        rows = [asdict(subject) for subject in self.subjects]
        # Names may hold any character; JSON in ASCII escapes those at which lines are split.
        return tuple(json.dumps(rows[first : first + size]).encode() for first in range(0, len(rows), size))

    @functools.cached_property
    def digest(self) -> str:
        return handover.digest_of(self.lines)


def make_plan(pairs: Sequence[Pair], full: bool, sampled: int, seed: int) -> Plan:
    """Chooses which pairs are decoded.

    Args:
      pairs: sorted by key.
      full: all of them; else about `sampled`, drawn by `seed`, in neighbours of two: frames of one film are known by
        their neighbours.
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

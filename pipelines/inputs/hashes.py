"""Names by their hashes, of eight bytes each, where the names themselves would not fit in memory."""

from __future__ import annotations

import itertools
import tempfile
from array import array
from collections.abc import Iterable
from typing import BinaryIO

import numpy as np

HELD = 1 << 22
"""Hashes that are in memory; if there are more, all are in temporary files."""
PARTS = 32
"""Number of these files, each of which has to fit in memory."""


class Hashes:
    """The hashes of names, of which those that occur more than once are looked for."""

    def __init__(self) -> None:
        self._last = array("q")
        self._files: list[BinaryIO] = []

    def add(self, name: object) -> None:
        self._last.append(hash(name))
        if len(self._last) == HELD:
            self._spill()

    def extend(self, names: Iterable[object]) -> None:
        hashes = map(hash, names)
        while more := array("q", itertools.islice(hashes, HELD - len(self._last))):
            self._last += more
            if len(self._last) == HELD:
                self._spill()

    def repeated(self) -> frozenset[int]:
        """The hashes that occur more than once."""
        if not self._files:
            return _repeated(np.array(self._last, np.int64))
        self._spill()
        found: set[int] = set()
        for file in self._files:
            file.seek(0)
            found |= _repeated(np.frombuffer(file.read(), np.int64))
        return frozenset(found)

    def _spill(self) -> None:
        self._files = self._files or [tempfile.TemporaryFile() for _ in range(PARTS)]  # noqa: SIM115 - closed with these
        hashes = np.array(self._last, np.int64)
        for number, file in enumerate(self._files):
            file.seek(0, 2)  # `repeated` may have been asked before
            file.write(hashes[hashes % PARTS == number])
        self._last = array("q")


def _repeated(hashes: np.ndarray) -> frozenset[int]:
    hashes = np.sort(hashes)
    return frozenset(hashes[1:][hashes[1:] == hashes[:-1]].tolist())


def repeated(names: Iterable[object]) -> frozenset[int]:
    """The hashes of the names that occur more than once."""
    hashes = Hashes()
    hashes.extend(names)
    return hashes.repeated()


def hashed(names: Iterable[object]) -> np.ndarray:
    """The hashes of the names, [N] int64; the same only within a process."""
    return np.fromiter(map(hash, names), np.int64)


def places_of(wanted: np.ndarray, known: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Looks hashes up among sorted ones.

    Args:
      wanted: [N] int64.
      known: [M] int64, sorted.

    Returns:
      The place of each in `known`, [N] int64, and whether it is there, [N] bool; otherwise the place means nothing.
    """
    places = np.searchsorted(known, wanted)
    places[places == known.size] = 0
    return places, known[places] == wanted if known.size else np.zeros(wanted.shape, bool)

"""Names by their hashes, of eight bytes each, where the names themselves would not fit in memory."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np


def hashed(names: Iterable[object]) -> np.ndarray:
    """The hashes of the names, [N] int64; the same only within a process."""
    return np.fromiter(map(hash, names), np.int64)


def repeated(hashes: np.ndarray) -> frozenset[int]:
    """The hashes that occur more than once. Sorts the array, [N] int64, in place."""
    hashes.sort()
    return frozenset(hashes[1:][hashes[1:] == hashes[:-1]].tolist())


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

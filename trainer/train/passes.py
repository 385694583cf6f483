"""The order in which training goes round the records, without end.

Sample g of a training is place g % n of pass g // n over the n records, so that an epoch begins where the last one
ended. A pass takes the shards in an order of its own, a group of them in turn at a time, and cuts what comes into
windows, each of which is shuffled as a whole. Which records are in a window follows from the shards' counts in
dataset.json, so that what lies before it is neither read nor opened. Randomness comes from (seed, pass, window).
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

MAX_INTERLEAVED_SHARDS = 8
"""More would mix no better, as `prepare` deals records out by hash, and more files would be open."""


class Window(NamedTuple):
    """Which records are shuffled together: window `index` of pass `number`, both counted from 0."""

    number: int
    index: int


def _in_turn(counts: np.ndarray) -> np.ndarray:
    """The records of some shards, one of every shard in turn while it has any.

    Args:
      counts: int64 [S] records of the shards.

    Returns:
      int64 [their sum, 2]: place of the shard among these, number of the record in it.
    """
    shards = np.repeat(np.arange(len(counts)), counts)
    records = np.concatenate([np.arange(count) for count in counts]) if len(counts) else shards
    turns = np.lexsort([shards, records])
    return np.stack([shards[turns], records[turns]], axis=1)


class Passes:
    """The passes over shards with these counts of records.

    Attributes:
      size: how many records are shuffled together.
    """

    def __init__(self, counts: Sequence[int], size: int, seed: int) -> None:
        """
        Args:
          counts: [S] records of the shards.
          size: see above.
          seed: of the training.
        """
        self.size, self._counts, self._seed = size, np.array(counts, np.int64), seed
        self._total = int(self._counts.sum())
        # Batches that are made at the same time may lie in two windows, each of which may begin in one group and end
        # in another.
        self._groups = functools.lru_cache(maxsize=2)(self._groups_of)
        self._group = functools.lru_cache(maxsize=4)(self._records_of)
        self._shuffled = functools.lru_cache(maxsize=4)(self._shuffle)

    def _groups_of(self, number: int) -> tuple[list[np.ndarray], np.ndarray]:
        """The groups of shards that pass `number` reads one after the other, and the place at which each ends."""
        order = np.random.default_rng([self._seed, number]).permutation(len(self._counts))
        groups = np.array_split(order, -(-len(order) // MAX_INTERLEAVED_SHARDS))
        return groups, np.cumsum([self._counts[group].sum() for group in groups])

    def _records_of(self, number: int, group: int) -> np.ndarray:
        shards = self._groups(number)[0][group]
        records = _in_turn(self._counts[shards])
        records[:, 0] = shards[records[:, 0]]
        return records

    def _shuffle(self, window: Window) -> np.ndarray:
        records = self.records(window)
        # Not [seed, number], which the shards' order has, nor the same with a zero behind it, which is no other seed.
        rng = np.random.default_rng([self._seed, window.number, window.index + 1])
        return records[rng.permutation(len(records))]

    def records(self, window: Window) -> np.ndarray:
        """The records of a window in the order in which they lie in the shards: int64 [N, 2], shard and number."""
        begin = window.index * self.size
        end = min(begin + self.size, self._total)
        _, ends = self._groups(window.number)
        parts = []
        for group in range(np.searchsorted(ends, begin, "right"), np.searchsorted(ends, end, "left") + 1):
            records = self._group(window.number, int(group))
            start = int(ends[group]) - len(records)
            parts.append(records[max(begin - start, 0) : end - start])
        return np.concatenate(parts)

    def after(self, window: Window) -> Window:
        """The window that follows."""
        is_last = (window.index + 1) * self.size >= self._total
        return Window(window.number + 1, 0) if is_last else Window(window.number, window.index + 1)

    def samples(self, begin: int, count: int) -> list[tuple[Window, np.ndarray]]:
        """`count` samples from sample `begin` of the training on, which may be none.

        Returns:
          By window, in order: the records, int64 [N, 2], shard and number in it.
        """
        samples = []
        while count:
            number, place = divmod(begin, self._total)
            index, before = divmod(place, self.size)
            part = self._shuffled(Window(number, index))[before : before + count]
            samples.append((Window(number, index), part))
            begin, count = begin + len(part), count - len(part)
        return samples

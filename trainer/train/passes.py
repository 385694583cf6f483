"""The order in which a training takes the records, in pass after pass over all of them.

Sample g of a training is at place g % n of pass g // n over the n records, so an epoch begins where the previous one
ended. A pass takes the shards in a random order, interleaves a group of them at a time, and cuts the resulting
sequence into windows, each of which is shuffled. The records of a window follow from the counts of the shards in
dataset.json, so nothing before it needs to be read. All randomness comes from (seed, pass, window).
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

MAX_INTERLEAVED_SHARDS = 8
"""Maximum number of shards interleaved at a time. More would mix no better, since `prepare` assigns records to shards
by hash, and would keep more files open."""


class Window(NamedTuple):
    """Records that are shuffled together.

    Attributes:
      number: the number of the pass, from 0.
      index: the number of the window in its pass, from 0.
    """

    number: int
    index: int


def _interleaved(counts: np.ndarray) -> np.ndarray:
    """The records of some shards, taken one from each shard in turn until it has no more.

    Args:
      counts: int64 [S], the number of records in each shard.

    Returns:
      int64 [N, 2], with N the sum of the counts: (index of the shard, number of the record in it).
    """
    shards = np.repeat(np.arange(len(counts)), counts)
    records = np.concatenate([np.arange(count) for count in counts]) if len(counts) else shards
    turns = np.lexsort([shards, records])
    return np.stack([shards[turns], records[turns]], axis=1)


class Passes:
    """The passes over the records of some shards.

    Attributes:
      size: the number of records in a window; the last window of a pass may have fewer.
    """

    def __init__(self, counts: Sequence[int], size: int, seed: int) -> None:
        """
        Args:
          counts: the number of records in each shard.
          size: the number of records in a window.
          seed: the seed of the training.
        """
        self.size, self._counts, self._seed = size, np.array(counts, np.int64), seed
        self._total = int(self._counts.sum())
        # Batches that are made at the same time may lie in two windows, each of which may span two groups.
        self._groups = functools.lru_cache(maxsize=2)(self._groups_of)
        self._group = functools.lru_cache(maxsize=4)(self._records_of)
        self._shuffled = functools.lru_cache(maxsize=4)(self._shuffle)

    def _groups_of(self, number: int) -> tuple[list[np.ndarray], np.ndarray]:
        """The groups of shards that pass `number` interleaves, in order, and the place in the pass where each ends."""
        order = np.random.default_rng([self._seed, number]).permutation(len(self._counts))
        groups = np.array_split(order, -(-len(order) // MAX_INTERLEAVED_SHARDS))
        return groups, np.cumsum([self._counts[group].sum() for group in groups])

    def _records_of(self, number: int, group: int) -> np.ndarray:
        """The records of a group of pass `number`, in order: int64 [N, 2], (shard, number of the record in it)."""
        shards = self._groups(number)[0][group]
        records = _interleaved(self._counts[shards])
        records[:, 0] = shards[records[:, 0]]
        return records

    def _shuffle(self, window: Window) -> np.ndarray:
        records = self.records(window)
        # index + 1, since NumPy takes [seed, number, 0] for [seed, number], which determines the order of the shards.
        rng = np.random.default_rng([self._seed, window.number, window.index + 1])
        return records[rng.permutation(len(records))]

    def records(self, window: Window) -> np.ndarray:
        """The records of a window before shuffling: int64 [N, 2], (shard, number of the record in it)."""
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
        """The window that follows, which may be in the next pass."""
        is_last = (window.index + 1) * self.size >= self._total
        return Window(window.number + 1, 0) if is_last else Window(window.number, window.index + 1)

    def samples(self, begin: int, count: int) -> list[tuple[Window, np.ndarray]]:
        """The samples `begin` to `begin + count` of the training.

        Returns:
          For every window, in order, its records among them: int64 [N, 2], (shard, number of the record in it).
        """
        samples = []
        while count:
            number, place = divmod(begin, self._total)
            index, start = divmod(place, self.size)
            part = self._shuffled(Window(number, index))[start : start + count]
            samples.append((Window(number, index), part))
            begin, count = begin + len(part), count - len(part)
        return samples

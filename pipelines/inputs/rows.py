"""Sequences of rows that need not fit in memory: the last HELD rows stay there, the others go to a temporary file.

A row is a tuple of strings and numbers. The file has no name and disappears with the process.
"""

from __future__ import annotations

import contextlib
import gc
import heapq
import itertools
import marshal
import os
import tempfile
from collections.abc import Iterable, Iterator
from operator import itemgetter
from typing import Any, BinaryIO

Row = tuple[Any, ...]

HELD = 1 << 17
"""Rows in memory, a multiple of BLOCK: about 50 MB of names."""
BLOCK = 1 << 10
"""Rows that are read back together, from each of the runs being merged."""
FAN_IN = 128
"""Runs that are merged at a time, of each of which a block is in memory."""
SELDOM = 200_000
"""Objects that are allocated before Python looks for reference cycles among them."""


@contextlib.contextmanager
def in_bulk() -> Iterator[None]:
    """Makes garbage collection rare while the block creates millions of rows, which have no reference cycles.

    Otherwise the collector would scan all rows in memory again and again, which took a fifth of the time. It is not
    switched off entirely, since listing files may leave cycles.
    """
    before = gc.get_threshold()
    gc.set_threshold(SELDOM, *before[1:])
    try:
        yield
    finally:
        gc.set_threshold(*before)


class Rows:
    """An append-only sequence of rows that can be iterated over repeatedly."""

    def __init__(self, rows: Iterable[Row] = ()) -> None:
        self._last: list[Row] = []
        self._spool = _Spool()
        self._blocks: list[tuple[int, int]] = []
        self._count = 0
        self.extend(rows)

    @in_bulk()
    def extend(self, rows: Iterable[Row]) -> None:
        rows = iter(rows)
        while more := list(itertools.islice(rows, HELD - len(self._last))):
            self._last += more
            self._count += len(more)
            if len(self._last) == HELD:
                self._blocks += self._spool.write(self._last)
                self._last = []

    def __len__(self) -> int:
        return self._count

    def __iter__(self) -> Iterator[Row]:
        yield from self._spool.read(self._blocks)
        yield from self._last

    def __getitem__(self, index: int) -> Row:
        place = range(self._count)[index]
        return next(self.span(place, place + 1))

    def span(self, start: int, stop: int) -> Iterator[Row]:
        """The rows [start, stop), both at most the number of rows."""
        spilled = len(self._blocks) * BLOCK
        first = start // BLOCK
        rows = self._spool.read(self._blocks[first : -(-stop // BLOCK)])
        yield from itertools.islice(rows, start - first * BLOCK, stop - first * BLOCK)
        yield from self._last[max(start - spilled, 0) : max(stop - spilled, 0)]


@in_bulk()
def ordered(rows: Iterable[Row]) -> Iterator[Row]:
    """The rows in ascending order, like `sorted`; `rows` is exhausted when this returns."""
    spool = _Spool()
    runs: list[list[tuple[int, int]]] = []
    last: list[Row] = []
    is_sorted = True
    rows = iter(rows)
    while run := sorted(itertools.islice(rows, HELD)):
        is_sorted &= last <= run[:1]
        last = run[-1:]
        if len(run) < HELD:
            break
        runs.append(spool.write(run))
    if is_sorted:
        return itertools.chain(*map(spool.read, runs), run)
    while len(runs) > FAN_IN:
        parts, merged = [runs[first : first + FAN_IN] for first in range(0, len(runs), FAN_IN)], _Spool()
        runs = [merged.write(heapq.merge(*map(spool.read, part))) for part in parts]
        spool = merged
    return heapq.merge(*map(spool.read, runs), run)


def joined(rows: Iterable[Row], others: Iterable[Row]) -> Iterator[tuple[str, list[Row], list[Row]]]:
    """Inner join of sorted rows on their first column: yields (key, rows, others) for every key that both have."""
    mine, theirs = itertools.groupby(rows, itemgetter(0)), itertools.groupby(others, itemgetter(0))
    one, other = next(mine, None), next(theirs, None)
    while one and other:
        if one[0] == other[0]:
            yield one[0], [*one[1]], [*other[1]]
            one, other = next(mine, None), next(theirs, None)
        elif one[0] < other[0]:
            one = next(mine, None)
        else:
            other = next(theirs, None)


def among(rows: Iterable[Row], others: Iterable[Row]) -> Iterator[Row]:
    """The rows whose first column occurs in `others` as well; both must be sorted."""
    return itertools.chain.from_iterable(mine for _, mine, _ in joined(rows, others))


class _Spool:
    """A temporary file of blocks of rows; a block is identified by its (offset, size)."""

    def __init__(self) -> None:
        self._file: BinaryIO | None = None
        self._size = 0

    def write(self, rows: Iterable[Row]) -> list[tuple[int, int]]:
        self._file = self._file or tempfile.TemporaryFile()  # noqa: SIM115 - closed with its last reader
        blocks, rows = [], iter(rows)
        while block := list(itertools.islice(rows, BLOCK)):
            data = marshal.dumps(block)
            self._file.write(data)
            blocks.append((self._size, len(data)))
            self._size += len(data)
        self._file.flush()
        return blocks

    def read(self, blocks: Iterable[tuple[int, int]]) -> Iterator[Row]:
        for offset, size in blocks:
            yield from marshal.loads(os.pread(self._file.fileno(), size, offset))

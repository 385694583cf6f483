"""Requests to Cloud Storage beside the work: what comes next is read ahead, and what is made is written behind.

A request takes some fifty milliseconds, in which two images could be worked on. The threads and the bytes for that are
those of the process, however many workers it has. Local files are read and written where they are needed.
"""

from __future__ import annotations

import functools
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Generic, TypeVar

from trainer import storage

T = TypeVar("T")
R = TypeVar("R")

THREADS = 32
"""Requests at a time, of either kind, in a process."""
DEPTH = 16
"""Items that one worker has read ahead, and as many that it has not written yet."""
BUDGET = 256 << 20
"""Bytes that all workers of a process hold so. A worker is always allowed one item, however large."""

Read = Callable[[str], bytes]


class _Room:
    """The bytes that are held, by all workers of this process.

    Attributes:
      held: their number, as far as it is known.
      usual: what a file is taken to have before it is there: a mean of those before it.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self.held, self.usual = 0, 1 << 20

    def change(self, difference: int, size: int = 0) -> None:
        """Holds more or less from now on; `size` is that of a file that has come."""
        with self._lock:
            self.held += difference
            if size:
                self.usual += (size - self.usual) // 16


_room = _Room()


@functools.cache
def _readers() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(THREADS, "read")


@functools.cache
def _writers() -> ThreadPoolExecutor:
    # Not those that read: who writes may have to wait for a worker, and that for what it reads.
    return ThreadPoolExecutor(THREADS, "write")


class _Held(Generic[R]):
    """A result that another thread makes, and the bytes that it takes until it is dropped."""

    def __init__(self, pool: ThreadPoolExecutor, work: Callable[[], R], size: int) -> None:
        self._lock, self._size, self._is_dropped = threading.Lock(), size, False
        _room.change(size)
        self.future: Future[R] = pool.submit(work)

    def measure(self, future: Future[bytes]) -> None:
        """Takes the bytes for what they are, now that they are there."""
        if future.cancelled() or future.exception():
            return
        size = len(future.result())
        with self._lock:
            if not self._is_dropped:
                _room.change(size - self._size, size)
                self._size = size

    def drop(self) -> None:
        self.future.cancel()
        with self._lock:
            if not self._is_dropped:
                self._is_dropped = True
                _room.change(-self._size)


def each(items: Iterable[T], paths: Callable[[T], Sequence[str]]) -> Iterator[tuple[T, Read]]:
    """The items in their order, each with a function that reads its files; those of the next ones are on their way.

    The function does what `storage.read` does, and may be called for other files too.

    Args:
      paths: the files that an item needs if all goes well. Only those in Cloud Storage are read ahead.
    """
    rest = iter(items)
    waiting: deque[tuple[T, dict[str, _Held[bytes]]]] = deque()
    try:
        while True:
            while not waiting or (len(waiting) < DEPTH and _room.held < BUDGET):
                try:
                    item = next(rest)
                except StopIteration:
                    break
                waiting.append((item, {path: _reading(path) for path in filter(storage.is_remote, paths(item))}))
            if not waiting:
                return
            item, held = waiting[0]
            yield item, functools.partial(_read, held)
            _drop(waiting.popleft()[1])
    finally:
        for _, held in waiting:
            _drop(held)


def _reading(path: str) -> _Held[bytes]:
    held = _Held(_readers(), functools.partial(storage.read, path), _room.usual)
    held.future.add_done_callback(held.measure)
    return held


def _read(held: dict[str, _Held[bytes]], path: str) -> bytes:
    ahead = held.pop(path, None)
    if ahead is None:
        return storage.read(path)
    try:
        return ahead.future.result()
    finally:
        ahead.drop()


def _drop(held: dict[str, _Held[bytes]]) -> None:
    for one in held.values():
        one.drop()


def behind(
    items: Iterable[T], folder: str, write: Callable[[T], R], size: Callable[[T], int]
) -> Iterator[tuple[T, Callable[[], R]]]:
    """The items in their order, each with a function that returns, or raises, what `write(item)` does.

    Args:
      folder: that is written to. Where it is local, `write` is called by that function.
      size: bytes that an item takes until it is written.
    """
    if not storage.is_remote(folder):
        yield from ((item, functools.partial(write, item)) for item in items)
        return
    waiting: deque[tuple[T, _Held[R]]] = deque()
    for item in items:
        while waiting and (len(waiting) >= DEPTH or _room.held > BUDGET):
            yield _written(waiting)
        waiting.append((item, _Held(_writers(), functools.partial(write, item), size(item))))
    while waiting:
        yield _written(waiting)


def _written(waiting: deque[tuple[T, _Held[R]]]) -> tuple[T, Callable[[], R]]:
    item, held = waiting.popleft()

    def result() -> R:
        try:
            return held.future.result()
        finally:
            held.drop()

    return item, result

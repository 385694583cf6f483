"""Overlaps requests to Cloud Storage with the work: inputs are read ahead, and outputs are written behind.

A request takes some fifty milliseconds, in which two images could be processed. All workers of a process share one
pool of threads and one budget of bytes. Local files are read and written when they are needed.

The work itself is done ahead too where other workers have nothing to do, so that the last list keeps all cores busy.
"""

from __future__ import annotations

import contextlib
import functools
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, Generic, TypeVar

from trainer import storage

T = TypeVar("T")
R = TypeVar("R")

THREADS = 64
"""Concurrent requests of a process, for reads and for writes each: some thousand in a second, which is as many as
Python's lock lets one process handle."""
DEPTH = 32
"""Items that one worker reads ahead, and items that may wait to be written."""
BUDGET = 256 << 20
"""Bytes that all workers of a process buffer together. A worker may always hold one item, however large."""

EXPECTED = 16 * DEPTH
"""Files that are kept for items to come."""

Read = Callable[[str], bytes]


class _Buffer:
    """The bytes that all workers of this process have buffered.

    Attributes:
      held: bytes, estimated for files that are still being read.
      usual: estimated size of a file, in bytes: a running mean of the files before it.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self.held, self.usual = 0, 1 << 20

    def change(self, difference: int, size: int = 0) -> None:
        """Adds `difference` to the bytes held; `size` is that of a file that has just arrived, 0 for none."""
        with self._lock:
            self.held += difference
            if size:
                self.usual += (size - self.usual) // 16


_buffer = _Buffer()


@functools.cache
def _readers() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(THREADS, "read")


@functools.cache
def _writers() -> ThreadPoolExecutor:
    # A pool of its own: a write may wait for a worker, and that worker for its reads.
    return ThreadPoolExecutor(THREADS, "write")


@functools.cache
def _helpers() -> ThreadPoolExecutor:
    # A pool of its own too, since what it does may itself be read ahead.
    return ThreadPoolExecutor(THREADS, "ahead")


def ahead(place: str, work: Callable[[], R]) -> Callable[[], R]:
    """Returns a function that returns, or raises, what `work` does; it must be called at most once.

    Args:
      place: the file or folder that `work` is about. If it is in Cloud Storage, `work` begins at once, in another
        thread.
    """
    return _helpers().submit(work).result if storage.is_remote(place) else work


class _Pending(Generic[R]):
    """A result that another thread computes; its bytes count towards the budget until it is dropped."""

    def __init__(self, pool: ThreadPoolExecutor, work: Callable[[], R], size: int) -> None:
        self._lock, self._size, self._is_dropped = threading.Lock(), size, False
        _buffer.change(size)
        self.future: Future[R] = pool.submit(work)

    def measure(self, future: Future[bytes]) -> None:
        """Replaces the estimated size with the actual one."""
        if future.cancelled() or future.exception():
            return
        size = len(future.result())
        with self._lock:
            if not self._is_dropped:
                _buffer.change(size - self._size, size)
                self._size = size

    def drop(self) -> None:
        self.future.cancel()
        with self._lock:
            if not self._is_dropped:
                self._is_dropped = True
                _buffer.change(-self._size)


_Files = dict[str, _Pending[bytes]]
"""Files of an item, by their paths, that are being read."""


def read_ahead(items: Iterable[T], paths: Callable[[T], Sequence[str]]) -> Iterator[tuple[T, Read]]:
    """Yields the items in order, each with a function that reads its files, while those of the next items are fetched.

    The function behaves like `storage.read`, and may be called for other files too.

    Args:
      paths: the files that an item usually needs. Only those in Cloud Storage are read ahead.
    """
    for item, held in _fetched(items, paths):
        try:
            yield item, functools.partial(_read, held)
        finally:
            _drop(held)


_expected: _Files = {}
"""Files that `expect` has been told of, until they are taken."""


def expect(paths: Iterable[str]) -> None:
    """Begins to read files that `read_ahead` or `work_ahead` will soon come to, if they are in Cloud Storage.

    No more than there is room for. Of files to which they do not come, the first are dropped once there are many.
    """
    for path in filter(storage.is_remote, paths):
        if path not in _expected and _buffer.held < BUDGET:
            _expected[path] = _start_reading(path)
    for path in list(_expected)[:-EXPECTED]:
        if one := _expected.pop(path, None):
            one.drop()


def work_ahead(
    items: Iterable[T], paths: Callable[[T], Sequence[str]], work: Callable[[T, Read], R], threads: int
) -> Iterator[tuple[T, Callable[[], R]]]:
    """Yields the items in order, each with a function that returns, or raises, what `work(item, read)` does.

    Args:
      paths: the files that an item usually needs, see `read_ahead`.
      work: must not wait for the result of another item.
      threads: number of threads of this process that may work. While fewer than these call this function, helpers
        work on the next items.
    """
    crew = _crew(threads)
    waiting: deque[tuple[T, _Files, Callable[[], R], Future[R]]] = deque()

    def answer(item: T, held: _Files) -> R:
        try:
            return work(item, functools.partial(_read, held))
        finally:
            _drop(held)

    def next_done() -> tuple[T, Callable[[], R]]:
        item, _, one, future = waiting.popleft()
        return item, (_outcome(one) if crew.take_back(future) else future).result

    with crew.member():
        try:
            for item, held in _fetched(items, paths):
                one = functools.partial(answer, item, held)
                waiting.append((item, held, one, crew.help(one) or _outcome(one)))
                while waiting and (waiting[0][-1].done() or len(waiting) >= 2 * threads):
                    yield next_done()
            while waiting:
                yield next_done()
        finally:
            for _, held, _, future in waiting:
                if crew.take_back(future):
                    _drop(held)


class _Crew:
    """The threads of this process that work: those that have a list of items, and helpers in place of others.

    Each helper has one piece of work in hand and one that waits for it, or it would be idle until a thread with a list
    has done its own.
    """

    def __init__(self, size: int) -> None:
        self._lock, self._pool = threading.Lock(), ThreadPoolExecutor(size, "work")
        self._free, self._helpers, self._in_hand = size, 0, 0
        self._queue: deque[tuple[Future[Any], Callable[[], Any]]] = deque()

    @contextlib.contextmanager
    def member(self) -> Iterator[None]:
        """Counts the calling thread as one that works."""
        with self._lock:
            self._free -= 1
        try:
            yield
        finally:
            with self._lock:
                self._free += 1

    def help(self, work: Callable[[], R]) -> Future[R] | None:
        """Lets a helper do the work, unless all are busy and have more to do."""
        future: Future[R] = Future()
        with self._lock:
            if self._free > 0:
                self._free -= 1
                self._helpers += 1
                self._pool.submit(self._help)
            elif len(self._queue) + self._in_hand >= 2 * self._helpers:
                return None
            self._queue.append((future, work))
        return future

    def take_back(self, future: Future[Any]) -> bool:
        """Whether no helper has begun with the work of `future`; then none will."""
        with self._lock:
            for entry in self._queue:
                if entry[0] is future:
                    self._queue.remove(entry)
                    return True
        return False

    def _help(self) -> None:
        while True:
            with self._lock:
                if not self._queue or self._free < 0:  # another thread has got a list
                    self._free += 1
                    self._helpers -= 1
                    return
                future, work = self._queue.popleft()
                self._in_hand += 1
            try:
                _settle(future, work)
            except BaseException as error:  # which the thread with the list is to raise
                future.set_exception(error)
            with self._lock:
                self._in_hand -= 1


@functools.cache
def _crew(size: int) -> _Crew:
    return _Crew(size)


def _outcome(work: Callable[[], R]) -> Future[R]:
    """What `work` returns or raises."""
    future: Future[R] = Future()
    _settle(future, work)
    return future


def _settle(future: Future[R], work: Callable[[], R]) -> None:
    try:
        future.set_result(work())
    except Exception as error:
        future.set_exception(error)


def _fetched(items: Iterable[T], paths: Callable[[T], Sequence[str]]) -> Iterator[tuple[T, _Files]]:
    """Yields the items in order, each with its files, which the caller drops, while those of the next are fetched."""
    rest = iter(items)
    waiting: deque[tuple[T, _Files]] = deque()
    try:
        while True:
            while not waiting or (len(waiting) < DEPTH and _buffer.held < BUDGET):
                try:
                    item = next(rest)
                except StopIteration:
                    break
                files = dict.fromkeys(filter(storage.is_remote, paths(item)))
                waiting.append((item, {path: _expected.pop(path, None) or _start_reading(path) for path in files}))
                if not waiting[-1][-1]:
                    break  # there is nothing to wait for, so the next item may be formed when it is needed
            if not waiting:
                return
            yield waiting.popleft()
    finally:
        for _, held in waiting:
            _drop(held)


def _start_reading(path: str) -> _Pending[bytes]:
    held = _Pending(_readers(), functools.partial(storage.read, path), _buffer.usual)
    held.future.add_done_callback(held.measure)
    return held


def _read(held: _Files, path: str) -> bytes:
    pending = held.pop(path, None)
    if pending is None:
        return storage.read(path)
    try:
        return pending.future.result()
    finally:
        pending.drop()


def _drop(held: _Files) -> None:
    for one in held.values():
        one.drop()


def write_behind(
    items: Iterable[T], folder: str, write: Callable[[T], R], size: Callable[[T], int]
) -> Iterator[tuple[T, Callable[[], R]]]:
    """Yields the items in order, each with a function that returns, or raises, what `write(item)` does.

    Args:
      folder: the output folder. For a local one, that function calls `write` itself.
      size: bytes that an item occupies until it is written.
    """
    if not storage.is_remote(folder):
        yield from ((item, functools.partial(write, item)) for item in items)
        return
    waiting: deque[tuple[T, _Pending[R]]] = deque()
    try:
        for item in items:
            while waiting and (len(waiting) >= DEPTH or _buffer.held > BUDGET):
                yield _next_written(waiting)
            waiting.append((item, _Pending(_writers(), functools.partial(write, item), size(item))))
        while waiting:
            yield _next_written(waiting)
    finally:  # also where a bundle fails, which an engine tries again in the same process
        for _, held in waiting:
            held.drop()


def _next_written(waiting: deque[tuple[T, _Pending[R]]]) -> tuple[T, Callable[[], R]]:
    item, held = waiting.popleft()

    def result() -> R:
        try:
            return held.future.result()
        finally:
            held.drop()

    return item, result

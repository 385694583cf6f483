"""Random access to the records of shards: reads local ones one by one, those in Cloud Storage window by window."""

from __future__ import annotations

import contextlib
import functools
import math
import os
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import NoReturn, Protocol

import tensorflow as tf

from trainer import storage
from trainer.accounts import UnbalancedError
from trainer.attempts import attempt
from trainer.formats.dataset import DATASET_FILE, Shard
from trainer.formats.frames import HEAD, TAIL, CorruptRecord, check_payload, length_of
from trainer.train.passes import Passes, Window

BATCHES_AT_A_TIME = 2
"""Number of batches made at the same time: while one waits for its last crop, the next one keeps the cores busy."""

OPEN_SHARDS = 32
"""Number of shards open at the same time: four groups of `passes.MAX_INTERLEAVED_SHARDS`."""


class Records(Protocol):
    """The records of some shards."""

    def read(self, window: Window, shard: int, number: int) -> bytes:
        """The payload of a record of `window`: record `number` of shard `shard`, both counted from 0.

        Raises:
          CorruptRecord, tf.errors.DataLossError: the record is damaged.
          UnbalancedError: the shard has more or fewer records than dataset.json states.
          OSError, tf.errors.OpError, storage.Unavailable: the shard cannot be read.
        """


def records_of(paths: Sequence[str], shards: Sequence[Shard], passes: Passes, batch_size: int) -> Records:
    """The records of some shards.

    Args:
      paths: the shards, all local or all gs://.
      shards: their descriptions in dataset.json.
      passes: the order in which they will be read.
      batch_size: samples per batch, on all hosts.
    """
    if any(map(storage.is_remote, paths)):
        return StreamedRecords(paths, shards, passes, batch_size)
    return LocalRecords(paths, shards, passes)


def _unbalanced(path: str, count: str, expected: int) -> NoReturn:
    folder, _, name = path.rpartition("/")
    raise UnbalancedError(
        f"{name} in {folder} has {count} records, expected {expected} as {DATASET_FILE} states; "
        f"`deeplab records verify {folder}` reports all shards that differ"
    )


class _OpenShard:
    """An open local shard. Offsets are found by reading the frames up to a record when it is first read."""

    def __init__(self, path: str, shard: Shard) -> None:
        self._path, self._records = path, shard.records
        self._file = storage.reader(path)
        self._size = os.fstat(self._file.fileno()).st_size
        self._lock = threading.Lock()
        self._offsets = [0]

    def read(self, number: int) -> bytes:
        """The payload of a record. Raises the same errors as `Records.read`."""
        return attempt(self._path, functools.partial(self._read, number))

    def _read(self, number: int) -> bytes:
        begin, end = self._bounds(number)
        data = os.pread(self._file.fileno(), end - TAIL - begin - HEAD, begin + HEAD)
        check_payload(data, os.pread(self._file.fileno(), TAIL, end - TAIL), number, begin)
        return data

    def _bounds(self, number: int) -> tuple[int, int]:
        """The bytes [begin, end) of a record with its frame."""
        with self._lock:
            while len(self._offsets) < number + 2:
                self._offsets.append(self._end_of_next())
            if number + 1 == self._records and self._offsets[-1] != self._size:
                _unbalanced(self._path, "more", self._records)
            return self._offsets[number], self._offsets[number + 1]

    def _end_of_next(self) -> int:
        index, begin = len(self._offsets) - 1, self._offsets[-1]
        if begin == self._size:
            _unbalanced(self._path, str(index), self._records)
        length = length_of(os.pread(self._file.fileno(), HEAD, begin), index, begin)
        end = begin + HEAD + length + TAIL
        if end > self._size:
            raise CorruptRecord(index, begin, f"the shard ends after {self._size - begin} of {end - begin} bytes")
        return end

    def advise(self, first: int, count: int) -> None:
        """Advises the system that `count` records from `first` on will be read, to make it read ahead sequentially."""
        if hasattr(os, "posix_fadvise"):
            mean = self._size / self._records
            with contextlib.suppress(OSError):  # from file systems that do not support it
                os.posix_fadvise(self._file.fileno(), int(first * mean), int(count * mean) + 1, os.POSIX_FADV_WILLNEED)


class LocalRecords:
    """The records of local shards, of which OPEN_SHARDS are kept open."""

    def __init__(self, paths: Sequence[str], shards: Sequence[Shard], passes: Passes) -> None:
        self._passes = passes
        self._open = functools.lru_cache(OPEN_SHARDS)(lambda shard: _OpenShard(paths[shard], shards[shard]))
        # Once per window; by the next pass its entry has been evicted.
        self._advise = functools.lru_cache(maxsize=4)(self._advise_now)

    def read(self, window: Window, shard: int, number: int) -> bytes:
        self._advise(window)
        return self._open(shard).read(number)

    def _advise_now(self, window: Window) -> None:
        """Advises the system of a window and the next one, so that it reads them ahead in the order on the disk."""
        for one in (window, self._passes.after(window)):
            records = self._passes.records(one)
            for shard in set(records[:, 0].tolist()):
                numbers = records[records[:, 0] == shard, 1]
                self._open(shard).advise(int(numbers[0]), len(numbers))


class StreamedRecords:
    """The records of shards that are read sequentially, with TensorFlow's read-ahead.

    A window is kept in memory until its records are read, and the next one is loaded in the background.
    """

    def __init__(self, paths: Sequence[str], shards: Sequence[Shard], passes: Passes, batch_size: int) -> None:
        self._paths, self._counts, self._passes = paths, [shard.records for shard in shards], passes
        # The windows of the batches made at the same time. Older ones may still hold records, those for other hosts.
        self._kept = 2 + math.ceil(BATCHES_AT_A_TIME * batch_size / passes.size)
        self._lock = threading.Lock()
        self._windows: dict[Window, Future[dict[tuple[int, int], bytes]]] = {}
        self._readers: dict[int, tuple[int, Iterator[bytes]]] = {}
        # One thread: every reader continues where the previous window ended.
        self._loader = ThreadPoolExecutor(1, "window")

    def read(self, window: Window, shard: int, number: int) -> bytes:
        with self._lock:
            loading = self._load_soon(window)
            self._load_soon(self._passes.after(window))
        record = loading.result().pop((shard, number), None)
        if record is None:  # it was read before: the stream was restarted at an earlier place
            with self._lock:
                if self._windows.get(window) is loading:
                    del self._windows[window]
                loading = self._load_soon(window)
            record = loading.result().pop((shard, number))
        return record

    def _load_soon(self, window: Window) -> Future[dict[tuple[int, int], bytes]]:
        """The future records of a window, by (shard, number); starts to load them if this has not been done."""
        if window not in self._windows:
            self._windows[window] = self._loader.submit(self._load, window)
            while len(self._windows) > self._kept:
                del self._windows[next(iter(self._windows))]
        return self._windows[window]

    def _load(self, window: Window) -> dict[tuple[int, int], bytes]:
        with tf.device("CPU"):
            return {(s, n): self._next(s, n) for s, n in self._passes.records(window).tolist()}

    def _next(self, shard: int, number: int) -> bytes:
        place, reader = self._readers.pop(shard, (-1, iter(())))
        if place != number:
            reader = tf.data.TFRecordDataset(self._paths[shard]).skip(number).prefetch(16).as_numpy_iterator()
        record = next(reader, None)
        if record is None:
            _unbalanced(self._paths[shard], f"at most {number}", self._counts[shard])
        if number + 1 < self._counts[shard]:
            self._readers[shard] = number + 1, reader
        elif next(reader, None) is not None:
            _unbalanced(self._paths[shard], "more", self._counts[shard])
        return record

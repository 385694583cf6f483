"""Subprocesses that do the work of a job's threads, of which Python runs only one at a time.

OpenCV and libjpeg-turbo let other threads run while they work, but of a small image much of the work is Python's own.
So a long local job has a partner for each of its workers:

    with partners.started(workers, folder):
        run_job(...)  # whose threads call `partners.running()`

Threads do the rest: they divide the work into pieces, and put together what the partners return. In a pool of
`concurrent.futures` one process that crashes would end the calls of all.
"""

from __future__ import annotations

import contextlib
import queue
import tempfile
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, BinaryIO

from pipelines.runner.subprocesses import Subprocess
from trainer import prefetch
from trainer.options import InputError

MANY = 2_000
"""Number of items from which a job has partners: they take a third of a second to start."""


class Partners:
    """Subprocesses, each of which calls one function at a time. They start while this process goes on.

    Args:
      files: for each subprocess an open file, unbuffered, through which it returns bytes.
      ahead: the number of calls that wait for a subprocess while it works on another one. It reads their files ahead.

    Attributes:
      number: the number of subprocesses.
      threads: the number of threads whose calls keep all of them busy.
      usual: the usual length of what is given to `put`, in bytes: a running mean.
    """

    def __init__(self, files: Sequence[BinaryIO], ahead: int) -> None:
        self.number, self.usual = len(files), 1 << 20
        # While a subprocess works for one, and its next calls wait, another one puts away what it has made.
        self.threads = (2 + ahead) * self.number
        self._is_closed = False
        self._all = [Subprocess(file) for file in files]
        # A thread for each, so that its calls come in their order: the files of the first are here first.
        partners = [(*partner, ThreadPoolExecutor(1, "partner")) for partner in zip(self._all, files, strict=True)]
        self._free: queue.SimpleQueue[tuple[Subprocess, BinaryIO, ThreadPoolExecutor]] = queue.SimpleQueue()
        for partner in partners * (1 + ahead):
            self._free.put(partner)
        for subprocess, _, thread in partners:
            thread.submit(subprocess.start)  # an error comes again with the first call

    def __call__(self, function: Callable[..., Any], *args: Any, paths: Sequence[str] = ()) -> tuple[Any, list[bytes]]:
        """Calls `function(put, *args)` in a subprocess that is free, or becomes free.

        Args:
          function: importable by name; its arguments, result and exceptions must be picklable. Bytes are not part of
            its result, but given to `put`, one after another.
          paths: the files that it reads by `prefetch`.

        Returns:
          The function's result, and the bytes.

        Raises:
          Died: it crashed the subprocess.
          storage.Unavailable: the subprocess did not start, or was asked to end.
        """
        subprocess, file, thread = partner = self._free.get()
        try:
            if paths:
                subprocess.notify(prefetch.expect, paths)
            return thread.submit(self._call, subprocess, file, function, args).result()
        finally:
            self._free.put(partner)

    def _call(
        self, subprocess: Subprocess, file: BinaryIO, function: Callable[..., Any], args: tuple[Any, ...]
    ) -> tuple[Any, list[bytes]]:
        if self._is_closed:
            raise InputError("the job has ended")
        answer, error = subprocess.ask(_put_into, function, args)
        if error is not None:
            raise error
        result, sizes = answer
        for size in sizes:
            self.usual += (size - self.usual) // 16
        return result, _read(file, sizes)

    def close(self) -> None:
        """Ends the subprocesses, after their calls."""
        self._is_closed = True
        for subprocess in self._all:
            subprocess.close()


@contextlib.contextmanager
def new_partners(number: int, folder: str | None, ahead: int) -> Iterator[Partners]:
    """Yields partners, which end with the block.

    Args:
      number: their number.
      folder: the folder for their temporary files; None for the default one.
      ahead: see `Partners`.
    """
    with contextlib.ExitStack() as opened:
        files = [opened.enter_context(tempfile.TemporaryFile(dir=folder, buffering=0)) for _ in range(number)]
        partners = Partners(files, ahead)
        opened.callback(partners.close)
        yield partners


_running: Partners | None = None


@contextlib.contextmanager
def started(number: int, folder: str | None = None, ahead: int = 0) -> Iterator[None]:
    """Gives this process partners while the block runs: none if `number` is 0; else see `new_partners`."""
    global _running
    with new_partners(number, folder, ahead) as partners:
        _running = partners if number else None
        try:
            yield
        finally:
            _running = None


def number(workers: int, items: int, is_suspicious: bool = False) -> int:
    """The number of partners for a job of that many items, whose workers are threads: one each, or none.

    Args:
      is_suspicious: whether one of the items may crash its process.
    """
    return workers if workers > 1 and (items >= MANY or is_suspicious) else 0


def running() -> Partners | None:
    """The partners of this process, if it has any."""
    return _running


def _put_into(file: BinaryIO, function: Callable[..., Any], args: tuple[Any, ...]) -> tuple[Any, list[int]]:
    """Calls a function in the subprocess; returns its result and the sizes of what it has written to the file."""
    sizes: list[int] = []
    file.seek(0)

    def put(data: bytes) -> None:
        sizes.append(len(data))
        rest = memoryview(data)
        while rest:
            rest = rest[file.write(rest) :]

    return function(put, *args), sizes


def _read(file: BinaryIO, sizes: Sequence[int]) -> list[bytes]:
    file.seek(0)
    return [file.read(size) for size in sizes]

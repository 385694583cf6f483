"""Progress of a run: workers count what they have finished, and a bar or plain lines show the sum."""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TextIO

from tqdm import tqdm

from trainer import storage
from trainer.options import InputError

PLAIN_SECONDS = 10.0  # between two progress lines where stderr is no terminal, or two counts in Cloud Storage
WATCH_SECONDS = 0.25
REMOTE_SECONDS = 5.0
"""Between two looks where one is a request."""
READERS = 16
"""Counts that are read at a time from Cloud Storage."""
FOLDER = ".progress"
"""Where the workers of a job elsewhere count what they have done, in its output folder."""
COUNT = ".count"
"""Suffix of the files with counts."""
EXPECTED = "expected.json"
"""How much there will be, in the same folder."""
STAGED = "artifacts"
"""What a job server keeps for its workers, in the same folder."""


class Heartbeat:
    """Counts finished items from any thread or process of any worker.

    Every (unpickled) copy has a file of its own in `folder`, so that no lock is needed: in a local or a shared folder
    it grows by one byte for each item; in Cloud Storage it holds the number, written again every PLAIN_SECONDS. A
    heartbeat without a folder does nothing.
    """

    def __init__(self, folder: str = "") -> None:
        self.folder = folder
        self._file: int | None = None
        self._count, self._path, self._next = 0, "", 0.0

    def __getstate__(self) -> dict[str, Any]:
        return Heartbeat(self.folder).__dict__.copy()

    def check(self) -> None:
        """Raises InputError where the folder is not there: this worker does not see what the others do."""
        if self.folder and not storage.is_remote(self.folder) and not os.path.isdir(self.folder):
            raise InputError(
                f"{self.folder} is not there on the worker {socket.gethostname()}; give folders that all workers see "
                "under the same path, such as on a network file system, or gs:// addresses"
            )

    def beat(self, n: int = 1) -> None:
        """Adds `n` finished items."""
        if not self.folder or n < 1:
            return
        if storage.is_remote(self.folder):
            self._write(n)
            return
        if self._file is None:
            path = os.path.join(self.folder, uuid.uuid4().hex + COUNT)
            self._file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        os.write(self._file, b"." * n)

    def _write(self, n: int) -> None:
        self._count, now = self._count + n, time.monotonic()
        if now >= self._next:
            self._path = self._path or storage.join(self.folder, uuid.uuid4().hex + COUNT)
            self._next = now + PLAIN_SECONDS
            with contextlib.suppress(OSError, storage.Unavailable):  # the next one will do
                storage.write(self._path, str(self._count).encode())

    def __del__(self) -> None:
        if self._file is not None:
            os.close(self._file)


def say(text: str, out: TextIO) -> None:
    """Prints a line and flushes it, so that it stands in its place among those of other processes."""
    print(text, file=out, flush=True)


def beats(folder: str) -> int:
    """Items counted so far by all heartbeats of `folder`, local or gs://."""
    if not storage.is_remote(folder):
        return sum(entry.stat().st_size for entry in os.scandir(folder) if entry.name.endswith(COUNT))
    paths = [file.path for file in storage.files(folder) if file.path.endswith(COUNT)]
    with ThreadPoolExecutor(READERS) as pool:
        return sum(map(int, pool.map(storage.read, paths)))


def forget(output: str) -> None:
    """Removes the counts of a job that has ended from its output folder, and what was staged for its workers.

    Jobs whose command was killed leave them. What else somebody has put there stays.
    """
    folder = storage.join(output, FOLDER)
    with contextlib.suppress(OSError, storage.Unavailable):
        for file in storage.files(folder):
            name = storage.unfinished(file.relative) or file.relative
            if name.endswith(COUNT) or name == EXPECTED:
                storage.remove(file.path)
    if not storage.is_remote(folder):
        shutil.rmtree(os.path.join(folder, STAGED), ignore_errors=True)
        with contextlib.suppress(OSError):  # there is none, or something else in it
            os.rmdir(folder)


@contextlib.contextmanager
def progress(
    count: Callable[[], int], total: int, unit: str, title: str, out: TextIO, watch: float = WATCH_SECONDS
) -> Iterator[None]:
    """Shows what `count` returns while the block runs: a bar on a terminal, else a line every few seconds.

    Args:
      total: what it will be in the end; 0 where nobody knows.
      watch: seconds between two calls of it for the bar.
    """
    done = threading.Event()
    show = _bar if out.isatty() else _lines
    watcher = threading.Thread(target=show, args=(_Last(count), total, unit, title, out, watch, done), daemon=True)
    watcher.start()
    try:
        yield
    finally:
        done.set()
        watcher.join()


class _Last:
    """What a function last returned: a service that does not answer for a while is no reason to stop."""

    def __init__(self, count: Callable[[], int]) -> None:
        self._count, self._value = count, 0

    def __call__(self) -> int:
        with contextlib.suppress(Exception):
            self._value = self._count()
        return self._value


def _bar(count: _Last, total: int, unit: str, title: str, out: TextIO, watch: float, done: threading.Event) -> None:
    shown = {"unit": f" {unit}", "desc": title, "file": out, "dynamic_ncols": True, "smoothing": 0.1}
    with tqdm(total=total or None, initial=count(), **shown) as bar:
        running = True
        while running:
            running = not done.wait(watch)
            bar.update(count() - bar.n)


def _lines(count: _Last, total: int, unit: str, title: str, out: TextIO, watch: float, done: threading.Event) -> None:
    start, first, running = time.monotonic(), count(), True
    while running:
        running = not done.wait(PLAIN_SECONDS)
        number, seconds = count(), time.monotonic() - start
        rate = (number - first) / seconds if seconds else 0.0
        left = f", {max(0, total - number) / rate:.0f} s left" if running and rate and total else ""
        of = f"/{total}" if total else ""
        say(f"{title}: {number}{of} {unit}, {rate:.1f}/s, {seconds:.0f} s{left}", out)

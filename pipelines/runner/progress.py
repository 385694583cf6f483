"""Progress of a run: workers count the items they have finished; a progress bar or plain lines show the sum."""

from __future__ import annotations

import contextlib
import functools
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

PLAIN_SECONDS = 10.0  # between two progress lines if stderr is not a terminal, and between two counts in Cloud Storage
WATCH_SECONDS = 0.25
REMOTE_SECONDS = 5.0
"""Seconds between two polls if each of them is a request."""
READERS = 16
"""Number of counts that are read concurrently from Cloud Storage."""
FOLDER = ".progress"
"""Folder in the output folder in which the workers of a remote job count finished items."""
COUNT = ".count"
"""Suffix of the files with counts."""
EXPECTED = "expected.json"
"""File with the total number of items, in the same folder."""
STAGED = "artifacts"
"""Folder of files that a job server stages for its workers, in the same folder."""


class Heartbeat:
    """Counts finished items from any thread or process of any worker.

    Every (unpickled) copy has a file of its own in `folder`, so no lock is needed: in a local or shared folder it
    grows by one byte per item; in Cloud Storage it holds the number, rewritten every PLAIN_SECONDS. A heartbeat
    without a folder does nothing.
    """

    def __init__(self, folder: str = "") -> None:
        self.folder = folder
        self._file: int | None = None
        self._count, self._path, self._next = 0, "", 0.0

    def __getstate__(self) -> dict[str, Any]:
        return Heartbeat(self.folder).__dict__.copy()

    def check(self) -> None:
        """Raises InputError if the folder does not exist, as this worker then cannot see the files of the others."""
        if self.folder and not storage.is_remote(self.folder) and not os.path.isdir(self.folder):
            raise InputError(
                f"{self.folder} does not exist on the worker {socket.gethostname()}; give folders that all workers "
                "see under the same path, such as on a network file system, or gs:// addresses; or another run into "
                "this folder has ended meanwhile"
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
            with contextlib.suppress(OSError, storage.Unavailable):  # the next write makes up for it
                storage.write(self._path, str(self._count).encode())

    def __del__(self) -> None:
        if self._file is not None:
            os.close(self._file)


def say(text: str, out: TextIO) -> None:
    """Prints a line and flushes it, so that it stays in order with the lines of other processes."""
    print(text, file=out, flush=True)


def beats(folder: str) -> int:
    """Items counted so far by all heartbeats of `folder`, local or gs://."""
    if not storage.is_remote(folder):
        return sum(entry.stat().st_size for entry in os.scandir(folder) if entry.name.endswith(COUNT))
    paths = [file.path for file in storage.files(folder) if file.path.endswith(COUNT)]
    with ThreadPoolExecutor(READERS) as pool:
        return sum(map(int, pool.map(storage.read, paths)))


def forget(output: str) -> None:
    """Removes the counts of a finished job, and the files staged for its workers, from its output folder.

    They may be left from a job whose command was killed. Other files in the folder are kept.
    """
    folder = storage.join(output, FOLDER)
    if os.path.islink(folder):
        return
    with contextlib.suppress(OSError, storage.Unavailable):
        for file in storage.files(folder):
            name = storage.unfinished(file.relative) or file.relative
            if name.endswith(COUNT) or name == EXPECTED:
                storage.discard(file.path)
    if not storage.is_remote(folder):
        shutil.rmtree(os.path.join(folder, STAGED), ignore_errors=True)
        with contextlib.suppress(OSError):  # there is none, or something else in it
            os.rmdir(folder)


@contextlib.contextmanager
def progress(
    count: Callable[[], int], total: int, unit: str, title: str, out: TextIO, watch: float = WATCH_SECONDS
) -> Iterator[None]:
    """Shows the progress while the block runs: as a bar on a terminal, else as a line every few seconds.

    Args:
      count: returns the number of finished items; its errors are ignored.
      total: the final count; 0 if it is not known.
      unit: name of the items, plural ("records").
      title: short name of the job.
      out: the stream to write to.
      watch: seconds between two calls of `count` for the bar.
    """
    done = threading.Event()
    show, wait = (_bar, watch) if out.isatty() else (_lines, PLAIN_SECONDS)
    ended = functools.partial(done.wait, wait)
    watcher = threading.Thread(target=show, args=(_Last(count, total), total, unit, title, out, ended), daemon=True)
    watcher.start()
    try:
        yield
    finally:
        done.set()
        watcher.join()


class _Last:
    """Calls a function and ignores its errors, since a service may be briefly unavailable: returns its last value.

    At most `total`, unless that is 0: an engine that has lost a machine repeats items that were already counted.
    """

    def __init__(self, count: Callable[[], int], total: int) -> None:
        self._count, self._total, self._value = count, total, 0

    def __call__(self) -> int:
        with contextlib.suppress(Exception):
            self._value = min(number := self._count(), self._total or number)
        return self._value


def _bar(count: _Last, total: int, unit: str, title: str, out: TextIO, ended: Callable[[], bool]) -> None:
    shown = {"unit": f" {unit}", "desc": title, "file": out, "dynamic_ncols": True, "smoothing": 0.1}
    with tqdm(total=total or None, initial=count(), **shown) as bar:
        running = True
        while running:
            running = not ended()
            bar.update(count() - bar.n)


def _lines(count: _Last, total: int, unit: str, title: str, out: TextIO, ended: Callable[[], bool]) -> None:
    start, first, running = time.monotonic(), count(), True
    while running:
        running = not ended()
        number, seconds = count(), time.monotonic() - start
        rate = (number - first) / seconds if seconds else 0.0
        left = f", {max(0, total - number) / rate:.0f} s left" if running and rate and total else ""
        of = f"/{total}" if total else ""
        say(f"{title}: {number}{of} {unit}, {rate:.1f}/s, {seconds:.0f} s{left}", out)

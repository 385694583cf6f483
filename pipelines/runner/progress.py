"""Progress of a local run: workers count what they have finished, and a bar or plain lines show the sum."""

from __future__ import annotations

import contextlib
import os
import threading
import time
import uuid
from collections.abc import Iterator
from typing import Any, TextIO

from tqdm import tqdm

PLAIN_SECONDS = 10.0  # between two progress lines where stderr is no terminal
WATCH_SECONDS = 0.25


class Heartbeat:
    """Counts finished items from any worker thread or process of a local run.

    Every (unpickled) copy appends to a file of its own in `folder`; one byte is one item, so that the sum of the file
    sizes is the count and no lock is needed. A heartbeat without a folder (remote runners) does nothing.
    """

    def __init__(self, folder: str = "") -> None:
        self.folder = folder
        self._file: int | None = None

    def __getstate__(self) -> dict[str, Any]:
        return {"folder": self.folder, "_file": None}

    def beat(self, n: int = 1) -> None:
        """Adds `n` finished items."""
        if not self.folder or n < 1:
            return
        if self._file is None:
            path = os.path.join(self.folder, uuid.uuid4().hex)
            self._file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        os.write(self._file, b"." * n)

    def __del__(self) -> None:
        if self._file is not None:
            os.close(self._file)


def say(text: str, out: TextIO) -> None:
    """Prints a line and flushes it, so that it stands in its place among those of other processes."""
    print(text, file=out, flush=True)


def beats(folder: str) -> int:
    """Items counted so far by all heartbeats of `folder`."""
    return sum(entry.stat().st_size for entry in os.scandir(folder))


@contextlib.contextmanager
def progress(folder: str, total: int, unit: str, title: str, out: TextIO) -> Iterator[None]:
    """Shows the sum of the heartbeats while the block runs: a bar on a terminal, else a line every few seconds."""
    done = threading.Event()
    start = time.monotonic()
    show = _bar if out.isatty() else _lines
    watcher = threading.Thread(target=show, args=(folder, total, unit, title, out, start, done), daemon=True)
    watcher.start()
    try:
        yield
    finally:
        done.set()
        watcher.join()


def _bar(folder: str, total: int, unit: str, title: str, out: TextIO, start: float, done: threading.Event) -> None:
    with tqdm(total=total, unit=f" {unit}", desc=title, file=out, dynamic_ncols=True, smoothing=0.1) as bar:
        running = True
        while running:
            running = not done.wait(WATCH_SECONDS)
            bar.update(beats(folder) - bar.n)


def _lines(folder: str, total: int, unit: str, title: str, out: TextIO, start: float, done: threading.Event) -> None:
    running = True
    while running:
        running = not done.wait(PLAIN_SECONDS)
        count, seconds = beats(folder), time.monotonic() - start
        rate = count / seconds if seconds else 0.0
        left = f", {(total - count) / rate:.0f} s left" if running and rate else ""
        say(f"{title}: {count}/{total} {unit}, {rate:.1f}/s, {seconds:.0f} s{left}", out)

"""Measures the time that a worker spends in each step, to show which step limits a job and by how much.

    with watched() as seconds:      # a worker, around its work
        with step("read"):          # anywhere below it, in the same thread
            data = read(path)
    seconds                         # {"read": 0.05}

Steps in other threads are not counted: they limit a worker only while it waits for them.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections import Counter
from collections.abc import Iterator

_here = threading.local()


@contextlib.contextmanager
def watched() -> Iterator[Counter[str]]:
    """Yields a counter of the seconds that this thread spends in every step while the block runs."""
    before = getattr(_here, "seconds", None)
    _here.seconds, _here.within = Counter(), 0.0
    try:
        yield _here.seconds
    finally:
        _here.seconds = before


@contextlib.contextmanager
def step(name: str) -> Iterator[None]:
    """Counts the time of the block as step `name`, without the time of steps nested in it."""
    seconds = getattr(_here, "seconds", None)
    if seconds is None:
        yield
        return
    before, _here.within = _here.within, 0.0
    begin = time.perf_counter()
    try:
        yield
    finally:
        spent = time.perf_counter() - begin
        seconds[name] += spent - _here.within
        _here.within = before + spent

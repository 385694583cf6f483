"""What the time of a worker goes into, step by step: which step limits a job, and how far.

    with watched() as seconds:      # a worker, around its work
        with step("read"):          # wherever its thread comes by
            data = read(path)
    seconds                         # {"read": 0.05}

Steps of other threads count nowhere: what goes on beside a worker limits it only where it waits for that.
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
    """Gives the seconds that this thread spends in every step while the block runs."""
    before = getattr(_here, "seconds", None)
    _here.seconds, _here.within = Counter(), 0.0
    try:
        yield _here.seconds
    finally:
        _here.seconds = before


@contextlib.contextmanager
def step(name: str) -> Iterator[None]:
    """The block is this step, but for the steps within it."""
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

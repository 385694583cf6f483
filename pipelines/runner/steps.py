"""Measures where the time of a worker goes, to show which step limits a job and by how much.

    with watched() as times:        # a worker, around its work
        with step("read"):          # anywhere below it, in the same thread
            data = read(path)
        worked("CRF", 0.2)          # what another thread has done for it, in seconds of the processor
    times.wall                      # {"read": 0.05}
    times.processor                 # {"CRF": 0.2, "all": 0.21}

A step in another thread limits a worker while that waits for it, and wherever both share the same cores. So the first
counter has the worker's own thread only, waiting included, and the second what the processor has done for all threads.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import ParamSpec, TypeVar

P = ParamSpec("P")
T = TypeVar("T")

ALL = "all"

_here = threading.local()


@dataclass(frozen=True)
class Times:
    """Where the time of a worker has gone, in seconds.

    Attributes:
      wall: by the steps of its thread, waiting included.
      processor: of the cores: by the work that other threads did for it, and "all" of the process. Where several
        workers share a process, only the sum of their "all" means anything.
    """

    wall: Counter[str] = field(default_factory=Counter)
    processor: Counter[str] = field(default_factory=Counter)


class _Processor:
    """The time that all cores spend on this process while any worker is watched; each second is given out once."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._watched, self._given = 0, 0.0

    def enter(self) -> None:
        with self._lock:
            if not self._watched:
                self._given = time.process_time()
            self._watched += 1

    def leave(self) -> float:
        """The seconds since a worker left last, or since the first one entered."""
        with self._lock:
            self._watched -= 1
            begin, self._given = self._given, time.process_time()
            return self._given - begin


_processor = _Processor()


@contextlib.contextmanager
def watched() -> Iterator[Times]:
    """Yields the times of what this thread does while the block runs; "all" is added at its end."""
    before = getattr(_here, "times", None)
    times = Times()
    _here.times, _here.within = times, 0.0
    _processor.enter()
    try:
        yield times
    finally:
        times.processor[ALL] += _processor.leave()
        _here.times = before


@contextlib.contextmanager
def step(name: str) -> Iterator[None]:
    """Counts the time of the block as step `name`, without the time of steps nested in it."""
    times = getattr(_here, "times", None)
    if times is None:
        yield
        return
    before, _here.within = _here.within, 0.0
    begin = time.perf_counter()
    try:
        yield
    finally:
        spent = time.perf_counter() - begin
        times.wall[name] += spent - _here.within
        _here.within = before + spent


def worked(name: str, seconds: float, in_process: bool = True) -> None:
    """Counts seconds of the processor, see `timed`, that another thread has spent on the work of this one.

    Args:
      in_process: whether it was a thread of this process.
    """
    times = getattr(_here, "times", None)
    if times is not None:
        times.processor[name] += seconds
        if not in_process:
            times.processor[ALL] += seconds


def timed(work: Callable[P, T], *arguments: P.args, **named: P.kwargs) -> tuple[T, float]:
    """What `work` returns, and the seconds of the processor that it took in this thread."""
    begin = time.thread_time()
    return work(*arguments, **named), time.thread_time() - begin

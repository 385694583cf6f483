"""Isolates the images of a job from each other: whatever goes wrong with one image becomes a reject of that image.

Two things can go wrong. An image can raise an unexpected exception (out of memory, or an error in OpenCV, an encoder
or the CRF), which `attempt` handles:

    try:
        record = attempt(lambda: make_record(entry), known=Unusable)
    except (Unusable, Failed) as fault:
        rejects.append(Reject(entry.key, entry.image, STAGE, fault.reason))

It can also crash the process that decodes it, which no `except` catches, so `Isolated` runs functions in a subprocess.
Since that is slow, most stages use it only where a process has crashed before, see `pipelines.runner.notes`.
"""

from __future__ import annotations

import contextlib
import functools
import gc
import logging
import threading
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

from pipelines.runner.subprocesses import Died, Subprocess, cause
from trainer import storage
from trainer.accounts import UnbalancedError
from trainer.options import InputError

T = TypeVar("T")


class Failed(Exception):
    """An image could not be processed, even on its own.

    Attributes:
      reason: the reason for its reject, in one line.
    """

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


class _SharedLock:
    """A lock that many threads share, or one thread holds exclusively. It is re-entrant."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._inside = 0
        self._waiting = 0
        self._taken = False
        self._here = threading.local()

    @contextlib.contextmanager
    def shared(self) -> Iterator[None]:
        """Holds the lock together with other threads."""
        if getattr(self._here, "place", ""):
            yield
            return
        with self._changed:
            # Exclusive holders take precedence: with many threads, the lock would never be free by chance.
            self._changed.wait_for(lambda: not self._taken and not self._waiting)
            self._inside += 1
        self._here.place = "shared"
        try:
            yield
        finally:
            self._here.place = ""
            with self._changed:
                self._inside -= 1
                self._changed.notify_all()

    @contextlib.contextmanager
    def exclusive(self) -> Iterator[None]:
        """Holds the lock exclusively. A thread that shares it releases it while waiting, lest two of them deadlock."""
        before = getattr(self._here, "place", "")
        if before == "exclusive":
            yield
            return
        with self._changed:
            self._inside -= before == "shared"
            self._changed.notify_all()
            self._waiting += 1
            self._changed.wait_for(lambda: not self._taken and not self._inside)
            self._waiting -= 1
            self._taken = True
        self._here.place = "exclusive"
        try:
            yield
        finally:
            self._here.place = before
            with self._changed:
                self._taken = False
                self._inside += before == "shared"
                self._changed.notify_all()


_lock = _SharedLock()


def attempt(work: Callable[[], T], known: type[Exception] | tuple[type[Exception], ...] = ()) -> T:
    """Calls `work` and returns its result. If it raises an exception not in `known`, it is called once more, alone.

    Alone means that no other `attempt` of this process is running, so that work that ran out of memory has all of it
    the second time. Attempts may be nested. `work` must not wait for an attempt in another thread, and the caller must
    hold no lock that another attempt takes. Side effects of `work` may happen twice.

    Args:
      work: the work on one image.
      known: exceptions that are not retried but raised at once, such as those for invalid files.

    Raises:
      Failed: `work` raised twice; its reason is the second exception.
      InputError, storage.Unavailable, UnbalancedError: raised by `work`; they end the job.
    """
    reason = ""
    for place in (_lock.shared, _lock.exclusive):
        if reason:
            gc.collect()  # not in the handler below, where the traceback still references the memory of `work`
        try:
            with place():
                return work()
        except Exception as error:
            # Failed comes from a nested attempt, which has already tried alone.
            if isinstance(error, (known, Failed, InputError, UnbalancedError, storage.Unavailable)):
                raise
            reason = cause(error)
            logging.getLogger(__name__).info("an image failed: %s", reason, exc_info=True)
    raise Failed(f"{reason}; tried alone")


class Isolated:
    """Runs functions in a subprocess, one after another, so that a crash does not end this process.

    Attributes:
      ended: whether a function has crashed the subprocess.
    """

    def __init__(self) -> None:
        self.ended = False
        self._process = Subprocess()

    def __enter__(self) -> Isolated:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def __call__(self, function: Callable[..., T], *args: Any) -> T:
        """Calls `function(*args)` in the subprocess; returns its result or raises its exception.

        Args:
          function: importable by name; its arguments, result and exceptions must be picklable.

        Raises:
          Failed: it crashed the subprocess and then, called alone, a second one.
          storage.Unavailable: the subprocess did not start, or was asked to end.
        """
        value, error = attempt(functools.partial(self._answer, function, args))
        if error is not None:
            raise error
        return value

    def close(self) -> None:
        """Ends the subprocess, if there is one."""
        self._process.close()

    def _answer(self, function: Callable[..., Any], args: tuple[Any, ...]) -> tuple[Any, Exception | None]:
        try:
            return self._process.ask(function, *args)
        except Died:
            self.ended = True
            raise

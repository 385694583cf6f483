"""Handles SIGTERM and Ctrl-C: at once if nothing would be lost, else as soon as a training can write a checkpoint."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Iterator
from types import FrameType
from typing import Any

TERMINATED = 128 + signal.SIGTERM
"""Exit status after SIGTERM, the same as that of a program that does not handle it."""


class Terminated(BaseException):
    """SIGTERM asked this process to end. The message states which part of the training is saved."""


def restore_handlers() -> None:
    """Restores Python's handlers of SIGTERM and Ctrl-C after a library has replaced them at the C level."""
    if threading.current_thread() is threading.main_thread():
        for number in (signal.SIGTERM, signal.SIGINT):
            if handler := signal.getsignal(number):
                signal.signal(number, handler)


class Interrupts:
    """Receives SIGTERM and Ctrl-C while its `with` block runs.

    Attributes:
      wait: whether they wait for the next `check` instead of raising immediately. A second Ctrl-C never waits.
      waiting: the exception that the next `check` raises; also one that was raised, which a library may have dropped:
        C++ that calls Python does.
      raised: the exception that was raised immediately, until somebody has caught it. If the block ends in an error,
        that is what a library has made of this, which is raised in its place.
    """

    def __init__(self) -> None:
        self.wait = False
        self.waiting: type[BaseException] | None = None
        self.raised: type[BaseException] | None = None
        self._before: dict[int, Any] = {}

    def __enter__(self) -> Interrupts:
        if threading.current_thread() is threading.main_thread():  # only it may set handlers
            for number in (signal.SIGTERM, signal.SIGINT):
                # Signals that are ignored at the start stay ignored, such as Ctrl-C in a background job of a shell.
                if signal.getsignal(number) != signal.SIG_IGN:
                    self._before[number] = signal.signal(number, self._receive)
        return self

    def __exit__(self, _: object, error: BaseException | None, __: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler or signal.SIG_DFL)
        if self.raised and isinstance(error, Exception):
            raise self.raised from None

    def _receive(self, number: int, _: FrameType | None) -> None:
        ending = KeyboardInterrupt if number == signal.SIGINT else Terminated
        waits = self.wait and not self.waiting is ending is KeyboardInterrupt
        self.waiting = self.waiting or ending
        if not waits:
            self.raised = ending
            raise ending

    def check(self, kept: str) -> None:
        """Raises the waiting exception, if any; its message begins with `kept`, a clause on the last checkpoint."""
        if self.waiting:
            raise self.waiting(f"{kept}; run the same command again to resume") from None

    @contextlib.contextmanager
    def at_once(self) -> Iterator[None]:
        """While the block runs, interrupts raise immediately, wherever the program is."""
        before, self.wait = self.wait, False
        try:
            if self.waiting:
                raise self.waiting
            yield
            if self.waiting:
                raise self.waiting
        finally:
            self.wait = before

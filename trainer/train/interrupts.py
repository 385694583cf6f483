"""Handles Ctrl-C, SIGTERM and SIGHUP: at once if nothing would be lost, else as soon as a training can be kept."""

from __future__ import annotations

import contextlib
import signal
import sys
import threading
from collections.abc import Iterator
from types import FrameType
from typing import Any


class Terminated(BaseException):
    """SIGTERM asked this process to end. The message states which part of the training is saved.

    Attributes:
      status: the exit status, the same as that of a program that does not handle the signal.
    """

    status = 128 + signal.SIGTERM


class HungUp(Terminated):
    """The same of SIGHUP: the terminal was closed, or the connection to it has ended."""

    status = 128 + signal.SIGHUP


ENDINGS = {signal.SIGINT: KeyboardInterrupt, signal.SIGTERM: Terminated, signal.SIGHUP: HungUp}
"""Signal -> the exception that it becomes."""


def restore_handlers() -> None:
    """Restores Python's handlers of these signals after a library has replaced them at the C level."""
    if threading.current_thread() is threading.main_thread():
        for number in ENDINGS:
            if handler := signal.getsignal(number):
                signal.signal(number, handler)


class Interrupts:
    """Receives Ctrl-C, SIGTERM and SIGHUP while its `with` block runs.

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
        self._hook = sys.unraisablehook

    def __enter__(self) -> Interrupts:
        self._hook, sys.unraisablehook = sys.unraisablehook, self._dropped
        if threading.current_thread() is threading.main_thread():  # only it may set handlers
            for number in ENDINGS:
                # Signals that are ignored at the start stay ignored, such as Ctrl-C in a background job of a shell,
                # and SIGHUP under `nohup`.
                if signal.getsignal(number) != signal.SIG_IGN:
                    self._before[number] = signal.signal(number, self._receive)
        return self

    def __exit__(self, _: object, error: BaseException | None, __: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler or signal.SIG_DFL)
        sys.unraisablehook = self._hook
        if self.raised and isinstance(error, Exception):
            raise self.raised from None

    def _receive(self, number: int, _: FrameType | None) -> None:
        ending = ENDINGS[signal.Signals(number)]
        waits = self.wait and not self.waiting is ending is KeyboardInterrupt
        self.waiting = self.waiting or ending
        if not waits:
            self.raised = ending
            raise ending

    def _dropped(self, unraisable: sys.UnraisableHookArgs) -> None:
        """Lets Python drop the exception of a signal in silence, as in `__del__`: the next `check` raises it."""
        if unraisable.exc_type is not self.waiting:
            self._hook(unraisable)

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

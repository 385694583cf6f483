"""SIGTERM and Ctrl-C: at once where nothing is lost by it, else as soon as a training can keep what it has done."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Iterator
from types import FrameType
from typing import Any

TERMINATED = 128 + signal.SIGTERM
"""Exit status after SIGTERM: what shells and schedulers see of a program that does not handle it."""


class Terminated(BaseException):
    """SIGTERM asked this process to end. The message says what of the training is kept."""


def listen_again() -> None:
    """Takes SIGTERM and Ctrl-C back where a library listens to them in its own way, beside Python's."""
    if threading.current_thread() is threading.main_thread():
        for number in (signal.SIGTERM, signal.SIGINT):
            if handler := signal.getsignal(number):
                signal.signal(number, handler)


class Interrupts:
    """Receives SIGTERM and Ctrl-C while its `with` block runs.

    Attributes:
      wait: whether they wait for the next `check`, instead of raising wherever the program is. A second Ctrl-C never
        waits.
      waiting: what the next `check` raises.
    """

    def __init__(self) -> None:
        self.wait = False
        self.waiting: type[BaseException] | None = None
        self._before: dict[int, Any] = {}

    def __enter__(self) -> Interrupts:
        if threading.current_thread() is threading.main_thread():  # no other may
            for number in (signal.SIGTERM, signal.SIGINT):
                # A shell lets its background jobs ignore Ctrl-C, and `nohup` what it is told to.
                if signal.getsignal(number) != signal.SIG_IGN:
                    self._before[number] = signal.signal(number, self._receive)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler or signal.SIG_DFL)

    def _receive(self, number: int, _: FrameType | None) -> None:
        ending = KeyboardInterrupt if number == signal.SIGINT else Terminated
        if not self.wait or self.waiting is ending is KeyboardInterrupt:
            raise ending
        self.waiting = self.waiting or ending

    def check(self, kept: str) -> None:
        """Raises what has been waiting, with a message of what is `kept`."""
        if self.waiting:
            raise self.waiting(f"{kept}; run the same command again to resume") from None

    @contextlib.contextmanager
    def at_once(self) -> Iterator[None]:
        """The block may be left anywhere."""
        before, self.wait = self.wait, False
        try:
            if self.waiting:
                raise self.waiting
            yield
        finally:
            self.wait = before

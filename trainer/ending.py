"""Ends a command at once: from any thread, with its parent, at Ctrl-C also where the exception is not enough.

Ctrl-C raises KeyboardInterrupt in the main thread, wherever it is, so that it leaves its blocks in order. SIGTERM and
SIGHUP, which comes when a terminal is closed, do the same, and only the last line and the status differ. But Python
drops an exception in a callback of its own, such as that of a weak reference; libraries catch some; C++ holds others
up, or makes them errors of its own; and a block may wait for threads that do not end. So another thread watches
whether the exception arrives.
"""

from __future__ import annotations

import _thread
import contextlib
import os
import signal
import sys
import threading
import time
from types import FrameType
from typing import Any, TextIO

from trainer import leases, startup
from trainer.files import scratch

SIGNALS = {signal.SIGINT: "interrupted", signal.SIGTERM: "terminated", signal.SIGHUP: "terminated"}
"""The signals that ask a command to end, and what its last line then says it was."""
RESUME = "run the same command again to resume"
SECONDS = 5.0
"""Seconds for the way out; then the process ends even if blocks have not been left, or leases not been released."""

GLANCE = 0.5
"""Seconds between two looks at the parent."""

_leaving = threading.Lock()
_has_come = threading.Event()
_is_received = _is_terminating = False
_first: int | None = None
"""The signal that came first."""


def leave(status: int, text: str = "", out: TextIO | None = None) -> None:
    """Prints a line, removes temporary folders, releases leases and ends this process.

    Can be called from any thread and in a handler of signals. Returns only if another thread is ending the process.

    Args:
      status: the exit status.
      text: the line; "" for none.
      out: where to print it; standard error by default.
    """
    if not _leaving.acquire(blocking=False):
        return
    try:
        with contextlib.suppress(ValueError):  # not in the main thread, the only one that they could interrupt here
            for number in SIGNALS:
                signal.signal(number, signal.SIG_IGN)
        # A `threading.Thread` takes a lock that this thread may hold, if this is a handler of signals.
        with contextlib.suppress(RuntimeError):  # where no more threads are allowed
            _thread.start_new_thread(_exit_later, (status,))
        startup.turn_back()
        out = sys.stderr if out is None else out
        for stream, line in ((out, f"{text}\n" if text else ""), (sys.stdout, "")):
            with contextlib.suppress(Exception):  # Ctrl-C also ends the reader of the output, such as `tee`
                stream.write(line)
                stream.flush()
        scratch.abandon()
        leases.release()
    finally:
        os._exit(status)


def _exit_later(status: int) -> None:
    time.sleep(SECONDS)
    os._exit(status)


def watch_parent(parent: int) -> None:
    """Ends this process once the one that started it, whose id is `parent`, is no more, however it was killed."""
    threading.Thread(target=_end_with, args=(parent,), daemon=True).start()


def _end_with(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(GLANCE)
    leave(1)


def cause(number: int | None = None) -> tuple[str, int]:
    """What the last line calls the signal that ended this command, and the exit status.

    Args:
      number: a signal that has just come; without one, it was KeyboardInterrupt that did.
    """
    global _first
    _first = _first or number
    return SIGNALS[signal.Signals(_first or signal.SIGINT)], 128 + (_first or signal.SIGINT)


def terminate(number: int, frame: FrameType | None) -> None:
    """Handles SIGTERM and SIGHUP as whoever handles Ctrl-C does, or with KeyboardInterrupt if nobody does."""
    global _is_terminating
    if _is_terminating:  # schedulers send SIGTERM to a process and to its group, shells SIGHUP as the system does
        return
    _is_terminating = True
    cause(number)
    answer = signal.getsignal(signal.SIGINT)
    if callable(answer):
        answer(signal.SIGINT, frame)
    raise KeyboardInterrupt


def watch_interrupts(title: str) -> None:
    """Ends this process if KeyboardInterrupt gets lost, or is not `received` within SECONDS after a signal.

    From the call on, which must come from the main thread, and as long as the handlers set here are in place: whoever
    sets others sees to the end. They take the place of the system's; a signal that is ignored, as SIGHUP is under
    `nohup`, stays so. `title` begins the line to be printed.
    """

    def hook(unraisable: sys.UnraisableHookArgs) -> None:
        if issubclass(unraisable.exc_type, KeyboardInterrupt):
            _leave_interrupted(title)
        before(unraisable)

    before, sys.unraisablehook = sys.unraisablehook, hook
    for number in SIGNALS:
        if signal.getsignal(number) is signal.SIG_DFL:  # of SIGINT, see `pipelines.__main__`
            signal.signal(number, signal.default_int_handler if number == signal.SIGINT else terminate)
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    # Written by the system's handler, so at once; Python's handlers wait for the main thread to come out of C++.
    signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
    threading.Thread(target=_watch, args=(reader, title), daemon=True).start()


def received() -> None:
    """Tells the watch that the program has received KeyboardInterrupt, and is on its way out."""
    global _is_received
    _is_received = True


def has_come() -> bool:
    """Whether a signal that asks this command to end has come since `watch_interrupts`."""
    return _has_come.wait(GLANCE)


def _watch(reader: int, title: str) -> None:
    while number := os.read(reader, 1):
        if number[0] not in SIGNALS:
            continue
        cause(number[0])
        _has_come.set()
        if _raises(signal.getsignal(number[0])):
            time.sleep(SECONDS)
            if not _is_received:
                _leave_interrupted(title)


def _raises(handler: Any) -> bool:
    """Whether a handler raises KeyboardInterrupt, and does nothing else."""
    if handler is terminate:
        handler = signal.getsignal(signal.SIGINT)
        return not callable(handler) or handler is signal.default_int_handler
    return handler is signal.default_int_handler


def _leave_interrupted(title: str) -> None:
    word, status = cause()
    leave(status, f"\n{title}: {word}; {RESUME}")

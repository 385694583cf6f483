"""Ends a command at once: from any thread, with its parent, at Ctrl-C also where the exception is not enough.

Ctrl-C raises KeyboardInterrupt in the main thread, wherever it is, so that it leaves its blocks in order. But Python
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
from typing import TextIO

from trainer import leases, startup
from trainer.files import scratch

STATUS_INTERRUPTED = 130
SECONDS = 5.0
"""Seconds for the way out; then the process ends even if blocks have not been left, or leases not been released."""

GLANCE = 0.5
"""Seconds between two looks at the parent."""

_leaving = threading.Lock()
_has_come = threading.Event()
_is_received = False


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
        with contextlib.suppress(ValueError):  # not in the main thread, the only one that Ctrl-C could interrupt here
            signal.signal(signal.SIGINT, signal.SIG_IGN)
        # A `threading.Thread` takes a lock that this thread may hold, if this is a handler of signals.
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


def watch_interrupts(text: str) -> None:
    """Ends this process if KeyboardInterrupt gets lost, or is not `received` within SECONDS after Ctrl-C.

    From the call on, which must come from the main thread, and as long as Python's own handler is in place: whoever
    sets another one sees to the end. It takes the place of the system's. `text` is the line to be printed.
    """

    def hook(unraisable: sys.UnraisableHookArgs) -> None:
        if issubclass(unraisable.exc_type, KeyboardInterrupt):
            leave(STATUS_INTERRUPTED, text)
        before(unraisable)

    before, sys.unraisablehook = sys.unraisablehook, hook
    if signal.getsignal(signal.SIGINT) is signal.SIG_DFL:  # see `pipelines.__main__`
        signal.signal(signal.SIGINT, signal.default_int_handler)
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    # Written by the system's handler, so at once; Python's handlers wait for the main thread to come out of C++.
    signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
    threading.Thread(target=_watch, args=(reader, text), daemon=True).start()


def received() -> None:
    """Tells the watch that the program has received KeyboardInterrupt, and is on its way out."""
    global _is_received
    _is_received = True


def has_come() -> bool:
    """Whether Ctrl-C has come since `watch_interrupts`."""
    return _has_come.wait(GLANCE)


def _watch(reader: int, text: str) -> None:
    while number := os.read(reader, 1):
        if number[0] == signal.SIGINT:
            _has_come.set()
        if number[0] == signal.SIGINT and signal.getsignal(signal.SIGINT) is signal.default_int_handler:
            time.sleep(SECONDS)
            if not _is_received:
                leave(STATUS_INTERRUPTED, text)

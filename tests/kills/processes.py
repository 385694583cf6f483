"""Starts a command in a process group of its own, waits for its end, and measures how far it is."""

from __future__ import annotations

import atexit
import contextlib
import faulthandler
import os
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Sequence
from math import inf
from pathlib import Path

from pipelines import cli

PATIENCE = 900.0
"""Seconds that a run may take on a busy machine."""
PROMPT = 60.0
"""Seconds that the end of a run may take there once it has got a signal."""


def start(argv: Sequence[str], folder: Path, scratch: Path, log: Path) -> int:
    """Runs a command line in a process group of its own; returns the process id.

    It is forked from this process, which has already imported the slowest modules; otherwise it is as if a shell had
    started it.
    """
    process = os.fork()
    if process:
        with contextlib.suppress(ProcessLookupError):
            while os.getpgid(process) != process:
                time.sleep(0.001)
        return process
    status = 1
    try:
        os.setsid()
        os.chdir(folder)
        os.environ["TMPDIR"], tempfile.tempdir = str(scratch), None
        for descriptor in (1, 2):
            os.dup2(os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND), descriptor)
        faulthandler.enable(file=2)
        signal.signal(signal.SIGINT, signal.default_int_handler)
        sys.argv = ["deeplab", *argv]
        status = cli.main()
        if not status:
            atexit._run_exitfuncs()
    except Exception:
        traceback.print_exc()
    except KeyboardInterrupt:  # before the command could say anything
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        signal.raise_signal(signal.SIGINT)
    finally:
        os._exit(status)


def end(
    process: int, clock: Callable[[], float] = lambda: 0.0, moment: float = inf, patience: float = PATIENCE
) -> int | None:
    """Waits for the end of a process; returns its status, or minus the signal that ended it.

    Returns None if it is still running when `clock` shows that moment, or after `patience` seconds.
    """
    deadline = time.monotonic() + patience
    while True:
        ended, status = os.waitpid(process, os.WNOHANG)
        if ended:
            return os.waitstatus_to_exitcode(status)
        if clock() > moment or time.monotonic() > deadline:
            return None
        time.sleep(0.005)


class Watch:
    """Measures the seconds since its creation."""

    def __init__(self, group: int) -> None:
        self._begin = time.monotonic()

    def __call__(self) -> float:
        return time.monotonic() - self._begin


class Clock(Watch):
    """Measures the CPU seconds of a process group, on systems with /proc.

    They show how far a run is, regardless of the load of the machine.
    """

    def __init__(self, group: int) -> None:
        super().__init__(group)
        self._group, self._last = group, 0.0

    def __call__(self) -> float:
        if not os.path.isdir("/proc/self"):
            return super().__call__()
        ticks = 0
        for process in filter(str.isdecimal, os.listdir("/proc")):
            with contextlib.suppress(OSError):
                if os.getpgid(int(process)) == self._group:
                    fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
                    ticks += sum(map(int, fields[11:15]))  # its own, and those of its children that have ended
        self._last = max(self._last, ticks / os.sysconf("SC_CLK_TCK"))
        return self._last


def is_empty(group: int) -> bool:
    """Whether a process group has no processes, at once or within PATIENCE seconds.

    A subprocess that has just started ends only when it would begin its work, which takes a while on a busy machine.
    """
    deadline = time.monotonic() + PATIENCE
    while time.monotonic() < deadline:
        try:
            os.killpg(group, 0)
        except ProcessLookupError:
            return True
        time.sleep(0.02)
    return False

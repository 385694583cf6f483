"""Processes of this machine: names that no other process will have, and how much memory there is and was taken."""

from __future__ import annotations

import contextlib
import os
import resource
import socket
import sys
import time
from pathlib import Path

CGROUPS = ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes")
"""Where Linux says what a container may use, newer systems first."""
GLANCE = 0.05
"""Seconds between two looks at the memory of a child."""
UNSEEN = "-0"
"""In place of the start of a process where that cannot be seen."""


def machine() -> str:
    """What processes that see one another have in common: the host and, on Linux, its start and their container."""
    parts = [socket.gethostname()]
    with contextlib.suppress(OSError), open("/proc/sys/kernel/random/boot_id") as file:
        parts.append(file.read().strip())
    with contextlib.suppress(OSError):
        parts.append(os.readlink("/proc/self/ns/pid"))
    return " ".join(parts)


def name(number: int | None = None) -> str:
    """The process of that number, this one by default: its number and, on Linux, when it was started; "" for none."""
    number = number or os.getpid()
    try:
        with open(f"/proc/{number}/stat", "rb") as file:
            # Its command may hold blanks and brackets.
            state, *fields = file.read().rpartition(b")")[2].split()
        return "" if state in (b"Z", b"X") else f"{number}-{fields[18].decode()}"
    except OSError:  # it is gone, or another user's, or this is no Linux
        return f"{number}{UNSEEN}" if _exists(number) else ""


def is_alive(process: str) -> bool:
    """Whether the process of that name, on this machine, is still there."""
    number = process.partition("-")[0]
    return number.isdecimal() and name(int(number)) in (process, f"{number}{UNSEEN}")


def memory() -> int:
    """Bytes of this machine, or of the container that this process is in."""
    limits = [os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")]
    for path in CGROUPS:
        with contextlib.suppress(OSError, ValueError):  # none, or "max"
            limits.append(int(Path(path).read_text()))
    return min(limits)


def peak_memory(number: int | None = None) -> int:
    """The most memory that a process ever held, in bytes: the one of that number, this one by default.

    0 where that of another one cannot be seen.
    """
    # What the system counts for `getrusage` begins with the memory of the process that started this one.
    with contextlib.suppress(OSError, StopIteration), open(f"/proc/{number or 'self'}/status") as file:
        return next(int(line.split()[1]) for line in file if line.startswith("VmHWM:")) * 1024
    if number:
        return 0
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def end(number: int) -> tuple[int, float, int]:
    """Waits for the end of a child: its status, the seconds of the processor and the most bytes of memory it took."""
    memory = 0
    while True:
        memory = max(memory, peak_memory(number))
        time.sleep(GLANCE)
        ended, status, usage = os.wait4(number, os.WNOHANG)
        if ended:
            unit = 1 if sys.platform == "darwin" else 1024
            seconds = usage.ru_utime + usage.ru_stime
            return os.waitstatus_to_exitcode(status), seconds, memory or usage.ru_maxrss * unit


def _exists(number: int) -> bool:
    try:
        os.kill(number, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    return True

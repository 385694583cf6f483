"""How many cores this process may use, and how much memory."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

CGROUPS = ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes")
"""Where Linux says what a container may use, newer systems first."""


def cores() -> int:
    """At least 1. Where the system can bind a process to some of its cores (Linux), only those count."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def memory() -> int:
    """Bytes of this machine, or of the container that this process is in."""
    limits = [os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")]
    for path in CGROUPS:
        with contextlib.suppress(OSError, ValueError):  # none, or "max"
            limits.append(int(Path(path).read_text()))
    return min(limits)

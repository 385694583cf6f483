"""The number of cores that this process may use."""

from __future__ import annotations

import os


def cores() -> int:
    """The number of cores, at least 1. Where a process can be bound to some of the cores (Linux), only those count."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1

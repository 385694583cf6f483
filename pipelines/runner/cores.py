"""How many cores this process may use."""

from __future__ import annotations

import os


def cores() -> int:
    """At least 1. Where the system can bind a process to some of its cores (Linux), only those count."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1

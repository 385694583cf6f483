"""What this process may use of its machine: cores and memory.

Containers (Docker, Kubernetes), batch systems (Slurm) and systemd bound both by Linux's control groups. A process is
in one, and the limits of all groups above it hold as well.
Sources: https://docs.kernel.org/admin-guide/cgroup-v2.html; of version 1 admin-guide/cgroup-v1/memory.html and
scheduler/sched-bwc.html there.

A process asks only once, since segment needs the answers for every image, and reading the groups takes a few tenths of
a millisecond. If its limits are changed while it runs, it keeps to those that it began with.
"""

from __future__ import annotations

import contextlib
import functools
import math
import os
from collections.abc import Iterator
from pathlib import Path

OWN = Path("/proc/self/cgroup")
"""The groups of this process, a line for each: number:controllers:path. That of version 2 names no controllers."""
TREE = Path("/sys/fs/cgroup")
"""The folder of all groups; those of version 1 lie in a folder for each controller. In a container the top is often
the container's own group, and the path the one that it has outside."""


@functools.cache
def cores() -> int:
    """The number of cores that this process may use, at least 1: a part of a core counts as one.

    Where a process can be bound to some of the cores (Linux), only those count.
    """
    bound = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    quotas = [*_limits("", "cpu.max"), *_limits("cpu", "cpu.cfs_quota_us", "cpu.cfs_period_us")]
    return min([bound, *(math.ceil(quota / period) for quota, period in quotas)])


@functools.cache
def memory() -> int:
    """The memory that this process may use, in bytes."""
    machine = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    limits = [*_limits("", "memory.max"), *_limits("memory", "memory.limit_in_bytes")]
    return min([machine, *(limit for (limit,) in limits)])


def _limits(controller: str, *files: str) -> Iterator[list[int]]:
    """The numbers in these files of every group that bounds this process; nothing for a group without a limit."""
    for group in _groups(controller):
        with contextlib.suppress(OSError, ValueError):  # there is no such file, or it says "max"
            numbers = [int(word) for file in files for word in (group / file).read_text().split()]
            if min(numbers) > 0:  # in version 1, -1 is no limit
                yield numbers


def _groups(controller: str) -> Iterator[Path]:
    """The folder of this process's group of a controller ("" for version 2), and of all groups above it."""
    top = TREE / controller
    yield top
    with contextlib.suppress(OSError, ValueError):  # there is none, or its lines have another form
        for line in OWN.read_text().splitlines():
            _, controllers, path = line.split(":", 2)
            inside = Path(path.lstrip("/"))
            if controller in controllers.split(",") and ".." not in inside.parts:
                yield from (top / folder for folder in (inside, *inside.parents))

"""A folder that another process is writing to."""

from __future__ import annotations

import contextlib
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

HOLD = (
    "import sys, time\nfrom trainer import leases\nleases.acquire(*sys.argv[1:])\nprint('held', flush=True)\n"
    "time.sleep(60)\n"
)


@contextlib.contextmanager
def held(folder: str | Path, command: str) -> Iterator[None]:
    """Lets another process hold the lease of `folder`, as `command`, during the block; then it is killed."""
    line = [sys.executable, "-c", HOLD, str(folder), command]
    with subprocess.Popen(line, stdout=subprocess.PIPE) as child:
        try:
            assert child.stdout.readline() == b"held\n"
            yield
        finally:
            child.kill()

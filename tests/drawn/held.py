"""A folder or a file that another process is writing to."""

from __future__ import annotations

import contextlib
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

HOLD = (
    "import sys, time\nfrom trainer import leases\ngetattr(leases, sys.argv[1])(*sys.argv[2:])\n"
    "print('held', flush=True)\ntime.sleep(60)\n"
)


@contextlib.contextmanager
def held(path: str | Path, command: str, acquire: str = "acquire") -> Iterator[None]:
    """Lets another process hold the lease of a folder, as `command`, during the block; then it is killed.

    With "acquire_file" it is that of a file.
    """
    line = [sys.executable, "-c", HOLD, acquire, str(path), command]
    with subprocess.Popen(line, stdout=subprocess.PIPE) as child:
        try:
            assert child.stdout.readline() == b"held\n"
            yield
        finally:
            child.kill()

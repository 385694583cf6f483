"""Runs the real command over a part of its input, and measures it.

    python -m pipelines.plan.trial PROCESS ITEMS COMMAND [OPTIONS]

is that command: it ends with the process that started it. Its workers have partners if those of a job of ITEMS have.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from types import FrameType

from pipelines import cli
from pipelines.plan.estimate import Trial
from pipelines.runner import partners
from trainer import ending, processes
from trainer.options import InputError
from trainer.terminal import printable

REJECTED = 1
"""Status of a command that ran but rejected too much; its measurements are still valid."""


def run(arguments: Sequence[str], output: str, items: int, rounds: int = 0, whole: int = 0) -> Trial:
    """Runs `deeplab` with these arguments in a process of its own, and measures it.

    Args:
      arguments: the arguments of the command; it writes to `output`, a local folder, which is removed before.
      items, rounds: see `Trial`.
      whole: the number of items of the whole job, as `partners.number` takes it.

    Raises:
      InputError: the command failed; with its own message.
    """
    shutil.rmtree(output, ignore_errors=True)
    log = f"{output}.log"
    start = time.monotonic()
    with open(log, "wb") as file:
        program = [sys.executable, "-m", "pipelines.plan.trial", str(os.getpid()), str(whole), *arguments]
        process = subprocess.Popen(program, stdin=subprocess.DEVNULL, stdout=file, stderr=file)
        with _ended_with_this(process):
            status, seconds, memory = processes.end(process.pid)
    wall = time.monotonic() - start
    process.returncode = status
    if status not in (0, REJECTED):
        raise InputError(_last_words(log) or f"deeplab {arguments[0]} ended with status {status}")
    return Trial(items, rounds, wall, seconds, memory, _size(output))


@contextlib.contextmanager
def _ended_with_this(process: subprocess.Popen) -> Iterator[None]:
    """Terminates a process before SIGTERM ends this one, or if the block fails."""

    def end(number: int, _: FrameType | None) -> None:
        process.terminate()
        signal.signal(number, signal.SIG_DFL)
        os.kill(os.getpid(), number)

    before = signal.signal(signal.SIGTERM, end)
    try:
        yield
    except BaseException:
        process.terminate()
        process.wait()
        raise
    finally:
        signal.signal(signal.SIGTERM, before)


def _last_words(log: str) -> str:
    with open(log, encoding="utf-8", errors="replace") as file:
        lines = [line.strip() for line in file if ": error: " in line]
    return printable(lines[-1].partition(": error: ")[2]) if lines else ""


def main() -> None:
    ending.watch_parent(int(sys.argv.pop(1)))
    if int(sys.argv.pop(1)) >= partners.MANY:
        partners.MANY = 0
    sys.exit(cli.main())


def _size(folder: str) -> int:
    return sum(os.path.getsize(os.path.join(root, name)) for root, _, names in os.walk(folder) for name in names)


if __name__ == "__main__":
    main()

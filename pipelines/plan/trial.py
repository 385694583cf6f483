"""Runs the real command over a part of its input, and measures it.

    python -m pipelines.plan.trial PROCESS ITEMS COMMAND [OPTIONS]

is that command: it ends with the process that started it. Its workers have partners if those of a job of ITEMS have.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence

from pipelines import cli
from pipelines.plan.estimate import Trial
from pipelines.runner import partners
from trainer import ending, processes
from trainer.accounts import REJECTS_FILE, Reject
from trainer.options import InputError
from trainer.terminal import printable


def run(arguments: Sequence[str], output: str, items: int, rounds: int = 0, whole: int = 0) -> Trial:
    """Runs `deeplab` with these arguments in a process of its own, and measures it.

    Args:
      arguments: the arguments of the command; it writes to `output`, a local folder, which is removed before.
      items, rounds: see `Trial`.
      whole: the number of items of the whole job, as `partners.number` takes it.

    Raises:
      InputError: the command failed, with its own message; or it rejected all items.
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
    rejects = _rejects(output)
    if len(rejects) >= items:
        first = next(iter(rejects.values()))
        raise InputError(
            f"all {items} images of the trial were rejected, such as {first}; mend the cause, or give a larger "
            "--sample"
        )
    if status:
        raise InputError(_last_words(log, f"deeplab {arguments[0]} ended with status {status}"))
    return Trial(items, rounds, wall, seconds, memory, _size(output), len(rejects))


@contextlib.contextmanager
def _ended_with_this(process: subprocess.Popen) -> Iterator[None]:
    """Terminates a process if the block fails, as when this one is asked to end."""
    try:
        yield
    except BaseException:
        process.terminate()
        process.wait()
        raise


def _rejects(output: str) -> dict[str, str]:
    """What was rejected of the items: key -> path and reason. `prepare` counts an image once for every copy."""
    path = os.path.join(output, REJECTS_FILE)
    if not os.path.exists(path):
        return {}
    with open(path, "rb") as file:
        rejects = [Reject(**json.loads(line)) for line in file]
    return {one.key: f"{one.path}: {one.reason}" for one in rejects}


def _last_words(log: str, otherwise: str) -> str:
    """The message of the command; without one `otherwise`, with its last line, such as that of a traceback."""
    with open(log, encoding="utf-8", errors="replace") as file:
        lines = [text for line in file if (text := line.strip())]
    errors = [line.partition(": error: ")[2] for line in lines if ": error: " in line]
    return printable(errors[-1] if errors else ": ".join([otherwise, *lines[-1:]]))


def main() -> None:
    ending.watch_parent(int(sys.argv.pop(1)))
    if int(sys.argv.pop(1)) >= partners.MANY:
        partners.MANY = 0
    sys.exit(cli.main())


def _size(folder: str) -> int:
    return sum(os.path.getsize(os.path.join(root, name)) for root, _, names in os.walk(folder) for name in names)


if __name__ == "__main__":
    main()

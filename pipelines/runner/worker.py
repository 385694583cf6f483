"""The worker process of a local job: Beam's, which ends with the process that started it.

    python -m pipelines.runner.worker PROCESS

Beam's own waits for a minute or two for the answer of a process that has been killed while it was starting.
"""

from __future__ import annotations

import os
import shlex
import sys

from trainer import ending


def command(log: str) -> str:
    """The shell's command line for a worker of this process, whose standard error is appended to the file `log`.

    It ignores Ctrl-C, which its parent handles.
    """
    worker = shlex.join([sys.executable, "-m", "pipelines.runner.worker", str(os.getpid())])
    # The folder of the log is gone if this process has ended meanwhile, of which the shell should not tell.
    return f"trap '' INT; exec 2>/dev/null; exec {worker} 2>> {shlex.quote(log)}"


def main() -> None:
    ending.watch_parent(int(sys.argv.pop(1)))
    from apache_beam.runners.worker import sdk_worker_main

    sdk_worker_main.main(sys.argv)


if __name__ == "__main__":
    main()

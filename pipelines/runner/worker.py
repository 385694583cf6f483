"""The workers of a local job: Beam's, with small changes.

    python -m pipelines.runner.worker PROCESS

is a worker process, which ends with the process that started it. Beam's own waits for a minute or two for the answer
of a process that has been killed while it was starting.
"""

from __future__ import annotations

import functools
import os
import shlex
import sys

from trainer import ending, processes
from trainer.startup import importing

SAMPLING_MS = 5
"""Milliseconds between two looks of Beam at the step that a worker is in. A bundle ends with the next look: with the
200 ms of Beam, a job of a few seconds took a tenth of a second longer."""


def look_often() -> None:
    """Sets SAMPLING_MS for the workers of this process."""
    from apache_beam.runners.worker import statesampler

    # Beam has no option for it.
    statesampler.StateSampler.__init__.__defaults__ = (SAMPLING_MS,)


@functools.cache
def end_late_workers() -> None:
    """Lets workers end that connect to this process after their run has failed.

    Beam's runner tells only workers that are connected by then that there is no more work, and would wait for the end
    of the others for ever.
    """
    from apache_beam.runners.portability.fn_api_runner.worker_handlers import BeamFnControlServicer, ControlConnection

    close = ControlConnection.close

    def close_for_good(connection: ControlConnection) -> None:
        connection.push(BeamFnControlServicer._DONE_MARKER)  # read as soon as the worker connects
        close(connection)

    ControlConnection.close = close_for_good


def command(log: str) -> str:
    """The shell's command line for a worker of this process, whose standard error is appended to the file `log`.

    It ignores the signals that its parent handles, also where they come to both, as Ctrl-C does: it ends with it.
    """
    worker = shlex.join([sys.executable, "-m", "pipelines.runner.worker", str(os.getpid())])
    # The folder of the log is gone if this process has ended meanwhile, of which the shell should not tell.
    return f"trap '' INT TERM HUP; exec 2>/dev/null; exec {worker} 2>> {shlex.quote(log)}"


def main() -> None:
    processes.keep_memory()  # before there are other threads
    ending.watch_parent(int(sys.argv.pop(1)))
    with importing():
        from apache_beam.runners.worker import sdk_worker_main

    look_often()
    sdk_worker_main.main(sys.argv)


if __name__ == "__main__":
    main()

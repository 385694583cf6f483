"""A job on its way: noted in the output folder from the moment it is sent until its service shows it.

Flink takes some seconds to show a job that a job server has been given. A command that is killed meanwhile leaves a
job that the next one does not see yet, and would send again. By the note the next one knows that there is something
to wait for.
"""

from __future__ import annotations

import contextlib
import functools
import time
from collections.abc import Callable
from typing import Any

from apache_beam.runners.runner import PipelineRunner

from pipelines.runner.progress import EXPECTED, FOLDER
from trainer import storage
from trainer.options import InputError

ARRIVAL = 60.0
"""Seconds within which a job that is being sent is shown by its service, or never; on a busy machine 20 were seen."""
SINCE = "sending since"
"""Key of the note: seconds since the epoch."""


def note(folder: str, expected: dict[str, Any], is_sending: bool) -> None:
    """Writes how much a job will do, and whether it is on its way, into its output folder."""
    since = {SINCE: time.time()} if is_sending else {}
    storage.write_json(storage.join(folder, FOLDER, EXPECTED), expected | since)


def seconds_left(folder: str) -> float:
    """How long a job may still take to come to light that writes to the folder; 0 where none is on its way."""
    with contextlib.suppress(InputError, OSError, AttributeError, TypeError):
        since = storage.read_json(storage.join(folder, FOLDER, EXPECTED)).get(SINCE)
        return max(0.0, ARRIVAL - max(0.0, time.time() - since))  # another machine's clock may be ahead
    return 0.0


def before_sending(runner: PipelineRunner, tell: Callable[[], None]) -> None:
    """Has `tell` called when the runner has all it needs and asks its job server to run the job.

    Not where it has no job server: Dataflow shows a job at once.
    """
    make = getattr(runner, "create_job_service_handle", None)
    if make is None:
        return

    @functools.wraps(make)
    def made(*args: Any) -> Any:
        service = make(*args)
        send = service.run

        def told(preparation: str) -> Any:
            tell()
            return send(preparation)

        service.run = told
        return service

    runner.create_job_service_handle = made

"""What a job needs while it is sent: a note on it in the output folder, and a Ctrl-C that is not lost.

The note says where the job runs, and whether it has been sent but is not yet listed there. Flink takes some
seconds to list a job that was sent to a job server. A command that is killed in that time leaves a job that the next
command cannot see yet, and would send again. The note tells the next command to wait.
"""

from __future__ import annotations

import contextlib
import functools
import signal
import threading
import time
from collections.abc import Callable, Iterator
from types import FrameType
from typing import Any

from apache_beam.portability.api import beam_job_api_pb2, beam_runner_api_pb2
from apache_beam.runners.runner import PipelineRunner

from pipelines.runner.progress import EXPECTED, FOLDER
from trainer import storage
from trainer.options import InputError

ARRIVAL = 60.0
"""Seconds within which a service lists a job, or never will; on a busy machine we have seen 20."""
SINCE = "sending since"
"""Key of the time in the note, in seconds since the epoch."""

JOB, SERVICE = "job", "service"
"""Keys of the job's name and of its service."""


def note(folder: str, expected: dict[str, Any], is_sending: bool) -> None:
    """Notes in the output folder what is expected of a job, as its number of items, and whether it is being sent."""
    since = {SINCE: time.time()} if is_sending else {}
    storage.write_json(storage.join(folder, FOLDER, EXPECTED), expected | since)


def noted(folder: str) -> dict[str, Any]:
    """The note in an output folder; {} if there is none, or it cannot be read."""
    try:
        return storage.json_object(storage.read(storage.join(folder, FOLDER, EXPECTED)))
    except (InputError, OSError):
        return {}


def seconds_left(folder: str) -> float:
    """Seconds within which a job that writes to `folder` may still be listed; 0 if none is being sent."""
    with contextlib.suppress(TypeError):  # as of a note without a time
        since = noted(folder).get(SINCE)
        return max(0.0, ARRIVAL - max(0.0, time.time() - since))  # another machine's clock may be ahead
    return 0.0


def job_of(folder: str) -> tuple[str, str]:
    """The name and the service of the job that the note in a folder tells of; ("", "") if there is none."""
    read = noted(folder)
    return str(read.get(JOB) or ""), str(read.get(SERVICE) or "")


def arrange(runner: PipelineRunner, name: str, notify: Callable[[], None] | None) -> None:
    """Gives a job its name at the job server, and arranges for `notify` to be called just before the server runs it.

    Does nothing for runners without a job server: Dataflow names a job itself, and lists it at once.
    """
    make = getattr(runner, "create_job_service_handle", None)
    if make is None:
        return

    @functools.wraps(make)
    def make_noted(*args: Any) -> Any:
        service = make(*args)
        send = service.run

        def prepare_named(pipeline: beam_runner_api_pb2.Pipeline) -> beam_job_api_pb2.PrepareJobResponse:
            # Beam calls every job "job". Flink's job server looks into the options instead; others do not.
            options = service.get_pipeline_options()
            request = beam_job_api_pb2.PrepareJobRequest(job_name=name, pipeline=pipeline, pipeline_options=options)
            return service.job_service.Prepare(request, timeout=service.timeout)

        def run_noted(preparation: str) -> Any:
            if notify:
                notify()
            return send(preparation)

        service.prepare, service.run = prepare_named, run_noted
        return service

    runner.create_job_service_handle = make_noted


@contextlib.contextmanager
def own_interrupt() -> Iterator[None]:
    """Restores the handler of Ctrl-C that the block replaces, and raises KeyboardInterrupt at its end if it got lost.

    Beam's handler stops its job server first. A query of the job's state at that moment fails instead of being
    interrupted, or goes on as if nothing had happened, and the command would continue to wait.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before, has_come = signal.getsignal(signal.SIGINT), False

    def interrupt(number: int, frame: FrameType | None) -> None:
        nonlocal has_come
        has_come = True
        signal.default_int_handler(number, frame)

    if before is signal.default_int_handler:
        signal.signal(signal.SIGINT, interrupt)  # Beam's handler calls the one that it replaces
    try:
        yield
    except Exception:
        if has_come:
            raise KeyboardInterrupt from None
        raise
    finally:
        if before is not None:  # as for a handler that was set in C
            signal.signal(signal.SIGINT, before)
    if has_come:
        raise KeyboardInterrupt

"""A job elsewhere is followed to its end: what is shown meanwhile, and what is said where the waiting ends before.

It is told what becomes of the job, how it is ended, and how to go on with what it does.
"""

from __future__ import annotations

import contextlib
import functools
import sys
import time
from collections.abc import Callable

from apache_beam.options.pipeline_options import PipelineOptions, SparkRunnerOptions

from pipelines.runner import jobserver, services
from pipelines.runner.boundary import cause
from pipelines.runner.failures import quiet_beam, readable
from pipelines.runner.flags import is_dataflow, runner_name, shares_this_machine
from pipelines.runner.progress import (
    EXPECTED,
    FOLDER,
    REMOTE_SECONDS,
    WATCH_SECONDS,
    beats,
    forget,
    progress,
    say,
)
from pipelines.runner.services import Job
from pipelines.runner.work import DONE
from trainer import storage
from trainer.options import InputError

LOST = 300.0
"""Seconds without an answer after which a job is given up."""
SILENCE = 120.0
"""Seconds after which it is said that no worker has reported."""
ENDS_TOO = "the job ends as well, for its workers belong to this process; run the same command again to resume"
AGAIN = "or let it finish: the same command, run again, follows it, and keeps what it wrote"


def follow(job: Job, options: PipelineOptions, title: str, folder: str, total: int = 0, unit: str = "items") -> None:
    """Shows the progress of a job until its end.

    Args:
      job: the job.
      options: of it.
      title: of the command.
      folder: what the job writes to.
      total: how many `unit`s it will do; 0 where that was another process to say.

    Raises:
      InputError, storage.Unavailable: it failed or was cancelled, or there is no word of it any more.
      KeyboardInterrupt: the user wants to wait no longer; its text says whether the job goes on, and how to end it.
    """
    try:
        counts = storage.join(folder, FOLDER)
        count = functools.partial(_done, job) if is_dataflow(options) else functools.partial(beats, counts)
        watch = REMOTE_SECONDS if is_dataflow(options) or storage.is_remote(counts) else WATCH_SECONDS
        if not total and not is_dataflow(options):
            with contextlib.suppress(InputError, OSError, AttributeError):
                expected = storage.read_json(storage.join(counts, EXPECTED))
                total, unit = expected.get("total", 0), expected.get("unit", unit)
        with quiet_beam(), progress(count, total, unit, title, sys.stderr, watch):
            state = _wait(job, count, options, title)
    except KeyboardInterrupt:
        raise KeyboardInterrupt(_left_behind(job, options)) from None
    with contextlib.suppress(Exception):  # of workers of this process, which are not needed any more
        job.release()
    failure = _failure(job, state, options, title)
    if folder and not is_dataflow(options):
        forget(folder)
    if failure:
        raise failure


def _wait(job: Job, count: Callable[[], int], options: PipelineOptions, title: str) -> str:
    """The state in which the job ends; others on the way are printed as they change."""
    before, start, heard = "RUNNING", time.monotonic(), time.monotonic()
    has_reported = False
    while True:
        try:
            state = job.state()
            heard = time.monotonic()
        except Exception as error:  # whatever a service's client raises: the job may go on all the same
            if time.monotonic() - heard > LOST:
                fault = f"no word of the {title} job any more: {cause(error)}; it may go on all the same."
                raise InputError(f"{fault} {_remedy(job, options)}") from None
            state = before
        if services.is_over(state):
            return state
        if state != before:
            say(f"{title}: the job is {state.lower().replace('_', ' ')}", sys.stderr)
            before = state
        if not has_reported and time.monotonic() - start > SILENCE:
            has_reported = True
            with contextlib.suppress(Exception):
                if not count():
                    say(f"{title}: {_hint(options)}", sys.stderr)
        time.sleep(job.poll)


def _hint(options: PipelineOptions) -> str:
    if is_dataflow(options):
        return f"no worker has reported for {SILENCE:.0f} s; they take some minutes to start"
    version = f"Python {sys.version_info[0]}.{sys.version_info[1]}"
    return (
        f"no worker has reported for {SILENCE:.0f} s; each needs {version}, this version of this package and of Beam, "
        "and the output folder under the same path: the runner's log tells more"
    )


def _failure(job: Job, state: str, options: PipelineOptions, title: str) -> Exception | None:
    """What there is to say of a job that ended in that state, in one line; None where it is done."""
    if state == "DONE":
        return None
    error = ""
    with contextlib.suppress(Exception):  # the service has nothing to say, or is gone
        error = job.error() if state == "FAILED" else ""
    if error:
        failure = readable(RuntimeError(error), title)
        return type(failure)(f"{failure}{see(job)}")
    return InputError(
        f"{title}: the {runner_name(options)} job ended in state {state}{see(job) or '; its own log has the cause'}. "
        "Finished outputs are kept; run the same command again to resume"
    )


def _done(job: Job) -> int:
    return (job.counters() or {}).get(DONE, 0)


def see(job: Job) -> str:
    """Where people see a job, to stand behind what is said of it; "" for nowhere."""
    return f"; see {job.page}" if job.page else ""


def unsent(options: PipelineOptions) -> str:
    """What to say where a job was interrupted while it was being sent."""
    if shares_this_machine(options):
        return ENDS_TOO
    if services.can_find(options):
        return "the job was being sent; the same command, run again, follows it if it runs, and with --cancel ends it"
    return "the job was being sent; if it runs already, cancel it there. Run the same command again to resume"


def _left_behind(job: Job, options: PipelineOptions) -> str:
    if not shares_this_machine(options):
        return f"the job goes on. {_remedy(job, options)}"
    with contextlib.suppress(Exception):
        job.cancel()
    with contextlib.suppress(Exception):
        job.release()
    return ENDS_TOO


def _remedy(job: Job, options: PipelineOptions) -> str:
    """Where the job is, how to cancel it, and how to go on with what it does."""
    where = f"It is {job.id} at {service(options)}{see(job)}"
    if services.can_find(options):
        return f"{where}; cancel it with the same command and --cancel, {AGAIN}"
    return (
        f"{where}; cancel it there, or let it finish and then run the same command again, which keeps what it wrote; "
        "not before"
    )


def service(options: PipelineOptions) -> str:
    """What people know as the place where jobs of these options run."""
    if is_dataflow(options):
        return "Dataflow"
    spark = options.view_as(SparkRunnerOptions).spark_master_url if runner_name(options) == "sparkrunner" else ""
    return jobserver.endpoint(options) or services.flink_master(options) or spark or runner_name(options)

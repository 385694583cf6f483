"""Follows a remote job to its end: shows its progress, and explains what happens to it if the command ends earlier.

The explanation says whether the job continues, how to cancel it, and how to use its results.
"""

from __future__ import annotations

import contextlib
import functools
import sys
import time
from collections.abc import Callable

import grpc
from apache_beam.options.pipeline_options import PipelineOptions, SparkRunnerOptions

from pipelines.runner import jobserver, sending, services
from pipelines.runner.failures import quiet_beam, readable
from pipelines.runner.flags import JOB_SERVERS, is_dataflow, runner_name, shares_this_machine
from pipelines.runner.isolation import cause
from pipelines.runner.progress import FOLDER, REMOTE_SECONDS, WATCH_SECONDS, beats, forget, progress, say
from pipelines.runner.services import Job
from pipelines.runner.work import DONE
from trainer import ending, storage
from trainer.attempts import LOGIN, no_credentials
from trainer.options import InputError

LOST = 300.0
"""Seconds without an answer after which a job is no longer followed."""
ENDED = 15.0
"""Seconds without an answer after which a job server that this command has started counts as ended."""
SILENCE = 120.0
"""Seconds after which the user is told that no worker has reported."""
ENDS_TOO = "the job ends as well, since it runs in processes of this command; run the same command again to resume"
PASSING = (408, 429)
"""Statuses of answers, besides those of faults of the service, after which a request may succeed later."""
CURES = {
    401: LOGIN,
    403: "ask for the role Dataflow Developer in the project, and to write to the bucket of --temp_location",
    404: "check --project and --region, and whether dataflow.googleapis.com is enabled in the project",
}
AFRESH = "the same command, run again later, follows the job if it was sent, or sends it"
AGAIN = "or let it finish: the same command, run again, follows it, and keeps what it wrote"


def follow(job: Job, options: PipelineOptions, title: str, folder: str, total: int = 0, unit: str = "items") -> None:
    """Shows the progress of a job until its end.

    Args:
      job: the job.
      options: Beam's options of the job.
      title: name of the command.
      folder: the output folder of the job.
      total: how many `unit`s it will process; 0 if another process sent it, which left a note of them in the folder.
      unit: name of the items, plural ("records").

    Raises:
      InputError, storage.Unavailable: the job failed or was cancelled, or its service no longer answers.
      KeyboardInterrupt: the user pressed Ctrl-C; the text says whether the job continues, and how to cancel it.
    """
    try:
        counts = storage.join(folder, FOLDER)
        count = functools.partial(_done, job) if is_dataflow(options) else functools.partial(beats, counts)
        watch = REMOTE_SECONDS if is_dataflow(options) or storage.is_remote(counts) else WATCH_SECONDS
        if not total and not is_dataflow(options):
            noted = sending.noted(folder)
            total, unit = noted.get("total", 0), noted.get("unit", unit)
        with quiet_beam(), progress(count, total, unit, title, sys.stderr, watch):
            state = _wait(job, count, options, title)
    except KeyboardInterrupt:
        ending.received()
        raise KeyboardInterrupt(_left_behind(job, options)) from None
    with contextlib.suppress(Exception):  # the workers of this process, if it has any, are no longer needed
        job.release()
    failure = _failure(job, state, options, title)
    if not is_dataflow(options):
        forget(folder)
    if failure:
        raise failure


def _wait(job: Job, count: Callable[[], int], options: PipelineOptions, title: str) -> str:
    """Waits for the job to end and returns its final state; prints the states in between."""
    before, start, heard = "RUNNING", time.monotonic(), time.monotonic()
    has_reported = False
    while True:
        try:
            state = job.state()
            heard = time.monotonic()
        except Exception as error:  # anything that a service's client raises: the job may still be running
            if _has_own_server(options) and time.monotonic() - heard > ENDED:
                raise storage.Unavailable(
                    f"the job server that this command has started for {runner_name(options)} has ended, and the "
                    f"{title} job with it ({told(error)}); finished outputs are kept, run the same command again to "
                    "resume"
                ) from None
            if refused := refusal(error, options):
                raise InputError(f"{refused}; the {title} job may still be running. {_remedy(job, options)}") from None
            if time.monotonic() - heard > LOST:
                fault = f"lost contact with the {title} job: {told(error)}; it may still be running."
                raise storage.Unavailable(f"{fault} {_remedy(job, options)}") from None
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
                    say(f"{title}: {_hint(job, options)}", sys.stderr)
        time.sleep(job.poll)


def told(error: Exception) -> str:
    """Why a service does not answer: an exception in one line, of gRPC only what it says to people."""
    return str(error.details()) if isinstance(error, grpc.Call) else cause(error)


def refusal(error: Exception, options: PipelineOptions) -> str:
    """What Google Cloud refuses, in one line with the cure; "" if it, or another service, does not answer."""
    if not is_dataflow(options):
        return ""
    from google.api_core.exceptions import ClientError
    from google.auth.exceptions import GoogleAuthError, TransportError

    if isinstance(error, GoogleAuthError) and not (isinstance(error, TransportError) or error.retryable):
        return no_credentials(error)
    if not isinstance(error, ClientError) or error.code in PASSING:
        return ""
    cure = CURES.get(int(error.code or 0), "")
    return f"Google Cloud answers {told(error)}{cure and f'; {cure}'}"


def unsure(error: Exception, options: PipelineOptions) -> str:
    """What to say of a job on Dataflow if no usable answer came while it was sent; "" for other errors."""
    if not is_dataflow(options):
        return ""
    from google.api_core.exceptions import GoogleAPIError
    from google.auth.exceptions import TransportError

    is_silence = isinstance(error, (GoogleAPIError, TransportError))
    return f"Dataflow has not confirmed the job: {told(error)}; {AFRESH}" if is_silence else ""


def _hint(job: Job, options: PipelineOptions) -> str:
    if needed := job.waits():
        return f"the job waits for {needed}"
    if is_dataflow(options):
        return f"no worker has reported for {SILENCE:.0f} s; they take some minutes to start"
    version = f"Python {sys.version_info[0]}.{sys.version_info[1]}"
    executor = ", and an executor of Spark a core and memory (spark.executor.memory, by default 1 GiB)"
    return (
        f"no worker has reported for {SILENCE:.0f} s; each needs {version}, this version of this package and of Beam, "
        f"and the output folder under the same path{executor * (runner_name(options) == 'sparkrunner')}; see the "
        "runner's log"
    )


def _failure(job: Job, state: str, options: PipelineOptions, title: str) -> Exception | None:
    """The error for a job that ended in that state, with a one-line message; None if it succeeded."""
    if state == "DONE":
        return None
    error = ""
    with contextlib.suppress(Exception):  # the service gives no reason, or is gone
        error = job.error() if state == "FAILED" else ""
    if "flink.runtime.client.JobCancellationException" in error:  # Beam's job server takes it for a failure
        state, error = "CANCELLED", ""
    if error and is_dataflow(options) and "Traceback" not in error:  # such as a quota, in the words of the service
        return InputError(
            f"the {title} job failed: {' '.join(error.split()).rstrip('.')}. Finished outputs are kept; run the same "
            f"command again to resume{see(job)}"
        )
    if error:
        failure = readable(RuntimeError(error), title)
        return type(failure)(f"{failure}{see(job)}")
    engine = "Dataflow" if is_dataflow(options) else runner_name(options)
    return InputError(
        f"{title}: the {engine} job ended in state {state}{see(job) or '; its own log has the cause'}. "
        "Finished outputs are kept; run the same command again to resume"
    )


def _done(job: Job) -> int:
    return (job.counters() or {}).get(DONE, 0)


def see(job: Job) -> str:
    """The web page of a job, as a clause to append to a message; "" if it has none."""
    return f"; see {job.page}" if job.page else ""


def unsent(options: PipelineOptions) -> str:
    """The message for an interrupt while a job was being sent."""
    if _ends_too(options):
        return ENDS_TOO
    if services.can_find(options):
        return "the job was being sent; the same command, run again, follows it if it runs, and with --cancel ends it"
    return "the job was being sent; if it runs already, cancel it there. Run the same command again to resume"


def _ends_too(options: PipelineOptions) -> bool:
    """Whether the job ends with this process, which runs its workers, or the job server that runs the job."""
    return _has_own_server(options) or shares_this_machine(options)


def _has_own_server(options: PipelineOptions) -> bool:
    """Whether the job runs in, or is driven by, a job server that this process has started."""
    is_sent = options.view_as(SparkRunnerOptions).spark_submit_uber_jar and runner_name(options) == "sparkrunner"
    return runner_name(options) in JOB_SERVERS and not (services.can_find(options) or is_sent)


def _left_behind(job: Job, options: PipelineOptions) -> str:
    if not _ends_too(options):
        return f"the job continues. {_remedy(job, options)}"
    with contextlib.suppress(Exception):
        job.cancel()
    with contextlib.suppress(Exception):
        job.release()
    return ENDS_TOO


def _remedy(job: Job, options: PipelineOptions) -> str:
    """Sentences on where the job runs, how to cancel it, and how to use its results."""
    where = f"It is {job.id} at {service(options)}{see(job)}"
    if services.can_find(options):
        return f"{where}; cancel it with the same command and --cancel, {AGAIN}"
    return (
        f"{where}; cancel it there, or wait until it has finished, and only then run the same command again, which "
        "keeps what it wrote"
    )


def service(options: PipelineOptions) -> str:
    """Human-readable name of the service that runs jobs with these options."""
    if is_dataflow(options):
        return "Dataflow"
    spark = options.view_as(SparkRunnerOptions).spark_master_url if runner_name(options) == "sparkrunner" else ""
    return services.flink_master(options) or jobserver.endpoint(options) or spark or runner_name(options)

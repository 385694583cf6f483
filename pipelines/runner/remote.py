"""Jobs on other machines: send one, find it again in a later run of the same command, and cancel it.

A job's name contains a digest of its output folder and one of its command's options. A later run can therefore ask the
service for a job that writes to its folder, and tell whether it is its own, without keeping a record of it.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import json
import re
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any

import apache_beam as beam
from apache_beam.options.pipeline_options import GoogleCloudOptions, JobServerOptions, PipelineOptions

from pipelines.runner import jobserver, sending, services
from pipelines.runner.failures import quiet_beam, quiet_servers, readable
from pipelines.runner.flags import JobOptions, is_dataflow, is_local, runner_name, shares_this_machine
from pipelines.runner.following import LOST, follow, refusal, see, service, told, unsent, unsure
from pipelines.runner.progress import FOLDER, STAGED, Heartbeat, forget, say
from pipelines.runner.services import FlinkJob, Job, PortableJob
from trainer import ending, storage
from trainer.files import scratch
from trainer.options import CheckedOptions, InputError, to_json

NAME = re.compile(r"(?:.*-)?(?P<output>[0-9a-f]{12})-(?P<options>[0-9a-f]{8})")
ENDING = 60.0
"""Seconds within which a cancelled job ends."""
ASKING = 1.0
"""Seconds between two queries for a job that is not listed yet."""
UNSURE = (
    "So says the job server; Beam's, for Flink and in Python, may leave a job running that they call cancelled: look "
    "at the page of the cluster, or give its --flink_master with --cancel"
)
CANCELLED, FOLLOWED = "cancelled", "followed"
"""Results of `attach`."""


def attach(
    options: PipelineOptions, command: CheckedOptions, folder: str, title: str, needs_result: bool = False
) -> str:
    """Looks for a running job that an earlier run of the command has sent, and follows or cancels it.

    Must be called before anything is planned, because the job's results change what is left to do.

    Args:
      options: Beam's options of the job; this sets its name.
      command: options of the command.
      folder: the output folder of the job.
      title: name of the command.
      needs_result: whether the command itself uses the job's result, so that it has to wait for it.

    Returns:
      CANCELLED if the user asked to cancel the job; FOLLOWED if a job was followed to its end; else "".

    Raises:
      InputError: a job of another command or at another service is writing to the folder, there is no job to cancel,
        or the job failed.
      KeyboardInterrupt: see `follow`.
    """
    _refuse_beside_another(options, folder)
    if is_local(options):
        return ""
    _check_flags(options, title, needs_result)
    cloud = options.view_as(GoogleCloudOptions)
    values = {name: _spelt(value) for name, value in to_json(command).items()}
    output, ours = _digest(storage.real(folder).encode(), 12), _digest(json.dumps(values).encode(), 8)
    cloud.job_name = f"{cloud.job_name or f'deeplab-{title}'}-{output}-{ours}"
    if cloud.template_location:  # a template is stored without contacting the service
        return ""
    job, its_options = _at_work(options, output)
    if job is None and _digests(options):
        job, its_options = _await_arrival(options, output, title, folder)
    if options.view_as(JobOptions).cancel:
        _cancel_now(job, options, title, folder)
        return CANCELLED
    if job is None:
        jobserver.obtain(options)
        return ""
    _check_followed(job, options, its_options == ours, folder)
    await_others(options, title, folder)
    return FOLLOWED


def _check_flags(options: PipelineOptions, title: str, needs_result: bool) -> None:
    """Raises InputError if the command cannot send a job with these flags; see `attach`."""
    no_wait, template = options.view_as(JobOptions).no_wait, options.view_as(GoogleCloudOptions).template_location
    for flag, is_given in (("no_wait", no_wait), ("template_location", template)):
        if is_given and needs_result:
            raise InputError(f"{title} reads the job's result itself; omit --{flag}")
    if no_wait and not services.can_find(options):
        raise InputError(
            f"--no_wait: the {runner_name(options)} job would end with this command, or could not be found again; "
            "give --job_endpoint, or --flink_master of a cluster"
        )
    services.check_spark(options)


def _check_followed(job: Job, options: PipelineOptions, is_ours: bool, folder: str) -> None:
    """Raises InputError if the command must not follow a job that writes to its folder."""
    if shares_this_machine(options):
        raise InputError(
            f"job {job.id} at {service(options)} is already writing to {folder}, with workers of the process that "
            "sent it; wait for it to end or, if that process is gone, end the job with --cancel"
        )
    if not is_ours:
        raise InputError(
            f"job {job.id} at {service(options)} is already writing to {folder}, with other options or for another "
            "command; wait for it to end, cancel it with --cancel, or give another --output"
        )
    if options.view_as(JobOptions).no_wait:
        raise InputError(f"job {job.id} at {service(options)} is already working on this; omit --no_wait to follow it")


def _refuse_beside_another(options: PipelineOptions, folder: str) -> None:
    """Raises InputError if a job at another service, of which a note in the folder tells, runs or may run."""
    name, where = sending.job_of(folder)
    if not name or where == service(options):
        return
    runs, gone = f"job {name} at {where} is already writing to {folder}", ""
    try:
        if not sending.seconds_left(folder) and all(job.name != name for job in services.active_at(where)):
            return
    except Exception:  # anything that a service's client raises
        runs = f"job {name} may still be writing to {folder}: {where}, where it ran, does not answer"
        gone = f", or, if it is sure that it has ended, remove {storage.join(folder, FOLDER)}"
    cancel = "cancel it with --cancel and the flags that it was sent with"
    raise InputError(f"{runs}; wait for it to end, {cancel}{gone or ', or give another --output'}")


def await_others(options: PipelineOptions, title: str, folder: str) -> None:
    """Follows jobs with these options that earlier runs have sent, until none is running.

    There may be two: a job that was being sent when its command was killed may be listed only after the next command
    has looked for it. Raises as `follow` does.
    """
    while job := next(_same(options), None):
        say(f"{title}: following job {job.id}, which is already working on this{see(job)}", sys.stderr)
        follow(job, options, title, folder)


def end_others(options: PipelineOptions, folder: str) -> None:
    """Cancels jobs with these options that are still running when all work is done."""
    with contextlib.suppress(Exception):  # the service no longer answers
        for job in [*_same(options)]:
            _cancel(job, options, folder)


def _same(options: PipelineOptions) -> Iterator[Job]:
    """The running jobs whose names have the same digests as the name in these options."""
    if digests := _digests(options):
        yield from (
            job for job, options_digest in _active(options, digests["output"]) if options_digest == digests["options"]
        )


def _digests(options: PipelineOptions) -> re.Match[str] | None:
    """The digests in the job's name; None if no other process could follow the job."""
    if shares_this_machine(options) or not services.can_find(options):
        return None
    return NAME.fullmatch(options.view_as(GoogleCloudOptions).job_name or "")


def _cancel(job: Job, options: PipelineOptions, folder: str) -> None:
    """Cancels a job and waits for its end; not on Dataflow, where that takes minutes."""
    job.cancel()
    if is_dataflow(options):
        return
    deadline = time.monotonic() + ENDING
    with contextlib.suppress(Exception):  # its job server ends with it
        while not services.is_over(job.state()) and time.monotonic() < deadline:
            time.sleep(job.poll)
    forget(folder)


def _cancel_now(job: Job | None, options: PipelineOptions, title: str, folder: str) -> None:
    """Cancels a job as the user asks. Raises InputError if there is none; it or Unavailable if it is not cancelled."""
    if job is None:
        raise InputError(f"no job at {service(options)} writes to {folder}; there is nothing to cancel")
    try:
        _cancel(job, options, folder)
    except Exception as error:  # anything that a service's client raises
        has_ended = False
        with contextlib.suppress(Exception):
            has_ended = services.is_over(job.state())  # meanwhile
        if not has_ended:
            fault = _fault(error, options)
            raise type(fault)(f"job {job.id} is not cancelled: {fault}") from None
    doubt = "" if is_dataflow(options) or services.flink_master(options) else f". {UNSURE}"
    say(f"{title}: job {job.id} is being cancelled; finished outputs are kept{doubt}", sys.stderr)


def _at_work(options: PipelineOptions, output: str) -> tuple[Job | None, str]:
    """The running job whose output folder has that digest, and the digest of its options; (None, "") for none."""
    return next(_active(options, output), (None, ""))


def _await_arrival(options: PipelineOptions, output: str, title: str, folder: str) -> tuple[Job | None, str]:
    """Like `_at_work`, but waits for a job that was being sent when its command ended, and may not be listed yet."""
    left = sending.seconds_left(folder)
    deadline = time.monotonic() + left
    if left:
        where = f"for it to appear at {service(options)}"
        sender = "a job is being sent, or its command ended while it sent it"
        say(f"{title}: {sender}; waiting up to {left:.0f} s {where}", sys.stderr)
    while time.monotonic() < deadline:
        time.sleep(min(ASKING, left))
        if (arrival := _at_work(options, output))[0]:
            return arrival
    return None, ""


def _active(options: PipelineOptions, output: str) -> Iterator[tuple[Job, str]]:
    """All running jobs whose output folder has that digest, each with the digest of its options."""
    try:
        for job in services.active(options):
            if (match := NAME.fullmatch(job.name)) and match["output"] == output:
                yield job, match["options"]
    except InputError:
        raise
    except Exception as error:
        raise _fault(error, options) from None


def _fault(error: Exception, options: PipelineOptions) -> InputError | storage.Unavailable:
    """What a service's client raised, as an error with a one-line message."""
    if refused := refusal(error, options):
        return InputError(refused)
    silent = f"{service(options)} does not answer: {told(error)}"
    if is_dataflow(options):  # whose address nobody can have misspelt
        return storage.Unavailable(f"{silent}; run the same command again later")
    return InputError(silent)


def run(
    build: Callable[[beam.Pipeline, Heartbeat], Any],
    options: PipelineOptions,
    *,
    total: int,
    unit: str,
    title: str,
    folder: str,
) -> bool:
    """Sends a job and follows it to its end; see `pipelines.runner.run.run`.

    Args:
      folder: the output folder of the job.

    Returns:
      False if the job was not waited for, or only a template of it was stored.
    """
    template = options.view_as(GoogleCloudOptions).template_location
    if not template and not options.view_as(JobOptions).no_wait:
        await_others(options, title, folder)
    expected = {} if is_dataflow(options) else _begin_counting(options, total, unit, folder)
    _prepare_server(options, title, folder)
    try:
        job = _send(build, options, title, folder, expected)
    except KeyboardInterrupt:
        ending.received()
        raise KeyboardInterrupt(unsent(options)) from None
    if job is None:
        say(
            f"{title}: job template written to {template}; when its job is done, run this command without "
            "--runner and --template_location, which finishes what the job wrote",
            sys.stdout,
        )
        return False
    if options.view_as(JobOptions).no_wait:
        say(f"{title}: run the same command again to follow the job and, when it is done, to finish", sys.stdout)
        return False
    follow(job, options, title, folder, total, unit)
    end_others(options, folder)
    return True


def _begin_counting(options: PipelineOptions, total: int, unit: str, folder: str) -> dict[str, Any]:
    """Clears the place where the workers count what is done; returns the note in it, see `sending.note`."""
    expected: dict[str, Any] = {"total": total, "unit": unit}
    if _digests(options):
        expected |= {sending.JOB: options.view_as(GoogleCloudOptions).job_name, sending.SERVICE: service(options)}
    storage.check_own(storage.join(folder, FOLDER))
    forget(folder)
    sending.note(folder, expected, is_sending=False)
    return expected


def _prepare_server(options: PipelineOptions, title: str, folder: str) -> None:
    """Checks that the job server answers, or sets up Beam's; prints what the cluster lacks."""
    if address := jobserver.endpoint(options):
        jobserver.connect(address)  # or says that it does not answer; where Flink is known only that was asked so far
    elif not (is_dataflow(options) or shares_this_machine(options) or storage.is_remote(folder)):
        # Beam's default is a folder of this machine alone, which is removed with this process.
        server = options.view_as(JobServerOptions)
        server.artifacts_dir = server.artifacts_dir or storage.join(folder, FOLDER, STAGED)
    jobserver.bind(options)
    with contextlib.suppress(Exception):  # the cluster, which was asked before, does not answer for a moment
        if lack := services.lack(options):
            say(f"{title}: warning: {lack}", sys.stderr)
    quiet_servers()


def _send(
    build: Callable[[beam.Pipeline, Heartbeat], Any],
    options: PipelineOptions,
    title: str,
    folder: str,
    expected: dict[str, Any],
) -> Job | None:
    """Builds a job and sends it; until its service lists it, a note in its folder records that it was sent.

    Args:
      expected: total and unit of its items; empty if the workers do not count them, and no note is left.

    Returns:
      None if only a template of it was stored.
    """
    cloud = options.view_as(GoogleCloudOptions)
    name = cloud.job_name or f"deeplab-{title}"
    is_noted = bool(expected and _digests(options))
    with quiet_beam(), scratch.default(scratch.own()), sending.own_interrupt():
        try:
            pipeline = beam.Pipeline(options=options)
        except ValueError as error:  # "Pipeline has validations errors", and these
            raise InputError(" ".join(str(error).split("\n")[1:]) or str(error)) from None
        build(pipeline, Heartbeat(storage.join(folder, FOLDER) if expected else ""))
        tell = functools.partial(sending.note, folder, expected, is_sending=True) if is_noted else None
        sending.arrange(pipeline.runner, name, tell)
        try:
            result = pipeline.run()
        except Exception as error:
            if expected and not sending.seconds_left(folder):
                forget(folder)
            if refused := refusal(error, options) or jobserver.unstarted(error, options):
                raise InputError(refused) from None
            if silent := unsure(error, options):
                raise storage.Unavailable(silent) from None
            raise readable(error, title) from None
    if cloud.template_location:
        return None
    job = services.sent(result, options, name)
    if services.can_find(options):
        say(f"{title}: job {job.id}{see(job)}", sys.stderr)
    if is_noted and _is_shown(job, options):
        sending.note(folder, expected, is_sending=False)
    return job


def _is_shown(job: Job, options: PipelineOptions) -> bool:
    """Waits until the service lists the job or has finished it; False if neither happens within LOST seconds.

    Only from then on does the job outlive this process, and its job server: what a cluster lists becomes its twin.
    """
    deadline = time.monotonic() + LOST
    while time.monotonic() < deadline:
        with contextlib.suppress(Exception):  # it does not answer for a while
            twin = next(_same(options), None)
            if isinstance(job, PortableJob) and isinstance(twin, FlinkJob):
                job.twin = twin
            if twin or services.is_over(job.state()):
                return True
        time.sleep(job.poll)
    return False


def _spelt(value: Any) -> Any:
    """The value of an option, with one spelling of each gs:// address; those of local paths `located` has seen to."""
    if isinstance(value, list):
        return [*map(_spelt, value)]
    return storage.real(value) if isinstance(value, str) and storage.is_remote(value) else value


def _digest(text: bytes, length: int) -> str:
    return hashlib.sha256(text).hexdigest()[:length]

"""Jobs on Dataflow, on a Flink cluster or at a job server: list them, query their state, and cancel them.

States are Beam's: "RUNNING", "DONE", "FAILED", "CANCELLED", and others in between.
"""

from __future__ import annotations

import contextlib
import functools
import http.client
import json
import socket
import threading
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, ClassVar

import grpc
from apache_beam.options.pipeline_options import (
    FlinkRunnerOptions,
    GoogleCloudOptions,
    PipelineOptions,
    SparkRunnerOptions,
)
from apache_beam.portability.api import beam_job_api_pb2
from apache_beam.runners.runner import PipelineState

from pipelines.runner import jobserver
from pipelines.runner.flags import EMBEDDED, is_dataflow, runner_name
from trainer.attempts import with_credentials
from trainer.options import InputError

SPARK = "spark://"
TIMEOUT = 30.0
"""Seconds within which a service answers."""
FAILED = "Workflow failed."
"""The message of Dataflow with which a job that failed ends."""
MESSAGES = 10.0
"""Seconds to wait for the last messages of a job that has ended."""


def is_over(state: str) -> bool:
    """Whether a job in that state has ended."""
    return PipelineState.is_terminal(state)


@dataclass
class Job:
    """A job on another machine.

    Attributes:
      id, name: its id and name at the service.
      page: address of its web page, "" for none.
      poll: seconds between two queries of its state.
    """

    id: str
    name: str
    page: str = ""

    poll: ClassVar[float] = 1.0

    def state(self) -> str:
        raise NotImplementedError

    def error(self) -> str:
        """Why it failed, as reported by the service; "" if it gives no reason."""
        raise NotImplementedError

    def cancel(self) -> None:
        raise NotImplementedError

    def counters(self) -> dict[str, int] | None:
        """Beam counters so far; None if the service reports them only at the end."""
        return None

    def waits(self) -> str:
        """What a job waits for that has not begun, if the service tells; else ""."""
        return ""

    def release(self) -> None:
        """Stops the workers that this process has started for the job."""


@dataclass
class DataflowJob(Job):
    """A job on Google Cloud."""

    options: PipelineOptions = field(default_factory=PipelineOptions)

    poll: ClassVar[float] = 5.0

    def __post_init__(self) -> None:
        cloud = self.options.view_as(GoogleCloudOptions)
        self._where = {"project_id": cloud.project, "location": cloud.region}
        self.page = f"https://console.cloud.google.com/dataflow/jobs/{cloud.region}/{self.id}?project={cloud.project}"

    def state(self) -> str:
        job = _client("Jobs", self.options).get_job({**self._where, "job_id": self.id}, timeout=TIMEOUT)
        return _dataflow_state(job)

    def error(self) -> str:
        request = {**self._where, "job_id": self.id, "minimum_importance": "JOB_MESSAGE_ERROR"}
        answer = _client("Messages", self.options).list_job_messages(request, timeout=TIMEOUT)
        texts = [message.message_text for message in answer]
        # A failure causes many messages; the worker's own traceback has the cause, and "Workflow failed." none.
        telling = [text for text in texts if "Traceback" in text] or [text for text in texts if text != FAILED]
        return (telling or texts or [""])[-1]

    def counters(self) -> dict[str, int] | None:
        answer = _client("Metrics", self.options).get_job_metrics({**self._where, "job_id": self.id}, timeout=TIMEOUT)
        values: dict[tuple[str, str], int] = {}
        for metric in answer.metrics:
            if metric.name.origin == "user" and isinstance(metric.scalar, (int, float)):
                # Each is listed twice, as committed and as tentative, which is ahead.
                key = (metric.name.name, metric.name.context.get("step", ""))
                values[key] = max(values.get(key, 0), int(metric.scalar))
        total: dict[str, int] = {}
        for (name, _), value in values.items():
            total[name] = total.get(name, 0) + value
        return total

    def cancel(self) -> None:
        request = {**self._where, "job_id": self.id, "job": {"requested_state": "JOB_STATE_CANCELLED"}}
        _client("Jobs", self.options).update_job(request, timeout=TIMEOUT)


def _dataflow_state(job: Any) -> str:
    from google.cloud import dataflow_v1beta3

    return dataflow_v1beta3.JobState(job.current_state).name.removeprefix("JOB_STATE_")


def _client(kind: str, options: PipelineOptions) -> Any:
    """The client of one of Dataflow's services: Jobs, Messages or Metrics."""
    from apache_beam.internal.gcp import auth
    from google.api_core.client_options import ClientOptions
    from google.auth.credentials import AnonymousCredentials
    from google.cloud import dataflow_v1beta3

    cloud = options.view_as(GoogleCloudOptions)
    if not cloud.no_auth:
        _check_credentials()
    endpoint = (cloud.dataflow_endpoint or "").strip().rstrip("/")
    is_rest = "localhost" in endpoint  # as Beam's own client decides
    return getattr(dataflow_v1beta3, f"{kind}V1Beta3Client")(
        credentials=(None if cloud.no_auth else auth.get_service_credentials(options)) or AnonymousCredentials(),
        transport="rest" if is_rest else None,
        client_options=ClientOptions(
            api_endpoint=endpoint if is_rest else endpoint.removeprefix("https://").removeprefix("http://") or None
        ),
    )


@functools.cache
def _check_credentials() -> None:
    """Raises GoogleAuthError or InputError where the user has no credentials.

    Beam would look for them for half a minute, print a traceback every few seconds, and then send no credentials.
    """
    import google.auth

    with_credentials(google.auth.default)


@dataclass
class FlinkJob(Job):
    """A job on a Flink cluster, queried by its REST API, which outlives the process that sent the job.

    Attributes:
      master: address of the JobManager.
    """

    master: str = ""

    poll: ClassVar[float] = 2.0

    def __post_init__(self) -> None:
        self.page = f"{self.master}/#/job/running/{self.id}"

    def state(self) -> str:
        return _flink_state(_ask(f"{self.master}/jobs/{self.id}")["state"])

    def error(self) -> str:
        answer = _ask(f"{self.master}/jobs/{self.id}/exceptions")
        return answer.get("root-exception") or ""

    def cancel(self) -> None:
        _ask(f"{self.master}/jobs/{self.id}?mode=cancel", "PATCH")

    def waits(self) -> str:
        tasks = _ask(f"{self.master}/jobs/{self.id}")["status-counts"]
        if any(tasks.get(state) for state in ("DEPLOYING", "INITIALIZING", "RUNNING")):
            return ""
        cluster = _ask(f"{self.master}/overview")
        total, free = cluster["slots-total"], cluster["slots-available"]
        return f"slots of the cluster ({total}, {'all' if not free else total - free} in use)"


def _flink_jobs(master: str) -> list[dict[str, Any]]:
    """All jobs that a JobManager lists. Raises InputError if it is none."""
    try:
        return _ask(f"{master}/jobs/overview")["jobs"]
    except (OSError, http.client.HTTPException, ValueError, LookupError, TypeError) as error:
        if getattr(error, "code", 0) >= 500:  # a JobManager that starts
            raise
        if isinstance(error, OSError) and not isinstance(error, urllib.error.HTTPError):
            raise InputError(
                f"--flink_master {master}: no JobManager answers there ({getattr(error, 'reason', error)}); start it, "
                "or give HOST:PORT of the REST interface of one, usually of port 8081"
            ) from None
        raise InputError(
            f"--flink_master {master} is not a Flink JobManager; expected HOST:PORT of its REST interface, usually of "
            "port 8081"
        ) from None


def _flink_state(state: str) -> str:
    return {"FINISHED": "DONE", "CANCELED": "CANCELLED"}.get(state, state)


def _ask(address: str, method: str = "GET") -> dict[str, Any]:
    with urllib.request.urlopen(urllib.request.Request(address, method=method), timeout=TIMEOUT) as answer:
        return json.loads(answer.read() or b"{}")


@dataclass
class PortableJob(Job):
    """A job at a job server.

    Attributes:
      service: stub of the job server.
      end: stops the workers that this process has started for the job.
      twin: the same job as its cluster has it, which is asked when the job server is gone; None if it is not known.
    """

    service: Any = None
    end: Callable[[], None] | None = None
    twin: Job | None = None

    def __post_init__(self) -> None:
        self._errors: list[str] = []
        self._details: list[str] = []
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        request = beam_job_api_pb2.JobMessagesRequest(job_id=self.id)
        with contextlib.suppress(Exception):  # the job server has ended, as `state` will show
            for message in self.service.GetMessageStream(request):
                text = message.message_response
                if text.importance == beam_job_api_pb2.JobMessage.JOB_MESSAGE_ERROR:
                    self._errors.append(text.message_text)
                elif text.importance == beam_job_api_pb2.JobMessage.JOB_MESSAGE_DEBUG:
                    self._details.append(text.message_text)

    def state(self) -> str:
        try:
            answer = self.service.GetState(beam_job_api_pb2.GetJobStateRequest(job_id=self.id))
        except grpc.RpcError:
            if self.twin is None:
                raise
            return self.twin.state()
        state = beam_job_api_pb2.JobState.Enum.Name(answer.state)
        # Beam's job server calls a job failed whose cluster has not answered it for a minute.
        return self.twin.state() if self.twin and state == "FAILED" else state

    def error(self) -> str:
        self._reader.join(MESSAGES)
        if self._errors:
            error = self._errors[-1]
            # Of a Java exception, that is the last cause alone; the whole is sent as a detail.
            return next((detail for detail in reversed(self._details) if error in detail), error)
        return self.twin.error() if self.twin else ""

    def waits(self) -> str:
        return self.twin.waits() if self.twin else ""

    def cancel(self) -> None:
        self.service.Cancel(beam_job_api_pb2.CancelJobRequest(job_id=self.id))

    def release(self) -> None:
        if self.end:
            self.end()


def flink_master(options: PipelineOptions) -> str:
    """The address of the JobManager that runs jobs with these options, if they name a cluster of Flink; else ""."""
    master = options.view_as(FlinkRunnerOptions).flink_master.strip()
    if runner_name(options) not in ("flinkrunner", "portablerunner") or master in EMBEDDED:
        return ""
    return (master if "://" in master else f"http://{master}").rstrip("/")


def lack(options: PipelineOptions) -> str:
    """What a Flink cluster lacks for a job with these options, and the cure; "" for nothing, or if it is not known."""
    master, wanted = flink_master(options), options.view_as(FlinkRunnerOptions).parallelism
    slots = _ask(f"{master}/overview")["slots-total"] if master and wanted > 1 else wanted
    if slots >= wanted:
        return ""
    return (
        f"--parallelism {wanted} is more than the {slots} slots of the cluster: the job waits for so many slots, "
        f"and may fail; start more TaskManagers, or cancel it and give --parallelism {max(1, slots)}"
    )


def check_spark(options: PipelineOptions) -> None:
    """Raises InputError if none of the masters of Spark answers that a job with these options is to be sent to."""
    spark = options.view_as(SparkRunnerOptions)
    url, is_sent = spark.spark_master_url, spark.spark_submit_uber_jar or jobserver.endpoint(options)
    if runner_name(options) != "sparkrunner" or is_sent or not url.startswith(SPARK):
        return
    fault: Exception = ValueError("it names none")
    for place in url.removeprefix(SPARK).split(","):
        host, _, port = place.rpartition(":")
        try:
            socket.create_connection((host, int(port)), TIMEOUT).close()
            return
        except (OSError, ValueError) as error:
            fault = error
    raise InputError(
        f"--spark_master_url {url}: no master of Spark answers there ({fault}); start it, or give "
        "spark://HOST:PORT of one, usually of port 7077"
    )


def can_find(options: PipelineOptions) -> bool:
    """Whether a process other than the one that sent it can find a job with these options."""
    return bool(is_dataflow(options) or jobserver.endpoint(options) or flink_master(options))


def active(options: PipelineOptions) -> Iterator[Job]:
    """The unfinished jobs at the service that these options name.

    A Flink cluster is asked itself: Beam's job server forwards jobs to it late, and calls jobs cancelled that run on.
    """
    if is_dataflow(options):
        cloud = options.view_as(GoogleCloudOptions)
        request = {"project_id": cloud.project, "location": cloud.region, "filter": "ACTIVE"}
        for job in _client("Jobs", options).list_jobs(request, timeout=TIMEOUT):
            if not is_over(_dataflow_state(job)):
                yield DataflowJob(job.id, job.name, options=options)
    elif master := flink_master(options):
        for job in _flink_jobs(master):
            if not is_over(_flink_state(job["state"])):
                yield FlinkJob(job["jid"], job["name"], master=master)
    elif address := jobserver.endpoint(options):
        service = jobserver.connect(address)
        answer = service.GetJobs(beam_job_api_pb2.GetJobsRequest(), timeout=TIMEOUT)
        for job in answer.job_info:
            if not is_over(beam_job_api_pb2.JobState.Enum.Name(job.state)):
                yield PortableJob(job.job_id, job.job_name, service=service)


def active_at(address: str) -> Iterator[Job]:
    """The unfinished jobs at a Flink cluster, if the address is that of a page, or else at a job server."""
    is_flink = "://" in address
    flags = ["--runner=FlinkRunner", "--flink_master"] if is_flink else ["--runner=PortableRunner", "--job_endpoint"]
    return active(PipelineOptions([*flags, address]))


def sent(result: Any, options: PipelineOptions, name: str) -> Job:
    """The job that Beam has just sent.

    Args:
      result: the result of Beam's `Pipeline.run`.
      name: the name of the job.
    """
    if is_dataflow(options):
        return DataflowJob(result.job_id(), name, options=options)
    job = PortableJob(result._job_id, name, service=result._job_service, end=result._cleanup)
    job.page = flink_master(options)
    return job

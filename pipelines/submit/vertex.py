"""Jobs on Vertex AI: their specification, and how to send and follow them with google-cloud-aiplatform's client.

The client uses REST, so that CLOUDSDK_API_ENDPOINT_OVERRIDES_AIPLATFORM, which gcloud honours too, can name a proxy or
a private endpoint. No credentials are sent to an address that begins with http://.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import time
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

from pipelines import __version__
from pipelines.submit.options import Vertex
from pipelines.submit.plan import Job, environment, pairs
from pipelines.submit.watching import OWN, Course, Lost, Patience, Refused, send, token
from trainer.attempts import LOGIN, no_credentials, with_credentials
from trainer.options import InputError

T = TypeVar("T")

ENDPOINT = "CLOUDSDK_API_ENDPOINT_OVERRIDES_AIPLATFORM"
JOB_NAME = re.compile(r"projects/(?P<project>[^/]+)/locations/(?P<region>[^/]+)/customJobs/(?P<number>[^/]+)")
POLL = 15
"""Seconds between two polls of a job."""
TIMEOUT = 60
"""Seconds to wait for an answer."""
ENDED = ("SUCCEEDED", "FAILED", "CANCELLED", "EXPIRED", "PARTIALLY_SUCCEEDED")
HOST = ("tini", "--", "python", "-m", "pipelines.submit.host")
"""Starts the command on one of several hosts, whose number is only in Vertex AI's CLUSTER_SPEC. It replaces the
image's entry point, so it includes tini, which forwards SIGTERM."""


def manifest(options: Vertex, job: Job) -> dict[str, Any]:
    """The specification of the custom job, as in the REST API."""
    scheduling: dict[str, Any] = {"strategy": "SPOT"} if options.spot else {}
    if job.hosts > 1:
        # Hosts that train together cannot go on without one of them.
        scheduling["restartJobOnWorkerRestart"] = True
    spec: dict[str, Any] = {"workerPoolSpecs": [_pool(options, job, 1)]}
    if job.hosts > 1:
        spec["workerPoolSpecs"].append(_pool(options, job, job.hosts - 1))
    if scheduling:
        spec["scheduling"] = scheduling
    if options.service_account:
        spec["serviceAccount"] = options.service_account
    about = {"deeplab-command": job.command, "deeplab-version": __version__.replace(".", "-")}
    return {"displayName": job.name, "labels": about | pairs(options.labels), "jobSpec": spec}


def _pool(options: Vertex, job: Job, replicas: int) -> dict[str, Any]:
    machine: dict[str, Any] = {"machineType": job.machine_type}
    if job.gpus:
        kind = job.accelerator.upper().replace("-", "_")
        machine |= {"acceleratorType": kind, "acceleratorCount": job.gpus}
    container: dict[str, Any] = {"imageUri": job.image, "args": [*job.words]}
    if job.hosts > 1:
        container["command"] = [*HOST]
    if variables := environment(options):
        # Vertex AI would expand $(NAME).
        escaped = {name: value.replace("$(", "$$(") for name, value in variables.items()}
        container["env"] = [{"name": name, "value": value} for name, value in escaped.items()]
    return {"machineSpec": machine, "replicaCount": replicas, "containerSpec": container}


def shown(options: Vertex, job: Job) -> str:
    """The custom job as JSON, the body of a request to customJobs."""
    return json.dumps(manifest(options, job), indent=2) + "\n"


class Service:
    """Vertex AI in one region."""

    def __init__(self, options: Vertex) -> None:
        from google.api_core.client_options import ClientOptions
        from google.cloud import aiplatform_v1

        named = JOB_NAME.fullmatch(options.follow)
        if options.returns and not named:
            raise InputError(
                f"--follow {options.follow}: expected projects/PROJECT/locations/REGION/customJobs/NUMBER"
            )
        self.region = named["region"] if named else options.region
        endpoint = os.environ.get(ENDPOINT, "").rstrip("/") or f"{self.region}-aiplatform.googleapis.com"
        credentials, project = _credentials(endpoint)
        self.project = named["project"] if named else options.project or project
        if not self.project:
            raise InputError("--project is missing, and the credentials name none")
        settings = ClientOptions(api_endpoint=endpoint)
        self.jobs = aiplatform_v1.JobServiceClient(credentials=credentials, transport="rest", client_options=settings)
        self.types = aiplatform_v1

    def submit(self, manifest: dict[str, Any]) -> str:
        """Sends a job; returns its name: projects/.../customJobs/..."""
        parent = f"projects/{self.project}/locations/{self.region}"
        own = {OWN: token()}
        job = self.types.CustomJob.from_json(json.dumps(manifest | {"labels": manifest["labels"] | own}))

        def taken() -> str:
            # Vertex AI's ids are numbers that it assigns, and several jobs may have one display name.
            request = {"parent": parent, "filter": f'display_name="{job.display_name}"'}
            jobs = _ask(lambda: list(self.jobs.list_custom_jobs(request=request, retry=None, timeout=TIMEOUT)))
            return next((one.name for one in jobs if own.items() <= dict(one.labels).items()), "")

        create = self.jobs.create_custom_job
        return send(
            lambda: _ask(lambda: create(parent=parent, custom_job=job, retry=None, timeout=TIMEOUT)).name, taken
        )

    def page(self, name: str) -> str:
        """The job's page in Google Cloud's console."""
        job = JOB_NAME.fullmatch(name)
        path = f"locations/{job['region']}/training/{job['number']}"
        return f"https://console.cloud.google.com/vertex-ai/{path}?project={self.project}"

    def follow_command(self, name: str) -> str:
        """The command that follows a job again."""
        return f"deeplab submit vertex --follow {name}"

    def end_command(self, name: str) -> str:
        """The command that ends a job."""
        return shlex.join(["gcloud", "ai", "custom-jobs", "cancel", name])

    def follow(self, name: str) -> Iterator[str]:
        """Yields lines on the states of a job; returns its exit status.

        Raises:
          Refused: Vertex AI refuses access.
          Lost: Vertex AI has not answered for a while.
          InputError: Vertex AI does not know the job.
        """
        course, patience = Course(), Patience()
        log = f"gcloud ai custom-jobs stream-logs {name}"
        yield f"the log: {log}"
        while True:
            try:
                job = self._read(name)
                patience.heard()
                state = job.state.name.removeprefix("JOB_STATE_")
                message = " ".join(job.error.message.split())
                yield from course.changes({f"job {job.display_name}": _state(state, message)})
                if state in ENDED:
                    return _status(state, message)
                time.sleep(POLL)
            except Lost as error:
                yield from patience.wait(error)

    def _read(self, name: str) -> Any:
        try:
            return _ask(lambda: self.jobs.get_custom_job(name=name, retry=None, timeout=TIMEOUT))
        except Refused as error:
            if error.status != 404:
                raise
            raise InputError(f"there is no job {name}; it was deleted, or the name is misspelt") from None


def _state(state: str, message: str) -> str:
    return state.lower().replace("_", " ") + (f" ({message})" if message else "")


def _status(state: str, message: str) -> int:
    """The exit status of a job that has ended: that of its command if it failed, 1 if that is not known."""
    if state == "SUCCEEDED":
        return 0
    code = re.search(r"non-zero status of (\d+)", message)
    return int(code[1]) if code else 1


def _credentials(endpoint: str) -> tuple[Any, str]:
    """Credentials for an endpoint, and the project they belong to."""
    import google.auth
    from google.auth.credentials import AnonymousCredentials
    from google.auth.exceptions import GoogleAuthError

    if endpoint.startswith("http://"):
        return AnonymousCredentials(), os.environ.get("GOOGLE_CLOUD_PROJECT", "")
    try:
        scopes = ["https://www.googleapis.com/auth/cloud-platform"]
        credentials, project = with_credentials(lambda: google.auth.default(scopes=scopes))
    except GoogleAuthError as error:
        raise Refused(no_credentials(error), 401) from None
    return credentials, project or ""


def _ask(call: Callable[[], T]) -> T:
    """Calls the client, turning its errors into Refused and Lost."""
    import requests
    from google.api_core.exceptions import GoogleAPICallError, RetryError
    from google.auth.exceptions import GoogleAuthError, TransportError

    try:
        return call()
    except GoogleAPICallError as error:
        message = re.sub(r"^[A-Z]+ https?://\S+: ", "", error.message)
        raise _verdict(int(error.code or 0), message) from None
    except (requests.RequestException, RetryError, TransportError, OSError) as error:
        raise Lost(f"Vertex AI does not answer ({type(error).__name__})") from None
    except GoogleAuthError as error:
        raise Refused(no_credentials(error), 401) from None


def _verdict(status: int, message: str) -> Exception:
    if status == 429:
        return Lost(f"quota: {message}", retry=False)
    if status in (0, 408) or status >= 500:
        return Lost(f"Vertex AI answers {status or 'nothing'}: {message}")
    cures = {
        401: LOGIN,
        403: "ask for the role Vertex AI User, and for Service Account User where --service-account names an account",
        404: "check --project and --region, and whether aiplatform.googleapis.com is enabled in the project",
    }
    cure = f"; {cures[status]}" if status in cures else ""
    return Refused(f"Vertex AI answers {status}: {message}{cure}", status)

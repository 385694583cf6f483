"""A Kubernetes cluster: sends jobs to it and follows them, through the official client.

Answers are read as plain JSON, since the client's models refuse fields from newer clusters.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import shlex
import time
from collections.abc import Callable, Iterator
from typing import Any

from pipelines.submit.kubernetes import CONTAINER, JOBSET
from pipelines.submit.options import Kubernetes
from pipelines.submit.pods import Object, container, exit_status, is_first, states, stuck
from pipelines.submit.watching import OWN, Course, Lost, Patience, Refused, send, token
from trainer.options import InputError

TIMEOUT = (10.0, 120.0)
"""Seconds to wait for a connection, and then for its next bytes; a log silent for longer is asked for again."""
WAIT = 10
"""Seconds after which states are queried again if the cluster reports no change."""
SLACK = 60
"""Seconds of the log that are requested again, so that no line is lost if clocks differ."""
INSTALL = "https://jobset.sigs.k8s.io/docs/installation/"


class Cluster:
    """One namespace of a cluster, from the kubeconfig or from the pod that this runs in."""

    def __init__(self, options: Kubernetes) -> None:
        from kubernetes import client, config

        settings = client.Configuration()
        settings.retries = False
        try:
            if path := _kubeconfig():
                config.load_kube_config(path, options.context or None, settings)
            else:
                config.load_incluster_config(settings)
        except (config.ConfigException, OSError) as error:
            raise InputError(
                f"no cluster to submit to: {str(error).rstrip('.')}; make `kubectl get jobs` work first"
            ) from None
        api = client.ApiClient(settings)
        self.batch, self.core, self.custom = (
            client.BatchV1Api(api),
            client.CoreV1Api(api),
            client.CustomObjectsApi(api),
        )
        self.context, default = _context(options.context)
        self.namespace = options.namespace or default
        self.kind = "job"
        self.flags = [f"--context={options.context}"] * bool(options.context) + [f"--namespace={self.namespace}"]

    def submit(self, manifest: Object) -> str:
        """Sends a job; returns its name."""
        name = manifest["metadata"]["name"]
        self.kind = manifest["kind"].lower()
        own = {OWN: token()}
        manifest = manifest | {"metadata": manifest["metadata"] | {"annotations": own}}

        def taken() -> str:
            try:
                metadata = self._read(name)["metadata"]
            except InputError:
                return ""
            # Else the name is that of an older job, and creating this one is refused.
            return name if own.items() <= (metadata.get("annotations") or {}).items() else ""

        return send(lambda: self._create(manifest) or name, taken)

    def _create(self, manifest: Object) -> None:
        if manifest["kind"] == "Job":
            _ask(self.batch.create_namespaced_job, self.namespace, manifest)
            return
        group, version, plural = JOBSET
        try:
            _ask(self.custom.create_namespaced_custom_object, group, version, self.namespace, plural, manifest)
        except Refused as error:
            if error.status == 404 and "page not found" in str(error):
                raise InputError(
                    f"the cluster does not have JobSet, which several hosts need; install it: {INSTALL}"
                ) from None
            raise

    def page(self, name: str) -> str:
        """How to view the job: its page in GKE's console, or a kubectl command."""
        gke = re.fullmatch(r"gke_([^_]+)_([^_]+)_(.+)", self.context)
        if not gke or self.kind == "jobset":
            return shlex.join(["kubectl", *self.flags, "describe", self.kind, name])
        project, location, cluster = gke.groups()
        path = f"{location}/{cluster}/{self.namespace}/{name}"
        return f"https://console.cloud.google.com/kubernetes/job/{path}/details?project={project}"

    def follow_command(self, name: str) -> str:
        """The command that follows a job again."""
        return shlex.join(["deeplab", "submit", "kubernetes", *self.flags, "--follow", name])

    def end_command(self, name: str) -> str:
        """The command that ends a job."""
        return shlex.join(["kubectl", *self.flags, "delete", self.kind, name])

    def follow(self, name: str) -> Iterator[str]:
        """Yields lines on the states of a job, and its log; returns its exit status.

        Raises:
          Refused: the cluster refuses access, or no longer knows the job.
          Lost: the cluster has not answered for a while.
          InputError: the job cannot start.
        """
        course, log, patience = Course(), Log(self), Patience()
        while True:
            try:
                job = self._read(name)
                pods = self._pods(name)
                patience.heard()
                yield from course.changes(states(job, pods["items"]))
                if not pods["items"]:
                    yield from course.changes({f"job {name}": self._warning(name)})
                for pod in pods["items"]:
                    if reason := stuck(pod):
                        raise InputError(f"job {name} cannot start: {reason}; `{self.end_command(name)}` removes it")
                for pod in filter(is_first, pods["items"]):
                    yield from log.lines(pod)
                if (status := exit_status(job, pods["items"])) is not None:
                    return status
                self._wait(name, pods["metadata"].get("resourceVersion", ""))
            except Lost as error:
                yield from patience.wait(error)

    def _read(self, name: str) -> Object:
        """Reads a Job or a JobSet."""
        group, version, plural = JOBSET
        calls = {
            "job": lambda: _ask(self.batch.read_namespaced_job, name, self.namespace),
            "jobset": lambda: _ask(
                self.custom.get_namespaced_custom_object, group, version, self.namespace, plural, name
            ),
        }
        for kind in sorted(calls, key=lambda kind: kind != self.kind):
            try:
                job = calls[kind]()
                self.kind = kind
                return job
            except Refused as error:
                if error.status != 404:
                    raise
        raise InputError(f"there is no job {name} in the namespace {self.namespace}; it was deleted, or is elsewhere")

    def _selector(self, name: str) -> str:
        return f"jobset.sigs.k8s.io/jobset-name={name}" if self.kind == "jobset" else f"job-name={name}"

    def _pods(self, name: str) -> Object:
        """All pods that the job has had, oldest first."""
        pods = _ask(self.core.list_namespaced_pod, self.namespace, label_selector=self._selector(name))
        pods["items"].sort(key=lambda pod: pod["metadata"].get("creationTimestamp") or "")
        return pods

    def _warning(self, name: str) -> str:
        """The last warning on a job that has no pods, such as an exhausted quota."""
        selector = f"involvedObject.name={name},type=Warning"
        try:
            events = _ask(self.core.list_namespaced_event, self.namespace, field_selector=selector)["items"]
        except Refused:  # accounts that may create jobs are not always allowed to read events
            return ""
        return f"{events[-1].get('reason')}: {events[-1].get('message')}" if events else ""

    def _wait(self, name: str, version: str) -> None:
        """Returns when something happens to a pod of the job, or after `WAIT` seconds."""
        watch = {"label_selector": self._selector(name), "resource_version": version, "watch": True}
        for _ in lines(self.core.list_namespaced_pod, self.namespace, timeout_seconds=WAIT, **watch):
            return


class Log:
    """The logs of the first host's pods, with each line once, however often the connection is lost."""

    def __init__(self, cluster: Cluster) -> None:
        self.cluster = cluster
        self.finished: set[str] = set()
        self.last: dict[str, tuple[str, float]] = {}

    def lines(self, pod: Object) -> Iterator[str]:
        """New lines of a pod, until it has no more for now."""
        name, state = pod["metadata"]["name"], container(pod).get("state", {})
        if name in self.finished or not state or "waiting" in state:
            return
        since = {}
        if name in self.last:
            since = {"since_seconds": int(time.monotonic() - self.last[name][1]) + SLACK}
        read = self.cluster.core.read_namespaced_pod_log
        try:
            for line in lines(
                read, name, self.cluster.namespace, follow=True, timestamps=True, container=CONTAINER, **since
            ):
                stamp, _, text = line.partition(" ")
                moment = stamp.rstrip("Z")
                if moment > self.last.get(name, ("", 0))[0]:
                    self.last[name] = moment, time.monotonic()
                    yield text.rpartition("\r")[2]
        except Refused as error:
            if error.status != 404:  # the pod is gone
                raise
        if "terminated" in state:
            self.finished.add(name)


def _kubeconfig() -> str:
    """The path of the kubeconfig, as kubectl finds it; "" if there is none, as inside a cluster."""
    paths = os.path.expanduser(os.environ.get("KUBECONFIG") or "~/.kube/config")
    return paths if any(map(os.path.exists, paths.split(os.pathsep))) else ""


def _context(name: str) -> tuple[str, str]:
    """Name and namespace of a context; inside a cluster, the pod's own namespace."""
    from kubernetes import config

    if not (path := _kubeconfig()):
        with contextlib.suppress(OSError), open("/var/run/secrets/kubernetes.io/serviceaccount/namespace") as file:
            return "", file.read().strip()
        return "", "default"
    contexts, active = config.list_kube_config_contexts(path)
    context = next((one for one in contexts if one["name"] == name), active)
    return context["name"], context["context"].get("namespace") or "default"


def _ask(call: Callable[..., Any], *arguments: Any, **more: Any) -> Object:
    """The JSON answer to a call of the client."""
    with _open(call, *arguments, **more) as response:
        return json.loads(response.data)


def lines(call: Callable[..., Any], *arguments: Any, **more: Any) -> Iterator[str]:
    """Yields the lines of an answer as they arrive."""
    with _open(call, *arguments, **more) as response:
        for line in response:
            yield line.decode("utf-8", "replace").rstrip("\n")


@contextlib.contextmanager
def _open(call: Callable[..., Any], *arguments: Any, **more: Any) -> Iterator[Any]:
    """Yields the answer to a call. Turns errors, also those in the block, into Refused and Lost."""
    import urllib3
    from kubernetes.client import ApiException

    try:
        response = call(*arguments, **more, _preload_content=False, _request_timeout=TIMEOUT)
        with contextlib.closing(response):
            if not 200 <= response.status < 300:
                raise ApiException(status=response.status, reason=response.reason, body=response.data.decode())
            yield response
    except ApiException as error:
        message = error.body or error.reason or ""
        with contextlib.suppress(ValueError, TypeError, AttributeError):
            message = json.loads(error.body).get("message") or message
        raise _verdict(int(error.status or 0), message.strip()) from None
    except (urllib3.exceptions.HTTPError, OSError) as error:
        raise Lost(f"the cluster does not answer ({type(error).__name__})") from None


def _verdict(status: int, message: str) -> Exception:
    if status in (408, 410, 429) or status >= 500:
        return Lost(f"the cluster answers {status}: {message}", retry=status != 429)
    if status in (0, 401):
        cure = "log in as for kubectl, such as with `gcloud container clusters get-credentials`"
        return Refused(f"the cluster rejects your credentials ({message or 'no valid credentials'}); {cure}", status)
    if status == 403 and "exceeded quota" in message:
        return Lost(f"quota: {message}", retry=False)
    if status == 403:
        return Refused(
            f"{message}; ask for a role that may create jobs, and get and watch pods and their logs", status
        )
    if status == 409:
        return Refused(f"{message}; give another --name, or --follow it", status)
    return Refused(f"the cluster answers {status}: {message}", status)

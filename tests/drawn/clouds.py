"""A Kubernetes API server and Vertex AI on loopback: a few routes of each, and the faults of real ones."""

from __future__ import annotations

import contextlib
import http.server
import json
import re
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import parse_qs, urlsplit

DROP = 0
"""Status of a fault: the connection breaks before there is an answer."""


@dataclass
class Fault:
    """What happens to the next request that fits, instead of an answer.

    Attributes:
      request: pattern of method and path: "POST .*/jobs".
      status: of the answer, or DROP.
      is_done: whether the service does what was asked all the same.
    """

    request: str
    status: int
    message: str = ""
    is_done: bool = False


@dataclass
class Reply:
    """A JSON value, or lines that come one by one, after which the connection breaks or not."""

    value: Any = None
    status: int = 200
    lines: list[str] | None = None
    breaks: bool = False


class Server(http.server.ThreadingHTTPServer):
    """Answers with what `reply` makes of a request.

    Attributes:
      faults: each happens once.
      requests: method and path of all requests so far.
    """

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.url = f"http://127.0.0.1:{self.server_port}"
        self.faults: list[Fault] = []
        self.requests: list[str] = []

    def reply(self, method: str, path: str, query: dict[str, list[str]], value: Any) -> Reply:
        raise NotImplementedError

    def refusal(self, status: int, message: str) -> Any:
        """The body of an answer that says no."""
        raise NotImplementedError

    def handle_error(self, *_: Any) -> None:
        """Clients that leave in the middle of an answer are no fault."""


class _Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Server

    def log_message(self, *_: Any) -> None:
        pass

    def _do(self) -> None:
        value = json.loads(self.rfile.read(int(self.headers.get("Content-Length") or 0)) or b"null")
        request, url = f"{self.command} {self.path}", urlsplit(self.path)
        self.server.requests.append(request)
        fault = next((one for one in self.server.faults if re.match(one.request, request)), None)
        reply = None
        if not fault or fault.is_done:
            reply = self.server.reply(self.command, url.path, parse_qs(url.query), value)
        if fault:
            self.server.faults.remove(fault)
            reply = Reply(self.server.refusal(fault.status, fault.message), fault.status) if fault.status else None
        if reply is None:
            self.close_connection = True
        elif reply.lines is None:
            self._send(json.dumps(reply.value).encode(), reply.status)
        else:
            self._stream(reply.lines, reply.breaks)

    def _send(self, data: bytes, status: int) -> None:
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def _stream(self, lines: list[str], breaks: bool) -> None:
        self.send_response(200)
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        for line in lines:
            data = f"{line}\n".encode()
            self.wfile.write(b"%x\r\n%s\r\n" % (len(data), data))
        self.wfile.write(b"" if breaks else b"0\r\n\r\n")
        self.close_connection = True

    do_GET = do_POST = _do


@contextlib.contextmanager
def running(server: Server) -> Iterator[Any]:
    with server:
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
        yield server
        server.shutdown()


@dataclass
class Moment:
    """What a cluster says at one time.

    Attributes:
      pods: status of every pod by its name.
      condition: of the job, with its reason and message: ("Failed", "BackoffLimitExceeded", "...").
      events: reasons and messages of warnings.
    """

    pods: dict[str, dict[str, Any]] = field(default_factory=dict)
    condition: tuple[str, str, str] | None = None
    events: tuple[tuple[str, str], ...] = ()


class KubernetesServer(Server):
    """The API server of a cluster in which jobs live a life that is written down before.

    Attributes:
      life: each watch of the pods that is asked for brings the next moment; the last one stays.
      logs: replies to the next readings of each pod's log.
      jobs: that were created, by name.
      has_jobsets: whether JobSets are installed.
    """

    def __init__(self) -> None:
        super().__init__()
        self.life: list[Moment] = [Moment()]
        self.logs: dict[str, list[Reply]] = {}
        self.jobs: dict[str, Any] = {}
        self.has_jobsets = True

    def refusal(self, status: int, message: str) -> Any:
        return {"kind": "Status", "apiVersion": "v1", "status": "Failure", "message": message, "code": status}

    def reply(self, method: str, path: str, query: dict[str, list[str]], value: Any) -> Reply:
        *_, plural, name = ["", *path.split("/")]
        if method == "POST":
            return self._create(name, value)
        if plural in ("jobs", "jobsets"):
            kind = {"jobs": "Job", "jobsets": "JobSet"}[plural]
            if self.jobs.get(name, {}).get("kind") != kind:
                return Reply(self.refusal(404, f'{plural} "{name}" not found'), 404)
            return Reply(self.jobs[name] | {"status": self._status()})
        if name == "log":
            replies = self.logs.get(plural, [])
            return replies.pop(0) if replies else Reply(lines=[])
        if name == "events":
            return Reply({"items": [{"reason": reason, "message": text} for reason, text in self.life[0].events]})
        if query.get("watch"):
            if len(self.life) > 1:
                self.life.pop(0)
            return Reply(lines=[json.dumps({"type": "MODIFIED", "object": {"metadata": {"resourceVersion": "2"}}})])
        pods = [{"metadata": {"name": pod}, **state} for pod, state in self.life[0].pods.items()]
        return Reply({"metadata": {"resourceVersion": "1"}, "items": pods})

    def _create(self, plural: str, value: Any) -> Reply:
        name = value["metadata"]["name"]
        if plural == "jobsets" and not self.has_jobsets:
            return Reply("404 page not found", 404)
        if name in self.jobs:
            return Reply(self.refusal(409, f'{plural} "{name}" already exists'), 409)
        self.jobs[name] = value
        return Reply(value, 201)

    def _status(self) -> dict[str, Any]:
        if not self.life[0].condition:
            return {}
        kind, reason, message = self.life[0].condition
        return {"conditions": [{"type": kind, "status": "True", "reason": reason, "message": message}]}


def pod(phase: str = "Running", node: str = "node-1", taken: str = "", **state: dict[str, Any]) -> dict[str, Any]:
    """A pod's status: its container's `state`, such as running={}, and why its machine was `taken` away."""
    conditions = [{"type": "DisruptionTarget", "status": "True", "reason": taken}] if taken else []
    containers = [{"name": "deeplab", "state": state}] if state else []
    status = {"phase": phase, "conditions": conditions, "containerStatuses": containers}
    return {"spec": {"nodeName": node}, "status": status}


def log(*lines: str, start: int = 1, breaks: bool = False) -> Reply:
    """A reading of a log: its lines, one a second from second `start` on."""
    stamped = [f"2026-01-01T00:00:{start + place:02d}.5Z {line}" for place, line in enumerate(lines)]
    return Reply(lines=stamped, breaks=breaks)


class VertexServer(Server):
    """Vertex AI's customJobs of one region.

    Attributes:
      life: states of a job and messages; each look at it brings the next one, the last one stays.
      jobs: that were created, by name.
    """

    def __init__(self) -> None:
        super().__init__()
        self.life: list[tuple[str, str]] = [("PENDING", "")]
        self.jobs: dict[str, Any] = {}

    def refusal(self, status: int, message: str) -> Any:
        return {"error": {"code": status, "message": message, "status": "UNKNOWN"}}

    def reply(self, method: str, path: str, query: dict[str, list[str]], value: Any) -> Reply:
        name = path.removeprefix("/v1/")
        if method == "POST":
            name = f"{name}/{100 + len(self.jobs)}"
            self.jobs[name] = value | {"name": name, "state": "JOB_STATE_PENDING"}
            return Reply(self.jobs[name])
        if name.endswith("/customJobs"):
            wanted = query["filter"][0].partition('"')[2].rstrip('"')
            return Reply({"customJobs": [job for job in self.jobs.values() if job["displayName"] == wanted]})
        if name not in self.jobs:
            return Reply(self.refusal(404, f"{name} is not found"), 404)
        state, message = self.life.pop(0) if len(self.life) > 1 else self.life[0]
        error = {"error": {"code": 3, "message": message}} if message else {}
        return Reply(self.jobs[name] | {"state": f"JOB_STATE_{state}"} | error)

"""A service that answers as Dataflow's REST interface does, as far as jobs are sent, followed and cancelled."""

from __future__ import annotations

import json
import re
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from google.cloud.dataflow_v1beta3 import JobState

WORKERS = f"image:python{sys.version_info.major}.{sys.version_info.minor}"
"""An image of workers that have the Python of this process."""
FLAGS = [
    *("--runner=DataflowRunner", "--project=drawn", "--region=r", "--temp_location=gs://seg/tmp", "--no_auth"),
    f"--sdk_container_image={WORKERS}",
]
"""Of a job for Dataflow, to which `endpoint` adds where."""


class Dataflow:
    """The service; a test sets what it answers.

    Attributes:
      jobs: id -> the job as the service has it.
      states: what the states of a job are, each at one question; the last one stays.
      counters: name -> value of Beam counters.
      errors: messages of that importance.
      failing: how many more requests are answered with 503; a negative number for all of them.
    """

    def __init__(self, address: str) -> None:
        self.endpoint = f"--dataflow_endpoint={address}"
        self.jobs: dict[str, dict[str, Any]] = {}
        self.states = ["RUNNING"]
        self.counters: dict[str, int] = {}
        self.errors: list[str] = []
        self.failing = 0

    def add(self, name: str) -> str:
        """A job of that name that runs; returns its id."""
        return self.create({"name": name})["id"]

    def create(self, job: dict[str, Any]) -> dict[str, Any]:
        number = f"2026-{len(self.jobs)}"
        self.jobs[number] = {**job, "id": number, "currentState": "JOB_STATE_RUNNING", "clientRequestId": ""}
        return self.jobs[number]

    def answer(self, method: str, path: str, body: dict[str, Any]) -> dict[str, Any] | None:
        """What the service answers; None where there is nothing at that path."""
        found = re.fullmatch(r"/v1b3/projects/drawn/locations/r/jobs(?:/(?P<job>[^/]+))?(?:/(?P<what>\w+))?", path)
        if not found:
            return None
        number, what = found["job"], found["what"]
        if number is None:
            return self.create(body) if method == "POST" else {"jobs": list(self.jobs.values())}
        if number not in self.jobs:
            return None
        if what == "messages":
            return {"jobMessages": [{"messageText": text} for text in self.errors]}
        if what == "metrics":
            return {"metrics": [metric for name in self.counters for metric in self.metrics(name)]}
        if method == "PUT":
            self.states = [JobState(body["requestedState"]).name.removeprefix("JOB_STATE_")]
        state = self.states.pop(0) if len(self.states) > 1 else self.states[0]
        self.jobs[number]["currentState"] = f"JOB_STATE_{state}"
        return self.jobs[number]

    def metrics(self, name: str) -> Iterator[dict[str, Any]]:
        """A counter as the service has it: what is committed, and ahead of that what is tentative."""
        context = {"namespace": "segment", "step": "s1"}
        yield {"name": {"origin": "user", "name": name, "context": context}, "scalar": 0}
        tentative = {**context, "tentative": "true"}
        yield {"name": {"origin": "user", "name": name, "context": tentative}, "scalar": self.counters[name]}


@contextmanager
def dataflow() -> Iterator[Dataflow]:
    """The service on a port of this machine while the block runs."""

    class Handler(BaseHTTPRequestHandler):
        def answer(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers.get("Content-Length") or 0)) or b"{}")
            if service.failing:
                service.failing -= 1
                status, content = 503, {"error": {"code": 503, "message": "try later"}}
            else:
                found = service.answer(self.command, self.path.partition("?")[0], body)
                status, content = (200, found) if found is not None else (404, {"error": {"message": "not found"}})
            data = json.dumps(content).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        do_GET = do_POST = do_PUT = answer

        def log_message(self, *args: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        service = Dataflow(f"http://localhost:{server.server_port}")
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        yield service
        server.shutdown()

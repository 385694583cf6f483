"""Faults of storage: answers of Cloud Storage that fail, and calls of the system that do."""

from __future__ import annotations

import io
import itertools
import os
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import pytest
import requests
import urllib3

from trainer import attempts, storage
from trainer.files import cloud
from trainer.files.connections import Answer

Fault = Callable[[int, requests.PreparedRequest], "requests.Response | Exception | None"]
"""What happens to a request, by its number from 1: another answer, an exception, or None for the true answer."""
OF_MANY_THREADS = 100
"""Further attempts where every third request of several threads fails: one request may be the third several times."""


def answer(
    request: requests.PreparedRequest, status: int, body: bytes = b"{}", headers: Any = ()
) -> requests.Response:
    """An answer of that status and body."""
    response = requests.Response()
    response.status_code, response.request, response.url = status, request, request.url
    response.headers.update({"Content-Type": "application/json"} | dict(headers))
    response.raw = urllib3.HTTPResponse(io.BytesIO(body), response.headers, status, preload_content=False)
    return response


def in_the_cloud(monkeypatch: pytest.MonkeyPatch, fault: Fault) -> list[requests.PreparedRequest]:
    """Lets `fault` decide on every request to Cloud Storage; returns the list of the requests, which grows."""
    seen: list[requests.PreparedRequest] = []
    numbers = itertools.count(1)  # of several threads no two get the same
    send = requests.Session.send

    def changed(self, request, **arguments):
        seen.append(request)
        outcome = fault(next(numbers), request)
        if isinstance(outcome, Exception):
            raise outcome
        return send(self, request, **arguments) if outcome is None else outcome

    monkeypatch.setattr(requests.Session, "send", changed)
    monkeypatch.setattr(cloud, "transfer", by_requests)
    return seen


def by_requests(
    url: str,
    headers: Mapping[str, str],
    check: Callable[[int], None] = lambda size: None,
    body: Iterable[bytes] | None = None,
) -> Answer:
    """`cloud.transfer` by `requests.Session.send`, the one place where tests change what comes."""
    data = None if body is None else b"".join(body)
    response = requests.Session().send(
        requests.Request("GET" if body is None else "POST", url, headers, data=data).prepare()
    )
    check(len(response.content))
    return Answer(response.status_code, response.headers.get, response.content)


def with_body(
    request: requests.PreparedRequest, change: Callable[[bytes], bytes], send: Callable[..., requests.Response]
) -> requests.Response:
    """The true answer to `request` with another body, and the headers of the true one, its checksum among them."""
    true = send(requests.Session(), request)
    content = true.content
    del true.headers["Content-Length"]
    return answer(request, true.status_code, change(content), true.headers)


def of_the_system(monkeypatch: pytest.MonkeyPatch, number: int, times: int, *, name: str = "") -> list[str]:
    """Lets the next openings of files fail with that error, of those whose path has `name` in it.

    Returns:
      the paths whose opening failed, a list that grows.
    """
    failed: list[str] = []
    true = open

    def fails(path: Any, *arguments: Any, **named: Any):
        if name in str(path) and len(failed) < times:
            failed.append(str(path))
            raise OSError(number, os.strerror(number), path)
        return true(path, *arguments, **named)

    monkeypatch.setattr("builtins.open", fails)
    return failed


def swept(monkeypatch: pytest.MonkeyPatch, times: int, suffix: str = "") -> list[str]:
    """Lets another process remove the next temporary files when they are about to get a name with that suffix.

    Returns:
      the paths of those that were removed, a list that grows.
    """
    removed: list[str] = []
    true = os.replace

    def late(source: str, path: str) -> None:
        if len(removed) < times and path.endswith(suffix):
            removed.append(source)
            os.remove(source)
        true(source, path)

    monkeypatch.setattr(os, "replace", late)
    return removed


class Interrupts:
    """Interrupts the command at a step of its writing; no step is, until `after` is set.

    Attributes:
      after: number of files that are still written or removed before.
    """

    NEVER = 1 << 30

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.after = self.NEVER
        for name in ("write", "writer", "remove"):
            monkeypatch.setattr(storage, name, self._counted(getattr(storage, name)))

    def _counted(self, step: Callable) -> Callable:
        def counted(*arguments):
            if not self.after:
                self.after = self.NEVER
                raise KeyboardInterrupt
            self.after -= 1
            return step(*arguments)

        return counted


def impatient(monkeypatch: pytest.MonkeyPatch, attempts_more: int = 4) -> None:
    """Does not wait before the further attempts."""
    monkeypatch.setattr(attempts, "WAITS", (0.0,) * attempts_more)

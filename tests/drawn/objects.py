"""Cloud Storage whose buckets are folders of the working directory, without a server, and with its faults."""

from __future__ import annotations

import base64
import contextlib
import json
import os
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from unittest import mock
from urllib.parse import parse_qs, unquote, urlsplit

import google_crc32c
import requests

from tests.drawn.faults import answer, by_requests
from trainer import attempts
from trainer.files import cloud

Fault = Callable[[requests.PreparedRequest, requests.Response], "requests.Response | Exception"]
"""What comes of a request and its true answer."""


def send(session: requests.Session, request: requests.PreparedRequest, **settings: Any) -> requests.Response:
    """The answer of Cloud Storage to a request of Google's client."""
    url = urlsplit(request.url)
    query = {name: values[0] for name, values in parse_qs(url.query).items()}
    bucket, slash, name = url.path.partition("/b/")[2].partition("/o")
    if not Path(bucket).is_dir():
        return answer(request, 404)
    if not slash:
        return _json(request, {"name": bucket})
    name = unquote(name.removeprefix("/")) or query.get("name", "")
    if request.method == "GET" and not name:
        return _listing(request, bucket, query)
    if request.method == "POST":
        name, data = _posted(request)
        return _put(request, Path(bucket, name), data, query)
    path = Path(bucket, name)
    if not path.is_file():
        return answer(request, 404)
    if request.method == "DELETE":
        return _removed(request, path, query)
    if query.get("alt") != "media":
        return _json(request, _described(path))
    data = path.read_bytes()
    headers = {"X-Goog-Hash": f"crc32c={_checksum(data)}", "X-Goog-Generation": str(_generation(path))}
    if span := re.fullmatch(r"bytes=(\d+)-(\d*)", request.headers.get("Range", "")):
        data = data[int(span[1]) : int(span[2]) + 1 if span[2] else None]
        return answer(request, 206, data, headers)
    return answer(request, 200, data, headers)


def _listing(request: requests.PreparedRequest, bucket: str, query: dict[str, str]) -> requests.Response:
    prefix, delimiter = query.get("prefix", ""), query.get("delimiter")
    items, prefixes = [], set()
    for place, _, files in os.walk(bucket):
        for file in files:
            name = os.path.relpath(os.path.join(place, file), bucket)
            rest = name[len(prefix) :]
            if not name.startswith(prefix):
                continue
            if delimiter and delimiter in rest:
                prefixes.add(prefix + rest.partition(delimiter)[0] + delimiter)
            else:
                with contextlib.suppress(FileNotFoundError):  # removed since it was found
                    items.append(_described(Path(bucket, name)))
    items = items[: int(query.get("maxResults", len(items)))]
    return _json(request, {"items": items, "prefixes": sorted(prefixes)})


def _posted(request: requests.PreparedRequest) -> tuple[str, bytes]:
    """Name and contents of an upload in parts."""
    boundary = re.search(r'boundary="?([^"]+)', str(request.headers["Content-Type"]))[1].encode()
    described, contents = request.body.split(b"--" + boundary)[1:3]
    return json.loads(described.partition(b"\r\n\r\n")[2])["name"], contents.partition(b"\r\n\r\n")[2][:-2]


def _put(request: requests.PreparedRequest, path: Path, data: bytes, query: dict[str, str]) -> requests.Response:
    if not _is_expected(path, query):
        return answer(request, 412)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    return _json(request, _described(path))


def _removed(request: requests.PreparedRequest, path: Path, query: dict[str, str]) -> requests.Response:
    if not _is_expected(path, query):
        return answer(request, 412)
    path.unlink()
    with contextlib.suppress(OSError):  # there are no folders, only names
        os.removedirs(path.parent)
    return answer(request, 204, b"")


def _is_expected(path: Path, query: dict[str, str]) -> bool:
    wanted = query.get("ifGenerationMatch")
    return wanted is None or int(wanted) == (_generation(path) if path.is_file() else 0)


def _generation(path: Path) -> int:
    return path.stat().st_mtime_ns


def _described(path: Path) -> dict[str, Any]:
    data, (bucket, *names) = path.read_bytes(), path.parts
    numbers = {"size": str(len(data)), "generation": str(_generation(path))}
    return {"name": "/".join(names), "bucket": bucket, "crc32c": _checksum(data), **numbers}


def _checksum(data: bytes) -> str:
    return base64.b64encode(google_crc32c.value(data).to_bytes(4, "big")).decode()


def _json(request: requests.PreparedRequest, value: Any) -> requests.Response:
    return answer(request, 200, json.dumps(value).encode())


def of_status(status: int) -> Fault:
    return lambda request, true: answer(request, status)


def cut_off(request: requests.PreparedRequest, true: requests.Response) -> requests.Response:
    """Half of the contents, which their length and checksum betray."""
    content = true.content
    return answer(request, true.status_code, content[: len(content) // 2], true.headers)


def spoilt(request: requests.PreparedRequest, true: requests.Response) -> requests.Response:
    """Other contents than those of the checksum."""
    content = true.content
    return answer(request, true.status_code, content[:-1] + bytes([content[-1] ^ 1]), true.headers)


def reset(request: requests.PreparedRequest, true: requests.Response) -> Exception:
    return requests.exceptions.ConnectionError("Connection reset by peer")


@contextlib.contextmanager
def buckets(fault: Fault | None = None, name: str = "", writing: bool = False) -> Iterator[None]:
    """Cloud Storage is what the folders of the working directory hold.

    Args:
      fault: what happens to requests for the contents of objects whose address has `name` in it, or, `writing`, to
        those that change one; such a change is not made.
    """

    def answered(session: requests.Session, request: requests.PreparedRequest, **settings: Any) -> requests.Response:
        is_write = request.method != "GET"
        is_hit = is_write if writing else request.method == "GET" and "alt=media" in request.url
        where = unquote(request.url) + (str(request.body[:400]) if request.method == "POST" else "")
        if fault is None or not is_hit or name not in where:
            return send(session, request, **settings)
        outcome = fault(request, answer(request, 500) if is_write else send(session, request, **settings))
        if isinstance(outcome, Exception):
            raise outcome
        return outcome

    with (
        mock.patch.object(requests.Session, "send", answered),
        mock.patch.object(cloud, "transfer", by_requests),
        mock.patch.dict(os.environ, STORAGE_EMULATOR_HOST="http://storage.invalid"),
        mock.patch.object(attempts, "WAITS", (0.0,) * 3),
    ):
        cloud.client.cache_clear()
        try:
            yield
        finally:
            cloud.client.cache_clear()

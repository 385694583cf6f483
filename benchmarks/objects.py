"""A small Cloud Storage in memory, for tests and measurements: with parts of objects, conditions on generations,
a delay, and faults.

    python benchmarks/objects.py 9023 0.05       # STORAGE_EMULATOR_HOST=http://127.0.0.1:9023, 50 ms for every request
    python benchmarks/objects.py 9023 0.05 0.03  # and 3 % of them fail
"""

from __future__ import annotations

import base64
import contextlib
import functools
import itertools
import json
import re
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import NamedTuple
from urllib.parse import parse_qs, unquote, urlsplit

import google_crc32c

from trainer.processes import keep_memory

PAGE = 1000
"""Objects in an answer to a listing."""
OBJECT = re.compile(r"(?:/download)?/storage/v1/b/(?P<bucket>[^/]+)/o/(?P<name>[^/]+)")
BLOCK = 1 << 20
"""Bytes of an object that are summed up at a time."""
COUNT = "/requests"
"""Where the number of the requests so far is told, and the processor time that this server has taken, in seconds."""
BUCKET = re.compile(r"/storage/v1/b/(?P<bucket>[^/]+)")
LISTING = re.compile(r"/storage/v1/b/(?P<bucket>[^/]+)/o")
PART = re.compile(r"bytes=(?P<start>\d+)-(?P<end>\d*)")
UPLOAD = re.compile(r"(?:/resumable)?/upload/storage/v1/b/(?P<bucket>[^/]+)/o")


class Stored(NamedTuple):
    """An object: its bytes, its generation, and its checksum as it is told."""

    data: bytes | memoryview
    generation: int
    checksum: str


class Objects(ThreadingHTTPServer):
    """The objects of all buckets, served over HTTP.

    Attributes:
      delay: seconds that every request takes at least.
      fault: gets the number of a request from 1, its method and its address, and returns the status of an answer that
        takes the place of the true one, or None.
      requests: method and address of all requests so far.
      spans: when each of them came, and when its answer left, in seconds.
    """

    daemon_threads = True
    request_queue_size = 128

    def __init__(self, port: int = 0, delay: float = 0.0, fault: Callable[[int, str, str], int | None] | None = None):
        super().__init__(("127.0.0.1", port), _Handler)
        self.delay, self.fault = delay, fault
        self.requests: list[tuple[str, str]] = []
        self.spans: list[tuple[float, float]] = []
        self.contents: dict[tuple[str, str], Stored] = {}
        self.uploads: dict[str, tuple[str, str | None, list[bytes]]] = {}
        self.lock = threading.Lock()
        self.generations = itertools.count(1)

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"

    def store(
        self, key: tuple[str, str], data: bytes | memoryview, condition: str | None, crc32c: str
    ) -> dict[str, str] | None:
        """What is to be told of the new object; None where the condition on its generation does not hold.

        Args:
          crc32c: its `checksum`.
        """
        with self.lock:
            if not self.holds(key, condition):
                return None
            self.contents[key] = Stored(data, next(self.generations), crc32c)
            return self.described(key)

    def holds(self, key: tuple[str, str], condition: str | None) -> bool:
        return condition is None or int(condition) == (self.contents[key].generation if key in self.contents else 0)

    def described(self, key: tuple[str, str]) -> dict[str, str]:
        data, generation, stored = self.contents[key]
        about = {"bucket": key[0], "name": key[1], "size": str(len(data)), "generation": str(generation)}
        return about | {"crc32c": stored}

    def handle_error(self, request: object, client_address: object) -> None:
        """Nothing: clients that are killed cut their connections."""


def checksum(data: bytes | memoryview) -> str:
    """The CRC32C of an object, as it is told; of parts, since the library takes no memoryview."""
    parts = (bytes(data[start : start + BLOCK]) for start in range(0, len(data), BLOCK))
    return base64.b64encode(functools.reduce(google_crc32c.extend, parts, 0).to_bytes(4, "big")).decode()


def one_after_another(spans: Iterable[tuple[float, float]]) -> int:
    """The most requests of which each came when the answer to the one before had left."""
    count, free = 0, float("-inf")
    for begin, end in sorted(spans, key=lambda span: span[1]):
        if begin >= free:
            count, free = count + 1, end
    return count


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    server: Objects

    def log_message(self, *args: object) -> None:
        """Nothing."""

    def _serve(self) -> None:
        begin, body = time.monotonic(), self.rfile.read(int(self.headers.get("Content-Length") or 0))
        if self.path == COUNT:
            self._answer(200, {"requests": len(self.server.requests), "seconds": time.process_time()})
            return
        with self.server.lock:
            self.server.requests.append((self.command, self.path))
            number = len(self.server.requests)
        time.sleep(self.server.delay)
        self.server.spans.append((begin, time.monotonic()))
        if self.server.fault and (status := self.server.fault(number, self.command, self.path)):
            self._answer(status)
            return
        url = urlsplit(self.path)
        query = {name: values[0] for name, values in parse_qs(url.query, keep_blank_values=True).items()}
        if parts := OBJECT.fullmatch(url.path):
            self._object((parts["bucket"], unquote(parts["name"])), query)
        elif parts := UPLOAD.fullmatch(url.path):
            self._upload(parts["bucket"], query, body)
        elif parts := LISTING.fullmatch(url.path):
            self._list(parts["bucket"], query)
        elif parts := BUCKET.fullmatch(url.path):
            self._answer(200, {"name": parts["bucket"]})
        else:
            self._answer(404)

    do_GET = do_POST = do_PUT = do_DELETE = _serve

    def _answer(self, status: int, content: object = None, data: bytes = b"", **headers: str) -> None:
        data = data or json.dumps(content or {}).encode()
        self.send_response(status)
        for name, value in {"Content-Type": "application/json", "Content-Length": str(len(data)), **headers}.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        self.wfile.write(data)

    def _object(self, key: tuple[str, str], query: dict[str, str]) -> None:
        with self.server.lock:
            data, generation, stored = self.server.contents.get(key, (None, 0, ""))
            if data is None or not self.server.holds(key, query.get("ifGenerationMatch")):
                status = 404 if data is None else 412
            elif self.command == "DELETE":
                del self.server.contents[key]
                status = 204
            else:
                status = 200
        if status == 200 and query.get("alt") == "media":
            headers = {"X_Goog_Hash": f"crc32c={stored}", "X_Goog_Generation": str(generation)}
            if span := PART.fullmatch(self.headers.get("Range", "")):
                start, end = int(span["start"]), min(int(span["end"] or len(data)), len(data) - 1)
                is_held = start < len(data)
                headers["Content_Range"] = f"bytes {f'{start}-{end}' if is_held else '*'}/{len(data)}"
                status, data = (206, data[start : end + 1]) if is_held else (416, b"")
            self.send_response(status)
            for name, value in {"Content-Length": str(len(data)), **headers}.items():
                self.send_header(name.replace("_", "-"), value)
            self.end_headers()
            self.wfile.write(data)
        elif status == 204:
            self.send_response(204)
            self.end_headers()
        else:
            self._answer(status, self.server.described(key) if status == 200 else None)

    def _upload(self, bucket: str, query: dict[str, str], body: bytes) -> None:
        if "upload_id" in query:
            name, condition, parts = self.server.uploads[query["upload_id"]]
            parts.append(body)
            size = sum(map(len, parts))
            _, _, place = self.headers["Content-Range"].partition(" ")
            if place.endswith("/*") or int(place.rpartition("/")[2]) > size:
                self._answer(308, Range=f"bytes=0-{size - 1}")
                return
            del self.server.uploads[query["upload_id"]]
            data = b"".join(parts)
            self._stored((bucket, name), data, condition, checksum(data))
        elif query["uploadType"] == "resumable":
            name = str(json.loads(body or b"{}").get("name") or query.get("name"))
            number = str(next(self.server.generations))
            self.server.uploads[number] = (name, query.get("ifGenerationMatch"), [])
            place = f"{self.server.address}/upload/storage/v1/b/{bucket}/o?upload_id={number}"
            self._answer(200, Location=place)
        else:
            edge = b"--" + self.headers["Content-Type"].partition("boundary=")[2].strip('"').encode()
            # Neither split nor copied: a copy of a large body takes this server longer than all the rest.
            begin = body.index(b"\r\n\r\n") + 4
            middle = body.index(b"\r\n" + edge, begin)
            about = json.loads(body[begin:middle])
            data = memoryview(body)[body.index(b"\r\n\r\n", middle) + 4 : body.rindex(b"\r\n" + edge)]
            crc32c = checksum(data)
            if about.get("crc32c", crc32c) != crc32c:
                self._answer(400, {"error": {"errors": [{"message": "CRC32C does not match"}]}})
                return
            self._stored((bucket, about["name"]), data, query.get("ifGenerationMatch"), crc32c)

    def _stored(self, key: tuple[str, str], data: bytes | memoryview, condition: str | None, crc32c: str) -> None:
        about = self.server.store(key, data, condition, crc32c)
        self._answer(200 if about else 412, about)

    def _list(self, bucket: str, query: dict[str, str]) -> None:
        prefix, delimiter = query.get("prefix", ""), query.get("delimiter", "")
        after, limit = query.get("pageToken", ""), int(query.get("maxResults") or PAGE)
        items, prefixes, last, token = [], [], "", None
        with self.server.lock:
            names = sorted(name for of, name in self.server.contents if of == bucket and name.startswith(prefix))
            for name in names:
                folder, slash, _ = name[len(prefix) :].partition(delimiter) if delimiter else ("", "", "")
                row = prefix + folder + slash if slash else name
                if row <= after or (prefixes and prefixes[-1] == row):
                    continue
                if len(items) + len(prefixes) == limit:
                    token = last
                    break
                last = row
                if slash:
                    prefixes.append(row)
                else:
                    items.append(self.server.described((bucket, name)))
        self._answer(200, {"items": items, "prefixes": prefixes} | ({"nextPageToken": token} if token else {}))


@contextlib.contextmanager
def served(delay: float = 0.0, fault: Callable[[int, str, str], int | None] | None = None) -> Iterator[Objects]:
    """The server in threads of this process, while the block runs."""
    server = Objects(delay=delay, fault=fault)
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()


if __name__ == "__main__":
    port, seconds, share = map(float, [*sys.argv[1:], "0"][:3])
    keep_memory()
    server = Objects(int(port), seconds)
    # Spread evenly: a number comes where the share of those before has grown by one.
    server.fault = lambda number, method, address: 503 if int(number * share) > int((number - 1) * share) else None
    server.serve_forever()

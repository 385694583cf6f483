"""A web server on loopback with the faults of real ones."""

from __future__ import annotations

import contextlib
import http.server
import os
import threading
from collections.abc import Iterator

CONTENT = os.urandom(300_000)
"""A file to serve."""


class Server(http.server.ThreadingHTTPServer):
    """Serves `content` under every path but /missing.

    Attributes:
      content: of the file; its ETag changes with it.
      headers: sent besides.
      breaks: bytes after which the connection breaks, one for each of the next requests.
      status: of every answer, 0: 200 or 206.
      redirects: status and address by the path that leads there.
      gives_parts: whether it heeds Range.
      heeds: whether it heeds If-Range.
      most: bytes of the largest part that it gives, 0: any.
      ranges: what the requests asked for, "" for the whole file.
    """

    daemon_threads = True

    def __init__(self, content: bytes):
        super().__init__(("127.0.0.1", 0), _Handler)
        self.content, self.headers, self.breaks, self.status = content, {}, [], 0
        self.redirects: dict[str, tuple[int, str]] = {}
        self.gives_parts, self.heeds, self.most = True, True, 0
        self.ranges: list[str] = []
        self.url = f"http://127.0.0.1:{self.server_port}/weights.bin"


class _Handler(http.server.BaseHTTPRequestHandler):
    server: Server

    def log_message(self, *_):
        pass

    def do_GET(self):
        server, asked = self.server, self.headers.get("Range", "")
        content = server.content
        server.ranges.append(asked)
        if self.path in server.redirects:
            status, target = server.redirects[self.path]
            self.send_response(status)
            self.send_header("Location", target)
            self.end_headers()
            return
        headers = {"ETag": f'"{hash(content)}"', **server.headers}
        is_same = self.headers.get("If-Range") == headers["ETag"] or not server.heeds
        start = int(asked[6:-1]) if asked and is_same and server.gives_parts else 0
        if self.path == "/missing" or server.status:
            self.send_error(server.status or 404)
            return
        if start >= len(content):
            self.send_response(416)
            self.send_header("Content-Range", f"bytes */{len(content)}")
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        part = content[start : start + server.most if start and server.most else None]
        self.send_response(206 if start else 200)
        if start:
            self.send_header("Content-Range", f"bytes {start}-{start + len(part) - 1}/{len(content)}")
        for name, value in {"Content-Length": len(part), **headers}.items():
            self.send_header(name, str(value))
        self.end_headers()
        if server.breaks:
            part = part[: server.breaks.pop(0)]
        self.wfile.write(part)
        self.close_connection = True


@contextlib.contextmanager
def served(content: bytes) -> Iterator[Server]:
    with Server(content) as server:
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
        yield server
        server.shutdown()

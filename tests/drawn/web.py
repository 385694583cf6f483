"""A web server on loopback with the faults of real ones."""

from __future__ import annotations

import contextlib
import http.server
import threading
from collections.abc import Iterator


class Server(http.server.ThreadingHTTPServer):
    """Serves `content` under every path but /missing.

    Attributes:
      content: of the file; its ETag changes with it.
      headers: sent besides.
      breaks: bytes after which the connection breaks, one for each of the next requests.
      status: of every answer, 0: 200 or 206.
      ranges: what the requests asked for, "" for the whole file.
    """

    daemon_threads = True

    def __init__(self, content: bytes):
        super().__init__(("127.0.0.1", 0), _Handler)
        self.content, self.headers, self.breaks, self.status = content, {}, [], 0
        self.ranges: list[str] = []
        self.url = f"http://127.0.0.1:{self.server_port}/weights.bin"


class _Handler(http.server.BaseHTTPRequestHandler):
    server: Server

    def log_message(self, *_):
        pass

    def do_GET(self):
        content, asked = self.server.content, self.headers.get("Range", "")
        self.server.ranges.append(asked)
        tag = f'"{hash(content)}"'
        start = int(asked[6:-1]) if asked and self.headers.get("If-Range") == tag else 0
        if self.path == "/missing" or self.server.status:
            self.send_error(self.server.status or 404)
            return
        self.send_response(206 if start else 200)
        if start:
            self.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
        for name, value in {"ETag": tag, "Content-Length": len(content) - start, **self.server.headers}.items():
            self.send_header(name, str(value))
        self.end_headers()
        part = content[start:]
        if self.server.breaks:
            part = part[: self.server.breaks.pop(0)]
        self.wfile.write(part)
        self.close_connection = True


@contextlib.contextmanager
def served(content: bytes) -> Iterator[Server]:
    with Server(content) as server:
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
        yield server
        server.shutdown()

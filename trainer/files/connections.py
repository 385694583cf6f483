"""Connections to a server that are kept open, over which whole objects are read and written.

The standard library's client takes half the processor time of the libraries that Google's client puts on top of it.
"""

from __future__ import annotations

import functools
import itertools
import os
import select
import ssl
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping
from http.client import HTTPConnection, HTTPSConnection
from typing import Any, BinaryIO, NamedTuple
from urllib.parse import urlsplit

BLOCK = 1 << 20
"""Bytes of a file that are in memory while it is sent."""


class Answer(NamedTuple):
    """The answer to a request.

    Attributes:
      status: the HTTP status.
      header: returns the value of a header, and None or its second argument if there is none.
      data: the body.
    """

    status: int
    header: Callable[..., Any]
    data: bytes


class Connections:
    """Connections to one server, each of them used by one thread at a time.

    Args:
      place: the server: "https://HOST", or "http://HOST:PORT".
      context: whom to trust; None for http.
      timeouts: seconds to wait for a connection, and for its next bytes.
    """

    def __init__(self, place: str, context: ssl.SSLContext | None, timeouts: tuple[float, float]) -> None:
        url, (connecting, self._reading) = urlsplit(place), timeouts
        kind = functools.partial(HTTPSConnection, context=context) if context else HTTPConnection
        self._make = functools.partial(kind, url.hostname, url.port, timeout=connecting)
        self._idle: list[HTTPConnection] = []

    def send(
        self,
        path: str,
        headers: Mapping[str, str],
        check: Callable[[int], None] = lambda size: None,
        body: Iterable[bytes] | None = None,
    ) -> Answer:
        """Sends a GET request, or, with a body, a POST request.

        Args:
          path: the address, from the slash after the host on.
          headers: the headers of the request, with the length of its body.
          check: called with the size of the answer's body, in bytes, before it is received; raises if it is too large.
          body: the parts of the request's body, which are never in memory together.

        Raises:
          OSError, http.client.HTTPException: there is no complete answer.
        """
        connection, is_sent = self._take(), True
        try:
            try:
                connection.request("GET" if body is None else "POST", path, body, headers)
            except (BrokenPipeError, ConnectionResetError):
                is_sent = False  # the server may have refused the body before it came to its end, and tell why
            answer = connection.getresponse()
            check(int(answer.getheader("Content-Length", 0)))
            data = answer.read()
        except BaseException:
            connection.close()
            raise
        if not is_sent:
            connection.close()
        elif connection.sock:  # the server keeps it open too
            self._idle.append(connection)
        return Answer(answer.status, answer.getheader, data)

    def _take(self) -> HTTPConnection:
        """An open connection: the one that was used last, since a server closes those that are idle for long."""
        while self._idle:
            try:
                connection = self._idle.pop()
            except IndexError:  # another thread has taken it
                break
            if not _is_readable(connection.sock):
                return connection
            connection.close()
        connection = self._make()
        connection.connect()
        connection.sock.settimeout(self._reading)
        return connection


def _is_readable(sock: Any) -> bool:
    """Whether there is something to read although nothing was asked for: the server has closed the connection."""
    poll = select.poll()
    poll.register(sock, select.POLLIN)
    return bool(poll.poll(0))


def related(about: str, kind: str, file: BinaryIO, size: int) -> tuple[dict[str, str], Iterator[bytes]]:
    """A "multipart/related" body (RFC 2387) of JSON and a file, and its headers.

    Args:
      about: the JSON.
      kind: the media type of the file.
      file: of `size` bytes, which are read block by block while they are sent.
    """
    edge = uuid.uuid4().hex
    parts = (("application/json; charset=UTF-8", about), (kind, ""))
    head = "\r\n".join(f"--{edge}\r\nContent-Type: {kind}\r\n\r\n{text}" for kind, text in parts).encode()
    tail = f"\r\n--{edge}--\r\n".encode()
    headers = {
        "Content-Type": f"multipart/related; boundary={edge}",
        "Content-Length": str(len(head) + size + len(tail)),
    }
    return headers, itertools.chain((head,), blocks(file), (tail,))


def blocks(file: BinaryIO) -> Iterator[bytes]:
    """The bytes of a file from its beginning on, BLOCK at a time."""
    file.seek(0)
    while block := file.read(BLOCK):
        yield block


def trust(certificates: str, own: str | tuple[str, str] | None) -> ssl.SSLContext:
    """Whom to trust.

    Args:
      certificates: a file, or a folder, with the certificates of authorities.
      own: the client's own certificate: a file, or a file and that of its key; None for none.
    """
    kind = "capath" if os.path.isdir(certificates) else "cafile"
    context = ssl.create_default_context(**{kind: certificates})
    if own:
        context.load_cert_chain(*([own] if isinstance(own, str) else own))
    return context

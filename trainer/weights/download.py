"""Files from the web, fetched once into a cache.

A transfer that breaks goes on where it was, in the same run or in the next one. What arrived is compared with the
checksum that was published for it, if any, and with the one that the server sends; its SHA-256 is then written beside
it, and compared at every later use. Where no checksum was published, the first transfer is therefore trusted.
"""

from __future__ import annotations

import base64
import contextlib
import errno
import fcntl
import hashlib
import http.client
import json
import os
import re
import shutil
import socket
import ssl
import sys
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator
from typing import BinaryIO

from tqdm import tqdm

from trainer.attempts import CorruptError, Unavailable, attempt
from trainer.options import WEB, InputError

TIMEOUT = 60.0
"""Seconds to wait for a connection, and then for its next bytes."""
CHUNK = 1 << 20

BEGINNINGS = {".gz": b"\x1f\x8b", ".tgz": b"\x1f\x8b", ".h5": b"\x89HDF\r\n\x1a\n", ".hdf5": b"\x89HDF\r\n\x1a\n"}
"""What files of these kinds begin with. Networks that want a login answer with a page of their own, and status 200."""


def cache() -> str:
    """The folder of fetched files: $DEEPLAB_CACHE, or deeplab in the user's cache."""
    home = os.environ.get("XDG_CACHE_HOME") or os.path.join(os.path.expanduser("~"), ".cache")
    return os.environ.get("DEEPLAB_CACHE") or os.path.join(home, "deeplab")


def fetch(url: str, md5: str = "") -> str:
    """The path of the file at `url`, which is fetched unless the cache has it.

    Args:
      url: http:// or https://.
      md5: as published, in hex digits; "" where none is.

    Raises:
      InputError: there is no such file, it is not the published one, or the one in the cache was changed.
      Unavailable: the connection breaks again and again, or the disk is full; the next run goes on.
    """
    name = os.path.basename(urllib.parse.urlsplit(url).path) or "file"
    # Two addresses may end in the same name.
    path = os.path.join(cache(), f"{hashlib.sha256(url.encode()).hexdigest()[:12]}-{name[-80:]}")
    if not os.path.exists(path):  # a cache that has it need not be one to write to
        attempt(path, lambda: os.makedirs(os.path.dirname(path), exist_ok=True), writing=True)
        with _alone(f"{path}.part"):
            if not os.path.exists(path):
                attempt(path, lambda: _fetch(url, f"{path}.part"), writing=True)
                _accept(url, path, md5)
    _check(path)
    return path


@contextlib.contextmanager
def _alone(part: str) -> Iterator[None]:
    """Waits until no other process fetches the file."""
    with attempt(part, lambda: open(f"{part}.lock", "wb"), writing=True) as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _digest(path: str, kind: str) -> str:
    digest = hashlib.new(kind)
    with open(path, "rb") as file:
        while chunk := file.read(CHUNK):
            digest.update(chunk)
    return digest.hexdigest()


def _accept(url: str, path: str, md5: str) -> None:
    """Names the whole file `path`.part so, once it is the published one and its SHA-256 lies beside it."""
    part, suffix = f"{path}.part", os.path.splitext(path)[1]
    expected = BEGINNINGS.get(suffix, b"")
    with open(part, "rb") as file:
        begin = file.read(len(expected))
    if begin != expected:
        _drop(part)
        raise InputError(
            f"{url} gave no {suffix} file: what came begins with {begin!r}, as a page does that asks for a login; it "
            "was not kept. Fetch it by other means and give the path of the file"
        )
    found = _digest(part, "md5")
    if md5 and found != md5:
        _drop(part)
        raise InputError(f"{url} has the MD5 {found}, but {md5} was published for it; it was not kept")
    with open(f"{path}.sha256", "w", encoding="utf-8") as file:
        file.write(f"{_digest(part, 'sha256')}  {os.path.basename(path)}\n")
    os.replace(part, path)
    _drop(part)


def _drop(part: str) -> None:
    for name in (part, f"{part}.json"):
        with contextlib.suppress(FileNotFoundError):
            os.remove(name)


def _check(path: str) -> None:
    try:
        with open(f"{path}.sha256", encoding="utf-8") as file:
            recorded = file.read(64)
    except FileNotFoundError:
        recorded = "none"
    if (found := _digest(path, "sha256")) != recorded:
        raise InputError(
            f"{path} was changed since it was fetched: its SHA-256 is {found}, recorded beside it is {recorded}; "
            "delete it, so that it is fetched again"
        )


def _begun(part: str) -> dict[str, str]:
    """Headers that ask for the rest of the file alone, if it is still the same one; none where nothing can be kept."""
    try:
        with open(f"{part}.json", encoding="utf-8") as file:
            validator = json.load(file)["validator"]
        size = os.path.getsize(part)
    except (FileNotFoundError, ValueError, KeyError, TypeError):
        return {}
    return {"Range": f"bytes={size}-", "If-Range": validator} if size and validator else {}


def _open(url: str, headers: dict[str, str]) -> http.client.HTTPResponse:
    """The answer to a request.

    Raises:
      InputError: another attempt would not help.
      ConnectionError: it may.
    """
    request = urllib.request.Request(url, headers={"User-Agent": "deeplab-pipelines", **headers})
    try:
        response = urllib.request.urlopen(request, timeout=TIMEOUT)
    except urllib.error.HTTPError as error:
        answer = f"the server answered {error.code} {error.reason}"
        if error.code in (408, 416, 429) or error.code >= 500:
            raise ConnectionError(errno.ECONNRESET, f"{url}: {answer}") from None
        raise InputError(f"{url} cannot be fetched: {answer}; check the address") from None
    except urllib.error.URLError as error:
        if isinstance(error.reason, (socket.gaierror, ssl.SSLError)) or not isinstance(error.reason, OSError):
            raise InputError(
                f"{url} cannot be reached ({error.reason}); fetch it by other means and give the path of the file"
            ) from None
        raise ConnectionError(errno.ECONNRESET, f"{url}: {error.reason.strerror or error.reason}") from None
    if url.startswith("https://") and not response.url.startswith("https://"):
        raise InputError(f"{url} leads to {response.url}, which is not encrypted; give that address if it is meant")
    return response


def _fetch(url: str, part: str) -> None:
    """Fetches what is missing of the file `part`. Raises ConnectionError when the transfer breaks."""
    headers = _begun(part)
    try:
        with _open(url, headers) as response:
            start = os.path.getsize(part) if headers and response.status == 206 else 0
            if start and not response.headers.get("Content-Range", "").startswith(f"bytes {start}-"):
                os.remove(part)
                raise ConnectionError(errno.ECONNRESET, f"{url}: the server sent another part than was asked for")
            length = int(response.headers.get("Content-Length") or -1)
            total = start + length if length >= 0 else None
            free = shutil.disk_usage(os.path.dirname(part)).free
            if total and total - start > free:
                raise Unavailable(
                    f"{part}: {total - start:,} bytes are to be fetched but {free:,} are free; make room, or name "
                    "another folder in DEEPLAB_CACHE, and run the same command again"
                )
            with open(part, "ab" if start else "wb") as file:
                _note(part, response)
                done = start + _copy(response, file, start, total, os.path.basename(url))
    except (http.client.HTTPException, ValueError, ConnectionError, TimeoutError) as error:
        if isinstance(error, InputError):
            raise
        reason = getattr(error, "strerror", None) or type(error).__name__
        raise ConnectionError(errno.ECONNRESET, f"{url}: {reason}" if url not in reason else reason) from None
    if total is not None and done != total:
        raise ConnectionError(errno.ECONNRESET, f"{url}: the connection ended after {done:,} of {total:,} bytes")
    _compare(part, response.headers.get_all("x-goog-hash") or [])


def _note(part: str, response: http.client.HTTPResponse) -> None:
    """Writes beside the file by what the server tells it from a later one of the same address."""
    tag = response.headers.get("ETag", "")
    validator = tag if tag.startswith('"') else response.headers.get("Last-Modified", "")
    with open(f"{part}.json", "w", encoding="utf-8") as file:
        json.dump({"validator": validator}, file)


def _copy(response: http.client.HTTPResponse, file: BinaryIO, start: int, total: int | None, name: str) -> int:
    """Appends the answer to `file` under a progress bar, which only a terminal shows; returns the bytes."""
    done = 0
    with tqdm(
        total=total, initial=start, unit="B", unit_scale=True, desc=name, file=sys.stderr, disable=None, leave=False
    ) as bar:
        # Not `read`, which keeps what came before an end that was too early.
        while chunk := response.read1(CHUNK):
            file.write(chunk)
            done += len(chunk)
            bar.update(len(chunk))
    return done


def _compare(part: str, hashes: list[str]) -> None:
    """Raises CorruptError, and drops the file, when it has not the MD5 that Cloud Storage sends with it."""
    sent = re.search(r"md5=([A-Za-z0-9+/=]{24})", ",".join(hashes))
    if sent and base64.b64decode(sent[1]).hex() != _digest(part, "md5"):
        os.remove(part)
        raise CorruptError(errno.EIO, "what came is not what is stored: its checksum differs", part)


def is_web(path: str) -> bool:
    return path.startswith(WEB)

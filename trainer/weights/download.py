"""Downloads files from the web once, into a cache.

An interrupted download is continued, in the same run or the next one. The file is compared with its published
checksum, if any, and with the one that the server sends; its SHA-256 is then written beside it, and compared at every
later use. So if no checksum was published, the first download is trusted.
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
import string
import sys
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator
from typing import BinaryIO

from tqdm import tqdm

from trainer import storage
from trainer.attempts import CorruptError, Unavailable, attempt
from trainer.options import WEB, InputError, check_no_user, public

TIMEOUT = 60.0
"""Seconds to wait for a connection, and then for its next bytes."""
CHUNK = 1 << 20
LARGEST = 4 << 30
"""Bound on the bytes of a file; the largest published one has half a gigabyte. Some servers send without end."""
REFUSED_WAITS = (0.5, 1.0, 2.0)
"""Seconds before each retry where a server refuses connections that has not answered in this run."""

BEGINNINGS = {".gz": b"\x1f\x8b", ".tgz": b"\x1f\x8b", ".h5": b"\x89HDF\r\n\x1a\n", ".hdf5": b"\x89HDF\r\n\x1a\n"}
"""Magic bytes by suffix. Networks that require a login answer with a page of their own and status 200."""

_SAFE = string.punctuation.translate(str.maketrans("", "", '"<>\\^`{|}'))
"""Characters that an address may hold besides letters and digits; "%" for those that are percent-encoded already."""

_answered: set[str] = set()
"""The servers that have answered in this run: one that refuses connections then may be starting again."""


def cache() -> str:
    """The folder of downloaded files: $DEEPLAB_CACHE, or deeplab in the user's cache."""
    home = os.environ.get("XDG_CACHE_HOME") or os.path.join(os.path.expanduser("~"), ".cache")
    return os.environ.get("DEEPLAB_CACHE") or os.path.join(home, "deeplab")


def again(path: str) -> str:
    """What to do to have another copy of the damaged file at `path`."""
    return "delete it, so that it is fetched again" if storage.lies_in(path, cache()) else "fetch it again"


def unreadable(path: str, kind: str, error: Exception) -> InputError:
    """The error for the file at `path` that `error` shows not to be `kind`, such as "a TensorFlow checkpoint"."""
    reason = (str(error).strip() or type(error).__name__).splitlines()[0]
    return InputError(f"{path} cannot be read as {kind} ({reason}); {again(path)}")


def fetch(url: str, md5: str = "") -> str:
    """The local path of the file at `url`, which is downloaded unless the cache has it.

    Args:
      url: http:// or https://.
      md5: the published MD5, in hex digits; "" for none.

    Raises:
      InputError: the file does not exist, it is not the published one, or the one in the cache was changed.
      Unavailable: the connection keeps breaking, or the disk is full; the next run continues.
    """
    url = _asked_for(url)
    try:
        parts = urllib.parse.urlsplit(url)
        _ = parts.port  # raises for one that is no number, or too large
        digest = hashlib.sha256(url.encode()).hexdigest()
    except ValueError as error:
        raise _unusable(url, error) from None
    # Two addresses may end in the same name.
    path = os.path.join(cache(), f"{digest[:12]}-{(os.path.basename(parts.path) or 'file')[-80:]}")
    if not os.path.exists(path):  # a cache that has the file need not be writable
        attempt(path, lambda: os.makedirs(os.path.dirname(path), exist_ok=True), writing=True)
        with _alone(f"{path}.part"):
            if not os.path.exists(path):
                attempt(path, lambda: _fetch(url, f"{path}.part"), writing=True)
                _accept(url, path, md5)
    _check(path)
    return path


def _asked_for(url: str) -> str:
    """The address as a request states it: its scheme in lower case, and the rest behind the host percent-encoded.

    Messages have only its `public` part. Raises InputError if it has a user or a password.
    """
    check_no_user(url)
    scheme, host, rest = re.fullmatch(r"(\w+://)([^/?#]*)(.*)", url, re.DOTALL).groups()
    rest = re.sub("%(?![0-9A-Fa-f]{2})", "%25", rest)
    return scheme.lower() + host + urllib.parse.quote(rest, _SAFE, errors="surrogateescape")


def _unusable(url: str, error: Exception) -> InputError:
    return InputError(f"{public(url)} cannot be fetched: no server can have this address ({error}); check the address")


@contextlib.contextmanager
def _alone(part: str) -> Iterator[None]:
    """Waits until no other process downloads the file, and keeps others waiting during the block."""
    with attempt(part, lambda: _own(f"{part}.lock", "wb"), writing=True) as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _own(path: str, mode: str) -> BinaryIO:
    """A file of the cache, open for writing; OSError for a link, which may lead to a file of others, or a FIFO."""
    return open(path, mode, opener=lambda path, flags: os.open(path, flags | os.O_NOFOLLOW | os.O_NONBLOCK, 0o666))


def _digest(path: str, kind: str) -> str:
    digest = hashlib.new(kind)
    with open(path, "rb") as file:
        while chunk := file.read(CHUNK):
            digest.update(chunk)
    return digest.hexdigest()


def _accept(url: str, path: str, md5: str) -> None:
    """Renames the complete `path`.part to `path`, after verifying it and writing its SHA-256."""
    part, suffix = f"{path}.part", os.path.splitext(path)[1].lower()
    expected = BEGINNINGS.get(suffix, b"")
    with open(part, "rb") as file:
        begin = file.read(len(expected))
    if begin != expected:
        _drop(part)
        raise InputError(
            f"{public(url)} did not return a {suffix} file: the answer begins with {begin!r}, as a login page does; "
            "it was not kept. Fetch the file by other means and give its path"
        )
    actual = _digest(part, "md5")
    if md5 and actual != md5:
        _drop(part)
        raise InputError(
            f"{public(url)} has the MD5 {actual}, but {md5} was published for it; it was not kept. "
            "Run the command again, or fetch the file by other means and give its path"
        )
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
    if (actual := _digest(path, "sha256")) != recorded:
        raise InputError(
            f"{path} was changed since it was fetched: its SHA-256 is {actual}, recorded beside it is {recorded}; "
            "delete it, so that it is fetched again"
        )


def _begun(part: str) -> dict[str, str]:
    """Headers that request only the rest of the file, if it is still the same; {} if nothing can be kept."""
    try:
        with open(f"{part}.json", encoding="utf-8") as file:
            validator = json.load(file)["validator"]
        size = os.path.getsize(part)
    except (FileNotFoundError, ValueError, KeyError, TypeError):
        return {}
    return {"Range": f"bytes={size}-", "If-Range": validator} if size and validator else {}


class _Redirects(urllib.request.HTTPRedirectHandler):
    """Follows redirects only to web addresses, and from an encrypted connection only to encrypted ones."""

    def redirect_request(self, request, answer, code, reason, headers, url):
        url = _asked_for(url) if is_web(url) else url
        if request.full_url.startswith("https://") and not url.startswith("https://"):
            raise InputError(
                f"{public(request.full_url)} leads to {public(url)}, which is not encrypted; if you trust it, give "
                "that address"
            )
        if not is_web(url):
            refusal = f"{reason} - redirection to {url} is not allowed"
            raise urllib.error.HTTPError(url, code, refusal, headers, answer)
        return super().redirect_request(request, answer, code, reason, headers, url)


def _open(url: str, headers: dict[str, str]) -> http.client.HTTPResponse | urllib.error.HTTPError:
    """The answer to a request; an HTTPError if the file is shorter than requested.

    Raises:
      InputError: another attempt would not help.
      ConnectionError: it may.
      Unavailable: nothing listens there.
    """
    request = urllib.request.Request(url, headers={"User-Agent": "deeplab-pipelines", **headers})
    try:
        return _asked(request)
    except urllib.error.HTTPError as error:
        if error.code == http.HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE and headers:
            return error
        reason = str(error.reason).replace(error.url, public(error.url))  # which names a forbidden redirection
        answer = f"the server answered {error.code} {' '.join(reason.split())}"
        if error.code in (408, 429) or error.code >= 500:
            raise ConnectionError(errno.ECONNRESET, f"{public(url)}: {answer}") from None
        raise InputError(f"{public(url)} cannot be fetched: {answer}; check the address") from None
    except urllib.error.URLError as error:
        if isinstance(error.reason, (socket.gaierror, ssl.SSLError)) or not isinstance(error.reason, OSError):
            raise InputError(
                f"{public(url)} cannot be reached ({error.reason}); fetch it by other means and give the path of the "
                "file"
            ) from None
        if isinstance(error.reason, ConnectionRefusedError) and urllib.parse.urlsplit(url).netloc not in _answered:
            raise Unavailable(
                f"{public(url)}: Connection refused; check the address, or start the server, and run the same command "
                "again"
            ) from None
        raise ConnectionError(errno.ECONNRESET, f"{public(url)}: {error.reason.strerror or error.reason}") from None
    except InputError:
        raise
    except (http.client.InvalidURL, ValueError) as error:  # such as a host that has no name in the DNS
        raise _unusable(url, error) from None


def _asked(request: urllib.request.Request) -> http.client.HTTPResponse:
    """The answer to a request, which is repeated a few times if the server refuses the connection."""
    server = urllib.parse.urlsplit(request.full_url).netloc
    for wait in (*REFUSED_WAITS, None):
        try:
            answer = urllib.request.build_opener(_Redirects).open(request, timeout=TIMEOUT)
        except urllib.error.HTTPError:
            _answered.add(server)
            raise
        except urllib.error.URLError as error:
            is_refused = isinstance(error.reason, ConnectionRefusedError)
            if wait is None or not is_refused or server in _answered:
                raise
        else:
            _answered.add(server)
            return answer
        time.sleep(wait)
    raise AssertionError("the last request returns or raises")


def _fetch(url: str, part: str) -> None:
    """Downloads the missing rest of the file `part`. Raises ConnectionError if the connection breaks."""
    headers = _begun(part)
    try:
        with _open(url, headers) as response:
            start, total = _place(url, part, headers, response)
            _check_size(url, part, total or start)
            free = shutil.disk_usage(os.path.dirname(part)).free
            if total and total - start > free:
                raise Unavailable(
                    f"{part}: {total - start:,} bytes are to be fetched but {free:,} are free; make room, or name "
                    "another folder in DEEPLAB_CACHE, and run the same command again"
                )
            done = start
            if start != total:
                with _own(part, "ab" if start else "wb") as file:
                    if not start:
                        _note(part, response)
                    done += _copy(response, file, start, total, public(url))
    except (http.client.HTTPException, ValueError, ConnectionError, TimeoutError) as error:
        if isinstance(error, InputError):
            raise
        reason = getattr(error, "strerror", None) or type(error).__name__
        where = f"{public(url)}: "
        raise ConnectionError(errno.ECONNRESET, where + reason.removeprefix(where)) from None
    if total is not None and done != total:
        raise ConnectionError(
            errno.ECONNRESET, f"{public(url)}: the connection ended after {done:,} of {total:,} bytes"
        )
    _compare(part, response.headers.get_all("x-goog-hash") or [])


def _place(
    url: str, part: str, headers: dict[str, str], response: http.client.HTTPResponse | urllib.error.HTTPError
) -> tuple[int, int | None]:
    """The offset of the answer in the file, and the size of the file, None if the server does not give it.

    Args:
      headers: those sent to request the rest of the file, see `_begun`.

    Raises:
      ConnectionError: the answer belongs to another file than the part, which is dropped.
    """
    if not headers or response.status == http.HTTPStatus.OK:
        return 0, response.length
    size = os.path.getsize(part)
    content_range = re.fullmatch(r"bytes (?:(\d+)-\d+|\*)/(\d+|\*)", response.headers.get("Content-Range", ""))
    start, total = content_range.groups() if content_range else (None, "*")
    if start is None and total == str(size):  # it was already complete when the program ended
        return size, size
    if start != str(size) or _validator(response) not in ("", headers["If-Range"]):
        _drop(part)
        raise ConnectionError(
            errno.ECONNRESET, f"{public(url)}: the server sent a different part from the one requested"
        )
    if total == "*":
        return size, None if response.length is None else size + response.length
    return size, int(total)


def _validator(response: http.client.HTTPResponse | urllib.error.HTTPError) -> str:
    """The validator of the file's version: its ETag or modification time; "" if the server gives neither."""
    tag = response.headers.get("ETag", "")
    return tag if tag.startswith('"') else response.headers.get("Last-Modified", "")


def _note(part: str, response: http.client.HTTPResponse) -> None:
    """Writes the validator beside the file."""
    with open(f"{part}.json", "w", encoding="utf-8") as file:
        json.dump({"validator": _validator(response)}, file)


def _check_size(url: str, part: str, size: int) -> None:
    """Raises InputError, and drops the file, if it has or will have more bytes than any weights."""
    if size > LARGEST:
        _drop(part)
        raise InputError(
            f"{public(url)} sends {size:,} bytes or more; expected at most {LARGEST:,}, so it was not kept; check the "
            "address"
        )


def _copy(response: http.client.HTTPResponse, file: BinaryIO, start: int, total: int | None, url: str) -> int:
    """Appends the answer to `file` under a progress bar, which only a terminal shows; returns the bytes."""
    done, name = 0, os.path.basename(url)
    with tqdm(
        total=total, initial=start, unit="B", unit_scale=True, desc=name, file=sys.stderr, disable=None, leave=False
    ) as bar:
        # Not `read`, which keeps what came before an end that was too early.
        while chunk := response.read1(CHUNK):
            file.write(chunk)
            done += len(chunk)
            bar.update(len(chunk))
            _check_size(url, file.name, start + done)
    return done


def _compare(part: str, hashes: list[str]) -> None:
    """Raises CorruptError, and drops the file, if it does not have the MD5 that Cloud Storage sends with it."""
    sent = re.search(r"md5=([A-Za-z0-9+/=]{24})", ",".join(hashes))
    if sent and base64.b64decode(sent[1]).hex() != _digest(part, "md5"):
        os.remove(part)
        raise CorruptError(errno.EIO, "the bytes received are not the bytes stored: their checksums differ", part)


def is_web(path: str) -> bool:
    return bool(WEB.match(path))

"""Objects in Google Cloud Storage. ``STORAGE_EMULATOR_HOST`` is honoured, with anonymous credentials."""

from __future__ import annotations

import base64
import contextlib
import errno
import functools
import io
import json
import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import FIRST_COMPLETED, ThreadPoolExecutor, wait
from typing import Any, BinaryIO, TypeVar

import google_crc32c

from trainer.attempts import SCHEME, CorruptError, Unavailable, attempt, meaning, with_credentials
from trainer.files.connections import Answer, Connections, blocks, related, trust
from trainer.files.names import File, check_size, crc32c_and_size
from trainer.options import InputError

T = TypeVar("T")

TIMEOUT = (10.0, 60.0)
"""Seconds to wait for a connection to Cloud Storage, and then for its next bytes."""
CONNECTIONS = 128
"""The most connections kept open: the number of threads that make requests."""
LISTINGS = 16
"""The number of listings that are requested concurrently."""
FOLDERS = 64
"""The most subfolders of a folder that are listed separately."""
AT_ONCE = 256 << 20
"""Bytes up to which an object is uploaded in one request, all of which a broken connection takes to repeat."""
CONTENT = "application/octet-stream"
FIELDS = "items(name,size,generation,crc32c,contentEncoding),prefixes,nextPageToken"


@functools.cache
def client():
    from google.cloud import storage
    from requests.adapters import HTTPAdapter

    # Without this, the client would request the metadata of buckets, for tracing.
    os.environ.setdefault("DISABLE_GCS_PYTHON_CLIENT_OTEL_BUCKET_METADATA", "true")
    # Only operations on whole buckets need a project; without one, users need not give it.
    is_emulated = bool(emulator := os.environ.get("STORAGE_EMULATOR_HOST", ""))
    if is_emulated and not re.match("https?://.", emulator):
        raise InputError(
            f"STORAGE_EMULATOR_HOST is {emulator!r}; expected http://HOST:PORT, with http://, or unset it"
        )
    named = functools.partial(storage.Client, project=None)
    gcs = storage.Client.create_anonymous_client() if is_emulated else with_credentials(named)
    session = gcs._http
    for scheme in ("https://", "http://"):
        # With the default pool of ten, all other threads would open a connection for every request.
        session.mount(scheme, HTTPAdapter(pool_connections=4, pool_maxsize=CONNECTIONS))
    # Proxies and certificates from the environment, which would otherwise be looked up for every request.
    settings = session.merge_environment_settings(gcs.api_endpoint, {}, None, None, None)
    session.proxies, session.verify, session.cert = settings["proxies"], settings["verify"], settings["cert"]
    session.trust_env = False
    return gcs


def split(path: str) -> tuple[str, str]:
    """The bucket and the object name of an address. Raises InputError if it names no bucket."""
    bucket, _, name = path[len(SCHEME) :].partition("/")
    if not bucket or not (bucket[0].isalnum() and bucket[-1].isalnum()):
        raise InputError(f"{path!r} names no bucket; expected gs://BUCKET/FOLDER")
    return bucket, name


def _blob(path: str):
    bucket, name = split(path)
    if not name:
        raise IsADirectoryError(errno.EISDIR, "is a bucket, not an object", path)
    return client().bucket(bucket).blob(name)


def _page(
    bucket: str, prefix: str, token: str | None = None, limit: int | None = None, delimiter: str | None = None
) -> tuple[list[Any], set[str], str | None]:
    """A page of a listing: objects, prefixes up to the delimiter, and the token of the next page."""

    def work() -> tuple[list[Any], set[str], str | None]:
        pages = client().list_blobs(
            bucket,
            prefix=prefix,
            page_token=token,
            max_results=limit,
            delimiter=delimiter,
            fields=FIELDS,
            retry=None,
            timeout=TIMEOUT,
        )
        blobs = list(next(pages.pages, ()))
        return blobs, set(pages.prefixes), pages.next_page_token

    return attempt(f"{SCHEME}{bucket}/{prefix}", work)


def files(path: str, beginning: str = "") -> Iterator[File]:
    """The objects below the folder `path` whose relative paths begin with `beginning`, in no order.

    Objects whose names end in a slash are markers of folders, and are omitted. A page has a thousand objects. If there
    are more, in a few subfolders, these are listed concurrently; only pages not yet consumed are in memory.
    """
    bucket, prefix = split(path.rstrip("/") + "/")
    parts: list[tuple[str, str | None]] = []
    with ThreadPoolExecutor(LISTINGS) as pool:
        pending = {pool.submit(_part, bucket, prefix + beginning, None)}
        while pending:
            done, pending = wait(pending, return_when=FIRST_COMPLETED)
            answers = [future.result() for future in done]
            parts += [part for _, rest in answers for part in rest]
            # Before the caller takes its time for the objects that have come.
            while parts and len(pending) < LISTINGS:
                pending.add(pool.submit(_part, bucket, *parts.pop()))
            for blob in (blob for blobs, _ in answers for blob in blobs):
                if not blob.name.endswith("/"):
                    yield _file(bucket, prefix, blob)


def _part(bucket: str, prefix: str, token: str | None) -> tuple[list[Any], list[tuple[str, str | None]]]:
    """Some of the objects whose names begin with `prefix`, and how to list the rest: (prefix, token) of pages."""
    blobs, _, more = _page(bucket, prefix, token)
    if more and not token:
        direct, folders, others = _page(bucket, prefix, delimiter="/")
        # Many folders have few objects each, so their listings would take more requests than one of all.
        if folders and len(folders) <= FOLDERS and not others:
            return direct, [(folder, None) for folder in sorted(folders)]
    return blobs, [(prefix, more)] if more else []


def _file(bucket: str, prefix: str, blob: Any) -> File:
    """The file for an object in a listing; its identity is unknown if the bytes are compressed in transfer."""
    known = blob.crc32c and not blob.content_encoding
    crc32c = int.from_bytes(base64.b64decode(blob.crc32c), "big") if known else 0
    return File(
        f"{SCHEME}{bucket}/{blob.name}",
        blob.name[len(prefix) :],
        blob.size,
        blob.generation or 0,
        crc32c_and_size(crc32c, blob.size) if known else "",
    )


def is_folder(path: str) -> bool:
    """Whether there are objects below `path`."""
    blobs, _, _ = _page(*split(path.rstrip("/") + "/"), limit=1)
    return bool(blobs)


def exists(path: str) -> bool:
    """Whether there is such an object, other than a marker of a folder."""
    return not split(path)[1].endswith("/") and attempt(path, lambda: _blob(path).exists(retry=None, timeout=TIMEOUT))


def _received(path: str, work: Callable[[], T]) -> T:
    """Returns what `work` returns, which reads the object at `path`.

    Raises OSError, not Unavailable, if Cloud Storage fails for this object although it answers for its bucket.
    """
    try:
        return attempt(path, work)
    except Unavailable as error:
        if not error.answer or not _answers(path):
            raise
        raise OSError(errno.EIO, f"{error.answer}, despite several attempts", path) from error


def _answers(path: str) -> bool:
    """Whether Cloud Storage answers for the bucket of `path`, even if only to refuse the listing."""
    bucket, _ = split(path)
    try:
        next(client().list_blobs(bucket, max_results=1, fields=FIELDS, retry=None, timeout=TIMEOUT).pages, ())
    except Exception as error:
        passing, _ = meaning(error, path, False)
        return not passing
    return True


def read(path: str) -> bytes:
    return _received(path, lambda: _get(path))


def _get(path: str) -> bytes:
    """The bytes of an object, in a third of the CPU time of the client's own method."""
    blob, gcs = _blob(path), client()
    url = f"{gcs.api_endpoint}/download/storage/v1{blob.path}?alt=media"
    headers = _authorised("GET", url, {"Accept-Encoding": "identity"})
    answer = transfer(url, headers, functools.partial(check_size, path))
    stored = re.search(r"crc32c=([\w+/=]+)", answer.header("X-Goog-Hash") or "") if answer else None
    is_coded = bool(answer) and answer.header("X-Goog-Stored-Content-Encoding", "identity") != "identity"
    if not answer or answer.status == 401 or (answer.status == 200 and (is_coded or not stored)):
        # Which knows proxies, renews credentials, and knows all codings.
        return blob.download_as_bytes(retry=None, timeout=TIMEOUT)
    _check(answer)
    if int.from_bytes(base64.b64decode(stored[1]), "big") != google_crc32c.value(answer.data):
        raise CorruptError(errno.EIO, "the bytes received are not the bytes stored: their checksums differ", path)
    return answer.data


def _check(answer: Answer) -> None:
    """Raises the exception of Google's client for an answer that refuses the request."""
    from google.api_core.exceptions import from_http_status

    if answer.status == 200:
        return
    errors: list[dict[str, Any]] = []
    with contextlib.suppress(ValueError, LookupError, TypeError):
        errors = list(json.loads(answer.data)["error"]["errors"])
    raise from_http_status(answer.status, "", errors=errors)


def transfer(
    url: str,
    headers: Mapping[str, str],
    check: Callable[[int], None] = lambda size: None,
    body: Iterable[bytes] | None = None,
) -> Answer | None:
    """Sends a request without Google's client; None if there is no direct way to Cloud Storage.

    Args:
      url: an address below the client's endpoint.
      headers, check, body: see `Connections.send`.
    """
    place = client().api_endpoint
    direct = _connections(place)
    return direct.send(url[len(place) :], headers, check, body) if direct else None


@functools.cache
def _connections(place: str) -> Connections | None:
    """The connections to a server, with the certificates of the environment; None if it names a proxy."""
    from requests.certs import where
    from requests.utils import select_proxy

    session = client()._http
    if select_proxy(place, session.proxies):
        return None
    is_secure = place.startswith("https:")
    context = trust(where() if session.verify is True else session.verify, session.cert) if is_secure else None
    return Connections(place, context, TIMEOUT)


def _authorised(method: str, url: str, headers: dict[str, str]) -> dict[str, str]:
    """The headers, with the user's credentials."""
    client()._http.credentials.before_request(_authorisation(), method, url, headers)
    return headers


@functools.cache
def _authorisation() -> Any:
    from google.auth.transport.requests import Request

    return Request()


def read_part(path: str, offset: int, size: int) -> bytes:
    span = {"start": offset, "end": offset + size - 1}
    return _received(path, lambda: _blob(path).download_as_bytes(**span, retry=None, timeout=TIMEOUT))


def download(path: str, file: BinaryIO, generation: int | None = None) -> None:
    """Downloads the whole object into an empty `file`, and rewinds that."""

    def work() -> None:
        file.seek(0)
        file.truncate()
        _blob(path).download_to_file(file, if_generation_match=generation, retry=None, timeout=TIMEOUT)
        file.seek(0)

    _received(path, work)


def generation(path: str) -> int:
    """The generation of the object, a number that differs after each change."""
    blob = _blob(path)
    _received(path, lambda: blob.reload(retry=None, timeout=TIMEOUT))
    return blob.generation


def upload(path: str, file: BinaryIO) -> None:
    """Uploads all bytes of `file` to the object at `path`; Cloud Storage verifies their checksum.

    A retry after a lost answer writes the same bytes again, so it needs no condition.
    """
    attempt(path, lambda: _send(path, file), writing=True)


def _send(path: str, file: BinaryIO, generation: int | None = None) -> int:
    """Uploads a file as the object's next generation, which is returned, after `generation` if that is given."""
    size, blob = file.seek(0, os.SEEK_END), _blob(path)
    if size <= AT_ONCE and (posted := _post(blob, file, size, generation)):
        return posted
    blob.upload_from_file(
        file,
        rewind=True,
        size=size,
        content_type=CONTENT,
        if_generation_match=generation,
        retry=None,
        timeout=TIMEOUT,
    )
    return blob.generation


def _post(blob: Any, file: BinaryIO, size: int, generation: int | None) -> int | None:
    """`_send` in one request, block by block; None if Google's client has to do it.

    Google's client reads up to 100 MB into new memory, whose pages take as long as sending them.
    """
    crc32c = functools.reduce(google_crc32c.extend, blocks(file), 0).to_bytes(4, "big")
    about = {"name": blob.name, "contentType": CONTENT, "crc32c": base64.b64encode(crc32c).decode()}
    headers, body = related(json.dumps(about), CONTENT, file, size)
    gcs, condition = client(), "" if generation is None else f"&ifGenerationMatch={generation}"
    url = f"{gcs.api_endpoint}/upload/storage/v1{blob.bucket.path}/o?uploadType=multipart{condition}"
    answer = transfer(url, _authorised("POST", url, headers), body=body)
    if not answer or answer.status == 401:
        return None
    _check(answer)
    return int(json.loads(answer.data)["generation"])


def create(path: str, data: bytes) -> bool:
    """See `storage.create`."""
    from google.api_core.exceptions import PreconditionFailed

    def work() -> bool:
        try:
            _send(path, io.BytesIO(data), 0)
        except PreconditionFailed:
            return False
        return True

    return attempt(path, work, writing=True)


def exchange(path: str, before: bytes | None, after: bytes | None) -> bool:
    """See `storage.exchange`."""
    return attempt(path, lambda: _exchange(path, before, after), writing=True)


def _exchange(path: str, before: bytes | None, after: bytes | None) -> bool:
    from google.api_core.exceptions import NotFound

    content, generation = _exchanged.get(path, (None, 0))
    # An object of a known generation, or none, need not be read first.
    if content == before and _replace(path, after, generation):
        return True
    current, blob = None, _blob(path)
    with contextlib.suppress(NotFound):
        current = blob.download_as_bytes(retry=None, timeout=TIMEOUT)
    if current == after:  # by an attempt whose answer was lost
        return True
    return current == before and _replace(path, after, blob.generation if current is not None else 0)


_exchanged: dict[str, tuple[bytes, int]] = {}
"""What `exchange` has last written to an object, and the generation that this is."""


def _replace(path: str, after: bytes | None, generation: int) -> bool:
    """Replaces the object of that generation (0: none) with `after`; returns False if there is another one."""
    from google.api_core.exceptions import NotFound, PreconditionFailed

    _exchanged.pop(path, None)
    try:
        if after is None:
            _blob(path).delete(if_generation_match=generation, retry=None, timeout=TIMEOUT)
        else:
            _exchanged[path] = after, _send(path, io.BytesIO(after), generation)
    except PreconditionFailed:
        return False
    except NotFound:
        if after is None:
            return False
        raise  # there is no such bucket
    return True


def remove(path: str) -> None:
    attempts = []

    def work() -> None:
        from google.api_core.exceptions import NotFound

        attempts.append(path)
        try:
            _blob(path).delete(retry=None, timeout=TIMEOUT)
        except NotFound:
            # The answer to the attempt before may have been lost.
            if len(attempts) == 1:
                raise

    attempt(path, work, writing=True)

"""Files by path or by ``gs://`` address, through one set of functions.

Nothing is ever half visible: local files appear by rename, objects in Cloud Storage when their upload is complete.
``STORAGE_EMULATOR_HOST`` is honoured, with anonymous credentials.

Errors mean the same for both, see `trainer.attempts`: an OSError, that something is wrong with that file; Unavailable,
that storage does not do what it is asked at present; InputError, that the user has to do something first.
"""

from __future__ import annotations

import base64
import contextlib
import dataclasses
import errno
import fnmatch
import functools
import hashlib
import io
import json
import os
import re
import stat
import tempfile
import uuid
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, BinaryIO

import google_crc32c

from trainer.attempts import DAMAGE, PASSING, SCHEME, attempt, meaning
from trainer.attempts import CorruptError as CorruptError
from trainer.attempts import Unavailable as Unavailable
from trainer.options import InputError

TIMEOUT = (10.0, 60.0)
"""Seconds to wait for a connection to Cloud Storage, and then for its next bytes."""
PAGE_FIELDS = "items(name,size,generation,crc32c,contentEncoding),nextPageToken"
_UNFINISHED = re.compile(r"(?P<folder>(?:.*/)?)\.(?P<name>[^/]+)\.[0-9a-f]{8}\.tmp", re.DOTALL)


@dataclasses.dataclass(frozen=True)
class File:
    """One file below a folder.

    Attributes:
      path: where it is, local or gs://.
      relative: its path below that folder, with forward slashes.
      size: bytes.
      modified: a number that is another one after each change: the time of the last one in nanoseconds, or the
        object's generation, which is no time. 0 where nothing can be read: a link that leads nowhere, or what is no
        file, such as a FIFO.
      identity: of its contents, see `identity`, where the listing tells it (Cloud Storage); "" otherwise.
    """

    path: str
    relative: str
    size: int
    modified: int
    identity: str = ""


def identity(data: bytes) -> str:
    """What tells contents apart: CRC-32C as 8 hexadecimal digits, a hyphen, and the number of bytes."""
    return _identity(google_crc32c.value(data), len(data))


def _identity(crc32c: int, size: int) -> str:
    return f"{crc32c:08x}-{size}"


def is_remote(path: str) -> bool:
    return str(path).startswith(SCHEME)


def join(root: str, *parts: str) -> str:
    """`parts` below `root`, which is a local folder or a gs:// address."""
    if is_remote(root):
        return "/".join([str(root).rstrip("/"), *parts])
    return os.path.join(root, *parts)


def absolute(path: str) -> str:
    """`path` from the root of the file system; gs:// addresses are whole already."""
    return path if is_remote(path) else os.path.abspath(path)


def real(path: str) -> str:
    """The one path of what `path` names, through all links; for gs:// the address without a slash at its end."""
    return path.rstrip("/") if is_remote(path) else os.path.realpath(path)


def lies_in(path: str, folder: str) -> bool:
    """Whether `path` is `folder` or lies below it, whatever links, mounts or spellings lead there."""
    if is_remote(path) or is_remote(folder):
        return f"{real(path)}/".startswith(f"{real(folder)}/")
    with contextlib.suppress(ValueError):  # no file can have this name
        place = Path(real(path))
        return any(_is_same(parent, folder) for parent in (place, *place.parents))
    return False


def _is_same(path: Path, other: str) -> bool:
    try:
        return os.path.samefile(path, other)
    except OSError:
        return False


def folds_case(folder: str) -> bool:
    """Whether "A" and "a" are one file in `folder`, which need not exist yet, as on most Macs."""
    if is_remote(folder):
        return False
    place = os.path.abspath(folder)
    while not os.path.isdir(place):
        place = os.path.dirname(place)
    try:
        with tempfile.NamedTemporaryFile(dir=place, prefix=".Case-") as probe:
            return os.path.exists(os.path.join(place, os.path.basename(probe.name).swapcase()))
    except OSError:
        return False


def safe_relative(name: str) -> str:
    """`name` if it is UTF-8 and a relative path that stays below the folder it is joined to; InputError otherwise."""
    try:
        name.encode()
    except UnicodeEncodeError:
        raise InputError(f"its name is not UTF-8: {name!r}; rename it") from None
    parts = name.split("/")
    if not name or "\0" in name or "\\" in name or name[0] == "/" or ".." in parts or name[1:2] == ":":
        raise InputError(f"the name {name!r} would leave the output folder; rename the file or the record")
    return "/".join(part for part in parts if part not in ("", ".")) or "."


@functools.cache
def _client():
    from google.cloud import storage

    if os.environ.get("STORAGE_EMULATOR_HOST"):
        return storage.Client.create_anonymous_client()
    # Only whole buckets belong to a project; without one, nobody needs to name it.
    return storage.Client(project=None)


def _split(path: str) -> tuple[str, str]:
    bucket, _, name = path[len(SCHEME) :].partition("/")
    if not bucket or not (bucket[0].isalnum() and bucket[-1].isalnum()):
        raise InputError(f"{path!r} names no bucket; expected gs://BUCKET/FOLDER")
    return bucket, name


def _blob(path: str):
    bucket, name = _split(path)
    if not name:
        raise IsADirectoryError(errno.EISDIR, "a bucket, no object", path)
    return _client().bucket(bucket).blob(name)


def _blobs(bucket: str, prefix: str, limit: int | None = None) -> Iterator[Any]:
    """All objects whose names begin with `prefix`, without the markers of folders; or the first `limit`."""

    def page():
        iterator = _client().list_blobs(
            bucket,
            prefix=prefix,
            page_token=token,
            max_results=limit,
            fields=PAGE_FIELDS,
            retry=None,
            timeout=TIMEOUT,
        )
        return list(next(iterator.pages, ())), iterator.next_page_token

    token = None
    while True:
        blobs, token = attempt(f"{SCHEME}{bucket}/{prefix}", page)
        yield from blobs
        if limit or not token:
            return


def _object(bucket: str, prefix: str, blob: Any) -> File:
    """What a listing says of an object; its identity is unknown where the bytes are compressed on the way."""
    known = blob.crc32c and not blob.content_encoding
    crc32c = int.from_bytes(base64.b64decode(blob.crc32c), "big") if known else 0
    return File(
        f"{SCHEME}{bucket}/{blob.name}",
        blob.name[len(prefix) :],
        blob.size,
        blob.generation or 0,
        _identity(crc32c, blob.size) if known else "",
    )


def exists(path: str) -> bool:
    """Whether there is a file (not a folder) at `path`."""
    try:
        if is_remote(path):
            return attempt(path, lambda: _blob(path).exists(retry=None, timeout=TIMEOUT))
        return stat.S_ISREG(_mode(path))
    except (FileNotFoundError, NotADirectoryError, IsADirectoryError):
        return False


def is_dir(path: str) -> bool:
    """Whether there is a folder that we may see at `path`; in Cloud Storage, whether any object's name begins so."""
    try:
        if is_remote(path):
            return next(_blobs(*_split(path.rstrip("/") + "/"), limit=1), None) is not None
        return stat.S_ISDIR(_mode(path))
    except (FileNotFoundError, NotADirectoryError, PermissionError):
        return False


def check_folder(path: str) -> None:
    """Raises InputError where there can be no folder `path` to write to, because it or one above it is a file."""
    if is_remote(path):
        return
    place = os.path.abspath(path)
    while not os.path.lexists(place):
        place = os.path.dirname(place)
    if not os.path.isdir(place):
        raise InputError(f"{path} cannot be written to: {place} is no folder; give another one, or move that away")


def _mode(path: str) -> int:
    """The mode of what is at a local path; FileNotFoundError where there can be nothing."""
    try:
        return attempt(path, lambda: os.stat(path).st_mode)
    except OSError as error:
        if error.errno in (errno.ENAMETOOLONG, errno.ELOOP):
            raise FileNotFoundError(error.errno, error.strerror, path) from error
        raise


def _open(path: str) -> BinaryIO:
    """A local file, open for reading. What is no file is never opened: a FIFO would wait for ever for a writer."""
    mode = os.stat(path).st_mode
    if not stat.S_ISREG(mode) and not stat.S_ISDIR(mode):
        kinds = ((stat.S_ISFIFO, "a FIFO"), (stat.S_ISSOCK, "a socket"))
        kind = next((name for test, name in kinds if test(mode)), "a device")
        raise OSError(errno.EINVAL, f"{kind}, no file", path)
    return open(path, "rb")


def read(path: str) -> bytes:
    """The whole file, of which Cloud Storage's checksum is verified."""

    def work() -> bytes:
        if is_remote(path):
            return _blob(path).download_as_bytes(retry=None, timeout=TIMEOUT)
        with _open(path) as file:
            return file.read()

    return attempt(path, work)


def reader(path: str) -> BinaryIO:
    """The file, open for reading from its first byte; objects are downloaded first, see `localize`."""
    local = localize(path)
    return attempt(local, lambda: _open(local))


def write(path: str, data: bytes) -> None:
    """Write the whole file; it appears under its name when it is complete."""
    if is_remote(path):
        _upload(path, io.BytesIO(data))
        return

    def work() -> None:
        with _replaced(path) as file:
            file.write(data)

    attempt(path, work, writing=True)


@contextlib.contextmanager
def writer(path: str) -> Iterator[BinaryIO]:
    """A binary file that appears under `path` when the block ends, and never if the block raises.

    An object is gathered in a local temporary file, from which its upload can begin anew.
    """
    opened = contextlib.ExitStack()
    place = _gathered if is_remote(path) else _replaced
    file = attempt(path, lambda: opened.enter_context(place(path)), writing=True)
    try:
        with opened:
            yield file
    except OSError as error:
        # The block has run and cannot run again, but a full disk is still no fault of what is written.
        _, verdict = meaning(error, tempfile.gettempdir() if is_remote(path) else path, writing=True)
        if verdict is error:
            raise
        raise verdict from error


@contextlib.contextmanager
def _gathered(path: str) -> Iterator[BinaryIO]:
    """A local temporary file, uploaded to `path` when the block ends."""
    with tempfile.TemporaryFile() as file:
        yield file
        _upload(path, file)


@contextlib.contextmanager
def _replaced(path: str) -> Iterator[BinaryIO]:
    """A local file under a temporary name, renamed to `path` when the block ends."""
    folder, name = os.path.split(os.path.abspath(path))
    os.makedirs(folder, exist_ok=True)
    temporary = os.path.join(folder, f".{shortened(name)}.{uuid.uuid4().hex[:8]}.tmp")
    try:
        with open(temporary, "wb") as file:
            yield file
        os.replace(temporary, path)
    except BaseException:
        with contextlib.suppress(OSError):
            os.remove(temporary)
        raise


def shortened(relative: str) -> str:
    """A path with a name that is not too long with what is added to it while the file is written."""
    folder, slash, name = relative.rpartition("/")
    data = os.fsencode(name)
    return folder + slash + (data[:100].decode("utf-8", "ignore") if len(data) > 100 else name)


def unfinished(relative: str) -> str:
    """The `shortened` path of the file that a killed process was writing when it left this one; "" for others."""
    found = _UNFINISHED.fullmatch(relative)
    return found["folder"] + found["name"] if found else ""


def _upload(path: str, file: BinaryIO) -> None:
    """Makes the object at `path` of all bytes of `file`, which Cloud Storage checks against their checksum.

    A second attempt after an answer that was lost writes the same bytes again, so it needs no condition.
    """
    size = file.seek(0, os.SEEK_END)
    kind = "application/octet-stream"
    send = lambda: _blob(path).upload_from_file(
        file, rewind=True, size=size, content_type=kind, retry=None, timeout=TIMEOUT
    )
    attempt(path, send, writing=True)


def _look(entry: os.DirEntry) -> os.stat_result | None:
    """What an entry of a folder leads to; None where that cannot be told, as of a link that leads nowhere."""
    try:
        return entry.stat()
    except OSError as error:
        if error.errno in PASSING - DAMAGE:
            raise
        return None


def _entries(folder: str) -> list[tuple[str, bool, os.stat_result | None]]:
    """Name, whether it is a link, and what it leads to, of all in a local folder."""

    def work():
        with os.scandir(folder) as entries:
            looked = [(entry, _look(entry)) for entry in entries]
        # A file that is gone by now, and was no link, was somebody's temporary one.
        return [
            (entry.name, entry.is_symlink(), info)
            for entry, info in looked
            if info or entry.is_symlink() or os.path.lexists(entry.path)
        ]

    try:
        return attempt(folder, work)
    except FileNotFoundError:
        return []
    except PermissionError:
        # The root of every disk has this folder, which only the system may enter.
        if os.path.basename(folder.rstrip("/")) == "lost+found":
            return []
        raise


def _local_file(root: str, relative: str, info: os.stat_result | None) -> File:
    if info is None or not stat.S_ISREG(info.st_mode):
        return File(os.path.join(root, relative), relative, 0, 0)
    return File(os.path.join(root, relative), relative, info.st_size, info.st_mtime_ns)


Chain = tuple[str, ...]
"""The real paths of a folder and of those it was reached through, itself last."""


def _enter(chain: Chain, name: str, linked: bool) -> Chain | None:
    """The chain of a folder in the last one of `chain`; None where that would be a circle.

    Sets are often assembled from links to folders: two that lead to one folder both count, but a link to a folder
    above must not be followed for ever.
    """
    path = os.path.join(chain[-1], name)
    place = os.path.realpath(path) if linked else path
    return None if place in chain else (*chain, place)


def _local_files(root: str) -> Iterator[File]:
    pending: list[tuple[str, Chain]] = [("", (os.path.realpath(root),))]
    while pending:
        below, chain = pending.pop()
        for name, linked, info in _entries(os.path.join(root, below)):
            if info is None or not stat.S_ISDIR(info.st_mode):
                yield _local_file(root, below + name, info)
            elif inner := _enter(chain, name, linked):
                pending.append((f"{below}{name}/", inner))


def files(root: str) -> list[File]:
    """Every file below `root`, sorted by relative path, through links to folders too.

    Links that lead nowhere, FIFOs, sockets and devices are among them, with size 0; reading one raises OSError.

    Raises:
      FileNotFoundError: there is no such folder.
      PermissionError: a folder in it may not be read.
    """
    if not is_remote(root):
        if not is_dir(root):
            raise FileNotFoundError(f"folder not found: {root}")
        return sorted(_local_files(root), key=lambda file: file.relative)
    bucket, prefix = _split(root.rstrip("/") + "/")
    # Objects whose names end in a slash mark folders.
    entries = [_object(bucket, prefix, blob) for blob in _blobs(bucket, prefix) if not blob.name.endswith("/")]
    if not entries:
        raise FileNotFoundError(f"folder not found: {root} (no object below it)")
    return sorted(entries, key=lambda file: file.relative)


def is_pattern(path: str) -> bool:
    """Whether `path` has characters that stand for others in a pattern."""
    return any(character in path for character in "*?[")


def glob(pattern: str) -> list[File]:
    """The files that match `pattern`, sorted by path, as Python's `glob` does, for local files and objects alike.

    ``*``, ``?``, ``[...]`` and ``[!...]`` stay within one name, ``**`` alone stands for any number of folders, and
    none of them matches what begins with a dot. A folder or file that exists by a name with such characters is that.

    Returns:
      Files, whose `relative` is the path below the last folder that the pattern names without such characters.
    """
    prefix, parts = _fixed(pattern)
    if parts[-1] == "**":
        parts = [*parts, "*"]
    if not is_remote(pattern):
        folder = prefix or "."
        try:
            found = {file.relative: file for file in _local_matches(folder, "", parts, (os.path.realpath(folder),))}
        except (FileNotFoundError, NotADirectoryError):
            return []
        return [dataclasses.replace(found[name], path=prefix + name) for name in sorted(found)]
    bucket, below = _split(prefix)
    plain = "" if parts[0] == "**" else parts[0][: min(map(parts[0].index, set("*?[") & set(parts[0])), default=None)]
    found = (_object(bucket, below, blob) for blob in _blobs(bucket, below + plain) if not blob.name.endswith("/"))
    matches = (file for file in found if _match(file.relative.split("/"), parts))
    return sorted(matches, key=lambda file: file.relative)


def _fixed(pattern: str) -> tuple[str, list[str]]:
    """The folders that a pattern begins with, with the slash behind them, and the names behind that."""
    head = f"{SCHEME}{_split(pattern)[0]}/" if is_remote(pattern) else ""
    names = pattern[len(head) :].split("/")
    for count, name in enumerate(names[:-1]):
        prefix = head + "/".join([*names[:count], ""])
        if is_pattern(name) and not is_dir(prefix + name):
            return prefix, names[count:]
    return head + "/".join([*names[:-1], ""]), names[-1:]


def _fits(name: str, part: str) -> bool:
    """Whether one name fits one part of a pattern."""
    return name == part or ((name[:1] != "." or part[:1] == ".") and fnmatch.fnmatchcase(name, part))


def _match(names: Sequence[str], parts: Sequence[str]) -> bool:
    """Whether the names that make a path fit the parts of a pattern, of which the last is not ``**``."""
    if not names or not parts:
        return not names and not parts
    if parts[0] == "**":
        return _match(names, parts[1:]) or (names[0][:1] != "." and _match(names[1:], parts))
    return _fits(names[0], parts[0]) and _match(names[1:], parts[1:])


def _local_matches(root: str, below: str, parts: Sequence[str], chain: Chain) -> Iterator[File]:
    """What fits `parts` in the folder `below` the folder `root`; the same file may come twice."""
    part, rest = parts[0], parts[1:]
    if part == "**":
        yield from _local_matches(root, below, rest, chain)
    for name, linked, info in _entries(os.path.join(root, below)):
        inside = info is not None and stat.S_ISDIR(info.st_mode)
        if part == "**":
            if inside and name[0] != "." and (inner := _enter(chain, name, linked)):
                yield from _local_matches(root, f"{below}{name}/", parts, inner)
        elif _fits(name, part):
            if rest and inside:
                inner = (*chain, os.path.realpath(os.path.join(root, below, name)))
                yield from _local_matches(root, f"{below}{name}/", rest, inner)
            elif not rest and not inside:
                yield _local_file(root, below + name, info)


def localize(path: str, cache_dir: str | None = None) -> str:
    """A local path that holds the file at `path`; objects are downloaded once per generation into `cache_dir`."""
    if not is_remote(path):
        return path
    blob = _blob(path)
    attempt(path, lambda: blob.reload(retry=None, timeout=TIMEOUT))
    folder = cache_dir or os.path.join(tempfile.gettempdir(), f"deeplab-cache-{os.getuid()}")
    os.makedirs(folder, mode=0o700, exist_ok=True)
    digest = hashlib.md5(f"{path}#{blob.generation}".encode()).hexdigest()
    local = os.path.join(folder, f"{digest}-{os.path.basename(path)[-40:]}")

    def download() -> None:
        with writer(local) as file:
            blob.download_to_file(file, if_generation_match=blob.generation, retry=None, timeout=TIMEOUT)

    if not exists(local):
        attempt(path, download)
    return local


def remove(path: str) -> None:
    """Delete one file."""
    if not is_remote(path):
        attempt(path, lambda: os.remove(path), writing=True)
        return
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


def read_json(path: str) -> Any:
    """The JSON file at `path`; InputError naming the file when it is missing or not JSON."""
    try:
        return json.loads(read(path))
    except FileNotFoundError:
        raise InputError(f"{path} is missing") from None
    except (UnicodeDecodeError, json.JSONDecodeError) as error:
        raise InputError(f"{path} is not valid JSON: {error}") from None


def write_json(path: str, value: Any) -> None:
    write(path, (json.dumps(value, indent=2, sort_keys=True) + "\n").encode())

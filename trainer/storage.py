"""Files by path or by ``gs://`` address, through one set of functions.

Nothing is ever half visible: local files appear by rename, objects in Cloud Storage when their upload is complete.
``STORAGE_EMULATOR_HOST`` is honoured, with anonymous credentials.
"""

from __future__ import annotations

import base64
import contextlib
import dataclasses
import fnmatch
import functools
import glob as local_glob
import hashlib
import json
import os
import tempfile
import uuid
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Any, BinaryIO

import google_crc32c

from trainer.options import InputError

SCHEME = "gs://"


class Unavailable(RuntimeError):
    """Storage did not do what it was asked, for no reason that lies in the file: the run ends and can be resumed."""


class CorruptError(OSError):
    """A file's bytes are not those that were stored."""


@dataclasses.dataclass(frozen=True)
class File:
    """One file below a folder.

    Attributes:
      path: where it is, local or gs://.
      relative: its path below that folder, with forward slashes.
      size: bytes.
      modified: modification time in nanoseconds, or the object's generation number.
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


def safe_relative(name: str) -> str:
    """`name` if it is UTF-8 and a relative path that stays below the folder it is joined to; InputError otherwise."""
    try:
        name.encode()
    except UnicodeEncodeError:
        raise InputError(f"its name is not UTF-8: {name!r}; rename it") from None
    path = PurePosixPath(name)
    if not name or "\0" in name or "\\" in name or path.is_absolute() or ".." in path.parts or name[1:2] == ":":
        raise InputError(f"the name {name!r} would leave the output folder; rename the file or the record")
    return str(path)


@functools.cache
def _client():
    from google.cloud import storage

    if os.environ.get("STORAGE_EMULATOR_HOST"):
        return storage.Client.create_anonymous_client()
    return storage.Client()


def _split(path: str) -> tuple[str, str]:
    bucket, _, name = path[len(SCHEME) :].partition("/")
    if not bucket:
        raise InputError(f"{path!r} names no bucket; expected gs://BUCKET/FOLDER")
    return bucket, name


def _blob(path: str):
    bucket, name = _split(path)
    return _client().bucket(bucket).blob(name)


def _blobs(bucket: str, prefix: str):
    from google.api_core.exceptions import NotFound

    try:
        yield from _client().list_blobs(bucket, prefix=prefix)
    except NotFound as error:
        raise FileNotFoundError(f"bucket gs://{bucket} not found") from error


def exists(path: str) -> bool:
    """Whether there is a file (not a folder) at `path`."""
    return _blob(path).exists() if is_remote(path) else os.path.isfile(path)


def is_dir(path: str) -> bool:
    """Whether there is a folder at `path`; in Cloud Storage, whether any object's name begins with it."""
    if not is_remote(path):
        return os.path.isdir(path)
    bucket, name = _split(path.rstrip("/") + "/")
    try:
        return next(iter(_blobs(bucket, name)), None) is not None
    except FileNotFoundError:
        return False


def read(path: str) -> bytes:
    """The whole file. Raises FileNotFoundError for local files and objects alike."""
    if not is_remote(path):
        return Path(path).read_bytes()
    from google.api_core.exceptions import NotFound

    try:
        return _blob(path).download_as_bytes()
    except NotFound as error:
        raise FileNotFoundError(f"object not found: {path}") from error


def write(path: str, data: bytes) -> None:
    """Write the whole file; it appears under its name when it is complete."""
    if is_remote(path):
        _blob(path).upload_from_string(data, content_type="application/octet-stream")
        return
    with writer(path) as file:
        file.write(data)


@contextlib.contextmanager
def writer(path: str) -> Iterator[BinaryIO]:
    """A binary file that appears under `path` when the block ends, and never if the block raises."""
    if is_remote(path):
        # An upload that raises never becomes an object, so no temporary name is needed (a rename there is a copy).
        with _blob(path).open("wb", ignore_flush=True) as file:
            yield file
        return
    folder, name = os.path.split(os.path.abspath(path))
    os.makedirs(folder, exist_ok=True)
    temporary = os.path.join(folder, f".{name}.{uuid.uuid4().hex[:8]}.tmp")
    try:
        with open(temporary, "wb") as file:
            yield file
        os.replace(temporary, path)
    except BaseException:
        with contextlib.suppress(FileNotFoundError):
            os.remove(temporary)
        raise


def _local_files(root: str) -> Iterator[File]:
    pending = [""]
    seen = set()
    while pending:
        below = pending.pop()
        # Sets are often assembled from links to folders; a link to a folder above must not be followed forever.
        if (real := os.path.realpath(os.path.join(root, below))) in seen:
            continue
        seen.add(real)
        with os.scandir(os.path.join(root, below)) as entries:
            for entry in entries:
                relative = f"{below}{entry.name}"
                if entry.is_dir():
                    pending.append(relative + "/")
                elif entry.is_file():
                    stat = entry.stat()
                    yield File(os.path.join(root, relative), relative, stat.st_size, stat.st_mtime_ns)


def files(root: str) -> list[File]:
    """Every file below `root`, sorted by relative path. Raises FileNotFoundError for a missing folder."""
    if not is_remote(root):
        if not os.path.isdir(root):
            raise FileNotFoundError(f"folder not found: {root}")
        return sorted(_local_files(root), key=lambda file: file.relative)
    bucket, prefix = _split(root.rstrip("/") + "/")
    entries = [
        File(
            f"{SCHEME}{bucket}/{blob.name}",
            blob.name[len(prefix) :],
            blob.size,
            blob.generation or 0,
            _identity(int.from_bytes(base64.b64decode(blob.crc32c), "big"), blob.size) if blob.crc32c else "",
        )
        for blob in _blobs(bucket, prefix)
        if not blob.name.endswith("/")
    ]
    if not entries:
        raise FileNotFoundError(f"folder not found: {root} (no object below it)")
    return sorted(entries, key=lambda file: file.relative)


def glob(pattern: str) -> list[str]:
    """Files that match `pattern`, sorted; ``**`` crosses folders."""
    if not is_remote(pattern):
        return sorted(path for path in local_glob.glob(pattern, recursive=True) if os.path.isfile(path))
    bucket, name = _split(pattern)
    fixed = name[: min((name.index(c) for c in "*?[" if c in name), default=len(name))]
    # fnmatch's star crosses slashes; a single star must not.
    deep = "**" in name
    return sorted(
        f"{SCHEME}{bucket}/{blob.name}"
        for blob in _blobs(bucket, fixed)
        if fnmatch.fnmatchcase(blob.name, name) and (deep or blob.name.count("/") == name.count("/"))
    )


def localize(path: str, cache_dir: str | None = None) -> str:
    """A local path that holds the file at `path`; objects are downloaded once per generation into `cache_dir`."""
    if not is_remote(path):
        return path
    bucket, name = _split(path)
    blob = _client().bucket(bucket).get_blob(name)
    if blob is None:
        raise FileNotFoundError(f"object not found: {path}")
    folder = cache_dir or os.path.join(tempfile.gettempdir(), f"deeplab-cache-{os.getuid()}")
    os.makedirs(folder, mode=0o700, exist_ok=True)
    digest = hashlib.md5(f"{path}#{blob.generation}".encode()).hexdigest()
    local = os.path.join(folder, f"{digest}-{os.path.basename(name)}")
    if not os.path.exists(local):
        with writer(local) as file:
            blob.download_to_file(file)
    return local


def remove(path: str) -> None:
    """Delete one file."""
    if is_remote(path):
        _blob(path).delete()
    else:
        os.remove(path)


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

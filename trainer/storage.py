"""Files by path or by ``gs://`` address, through one set of functions.

Nothing is ever half visible: local files appear by rename, objects in Cloud Storage when their upload is complete.

Errors mean the same for both, see `trainer.attempts`: an OSError, that something is wrong with that file; Unavailable,
that storage does not do what it is asked at present; InputError, that the user has to do something first.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import io
import json
import os
import stat
import tempfile
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any, BinaryIO

from trainer.attempts import SCHEME, attempt, meaning
from trainer.attempts import CorruptError as CorruptError
from trainer.attempts import Unavailable as Unavailable
from trainer.files import cloud, local, scratch
from trainer.files.names import LARGEST as LARGEST
from trainer.files.names import File, check_size, is_pattern, is_remote, match
from trainer.files.names import absolute as absolute
from trainer.files.names import identity as identity
from trainer.files.names import join as join
from trainer.files.names import safe_relative as safe_relative
from trainer.files.names import shortened as shortened
from trainer.files.names import unfinished as unfinished
from trainer.options import InputError


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


def exists(path: str) -> bool:
    """Whether there is a file (not a folder) at `path`."""
    try:
        return cloud.exists(path) if is_remote(path) else stat.S_ISREG(local.mode(path))
    except (FileNotFoundError, NotADirectoryError, IsADirectoryError):
        return False


def is_dir(path: str) -> bool:
    """Whether there is a folder that we may see at `path`; in Cloud Storage, whether any object's name begins so.

    Raises PermissionError where the objects of a bucket may not be listed: they may well be there.
    """
    if is_remote(path):
        with contextlib.suppress(FileNotFoundError):
            return cloud.is_folder(path)
        return False
    try:
        return stat.S_ISDIR(local.mode(path))
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
        raise InputError(f"{path} cannot be written to: {place} is not a folder; give another one, or move that away")


def check_file(path: str) -> None:
    """Raises InputError where there can be no file `path` to write, because it is a folder."""
    if not is_remote(path) and os.path.isdir(path):
        raise InputError(f"{path} is a folder, where a file is to be written; move it away, or give another --output")


def read(path: str) -> bytes:
    """The whole file, of which Cloud Storage's checksum is verified.

    Raises OSError (EFBIG), before anything is read, for a file of over `LARGEST` bytes.
    """
    if is_remote(path):
        return cloud.read(path)

    def work() -> bytes:
        with local.open_file(path) as file:
            check_size(path, os.fstat(file.fileno()).st_size)
            return file.read()

    return attempt(path, work)


def read_part(path: str, offset: int, size: int) -> bytes:
    """At most `size` bytes of a file from `offset` on, which nothing verifies."""
    if is_remote(path):
        return cloud.read_part(path, offset, size)

    def work() -> bytes:
        with local.open_file(path) as file:
            file.seek(offset)
            return file.read(size)

    return attempt(path, work)


def reader(path: str) -> BinaryIO:
    """The file, open for reading from its first byte. An object is downloaded whole, to a file without a name."""
    if not is_remote(path):
        return attempt(path, lambda: local.open_file(path))
    file = attempt(path, tempfile.TemporaryFile)
    try:
        cloud.download(path, file)
    except BaseException:
        file.close()
        raise
    return file


def write(path: str, data: bytes) -> None:
    """Write the whole file; it appears under its name when it is complete."""
    if is_remote(path):
        cloud.upload(path, io.BytesIO(data))
        return

    def work() -> None:
        with local.replaced(path) as file:
            file.write(data)

    attempt(path, work, writing=True)


def create(path: str, data: bytes) -> bool:
    """Writes a file unless there is one at `path`; takes a single request.

    Returns:
      Whether it was written. False may also mean that it was, by an attempt whose answer was lost.
    """
    if is_remote(path):
        return cloud.create(path, data)
    return attempt(path, lambda: local.create(path, data), writing=True)


def exchange(path: str, before: bytes | None, after: bytes | None) -> bool:
    """Writes `after` where the file at `path` holds `before`; None stands for no file.

    Of several processes that try it at once, one succeeds.

    Returns:
      Whether the file holds `after` now; False where it held something else than `before`.
    """
    if is_remote(path):
        return cloud.exchange(path, before, after)
    return attempt(path, lambda: local.exchange(path, before, after), writing=True)


@contextlib.contextmanager
def writer(path: str) -> Iterator[BinaryIO]:
    """A binary file that appears under `path` when the block ends, and never if the block raises.

    An object is gathered in a local temporary file, from which its upload can begin anew.
    """
    opened = contextlib.ExitStack()
    place = _gathered if is_remote(path) else local.replaced
    file = attempt(path, lambda: opened.enter_context(place(path)), writing=True)
    try:
        with opened:
            yield file
    except OSError as error:
        if error.filename != path and is_remote(str(error.filename)):
            raise  # of what the block reads
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
        cloud.upload(path, file)


def files(root: str, within: Collection[str] | None = None) -> list[File]:
    """Every file below `root`, sorted by relative path, through links to folders too.

    Links that lead nowhere, FIFOs, sockets and devices are among them, with size 0; reading one raises OSError.

    Args:
      within: names of the folders in `root` that are looked into; None: all. Beside what a command wrote there may be
        anything, and more of it than memory holds.

    Raises:
      FileNotFoundError: there is no such folder.
      PermissionError: a folder in it may not be read.
    """
    return sorted(walk(root, within), key=lambda file: file.relative)


def walk(root: str, within: Collection[str] | None = None) -> Iterator[File]:
    """The same one by one, in no order, so that they need not all be in memory."""
    if not is_remote(root):
        if not is_dir(root):
            raise FileNotFoundError(f"folder not found: {root}")
        yield from local.files(root, within)
        return
    is_empty = True
    for file in cloud.files(root):
        is_empty = False
        folder, slash, _ = file.relative.partition("/")
        if within is None or not slash or folder in within:
            yield file
    if is_empty:
        raise FileNotFoundError(f"folder not found: {root} (no object below it)")


def glob(pattern: str) -> list[File]:
    """The files that match `pattern`, sorted by path, as Python's `glob` does, for local files and objects alike.

    ``*``, ``?``, ``[...]`` and ``[!...]`` stay within one name, ``**`` alone stands for any number of folders, and
    none of them matches what begins with a dot. A folder or file that exists by a name with such characters is that.

    Returns:
      Files, whose `relative` is the path below the last folder that the pattern names without such characters.
    """
    return sorted({file.relative: file for file in matching(pattern)}.values(), key=lambda file: file.relative)


def matching(pattern: str) -> Iterator[File]:
    """The same one by one, in no order, so that they need not all be in memory; some perhaps twice."""
    prefix, parts = _fixed(pattern)
    if parts[-1] == "**":
        parts = [*parts, "*"]
    if is_remote(pattern):
        first = parts[0]
        plain = "" if first == "**" else first[: min(map(first.index, set("*?[") & set(first)), default=None)]
        yield from (file for file in cloud.files(prefix, plain) if match(file.relative.split("/"), parts))
        return
    folder = prefix or "."
    with contextlib.suppress(FileNotFoundError, NotADirectoryError):
        for file in local.matches(folder, "", parts, (os.path.realpath(folder),)):
            yield dataclasses.replace(file, path=prefix + file.relative)


def _fixed(pattern: str) -> tuple[str, list[str]]:
    """The folders that a pattern begins with, with the slash behind them, and the names behind that."""
    head = f"{SCHEME}{cloud.split(pattern)[0]}/" if is_remote(pattern) else ""
    names = pattern[len(head) :].split("/")
    for count, name in enumerate(names[:-1]):
        prefix = head + "/".join([*names[:count], ""])
        if is_pattern(name) and not is_dir(prefix + name):
            return prefix, names[count:]
    return head + "/".join([*names[:-1], ""]), names[-1:]


def localize(path: str) -> str:
    """A local path that holds the file at `path`. Objects are downloaded once, into a folder that this process has
    to itself and that goes with it."""
    if not is_remote(path):
        return path
    generation = cloud.generation(path)
    digest = hashlib.md5(f"{path}#{generation}".encode()).hexdigest()
    place = os.path.join(scratch.own(), f"{digest}-{os.path.basename(path)[-40:]}")
    if not exists(place):
        with writer(place) as file:
            cloud.download(path, file, generation)
            file.seek(0, os.SEEK_END)
    return place


def remove(path: str) -> None:
    """Delete one file."""
    if is_remote(path):
        cloud.remove(path)
    else:
        attempt(path, lambda: os.remove(path), writing=True)


def read_json(path: str) -> Any:
    """The JSON file at `path`; InputError naming the file when it is missing or not JSON."""
    try:
        return json.loads(read(path))
    except FileNotFoundError:
        raise InputError(f"{path} is missing") from None
    except (ValueError, RecursionError) as error:  # no JSON, or brackets too deep and numbers too long to be read
        raise InputError(f"{path} is not valid JSON: {error}") from None


def write_json(path: str, value: Any) -> None:
    write(path, (json.dumps(value, indent=2, sort_keys=True) + "\n").encode())

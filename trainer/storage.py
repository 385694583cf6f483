"""Reads and writes files by path or ``gs://`` address, through one set of functions.

Files are never partly visible: local files appear by rename, objects in Cloud Storage when their upload is complete.

Errors have the same meaning for both, see `trainer.attempts`: OSError, something is wrong with that file; Unavailable,
storage fails at present; InputError, the user has to do something first.
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
from trainer.attempts import Unavailable as Unavailable
from trainer.files import cloud, local, scratch
from trainer.files.names import File, check_size, is_pattern, is_remote, match
from trainer.files.names import absolute as absolute
from trainer.files.names import identity as identity
from trainer.files.names import join as join
from trainer.files.names import safe_relative as safe_relative
from trainer.files.names import shortened as shortened
from trainer.files.names import unfinished as unfinished
from trainer.options import InputError


def real(path: str) -> str:
    """The canonical path, with all links resolved; for gs:// the address without a trailing slash."""
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


def absence(path: str, words: str = "not found") -> str:
    """Why no file or folder is at `path`, as a phrase: `words`, unless something of another kind is there."""
    kind = "" if is_remote(path) else local.kind_of(path)
    return f"is {kind}" if kind else words


def is_dir(path: str) -> bool:
    """Whether there is a visible folder at `path`; in Cloud Storage, whether any object's name begins with it.

    Raises PermissionError if the objects of a bucket may not be listed, since they may exist.
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
    """Raises InputError if `path` cannot be a folder to write to, because it or a parent is a file."""
    if is_remote(path):
        return
    place = os.path.abspath(path)
    while not os.path.lexists(place):
        place = os.path.dirname(place)
    if not os.path.isdir(place):
        raise InputError(f"{path} cannot be written to: {place} is not a folder; give another one, or move that away")


def check_file(path: str) -> None:
    """Raises InputError if `path` cannot be a file to write, because it is a folder, a FIFO or a broken link."""
    if not is_remote(path) and os.path.lexists(path) and not os.path.isfile(path):
        kind = "a folder" if os.path.isdir(path) else "a broken link" if os.path.islink(path) else "no regular file"
        raise InputError(f"{path} is {kind}, where a file is to be written; move it away, or give another output")


def check_own(path: str) -> None:
    """Raises InputError if `path`, a folder that this program makes and empties, is a link to one of others."""
    if not is_remote(path) and os.path.islink(path):
        raise InputError(
            f"{path} is a link, where this program makes a folder of its own and removes files; remove the link, or "
            "give another output"
        )


def read(path: str) -> bytes:
    """Reads the whole file; for an object, verifies its checksum.

    Raises OSError (EFBIG), before anything is read, for a file of over `names.LARGEST` bytes.
    """
    if is_remote(path):
        return cloud.read(path)

    def work() -> bytes:
        with local.open_file(path) as file:
            check_size(path, os.fstat(file.fileno()).st_size)
            return file.read()

    return attempt(path, work)


def read_part(path: str, offset: int, size: int) -> bytes:
    """Reads at most `size` bytes of a file from `offset` on, without verifying them."""
    if is_remote(path):
        return cloud.read_part(path, offset, size)

    def work() -> bytes:
        with local.open_file(path) as file:
            file.seek(offset)
            return file.read(size)

    return attempt(path, work)


def reader(path: str) -> BinaryIO:
    """Opens the file for reading from its first byte. An object is first downloaded, to an unnamed file."""
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
    """Writes the whole file, which appears under its name when it is complete."""
    if is_remote(path):
        cloud.upload(path, io.BytesIO(data))
        return
    attempt(path, lambda: local.write(path, data), writing=True)


def create(path: str, data: bytes) -> bool:
    """Writes a file unless one exists at `path`; takes a single request.

    Returns:
      Whether it was written. It may be False if it was written by an attempt whose answer was lost.
    """
    if is_remote(path):
        return cloud.create(path, data)
    return attempt(path, lambda: local.create(path, data), writing=True)


def exchange(path: str, before: bytes | None, after: bytes | None) -> bool:
    """Replaces the contents `before` of the file at `path` with `after`, atomically; None stands for no file.

    If several processes try it at once, one succeeds.

    Returns:
      Whether the file holds `after` now; False if it held something other than `before`.
    """
    if is_remote(path):
        return cloud.exchange(path, before, after)
    return attempt(path, lambda: local.exchange(path, before, after), writing=True)


@contextlib.contextmanager
def writer(path: str) -> Iterator[BinaryIO]:
    """Yields a binary file that appears under `path` when the block ends, and never if the block raises.

    An object is buffered in a local temporary file, from which its upload can be retried.
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
        # The block cannot be retried, but a full disk is still not the file's fault.
        _, verdict = meaning(error, tempfile.gettempdir() if is_remote(path) else path, writing=True)
        if verdict is error:
            raise
        raise verdict from error


@contextlib.contextmanager
def _gathered(path: str) -> Iterator[BinaryIO]:
    """Yields a local temporary file that is uploaded to `path` when the block ends."""
    with tempfile.TemporaryFile() as file:
        yield file
        cloud.upload(path, file)


def files(root: str, within: Collection[str] | None = None) -> list[File]:
    """Every file below `root`, sorted by relative path; follows links to folders.

    Broken links, FIFOs, sockets and devices are included, with size 0; reading one raises OSError.

    Args:
      within: names of the folders in `root` to descend into; None for all. An output folder may hold arbitrarily many
        other files.

    Raises:
      FileNotFoundError: the folder does not exist.
      PermissionError: a folder in it may not be read.
    """
    return sorted(walk(root, within), key=lambda file: file.relative)


def walk(root: str, within: Collection[str] | None = None) -> Iterator[File]:
    """Like `files`, but one by one and in no order, so that they need not all be in memory."""
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

    ``*``, ``?``, ``[...]`` and ``[!...]`` stay within one name, ``**`` as a whole name stands for any number of
    folders, and none of them matches a leading dot. A path that exists is never taken for a pattern.

    Returns:
      Files, whose `relative` is the path below the last folder that the pattern names without such characters.
    """
    return sorted({file.relative: file for file in matching(pattern)}.values(), key=lambda file: file.relative)


def sweep(folder: str, names: Collection[str]) -> None:
    """Removes the unfinished files that killed processes have left in `folder` itself of files called `names`."""
    wholes = set(map(shortened, names))
    for file in () if is_remote(folder) else glob(join(folder, ".*")):  # objects appear whole
        if unfinished(file.relative) in wholes:
            discard(file.path)


def matching(pattern: str) -> Iterator[File]:
    """Like `glob`, but one by one and in no order, so that they need not all be in memory; may repeat files."""
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


def fixed_folder(pattern: str) -> str:
    """The folder below which the files that match a pattern have their `relative` paths."""
    prefix = _fixed(pattern)[0]
    return prefix.rstrip("/") or prefix or "."


def _fixed(pattern: str) -> tuple[str, list[str]]:
    """The fixed folders at the beginning of a pattern, with a slash, and the remaining names."""
    head = f"{SCHEME}{cloud.split(pattern)[0]}/" if is_remote(pattern) else ""
    names = pattern[len(head) :].split("/")
    for count, name in enumerate(names[:-1]):
        prefix = head + "/".join([*names[:count], ""])
        if is_pattern(name) and not is_dir(prefix + name):
            return prefix, names[count:]
    return head + "/".join([*names[:-1], ""]), names[-1:]


def localize(path: str) -> str:
    """The local path of the file at `path`. Objects are downloaded once, into a temporary folder of this process."""
    if not is_remote(path):
        return path
    generation = cloud.generation(path)
    digest = hashlib.md5(f"{path}#{generation}".encode()).hexdigest()
    place = os.path.join(scratch.own(), f"{digest}-{os.path.basename(path)[-40:]}")
    if not exists(place):
        with writer(place) as file:
            cloud.download(path, file, generation)
    return place


def remove(path: str) -> None:
    """Deletes one file."""
    if is_remote(path):
        cloud.remove(path)
    else:
        attempt(path, lambda: os.remove(path), writing=True)


def discard(path: str) -> None:
    """Deletes one file, if there is one: another process may have been faster."""
    with contextlib.suppress(FileNotFoundError):
        remove(path)


def read_json(path: str) -> Any:
    """Reads the JSON file at `path`. Raises InputError, with its path, if it is missing or not JSON."""
    try:
        return json.loads(read(path))
    except FileNotFoundError:
        raise InputError(f"{path} is missing") from None
    except (ValueError, RecursionError) as error:  # no JSON, or brackets too deep and numbers too long to be read
        raise InputError(f"{path} is not valid JSON: {error}") from None


def json_object(data: bytes) -> dict[str, Any]:
    """The JSON object in `data`; {} if it holds anything else, as a file that another program wrote, or damaged."""
    try:
        value = json.loads(data)
    except (ValueError, RecursionError):
        return {}
    return value if isinstance(value, dict) else {}


def write_json(path: str, value: Any) -> None:
    write(path, (json.dumps(value, indent=2, sort_keys=True) + "\n").encode())

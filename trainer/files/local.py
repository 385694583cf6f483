"""Files on the disks of this machine: opened, listed, matched, and written atomically."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import itertools
import os
import stat
import uuid
from collections.abc import Collection, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, BinaryIO

from trainer.attempts import DAMAGE, PASSING, attempt, meaning
from trainer.files.names import File, fits, shortened

AHEAD = 8
"""How many folders are listed at a time, each with its first block of entries read ahead."""
BLOCK = 1 << 12
"""How many entries of a folder are in memory at a time: it may have millions, of 1 kB each."""


def mode(path: str) -> int:
    """The mode (`st_mode`) of a local path; FileNotFoundError if nothing can be there."""
    try:
        return attempt(path, lambda: os.stat(path).st_mode)
    except OSError as error:
        if error.errno in (errno.ENAMETOOLONG, errno.ELOOP):
            raise FileNotFoundError(error.errno, error.strerror, path) from error
        raise


def open_file(path: str) -> BinaryIO:
    """A local file, open for reading. Only regular files are opened: a FIFO would wait for a writer for ever."""
    if kind := _kind(os.stat(path).st_mode):
        raise OSError(errno.EINVAL, f"{kind}, not a file", path)
    return open(path, "rb")


def kind_of(path: str) -> str:
    """What is at a local path, if it is no file or folder: "a FIFO", "a broken link"; "" if nothing is."""
    try:
        return _kind(os.stat(path).st_mode)
    except OSError:
        return "a broken link" if os.path.islink(path) else ""


def _kind(mode: int) -> str:
    if stat.S_ISREG(mode) or stat.S_ISDIR(mode):
        return ""
    kinds = ((stat.S_ISFIFO, "a FIFO"), (stat.S_ISSOCK, "a socket"))
    return next((name for test, name in kinds if test(mode)), "a device")


@contextlib.contextmanager
def replaced(path: str) -> Iterator[BinaryIO]:
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


def write(path: str, data: bytes) -> None:
    """Writes a local file by `replaced`; again if its temporary file disappears meanwhile.

    Another process may take that for one of a killed process: where a runner starts an attempt at a chunk although an
    earlier one is still alive, as in speculation or after a silence, the later one sweeps when it begins.
    """
    for is_last in (False, False, True):
        try:
            with replaced(path) as file:
                file.write(data)
            return
        except FileNotFoundError:
            if is_last or not os.path.isdir(os.path.dirname(os.path.abspath(path))):  # removed by the user
                raise


def _look(entry: os.DirEntry) -> os.stat_result | None:
    """The status of what an entry of a folder leads to; None if that is unknown, as for a broken link."""

    def look():
        try:
            return entry.stat()
        except OSError as error:
            if error.errno in PASSING - DAMAGE:
                raise
            return None

    return attempt(entry.path, look)


Entry = tuple[str, bool, os.stat_result | None]
"""An entry of a folder: its name, whether it is a link, and the status of what it leads to."""


def _entries(folder: str) -> Iterator[list[Entry]]:
    """The entries of a local folder, BLOCK at a time."""
    try:
        entries, block = attempt(folder, lambda: _begin(folder))
    except FileNotFoundError:
        return
    except PermissionError:
        # The root of every disk has lost+found, which only the system may enter.
        if os.path.basename(folder.rstrip("/")) == "lost+found":
            return
        raise
    with entries:
        while block:
            yield block
            try:
                block = _take(entries)
            except OSError as error:  # Python cannot continue after it
                raise meaning(error, folder, writing=False)[1] from error


def _begin(folder: str) -> tuple[Any, list[Entry]]:
    """Starts listing a folder: the open listing and its first block."""
    entries = os.scandir(folder)
    try:
        return entries, _take(entries)
    except BaseException:
        entries.close()
        raise


def _take(entries: Iterator[os.DirEntry]) -> list[Entry]:
    """The next block; empty at the end."""
    block: list[Entry] = []
    while not block:
        looked = [(entry, _look(entry)) for entry in itertools.islice(entries, BLOCK)]
        if not looked:
            break
        # A file that has disappeared meanwhile, and was not a link, was a temporary one.
        block = [
            (entry.name, entry.is_symlink(), info)
            for entry, info in looked
            if info or entry.is_symlink() or os.path.lexists(entry.path)
        ]
    return block


def _file(root: str, relative: str, info: os.stat_result | None) -> File:
    if info is None or not stat.S_ISREG(info.st_mode):
        return File(os.path.join(root, relative), relative, 0, 0)
    return File(os.path.join(root, relative), relative, info.st_size, info.st_mtime_ns)


Chain = tuple[str, ...]
"""The real paths of a folder and of the folders it was reached through; its own is last."""


def _enter(chain: Chain, name: str, linked: bool) -> Chain | None:
    """The chain of a subfolder of the last folder of `chain`; None if that would be a cycle.

    Data sets are often assembled from links to folders: two links to one folder both count, but a link to a parent
    must not be followed for ever.
    """
    path = os.path.join(chain[-1], name)
    place = os.path.realpath(path) if linked else path
    return None if place in chain else (*chain, place)


class _Listing:
    """A folder to be listed: its path below the root, how it was reached, and its entries.

    Attributes:
      rest: iterates over the remaining blocks of entries.
      block: the next block.
    """

    def __init__(self, root: str, below: str, chain: Chain) -> None:
        self.below, self.chain = below, chain
        self.rest = _entries(os.path.join(root, below))
        self.block: Future[list[Entry]] | None = None

    def ask(self, pool: ThreadPoolExecutor) -> None:
        self.block = pool.submit(next, self.rest, [])


def files(root: str, within: Collection[str] | None) -> Iterator[File]:
    """Every file below a folder, in no order; see `storage.walk`.

    The next folders are listed in parallel: on a network file system, every status takes a round trip.
    """
    pending = [_Listing(root, "", (os.path.realpath(root),))]
    with ThreadPoolExecutor(AHEAD) as pool:
        while pending:
            for listing in pending[-AHEAD:]:
                if not listing.block:
                    listing.ask(pool)
            listing = pending.pop()
            while block := listing.block.result():
                listing.ask(pool)
                for name, linked, info in block:
                    if info is None or not stat.S_ISDIR(info.st_mode):
                        yield _file(root, listing.below + name, info)
                    elif within is not None and not listing.below and name not in within:
                        continue
                    elif inner := _enter(listing.chain, name, linked):
                        pending.append(_Listing(root, f"{listing.below}{name}/", inner))


def matches(root: str, below: str, parts: Sequence[str], chain: Chain) -> Iterator[File]:
    """The files that match the pattern `parts` in the folder `below` under `root`; a file may be given twice."""
    part, rest = parts[0], parts[1:]
    if part == "**":
        yield from matches(root, below, rest, chain)
    for name, linked, info in itertools.chain.from_iterable(_entries(os.path.join(root, below))):
        inside = info is not None and stat.S_ISDIR(info.st_mode)
        if part == "**":
            if inside and name[0] != "." and (inner := _enter(chain, name, linked)):
                yield from matches(root, f"{below}{name}/", parts, inner)
        elif fits(name, part):
            if rest and inside:
                inner = (*chain, os.path.realpath(os.path.join(root, below, name)))
                yield from matches(root, f"{below}{name}/", rest, inner)
            elif not rest and not inside:
                yield _file(root, below + name, info)


def create(path: str, data: bytes) -> bool:
    """See `storage.create`."""
    os.makedirs(os.path.dirname(os.path.abspath(path)), exist_ok=True)
    try:
        _make(path, data)
    except FileExistsError:
        return False
    return True


def exchange(path: str, before: bytes | None, after: bytes | None) -> bool:
    """See `storage.exchange`."""
    folder = os.path.dirname(os.path.abspath(path))
    os.makedirs(folder, exist_ok=True)
    with _alone_in(folder):
        try:
            with _own(path, os.O_RDONLY) as file:
                current = file.read()
        except FileNotFoundError:
            current = None
        if current != before:
            return False
        if after is None:
            os.remove(path)
        elif current is None:
            _make(path, after)
        else:
            with _own(path, os.O_RDWR) as file:  # in place, so that a process that is killed leaves nothing else
                file.write(after)
                file.truncate()
    return True


def _own(path: str, flags: int) -> BinaryIO:
    """A file that this program made, open. Raises OSError (EINVAL) for a link, which may lead to a file of others."""
    try:
        # Without O_NONBLOCK a FIFO would wait for another process for ever.
        place = os.open(path, flags | os.O_NOFOLLOW | os.O_NONBLOCK)
    except OSError as error:
        if error.errno not in (errno.ELOOP, errno.ENXIO, errno.EISDIR):
            raise
    else:
        if stat.S_ISREG(os.fstat(place).st_mode):
            return os.fdopen(place, "r+b" if flags == os.O_RDWR else "rb")
        os.close(place)
    raise OSError(errno.EINVAL, "no regular file", path)


def _make(path: str, data: bytes) -> None:
    """Creates a file, exclusively even without a lock. Leaves none if writing fails."""
    with open(path, "xb", buffering=0) as file:
        try:
            file.write(data)
        except OSError:
            os.remove(path)
            raise


@contextlib.contextmanager
def _alone_in(folder: str) -> Iterator[None]:
    """A lock on `folder` between processes, as far as its file system has locks."""
    place = os.open(folder, os.O_RDONLY)
    try:
        with contextlib.suppress(OSError):  # NFS cannot lock folders
            fcntl.flock(place, fcntl.LOCK_EX)
        yield
    finally:
        os.close(place)

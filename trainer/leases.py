"""One job at a time in a folder: a lease says who writes there, and a job that is dead has lost it.

    with leases.scope(lost, tell):            # the command line, around every command
        ...
        leases.hold(folder, "prepare")        # a command, before it looks at what is in the folder

The lease is a small file in the folder, or beside the one file that is written, and is signed every few seconds by the
process that drives the job, never by its workers. Whether that process is alive is known at once where it was on this
machine, so that a killed run can be repeated without delay. The lease of another machine is watched: it is taken where
nothing happens to it for a while, whatever the clocks of the two machines say.
"""

from __future__ import annotations

import atexit
import contextlib
import getpass
import json
import os
import socket
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from typing import Any

from trainer import processes, storage
from trainer.options import InputError

FILE = ".deeplab-lease.json"
BEAT = 10.0
"""Seconds between two signs of life."""
PATIENCE = 40.0
"""Seconds without any, after which a job on another machine counts as dead."""
GLANCE = 1.0
"""Seconds between two looks at a lease that is watched."""

_held: list[_Lease] = []
_lock = threading.Lock()


def _abandon(message: str) -> None:
    os._exit(1)


_lost: Callable[[str], object] = _abandon
_tell: Callable[[str], object] = lambda message: None


@contextlib.contextmanager
def scope(lost: Callable[[str], object], tell: Callable[[str], object]) -> Iterator[None]:
    """Gives back at its end what has been held in the block.

    Args:
      lost: called in a thread, with a sentence, when another job has taken a folder: ends this process.
      tell: called with a sentence when a lease is watched.
    """
    global _lost, _tell
    before, known = (_lost, _tell), set(map(id, _held))
    _lost, _tell = lost, tell
    try:
        yield
    finally:
        release([lease for lease in _held if id(lease) not in known])
        _lost, _tell = before


def hold(folder: str, command: str) -> None:
    """Takes the lease of a folder, local or gs://, which need not exist, until the end of the `scope`.

    Args:
      folder: that is written to.
      command: of `deeplab`, that writes.

    Raises:
      InputError: another job holds it, or the folder cannot be written to.
      storage.Unavailable: storage does not answer, or is full.
    """
    _take(folder, command, folder, FILE)


def hold_file(path: str, command: str) -> None:
    """The same for one file that is written; what else lies in its folder is anybody's."""
    folder, _, name = storage.absolute(path).replace(os.sep, "/").rpartition("/")
    _take(folder or "/", command, path, storage.shortened(f".{name}") + FILE)


def _take(folder: str, command: str, target: str, file: str) -> None:
    storage.check_folder(folder)
    lease = _Lease(storage.absolute(folder), command, target, file)
    with _lock:
        _held.append(lease)
    try:
        lease.take()
    except BaseException as error:
        with _lock:
            _held.remove(lease)
        lease.remove_folders()
        if not isinstance(error, OSError):
            raise
        raise InputError(f"{target} cannot be written to: {error.strerror or error}; give another one") from None
    threading.Thread(target=lease.beat, daemon=True).start()


def release(leases: list[_Lease] | None = None) -> None:
    """Gives back leases: all of this process, where it is about to end."""
    with _lock:
        ours = [lease for lease in (_held if leases is None else leases) if lease.process == processes.name()]
        _held[:] = [lease for lease in _held if lease not in ours]
    for lease in reversed(ours):  # the first made the folders of the others
        lease.release()


atexit.register(release)


class _Lease:
    def __init__(self, folder: str, command: str, target: str, file: str) -> None:
        self.target, self.process, self.job = target, processes.name(), uuid.uuid4().hex
        self._path = storage.join(folder, file)
        self._made = [] if storage.is_remote(folder) else _missing(folder)
        self._ended, self._writing = threading.Event(), threading.Lock()
        self._note = {
            "command": command,
            "user": _user(),
            "host": socket.gethostname(),
            "machine": processes.machine(),
            "process": self.process,
            "since": time.strftime("%Y-%m-%d %H:%M:%S %Z"),
            "job": self.job,
        }
        self._beats = 0

    def _content(self) -> bytes:
        # Of one length, so that it can be written over what it was.
        return json.dumps(self._note | {"beat": f"{self._beats:09d}"}, indent=1).encode() + b"\n"

    def take(self) -> None:
        seen, since = None, 0.0
        while True:
            current = _read(self._path)
            if current is None or _is_dead(current):
                if storage.exchange(self._path, current, self._content()):
                    return
                continue
            if _is_here(current) or (seen is not None and current != seen):
                raise InputError(_refusal(self.target, current))
            if seen is None:
                seen, since = current, time.monotonic()
                _tell(f"{_owner(self.target, current)}; waiting {PATIENCE:.0f} seconds for a sign of life of it")
            elif time.monotonic() - since > PATIENCE:
                if storage.exchange(self._path, current, self._content()):
                    return
                continue
            time.sleep(GLANCE)

    def beat(self) -> None:
        while not self._ended.wait(BEAT):
            with contextlib.suppress(OSError, storage.Unavailable, InputError), self._writing:
                if not self._ended.is_set() and not self._renew():
                    current = _read(self._path) or b""
                    _lost(
                        f"{_owner(self.target, current)}: it has taken the place of this job, which was not heard of"
                    )
                    return

    def _renew(self) -> bool:
        before = self._content()
        self._beats += 1
        # Somebody may have removed the file, or the folder with it.
        return any(storage.exchange(self._path, content, self._content()) for content in (before, None))

    def release(self) -> None:
        self._ended.set()
        with contextlib.suppress(OSError, storage.Unavailable, InputError), self._writing:
            storage.exchange(self._path, self._content(), None)
        self.remove_folders()

    def remove_folders(self) -> None:
        """Removes the folders that were made for the lease, where nothing else has come into them."""
        with contextlib.suppress(OSError):
            for folder in self._made:
                os.rmdir(folder)


def _missing(folder: str) -> list[str]:
    """The folders that are not there yet, `folder` first and then those above it."""
    folders = []
    while not os.path.lexists(folder):
        folders.append(folder)
        folder = os.path.dirname(folder)
    return folders


def _user() -> str:
    with contextlib.suppress(Exception):  # there may be no name for the number
        return getpass.getuser()
    return str(os.getuid())


def _read(path: str) -> bytes | None:
    try:
        return storage.read(path)
    except FileNotFoundError:
        return None


def _fields(content: bytes) -> dict[str, Any]:
    """What a lease says; nothing where it is damaged, as after a power failure."""
    try:
        note = json.loads(content)
    except ValueError:
        return {}
    return note if isinstance(note, dict) else {}


def _is_here(content: bytes) -> bool:
    return _fields(content).get("machine") == processes.machine()


def _is_dead(content: bytes) -> bool:
    """Whether it is known that the process of a lease is no more, or was this one and could not give it back."""
    note = _fields(content)
    if note.get("process") == processes.name() and _is_here(content):
        return note.get("job") not in {lease.job for lease in _held}
    return _is_here(content) and not processes.is_alive(str(note.get("process")))


def _owner(target: str, content: bytes) -> str:
    note = _fields(content)
    if not note:
        return f"{target} is written by a job that has left no name in its lease, *{FILE}"
    process = str(note.get("process")).partition("-")[0]
    return (
        f"{target} is written by `deeplab {note.get('command')}` of {note.get('user')} on {note.get('host')} "
        f"(process {process}, since {note.get('since')})"
    )


def _refusal(target: str, content: bytes) -> str:
    return f"{_owner(target, content)}; wait for it to end, or end it, or give another output"

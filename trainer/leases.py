"""One job at a time in a folder: a lease names the job that writes there, and expires when that job dies.

    with leases.scope(on_lost, notify):    # the command line, around every command
        ...
        leases.acquire(folder, "prepare")  # a command, before it looks at what is in the folder

The lease is a small file in the folder, or beside the one file that is written. The process that drives the job, never
one of its workers, renews it every few seconds. On the same machine it is known at once whether that process is alive,
so a killed run can be repeated without delay. A lease from another machine is watched, and taken over when it has not
changed for a while; the clocks of the two machines do not matter.
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

from trainer import processes, storage
from trainer.options import InputError

FILE = ".deeplab-lease.json"
BEAT = 10.0
"""Seconds between two renewals."""
PATIENCE = 40.0
"""Seconds without a renewal after which a job on another machine counts as dead."""
GLANCE = 1.0
"""Seconds between two checks of a watched lease."""
ONCE_ENDED = "run this command again once that one has ended; if it was killed, run that one again first"
"""The cure where a command would read what another is writing, or was when its machine failed."""

_held: list[_Lease] = []
_lock = threading.Lock()


def _abandon(message: str) -> None:
    os._exit(1)


_on_lost: Callable[[str], object] = _abandon
_notify: Callable[[str], object] = lambda message: None


@contextlib.contextmanager
def scope(on_lost: Callable[[str], object], notify: Callable[[str], object]) -> Iterator[None]:
    """Releases at its end the leases that were acquired in the block.

    Args:
      on_lost: called in a thread, with a sentence, when another job has taken over a folder, or that was taken away;
        must end this process.
      notify: called with a sentence before a lease is watched.

    Raises:
      InputError: a local folder was taken away while the block ran, whatever the block made of that.
    """
    global _on_lost, _notify
    before, known = (_on_lost, _notify), set(map(id, _held))
    _on_lost, _notify = on_lost, notify
    ours = lambda: [lease for lease in _held if id(lease) not in known]
    try:
        try:
            yield
        except Exception as error:
            _check_there(ours(), error)
            raise
        _check_there(ours())
    finally:
        release(ours())
        _on_lost, _notify = before


def _check_there(leases: list[_Lease], cause: Exception | None = None) -> None:
    """Raises InputError, in place of `cause`, if the folder of a lease was taken away."""
    for lease in leases:
        if lease.is_gone():
            raise InputError(lease.taken_away()) from cause


def acquire(folder: str, command: str) -> None:
    """Acquires the lease of a folder, local or gs://, which need not exist, until the end of the `scope`.

    Args:
      folder: the output folder.
      command: the `deeplab` command that writes to it.

    Raises:
      InputError: another job holds it, or the folder cannot be written to.
      storage.Unavailable: storage does not answer, or is full.
    """
    _take(folder, command, folder, FILE)


def acquire_file(path: str, command: str) -> None:
    """Acquires the lease of a single output file; other jobs may write other files into its folder."""
    folder, file = _beside(path)
    _take(folder, command, path, file)


def path_of_file(path: str) -> str:
    """The path of the lease of a single output file."""
    return storage.join(*_beside(path))


def _beside(path: str) -> tuple[str, str]:
    """The folder and the name of the lease of a single output file."""
    folder, _, name = storage.absolute(path).replace(os.sep, "/").rpartition("/")
    return folder or "/", storage.shortened(f".{name}") + FILE


def writer(folder: str) -> str:
    """The other job that is writing to a folder, local or gs://, according to its lease; "" if none is.

    One on another machine may have died since: it is taken at its word.
    """
    return _writer(storage.join(folder, FILE), folder)


def writer_of_file(path: str) -> str:
    """Like `writer`, for a single output file."""
    return _writer(path_of_file(path), path)


def _writer(lease: str, target: str) -> str:
    try:
        content = _read(lease)
    except (OSError, storage.Unavailable):
        return ""
    is_own = content is not None and storage.json_object(content).get("process") == processes.name()
    return "" if content is None or (is_own and _is_here(content)) or _is_dead(content) else _owner(target, content)


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
        lease.release()  # an interrupt may have come when the file was there
        if not isinstance(error, OSError):
            raise
        if str(error.filename).endswith(FILE) and os.path.lexists(error.filename):
            raise InputError(
                f"{target} cannot be written to, for its lease {error.filename}: {error.strerror}; remove that if no "
                "job is at work there, or give another output"
            ) from None
        raise InputError(f"{target} cannot be written to: {error.strerror or error}; give another one") from None
    threading.Thread(target=lease.beat, daemon=True).start()


def release(leases: list[_Lease] | None = None) -> None:
    """Releases leases; without an argument all of this process, which is about to end."""
    with _lock:
        ours = [lease for lease in (_held if leases is None else leases) if lease.process == processes.name()]
        _held[:] = [lease for lease in _held if lease not in ours]
    for lease in reversed(ours):  # the first may have created folders that the others lie in
        lease.release()


atexit.register(release)


class _Lease:
    def __init__(self, folder: str, command: str, target: str, file: str) -> None:
        self.target, self.process, self.job = target, processes.name(), uuid.uuid4().hex
        self._folder, self._path = folder, storage.join(folder, file)
        self._place: int | None = None
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
        self._beats, self._renewed = 0, _now()

    def _content(self) -> bytes:
        # Always of the same length, so that it can be overwritten in place.
        return json.dumps(self._note | {"beat": f"{self._beats:09d}"}, indent=1).encode() + b"\n"

    def take(self) -> None:
        seen, since = None, 0.0
        current = None  # as is usual; if it is not so, the first exchange fails
        while True:
            if current is None or _is_dead(current):
                if self._exchange(current):
                    break
            elif _is_here(current) or (seen is not None and current != seen):
                owner = _owner(self.target, current)
                raise InputError(f"{owner}; wait for it to end, stop it, or give another output")
            elif seen is None:
                seen, since = current, time.monotonic()
                _notify(f"{_owner(self.target, current)}; waiting {PATIENCE:.0f} seconds for a sign of life from it")
                time.sleep(GLANCE)
            elif time.monotonic() - since <= PATIENCE:
                time.sleep(GLANCE)
            elif self._exchange(current):
                break
            current = _read(self._path)
        if not storage.is_remote(self._folder):
            with contextlib.suppress(OSError):  # such as of too many open files
                self._place = os.open(self._folder, os.O_RDONLY)

    def is_gone(self) -> bool:
        """Whether the path of the local folder no longer leads to the one that was acquired, which is kept open."""
        if self._place is None:
            return False
        try:
            return not os.path.samestat(os.stat(self._folder), os.fstat(self._place))
        except (FileNotFoundError, NotADirectoryError):
            return True
        except OSError:
            return False  # such as of a disk that does not answer

    def taken_away(self) -> str:
        return (
            f"{self.target} was removed, renamed or replaced while `deeplab {self._note['command']}` was writing to "
            "it, so not all that it wrote is there; run the same command again"
        )

    def _exchange(self, before: bytes | None) -> bool:
        """Writes the lease in place of `before`; returns whether that was there."""
        now = _now()
        if done := storage.exchange(self._path, before, self._content()):
            self._renewed = now
        return done

    def beat(self) -> None:
        while not self._ended.wait(BEAT):
            lost = ""
            with contextlib.suppress(OSError, storage.Unavailable, InputError), self._writing:
                if not self._ended.is_set() and self.is_gone():
                    lost = self.taken_away()
                elif not self._ended.is_set() and not self._renew():
                    lost = self._lost(_read(self._path))
            if lost:
                _on_lost(lost)
                return

    def _lost(self, current: bytes | None) -> str:
        """A sentence on the loss of the folder: to another job, or while this process was suspended."""
        if current is None:
            return (
                f"{self.target} was not held for {_now() - self._renewed:.0f} seconds, in which another job may have "
                "written there; run the same command again"
            )
        return (
            f"{_owner(self.target, current)}; that job took over, since this one gave no sign of life; run the same "
            "command again once it has ended"
        )

    def _renew(self) -> bool:
        before = self._content()
        self._beats += 1
        if self._exchange(before):
            return True
        # Somebody may have removed the file, or the folder with it. After a long sleep, it may have been another job,
        # which has taken the folder and ended since.
        return _now() - self._renewed < PATIENCE and self._exchange(None)

    def release(self) -> None:
        self._ended.set()
        with contextlib.suppress(OSError, storage.Unavailable, InputError), self._writing:
            if not self.is_gone():  # else a new folder would be made
                storage.exchange(self._path, self._content(), None)
        self.remove_folders()
        with self._writing:
            place, self._place = self._place, None
        if place is not None:
            os.close(place)

    def remove_folders(self) -> None:
        """Removes the folders that were created for the lease, unless they hold something else by now."""
        with contextlib.suppress(OSError):
            for folder in self._made:
                os.rmdir(folder)


def _now() -> float:
    """Seconds that pass while the machine sleeps too."""
    return time.clock_gettime(getattr(time, "CLOCK_BOOTTIME", time.CLOCK_REALTIME))


def _missing(folder: str) -> list[str]:
    """The folders that do not exist yet: `folder` first, then its parents."""
    folders = []
    while not os.path.lexists(folder):
        folders.append(folder)
        folder = os.path.dirname(folder)
    return folders


def _user() -> str:
    with contextlib.suppress(Exception):  # in a container, the user id may have no name
        return getpass.getuser()
    return str(os.getuid())


def _read(path: str) -> bytes | None:
    try:
        return storage.read(path)
    except FileNotFoundError:
        return None


def _is_here(content: bytes) -> bool:
    return storage.json_object(content).get("machine") == processes.machine()


def _is_dead(content: bytes) -> bool:
    """Whether the process of a lease is known to have ended, or is this one and failed to release it."""
    note = storage.json_object(content)
    if note.get("process") == processes.name() and _is_here(content):
        return note.get("job") not in {lease.job for lease in _held}
    return _is_here(content) and not processes.is_alive(str(note.get("process")))


def _owner(target: str, content: bytes) -> str:
    note = storage.json_object(content)
    if not note.get("command"):
        return f"{target} is being written by a job whose lease, *{FILE}, does not name it"
    process = str(note.get("process")).partition("-")[0]
    return (
        f"{target} is being written by `deeplab {note.get('command')}` of {note.get('user')} on {note.get('host')} "
        f"(process {process}, since {note.get('since')})"
    )

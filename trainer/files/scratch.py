"""Temporary folders that are removed with their process, or by the next one of this program if it was killed."""

from __future__ import annotations

import atexit
import contextlib
import functools
import os
import re
import shutil
import stat
import tempfile
from collections.abc import Callable, Iterator

from trainer import processes
from trainer.attempts import FULL, meaning
from trainer.options import InputError

_NAME = re.compile(r"deeplab-\w+-(?P<space>\d+)-(?P<process>\d+-\d+)-\w+")

_place: str | None = None
"""The value of `place` while `default` has redirected temporary files."""


def place() -> str:
    """The folder for temporary files that should outlive the block of `default`."""
    return _place or tempfile.gettempdir()


@contextlib.contextmanager
def folder(kind: str) -> Iterator[str]:
    """Yields a new folder that is removed when the block ends. First removes those of killed processes."""
    sweep()
    path = _make(kind)
    try:
        yield path
    finally:
        shutil.rmtree(path, ignore_errors=True)


@contextlib.contextmanager
def filled() -> Iterator[None]:
    """Raises Unavailable, with the place of temporary files, if the disk is full that the block writes them to.

    Libraries that write them do not say where, and an error without a place would be taken for one of the input.
    """
    try:
        yield
    except OSError as error:
        if error.errno not in FULL:
            raise
        raise meaning(error, place(), writing=True)[1] from None


def abandon() -> None:
    """Removes all folders of this process, which is about to end without leaving its blocks."""
    ours = processes.name()
    _remove(lambda process: process == ours)


def own() -> str:
    """A folder of this process for what it needs until its end."""
    return _own(os.getpid())  # a process may have been forked from one that has a folder


@contextlib.contextmanager
def default(folder: str) -> Iterator[None]:
    """Makes libraries that use the default folder of `tempfile` use `folder` during the block."""
    global _place
    before = _place, tempfile.tempdir
    _place, tempfile.tempdir = place(), folder
    try:
        yield
    finally:
        _place, tempfile.tempdir = before


@contextlib.contextmanager
def of_command() -> Iterator[None]:
    """Makes libraries put temporary files into a `folder` during the block, since some do not remove theirs."""
    with contextlib.ExitStack() as stack:
        with contextlib.suppress(OSError):
            stack.enter_context(default(stack.enter_context(folder("command"))))
        yield


@functools.cache
def _own(process: int) -> str:
    sweep()
    path = _make("files")
    atexit.register(shutil.rmtree, path, ignore_errors=True)
    return path


def kept(kind: str) -> str:
    """A folder of this user for what later runs on this machine may need.

    Raises InputError if another user owns it, whose contents would be trusted.
    """
    path = os.path.join(place(), f"deeplab-{kind}-{os.getuid()}")
    with contextlib.suppress(FileExistsError):
        os.mkdir(path, 0o700)
    info = os.lstat(path)
    if not stat.S_ISDIR(info.st_mode) or info.st_uid != os.getuid():
        raise InputError(f"{path} is not a folder of this user; remove it, or name another folder in TMPDIR")
    return path


def _make(kind: str) -> str:
    return tempfile.mkdtemp(prefix=f"deeplab-{kind}-{_space()}-{processes.name()}-", dir=place())


def _space() -> int:
    """The id of this process's PID namespace; 0 if there is none."""
    with contextlib.suppress(OSError):
        return os.stat("/proc/self/ns/pid").st_ino
    return 0


def sweep() -> None:
    """Removes the folders of this user's processes that are no more."""
    _remove(lambda process: not processes.is_alive(process))


def _remove(is_owner: Callable[[str], bool]) -> None:
    """Removes the folders of those of this user's processes that `is_owner` is true of."""
    with contextlib.suppress(OSError), os.scandir(place()) as entries:
        for entry in entries:
            parts = _NAME.fullmatch(entry.name)
            if not parts or int(parts["space"]) != _space() or not is_owner(parts["process"]):
                continue
            # What somebody else has put there under such a name is not ours, and a link leads anywhere.
            with contextlib.suppress(OSError):
                if entry.is_dir(follow_symlinks=False) and entry.stat(follow_symlinks=False).st_uid == os.getuid():
                    shutil.rmtree(entry.path, ignore_errors=True)

"""Notes of what workers are working on, which tell a rerun where a process may have crashed.

A worker leaves a note of the chunk or shard it is working on. A rerun (or the runner's next try) that finds the note
processes that chunk in recovery mode: each image in a subprocess.

    with InFlight(folder).watch(name) as recovery:
        for entry in chunk:
            make = functools.partial(guarded(make_record, recovery), entry)
            record = attempt(make, known=Unusable)  # see `pipelines.runner.isolation`

Work that is too expensive to isolate, such as a network that takes a gigabyte, is noted a few images at a time in
recovery mode, and only those on which the process then crashes are isolated in the run after that:

            if entry.key in recovery.suspects:
                ids = recovery.isolated(load_and_segment, job, entry)
            else:
                recovery.at([entry.key])
                ids = segment(image)

An image is rejected only if it ends such a subprocess twice while this process survives. A note alone proves nothing:
the user may have pressed Ctrl-C, the machine may have been preempted, or the power may have failed. It merely makes
the next run slower, so the output must not depend on whether a chunk was processed in recovery mode.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import json
import os
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, TypeVar

from pipelines.runner.isolation import Isolated
from trainer import prefetch, storage

T = TypeVar("T")
R = TypeVar("R")

SUFFIX = ".started"
NOTE = re.compile(rf"[0-9a-f]{{24}}{re.escape(SUFFIX)}")
"""The names of notes."""


class InFlight:
    """Notes of what the workers of a stage are working on: one small file per chunk or shard, removed when it is done.

    Args:
      folder: holds the notes, local or gs://; in the stage's work area. InputError if it is a link.
    """

    def __init__(self, folder: str) -> None:
        storage.check_own(folder)
        self.folder = folder

    def path(self, name: str) -> str:
        """The file of the note on `name`; different names have different files."""
        digest = hashlib.sha256(name.encode("utf-8", "surrogatepass")).hexdigest()
        return storage.join(self.folder, digest[:24] + SUFFIX)

    def interrupted(self, name: str) -> bool:
        """Whether an earlier process ended while it worked on `name`, or another is working on it now."""
        return storage.exists(self.path(name))

    def start(self, name: str, suspects: frozenset[str] = frozenset(), is_fatal: bool = False) -> None:
        """Notes that this process is working on `name`.

        Args:
          name: the name of the chunk, the same on every run over the same images.
          suspects: images on which earlier processes ended, and those that it is working on, in recovery mode.
          is_fatal: whether the chunk is known to hold an image that crashes processes.
        """
        storage.write(self.path(name), _note(name, suspects, is_fatal))

    def end(self, name: str) -> None:
        """Removes the note: `name` is done, or was given up for a reason other than a crash."""
        storage.discard(self.path(name))

    def names(self) -> frozenset[str]:
        """The names of all chunks with a note."""
        with contextlib.suppress(FileNotFoundError):
            return frozenset(str(_read(file.path).get("name")) for file in storage.files(self.folder))
        return frozenset()

    def suspects(self, name: str) -> frozenset[str]:
        """Images of `name` on which a process ended in recovery mode."""
        suspects = _read(self.path(name)).get("suspects")
        return (
            frozenset(one for one in suspects if isinstance(one, str)) if isinstance(suspects, list) else frozenset()
        )

    def clear(self) -> None:
        """Removes the notes of a finished job, except those on fatal images, which the next run needs."""
        with contextlib.suppress(FileNotFoundError):
            for file in storage.files(self.folder):
                is_note = NOTE.fullmatch(file.relative) and not _read(file.path).get("is_fatal")
                if is_note or NOTE.fullmatch(storage.unfinished(file.relative)):
                    storage.remove(file.path)
        if not storage.is_remote(self.folder):
            with contextlib.suppress(OSError):  # it does not exist, or holds something else
                os.rmdir(self.folder)

    @contextlib.contextmanager
    def watch(self, name: str) -> Iterator[Recovery | None]:
        """Notes that this process is working on `name` while the block runs.

        Yields None, or a `Recovery` if an earlier process ended there. The note is removed when the block ends, also
        by an exception, unless an image crashed its subprocess: the next run will try that image again, and should do
        so in recovery mode. Costs two requests if `folder` is in Cloud Storage.
        """
        recovery = None
        if not storage.create(self.path(name), _note(name)):
            recovery = Recovery(self, name, self.suspects(name))
            self.start(name, suspects=recovery.suspects)
        try:
            yield recovery
        finally:
            if recovery:
                recovery.isolated.close()
            if recovery and recovery.isolated.ended:
                self.start(name, suspects=recovery.suspects, is_fatal=True)
            else:
                self.end(name)


def _note(name: str, suspects: frozenset[str] = frozenset(), is_fatal: bool = False) -> bytes:
    """The contents of a note; see `InFlight.start`."""
    return json.dumps({"name": name, "suspects": sorted(suspects), "is_fatal": is_fatal}).encode()


def _read(path: str) -> dict[str, Any]:
    """The note at `path`; empty if it does not exist or is damaged."""
    try:
        return storage.json_object(storage.read(path))
    except FileNotFoundError:
        return {}


def guarded(work: Callable[..., T], recovery: Recovery | None) -> Callable[..., T]:
    """`work`, whose calls run in a subprocess in recovery mode."""
    return functools.partial(recovery.isolated, work) if recovery else work


def guarded_each(
    work: Callable[..., R], items: Iterable[T], paths: Callable[[T], Sequence[str]], recovery: Recovery | None
) -> Iterator[tuple[T, Callable[[], R]]]:
    """Yields the items, each with a function that returns, or raises, what `work(item)` does.

    In recovery mode it runs in a subprocess. Otherwise the files of the next items are read ahead, see
    `prefetch.read_ahead`, and `work` gets the function that reads them as its argument `read`.
    """
    for item, read in prefetch.read_ahead(items, (lambda item: ()) if recovery else paths):
        call = functools.partial(work, item)
        yield item, functools.partial(recovery.isolated, call) if recovery else functools.partial(call, read=read)


class Recovery:
    """What a worker needs to process a chunk in which an earlier process ended.

    Attributes:
      suspects: images on which a process ended in recovery mode.
      isolated: runs functions in a subprocess.
    """

    def __init__(self, notes: InFlight, name: str, suspects: frozenset[str]) -> None:
        self._notes, self._name = notes, name
        self.suspects = suspects
        self.isolated = Isolated()

    def at(self, images: Iterable[str]) -> None:
        """Notes that this process is about to work on these images."""
        self._notes.start(self._name, self.suspects.union(images))

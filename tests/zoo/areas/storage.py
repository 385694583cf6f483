"""Storage that fails: full disks, disks that are read only, rights, files that may not grow, interrupts."""

from __future__ import annotations

import builtins
import contextlib
import errno
import os
import resource
from collections.abc import Callable, Iterator
from typing import Any
from unittest import mock

from pipelines.prepare import job as prepare_job
from tests.zoo.engine import PASSING, REFUSED, Area, Case
from tests.zoo.worlds import whole
from trainer import attempts
from trainer.files import names

WRITERS = {
    "prepare": "prepare --input @/set --output @/out",
    "segment": "segment --input @/set/images --model @/model --output @/out",
    "evaluate": "evaluate --labels @/set/labels --masks @/masks --palette @/set/palette.json --output @/out",
    "doctor": "doctor @/set --output @/out",
    "records export": "records export @/records @/out --originals",
    "records reshard": "records reshard @/records @/out --shards 1",
    "records show": "records show @/records --record train/g0 --save @/out",
    "tune-crf": "tune-crf --model @/model --records @/records --output @/out/crf.json",
    "export": "export --model @/model --format savedmodel --output @/out",
    "demo": "demo --output @/out --images 60",
}
READ = {"prepare": "set/images", "segment": "set/images", "evaluate": "masks"}
FULL, LOCKED, FORBIDDEN = "a full disk", "a disk that is read only", "an output that may not be written to"


@contextlib.contextmanager
def failing(number: int, writing: bool = True, name: str = "/out") -> Iterator[None]:
    """Opening a file whose path has `name` in it, to write or to read, fails with that error of the system."""
    true = builtins.open

    def fails(path: Any, mode: str = "r", *arguments: Any, **named: Any):
        if name in str(path) and any(sign in mode for sign in "wax+") == writing:
            raise OSError(number, os.strerror(number), path)
        return true(path, mode, *arguments, **named)

    with mock.patch("builtins.open", fails), mock.patch.object(attempts, "WAITS", (0.0,) * 3):
        yield


@contextlib.contextmanager
def small_files() -> Iterator[None]:
    """No file may have more than a hundred bytes."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@contextlib.contextmanager
def stopped() -> Iterator[None]:
    """Ctrl-C comes while the second shard is written."""
    true, calls = prepare_job.WriteShard.process, []

    def process(self: Any, spec: Any) -> None:
        calls.append(spec)
        if len(calls) > 1:
            raise KeyboardInterrupt
        true(self, spec)

    with mock.patch.object(prepare_job.WriteShard, "process", process):
        yield


def writing(name: str, number: int, status: int, says: str) -> list[Case]:
    around = lambda: failing(number)
    found = []
    for command, line in WRITERS.items():
        found.append(
            Case(
                f"{name}: {command}",
                line,
                status,
                ("/out", says),
                around=around,
                stays=False,
                writes=("out", "out.check.json"),
            )
        )
    return found


def reading(name: str, number: int, status: int, says: str, rejects: str = "") -> list[Case]:
    around: Callable[[], Any] = lambda: failing(number, writing=False, name="g0.png")
    found = []
    for command in ("prepare", "segment", "evaluate"):
        said = (says,) if says else ()
        rejected = {"g0.png": rejects} if rejects else {}
        found.append(
            Case(
                f"{name}: {command}",
                f"{WRITERS[command]} --max-reject-rate 1",
                status,
                said,
                rejects=rejected,
                around=around,
                stays=False,
            )
        )
    return found


CASES = (
    *writing(FULL, errno.ENOSPC, PASSING, "No space left on device; make room and run the same command again"),
    *writing(LOCKED, errno.EROFS, PASSING, "Read-only file system; make it writable and run the same command again"),
    *writing(FORBIDDEN, errno.EACCES, REFUSED, "Permission denied"),
    *(
        Case(
            f"files that may not grow: {command}",
            line,
            PASSING,
            ("/out", "File too large; allow larger files (`ulimit -f`) and run the same command again"),
            around=small_files,
            stays=False,
            writes=("out", "out.check.json"),
        )
        for command, line in WRITERS.items()
        if command not in ("tune-crf", "export")  # whose first files are small
    ),
    *reading("an image that may not be read", errno.EACCES, 0, "", "Permission denied"),
    *reading("an image on a bad sector", errno.EIO, 0, "", "Input/output error"),
    *(
        Case(
            f"an image too large to be read into memory: {command}",
            f"{WRITERS[command]} --max-reject-rate 1",
            0,
            rejects={"g0.png": "are more than the 200,000 that are read into memory"},
            make=lambda world, top=top: os.truncate(world / top / "train/g0.png", 200_001),
            around=lambda: mock.patch.object(names, "LARGEST", 200_000),
            stays=False,
        )
        for command, top in READ.items()
    ),
    *reading("too many open files", errno.EMFILE, PASSING, "Too many open files, despite several attempts"),
    Case(
        "Ctrl-C: prepare",
        WRITERS["prepare"],
        130,
        ("interrupted; run the same command again to resume",),
        around=stopped,
        stays=False,
    ),
)
AREA = Area("Storage that fails, and interrupts", whole, CASES)

"""Files that a command and the workers of its job exchange through the output folder: a plan, its tally, and notes.

Plan and tally are named by the plan's digest, so no other run can replace them.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import io
import re
from collections.abc import Callable, Collection, Iterator, Sequence
from typing import TypeVar

import numpy as np

from pipelines.runner import progress
from pipelines.runner.notes import InFlight, Recovery, guarded
from trainer import storage
from trainer.options import InputError

T = TypeVar("T")

LABELS = "labels"
"""Name of the note on the sample of labels, which is read before the job."""


def in_flight(folder: str) -> InFlight:
    """The notes of what the job that writes to `folder` is working on."""
    return InFlight(storage.join(folder, ".in-flight"))


@contextlib.contextmanager
def watch_sample(folder: str, read: Callable[..., T], names: Collection[str]) -> Iterator[Callable[..., T]]:
    """Notes that this process reads a sample of the labels while the block runs; yields `read`, guarded by that note.

    If the block raises InputError, the folder is tidied, see `tidy`.
    """
    try:
        with in_flight(folder).watch(LABELS) as recovery:
            yield guarded(read, recovery)
    except InputError:
        tidy(folder, names)
        raise


@contextlib.contextmanager
def watch_chunk(folder: str, digest: str, labels: Sequence[str]) -> Iterator[Recovery | None]:
    """Notes that this process is working on the chunk with these labels while the block runs, see `InFlight.watch`.

    Args:
      folder: the output folder.
      digest: the digest of the plan.
      labels: the paths of the labels.
    """
    # The name is the same in every run over the same labels, so a rerun finds the note of one that crashed.
    notes, name = in_flight(folder), repr(list(labels))
    if _is_suspicious(folder, digest):
        notes.start(name)
    with notes.watch(name) as recovery:
        yield recovery


@functools.lru_cache(maxsize=1)
def _is_suspicious(folder: str, digest: str) -> bool:
    """Whether a label of the sample, which is in one of the plan's chunks, has crashed a process."""
    return in_flight(folder).interrupted(LABELS)


def digest_of(lines: Sequence[bytes]) -> str:
    """The digest of a plan with these lines."""
    return content_digest(b"\n".join(lines))


def content_digest(content: bytes) -> str:
    """The digest of a plan, or of the part of one that a worker reads: 16 hex digits."""
    return hashlib.sha256(content).hexdigest()[:16]


def plan_path(folder: str, digest: str) -> str:
    """The path of the plan with that digest, in the output folder."""
    return storage.join(folder, f".plan-{digest}.jsonl")


def tally_path(folder: str, digest: str) -> str:
    """The path of the tally that the job writes for the plan with that digest."""
    return storage.join(folder, f".tally-{digest}.npz")


def _is_handover(name: str) -> bool:
    """Whether a file in the output folder is the plan or the tally of a run."""
    return bool(re.fullmatch(r"\.plan-[0-9a-f]{16}\.jsonl|\.tally-[0-9a-f]{16}\.npz", name))


def tidy(folder: str, names: Collection[str]) -> None:
    """Removes what jobs and killed runs have left, now that the job is done.

    These are the workers' notes and progress, the plans and tallies of earlier runs, and the unfinished files of these
    and of `names`, which are what the command writes.
    """
    for file in storage.glob(storage.join(folder, ".*")):
        whole = storage.unfinished(file.relative)
        if whole in names or _is_handover(whole or file.relative):
            storage.discard(file.path)
    in_flight(folder).clear()
    progress.forget(folder)


def write_plan(folder: str, lines: Sequence[bytes]) -> None:
    """Writes a plan into the output folder. None of its lines may contain a line feed."""
    storage.write(plan_path(folder, digest_of(lines)), b"\n".join(lines))


def read_line(folder: str, digest: str, number: int) -> bytes:
    """Line `number` of the plan with that digest. Raises InputError if the plan was changed."""
    return _lines(folder, digest)[number]


@functools.lru_cache(maxsize=1)
def _lines(folder: str, digest: str) -> list[bytes]:
    """The lines of a plan, which is read once per process."""
    path = plan_path(folder, digest)
    content = _read(path)
    if content_digest(content) != digest:
        raise InputError(f"{path} was changed while the job was running; give every run an --output of its own")
    return content.split(b"\n")


def write_tally(folder: str, digest: str, **arrays: np.ndarray) -> None:
    """Writes a tally beside the plan with that digest, as an .npz file."""
    buffer = io.BytesIO()
    np.savez(buffer, **arrays)
    storage.write(tally_path(folder, digest), buffer.getvalue())


def read_tally(folder: str, digest: str) -> dict[str, np.ndarray]:
    """The arrays that `write_tally` wrote. Raises InputError if the file cannot be read."""
    with np.load(io.BytesIO(_read(tally_path(folder, digest))), allow_pickle=False) as content:
        return dict(content)


def _read(path: str) -> bytes:
    try:
        return storage.read(path)
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error}; has another run used the folder?") from None


def remove(folder: str, digest: str) -> None:
    """Removes the plan with that digest and its tally."""
    for path in (plan_path(folder, digest), tally_path(folder, digest)):
        storage.discard(path)

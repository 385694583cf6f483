"""What a command hands the workers of its job through the output folder, and gets back: a plan, and what came of it.

Both files are named by the plan's digest, so that no other run can put another plan in its place.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import re
from collections.abc import Collection, Sequence

from trainer import storage
from trainer.options import InputError


def digest_of(lines: Sequence[bytes]) -> str:
    """16 hex digits, of the plan of these lines."""
    return _digest(b"\n".join(lines))


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()[:16]


def plan_path(folder: str, digest: str) -> str:
    """Where the plan of that digest is, in the output folder."""
    return storage.join(folder, f".plan-{digest}.jsonl")


def tally_path(folder: str, digest: str) -> str:
    """Where the job writes what came of the plan of that digest."""
    return storage.join(folder, f".tally-{digest}.npz")


def _is_handover(name: str) -> bool:
    """Whether a file in the output folder is the plan of a run, or what came of it."""
    return bool(re.fullmatch(r"\.plan-[0-9a-f]{16}\.jsonl|\.tally-[0-9a-f]{16}\.npz", name))


def sweep(folder: str, names: Collection[str]) -> None:
    """Removes the plans of runs and what came of them, and what killed runs were writing of these and of `names`."""
    for file in storage.glob(storage.join(folder, ".*")):
        whole = storage.unfinished(file.relative)
        if whole in names or _is_handover(whole or file.relative):
            with contextlib.suppress(FileNotFoundError):
                storage.remove(file.path)


def write_plan(folder: str, lines: Sequence[bytes]) -> None:
    """Writes a plan into the output folder. None of its lines may hold a line feed."""
    storage.write(plan_path(folder, digest_of(lines)), b"\n".join(lines))


def read_line(folder: str, digest: str, number: int) -> bytes:
    """A line of the plan of that digest. Raises InputError if it was changed."""
    return _lines(folder, digest)[number]


@functools.lru_cache(maxsize=1)
def _lines(folder: str, digest: str) -> list[bytes]:
    """The lines of a plan's file; read once per process."""
    path = plan_path(folder, digest)
    content = _read(path)
    if _digest(content) != digest:
        raise InputError(f"{path} was changed while it was worked on; give every run an --output of its own")
    return content.split(b"\n")


def read_tally(folder: str, digest: str) -> bytes:
    """What the job wrote at `tally_path`. Raises InputError if it cannot be read."""
    return _read(tally_path(folder, digest))


def _read(path: str) -> bytes:
    try:
        return storage.read(path)
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error}; has another run used the folder?") from None


def remove(folder: str, digest: str) -> None:
    """Removes the plan of that digest and what came of it."""
    for path in (plan_path(folder, digest), tally_path(folder, digest)):
        if storage.exists(path):
            storage.remove(path)

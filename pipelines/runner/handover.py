"""Files that a command and the workers of its job exchange through the output folder: a plan and its tally.

Both are named by the plan's digest, so no other run can replace them.
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
    """The digest of a plan with these lines: 16 hex digits."""
    return _digest(b"\n".join(lines))


def _digest(content: bytes) -> str:
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


def sweep(folder: str, names: Collection[str]) -> None:
    """Removes the plans and tallies of earlier runs, and the unfinished files of these and of `names`."""
    for file in storage.glob(storage.join(folder, ".*")):
        whole = storage.unfinished(file.relative)
        if whole in names or _is_handover(whole or file.relative):
            with contextlib.suppress(FileNotFoundError):
                storage.remove(file.path)


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
    if _digest(content) != digest:
        raise InputError(f"{path} was changed while the job was running; give every run an --output of its own")
    return content.split(b"\n")


def read_tally(folder: str, digest: str) -> bytes:
    """The contents of the file that the job wrote to `tally_path`. Raises InputError if it cannot be read."""
    return _read(tally_path(folder, digest))


def _read(path: str) -> bytes:
    try:
        return storage.read(path)
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error}; has another run used the folder?") from None


def remove(folder: str, digest: str) -> None:
    """Removes the plan with that digest and its tally."""
    for path in (plan_path(folder, digest), tally_path(folder, digest)):
        if storage.exists(path):
            storage.remove(path)

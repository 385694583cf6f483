"""The work area of the output folder, `shards/`, through which the planning process and the workers communicate.

- `plan-DIGEST-NAME.jsonl`: the plan of a shard that is still to be written, that is, its entries. The digest is that
  of the file, so that another run cannot replace the entries unnoticed.
- `NAME.json`: the sidecar of a finished shard, which describes it.
- `*.started`: the notes of the shards that workers are writing, see `pipelines.runner.notes`.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import json
import os
import re
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

from pipelines.entries.record import Entry
from pipelines.runner.handover import LABELS, content_digest
from pipelines.runner.notes import SUFFIX, InFlight
from trainer import storage
from trainer.accounts import REJECTS_FILE, Reject
from trainer.formats.dataset import DATASET_FILE, SHARD_PATTERN, WORK_AREA, Shard
from trainer.formats.records import summed
from trainer.options import InputError

FOLDER = WORK_AREA
REQUESTS = 16
"""The number of small files that are read or written concurrently."""

# Version 0.2 named plans without a digest.
_PLAN = re.compile(rf"plan-(?:[0-9a-f]{{16}}-)?(?P<shard>{SHARD_PATTERN.pattern})\.jsonl")
_SIDECAR = re.compile(rf"(?P<shard>{SHARD_PATTERN.pattern})\.json")


class Outcome(NamedTuple):
    """The contents of a sidecar: the result of writing a shard.

    Attributes:
      shard: the contents of the shard.
      rejects: the entries that are not in it.
      format: the version of the records, `plan.FORMAT_VERSION` when they were written.
      modified: the modification time of the local file when it was written, in nanoseconds; 0 for objects.
      unread: the source files that could not be read, possibly for a temporary reason.
      failed: whether entries were rejected for a reason that may lie in the machine: memory, or a killed process.
    """

    shard: Shard
    rejects: tuple[Reject, ...]
    format: int = 1
    modified: int = 0
    unread: tuple[str, ...] = ()
    failed: bool = False


@dataclasses.dataclass(frozen=True)
class Area:
    """The contents of the output folder.

    Attributes:
      folder: the output folder, local or gs://.
      files: the files in it and in its work area, by relative path.
      outcomes: the sidecars, by name of the shard; without those that this program cannot have written.
    """

    folder: str
    files: Mapping[str, storage.File]
    outcomes: Mapping[str, Outcome]

    def planned_shards(self) -> frozenset[str]:
        """The names of the shards with a plan, which are to be written or being written."""
        return frozenset(map(shard_of_plan, self.files)) - {""}

    @property
    def is_interrupted(self) -> bool:
        """Whether a worker of an earlier run has left a note, since it ended while it wrote a shard."""
        begun = {file.path for name, file in self.files.items() if name.startswith(FOLDER) and name.endswith(SUFFIX)}
        return bool(begun - {notes(self.folder).path(LABELS)})

    def is_whole(self, name: str) -> bool:
        """Whether a shard's file is the one that its sidecar describes."""
        outcome, file = self.outcomes[name], self.files.get(name)
        shard = outcome.shard
        if not shard.records or file is None:
            return not shard.records and file is None
        if file.size != shard.bytes:
            return False
        if file.identity:
            return file.identity == f"{shard.crc32c:08x}-{shard.bytes}"
        # A file that was copied or touched has another time, but may have the same bytes.
        return file.modified == outcome.modified or summed(self.folder, name).crc == shard.crc32c


def survey(folder: str, expected: Iterable[str] = ()) -> Area:
    """Lists the output folder, which need not exist, and reads its sidecars.

    Args:
      expected: names of shards that have sidecars, which are read while objects are listed.
    """
    with ThreadPoolExecutor(REQUESTS) as pool:
        read = functools.partial(pool.submit, read_sidecar, folder)
        early = {shard: read(shard) for shard in expected} if storage.is_remote(folder) else {}
        try:
            files = {file.relative: file for file in storage.files(folder, within=(FOLDER,))}
        except FileNotFoundError:
            files = {}
        shards = [shard for relative in files if (shard := shard_of_sidecar(relative))]
        sidecars = {shard: early.get(shard) or read(shard) for shard in shards}
    outcomes = {shard: outcome for shard, sidecar in sidecars.items() if (outcome := sidecar.result())}
    return Area(folder, files, outcomes)


def notes(folder: str) -> InFlight:
    """The notes of the shards that workers are writing."""
    return InFlight(storage.join(folder, FOLDER))


def remove_empty(folder: str, is_new: bool) -> None:
    """Removes the local work area if it is empty, and if `is_new` then the output folder if that is empty as well."""
    if not storage.is_remote(folder):
        with contextlib.suppress(OSError):
            os.rmdir(storage.join(folder, FOLDER))
            if is_new:
                os.rmdir(folder)


def sidecar_name(shard: str) -> str:
    """The path of a shard's sidecar below the output folder."""
    return f"{FOLDER}/{shard}.json"


def plan_name(shard: str, digest: str) -> str:
    """The path of a shard's plan below the output folder."""
    return f"{FOLDER}/plan-{digest}-{shard}.jsonl"


def shard_of_sidecar(relative: str) -> str:
    """The name of the shard whose sidecar has this path below the output folder; "" if it is another file's."""
    return _shard(_SIDECAR, relative)


def shard_of_plan(relative: str) -> str:
    """The name of the shard whose plan has this path below the output folder; "" if it is another file's."""
    return _shard(_PLAN, relative)


def is_leftover(relative: str) -> bool:
    """Whether a path below the output folder is that of a file of this program left unfinished by a killed process."""
    whole = storage.unfinished(relative)
    is_shard = SHARD_PATTERN.fullmatch(whole) or shard_of_sidecar(whole) or shard_of_plan(whole)
    return bool(is_shard) or whole in (DATASET_FILE, REJECTS_FILE)


def _shard(pattern: re.Pattern[str], relative: str) -> str:
    below, _, base = relative.rpartition("/")
    match = pattern.fullmatch(base) if below == FOLDER else None
    return match["shard"] if match else ""


def write_plan(folder: str, shard: str, entries: Iterable[Entry]) -> str:
    """Writes the plan of a shard, for its worker to read; returns the plan's digest."""
    # json.dumps escapes everything but ASCII, so no character in a name can end a line.
    data = "".join(json.dumps(entry) + "\n" for entry in entries).encode()
    digest = content_digest(data)
    storage.write(storage.join(folder, plan_name(shard, digest)), data)
    return digest


def read_plan(folder: str, shard: str, digest: str) -> list[Entry]:
    """The entries of a shard. Raises InputError if its plan is gone, or does not have this digest."""
    path = storage.join(folder, plan_name(shard, digest))
    try:
        data = storage.read(path)
    except FileNotFoundError:
        data = b""
    if content_digest(data) != digest:
        raise InputError(
            f"{path} {'was changed' if data else 'is gone'}: another `deeplab prepare` is working on this folder; "
            "wait for it to end, and run this command again"
        )
    return [Entry(*json.loads(line)) for line in data.split(b"\n")[:-1]]


def write_sidecar(folder: str, outcome: Outcome) -> None:
    """Writes the sidecar of a shard."""
    content = outcome._asdict() | {
        "shard": dataclasses.asdict(outcome.shard),
        "rejects": [reject.to_json() for reject in outcome.rejects],
    }
    storage.write_json(storage.join(folder, sidecar_name(outcome.shard.name)), content)


def read_sidecar(folder: str, shard: str) -> Outcome | None:
    """The sidecar of a shard; None if it is missing, or was not written by this program or an earlier version."""
    try:
        content = storage.read_json(storage.join(folder, sidecar_name(shard)))
        outcome = Outcome(
            Shard.from_json(content.pop("shard")),
            tuple(Reject(**reject) for reject in content.pop("rejects")),
            # A later version may say more of a shard.
            **{name: tuple(v) if isinstance(v, list) else v for name, v in content.items() if name in Outcome._fields},
        )
    except (InputError, KeyError, TypeError, AttributeError):
        return None
    return outcome if outcome.shard.name == shard and _is_ours(outcome) else None


def _is_ours(outcome: Outcome) -> bool:
    """Whether every value of a sidecar has the right type."""
    texts = [text for reject in outcome.rejects for text in (reject.key, reject.path, reject.stage, reject.reason)]
    numbers = [outcome.format, outcome.modified, *(reject.records for reject in outcome.rejects)]
    is_listed = isinstance(outcome.unread, tuple) and all(isinstance(path, str) for path in outcome.unread)
    return is_listed and all(isinstance(text, str) for text in texts) and all(type(n) is int for n in numbers)

"""The work area of the output folder, by which the process that plans and its workers know of each other.

`shards/plan-NAME.jsonl` holds the entries of a shard that is still to be written; `shards/NAME.json`, its sidecar,
describes a finished one.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterable, Iterator
from typing import NamedTuple

from trainer import storage
from trainer.accounts import Reject
from trainer.formats.dataset import Shard
from trainer.options import InputError

FOLDER = "shards"


class Entry(NamedTuple):
    """One planned record: the `copy`-th version of an image, 0 being the image itself.

    `filename` is the image's path relative to the raw set, `image` and `label` are whole paths.
    """

    key: str
    filename: str
    image: str
    label: str
    copy: int


class Outcome(NamedTuple):
    """What came of a shard: what is in it, and the entries that are not."""

    shard: Shard
    rejects: tuple[Reject, ...]


def sidecar_name(shard: str) -> str:
    """Path of a shard's sidecar below the output folder."""
    return f"{FOLDER}/{shard}.json"


def plan_name(shard: str) -> str:
    """Path of a shard's entries below the output folder."""
    return f"{FOLDER}/plan-{shard}.jsonl"


def write_plan(folder: str, shard: str, entries: Iterable[Entry]) -> None:
    """Writes the entries of a shard where its worker will read them."""
    lines = [json.dumps(entry, ensure_ascii=False) + "\n" for entry in entries]
    storage.write(storage.join(folder, plan_name(shard)), "".join(lines).encode())


def read_plan(folder: str, shard: str) -> Iterator[Entry]:
    for line in storage.read(storage.join(folder, plan_name(shard))).decode().splitlines():
        yield Entry(*json.loads(line))


def write_sidecar(folder: str, outcome: Outcome) -> None:
    shard, rejects = dataclasses.asdict(outcome.shard), [reject.to_json() for reject in outcome.rejects]
    storage.write_json(storage.join(folder, sidecar_name(outcome.shard.name)), {"shard": shard, "rejects": rejects})


def read_sidecar(folder: str, shard: str) -> Outcome | None:
    """None where the sidecar is missing or cannot be read."""
    try:
        content = storage.read_json(storage.join(folder, sidecar_name(shard)))
        return Outcome(Shard.from_json(content["shard"]), tuple(Reject(**reject) for reject in content["rejects"]))
    except (InputError, KeyError, TypeError):
        return None


def list_files(folder: str) -> list[storage.File]:
    """Everything in the output folder, whether it exists or not."""
    try:
        return storage.files(folder)
    except FileNotFoundError:
        return []

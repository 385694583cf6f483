"""What goes into which shard, and which shards are finished already.

Every (image, copy) belongs to a shard by the hash of seed, key and copy number, so that adding an image changes only
the shards its copies fall into. The order inside a shard is that of the hashes: keys are shuffled here, images are
never moved. A shard's bytes follow from its plan, the options and the source files alone.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import json
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

from pipelines.inputs.rawset import Pair, RawSet
from pipelines.prepare.options import AugmentOptions, Options, RecordOptions
from pipelines.prepare.workarea import REQUESTS, Area, Entry, Outcome
from trainer import storage
from trainer.formats.dataset import shard_name, shuffle_hash
from trainer.formats.labels import Palette
from trainer.options import InputError

FORMAT_VERSION = 2
"""Part of every fingerprint. Raise it whenever the same input gives other bytes, or finished shards would be kept.

Version 1, of programs up to 0.2, read palette PNGs by their indices even where their own colour map gave these other
meanings, took PNGs with damaged checksums, and laid out MPO images as PNGs.
"""
OF_COPIES = frozenset({"seed", *(field.name for field in dataclasses.fields(AugmentOptions))})
"""Options that decide the bytes of augmented copies alone."""
SHARD_BYTES = 128 * 1024 * 1024
SHARD_RECORDS = 1000


class Spec(NamedTuple):
    """One shard that is to be there; what Beam passes around.

    Attributes:
      name, split: file name and split.
      fingerprint: of all that decides its bytes.
      records: planned ones; some may become rejects.
      plan: digest of its entries, once they are in the work area.
    """

    name: str
    split: str
    fingerprint: str
    records: int
    plan: str = ""


class ShardPlan(NamedTuple):
    """A shard and its records, as (index into the pairs of its split, copy), so that a million of them stay small."""

    spec: Spec
    members: list[tuple[int, int]]


@dataclasses.dataclass(frozen=True)
class Plan:
    """All there is to be written.

    Attributes:
      root: folder of the raw set; file names in records are relative to it.
      pairs: of every split.
      shards: by split and number.
    """

    root: str
    pairs: Mapping[str, Sequence[Pair]]
    shards: tuple[ShardPlan, ...]

    @property
    def records(self) -> int:
        return sum(shard.spec.records for shard in self.shards)

    def entries(self, shard: ShardPlan) -> Iterator[Entry]:
        """The records of a shard, in their order."""
        pairs = self.pairs[shard.spec.split]
        for index, copy in shard.members:
            pair = pairs[index]
            yield Entry(pair.key, filename(pair.image, self.root), pair.image, pair.label, copy)


def plan_shards(raw: RawSet, palette: Palette, options: Options) -> Plan:
    """Plans the shards of every split. Raises InputError for splits whose names cannot be part of a file's."""
    by_split: dict[str, list[Pair]] = {}
    for pair in raw.pairs:
        by_split.setdefault(pair.split, []).append(pair)
    for split in by_split:
        if not re.fullmatch(r"[\w-]+", split):
            raise InputError(f"{raw.root}: a split is named {split!r}; expected letters, digits, '_' and '-' only")
    copies = {split: options.copies if split in options.augment_splits else 0 for split in by_split}
    totals = {split: len(pairs) * (copies[split] + 1) for split, pairs in by_split.items()}
    largest = max(totals.values(), default=1)
    shards: list[ShardPlan] = []
    for split, pairs in sorted(by_split.items()):
        if options.shards:
            count = max(1, round(options.shards * totals[split] / largest))
        else:
            size = sum(pair.size for pair in pairs) * (copies[split] + 1)
            count = max(math.ceil(totals[split] / SHARD_RECORDS), math.ceil(size / SHARD_BYTES))
        count = min(count, totals[split])
        shards += plan_split(pairs, split, count, copies[split], options, palette, raw.root)
    return Plan(raw.root, by_split, tuple(shards))


def plan_split(
    pairs: Sequence[Pair], split: str, count: int, copies: int, options: RecordOptions, palette: Palette, root: str
) -> list[ShardPlan]:
    """Deals the records of one split out to at most `count` shards, none of them empty.

    Args:
      pairs: the images of the split.
      copies: augmented copies of every image, besides the image itself.
      root: folder of the raw set.
    """
    groups: list[list[tuple[int, int, int]]] = [[] for _ in range(count)]
    for index, pair in enumerate(pairs):
        for copy in range(copies + 1):
            value = shuffle_hash(options.seed, pair.key, copy)
            groups[value % count].append((value, index, copy))
    groups = [sorted(group) for group in groups if group]
    shards = []
    for number, group in enumerate(groups):
        members = [(index, copy) for _, index, copy in group]
        digest = fingerprint(pairs, members, options, palette, root)
        shards.append(ShardPlan(Spec(shard_name(split, number, len(groups)), split, digest, len(members)), members))
    return shards


def fingerprint(
    pairs: Sequence[Pair], members: Sequence[tuple[int, int]], options: RecordOptions, palette: Palette, root: str
) -> str:
    """md5 of all that decides a shard's bytes: options, palette, and the entries with their files' sizes and times."""
    digest = _digest_of_options(FORMAT_VERSION, options, palette, any(copy for _, copy in members)).copy()
    for index, copy in members:
        pair = pairs[index]
        row = [pair.key, filename(pair.image, root), copy, pair.size, pair.modified]
        digest.update(json.dumps(row).encode())
    return digest.hexdigest()


@functools.lru_cache(maxsize=4)
def _digest_of_options(version: int, options: RecordOptions, palette: Palette, has_copies: bool) -> hashlib._Hash:
    used = {field.name: getattr(options, field.name) for field in dataclasses.fields(RecordOptions)}
    if not has_copies:  # other augmentation leaves shards of originals as they are
        used = {name: value for name, value in used.items() if name not in OF_COPIES}
    return hashlib.md5(json.dumps([version, used, palette.to_json()], sort_keys=True).encode())


def filename(path: str, root: str) -> str:
    """`path` relative to the raw set's folder, or its last part when it lies elsewhere."""
    prefix = root.replace("\\", "/").rstrip("/") + "/"
    path = path.replace("\\", "/")
    return path[len(prefix) :] if path.startswith(prefix) else path.rsplit("/", 1)[-1]


def finished(area: Area, plan: Plan) -> dict[str, Outcome]:
    """What came of the shards that are in the output folder as they are planned, by name."""

    def is_finished(shard: ShardPlan) -> bool:
        outcome = area.outcomes.get(shard.spec.name)
        is_same = outcome is not None and outcome.shard.fingerprint == shard.spec.fingerprint
        return is_same and area.is_whole(shard.spec.name)

    with ThreadPoolExecutor(REQUESTS) as pool:
        done = pool.map(is_finished, plan.shards)
        return {
            shard.spec.name: area.outcomes[shard.spec.name]
            for shard, is_done in zip(plan.shards, done, strict=True)
            if is_done
        }


class Todo(NamedTuple):
    """What is to be written.

    Attributes:
      shards: those that are not finished, and those below.
      again: names of shards that hold rejects whose cause may have passed.
      older: how many shards an older version of this program wrote, in whatever way they differ.
    """

    shards: tuple[ShardPlan, ...]
    again: frozenset[str] = frozenset()
    older: int = 0


def unfinished(area: Area, plan: Plan, overwrite: bool = False) -> Todo:
    """The shards that are still to be written, or to be written again; all of them to `overwrite`."""
    done = {} if overwrite else finished(area, plan)
    with ThreadPoolExecutor(REQUESTS) as pool:
        again = frozenset(
            name for name, may in zip(done, pool.map(_may_have_passed, done.values()), strict=True) if may
        )
    shards = tuple(shard for shard in plan.shards if shard.spec.name not in done or shard.spec.name in again)
    older = sum(outcome.format < FORMAT_VERSION for outcome in area.outcomes.values())
    return Todo(shards, again, older)


def _may_have_passed(outcome: Outcome) -> bool:
    """Whether entries that were rejected may well be good now: nothing of their files need have changed for that."""
    return outcome.failed or any(map(_is_readable, outcome.unread))


def _is_readable(path: str) -> bool:
    try:
        storage.read(path)
        return True
    except OSError:
        return False

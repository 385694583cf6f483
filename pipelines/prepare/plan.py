"""The plan: which records go into which shard, and which shards are already finished.

Every image is assigned to a shard, with its tiles and copies, by a hash of seed and key. So adding an image changes
only one shard, and a worker reads an image once for all its records. The order in a shard is that of a hash of seed,
key, tile and copy number: only keys are shuffled, images are never moved. A shard's bytes are determined by its
entries, the options and the source files.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import itertools
import json
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from json.encoder import encode_basestring_ascii
from operator import itemgetter
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np

from pipelines.entries.options import AugmentOptions, RecordOptions
from pipelines.entries.record import Entry, filename
from pipelines.inputs.pairs import Pair
from pipelines.inputs.rawset import RawSet
from pipelines.inputs.rows import Rows, in_bulk, ordered
from pipelines.inputs.tiling import grids_of, tiles_in
from pipelines.prepare.options import Options
from pipelines.prepare.workarea import REQUESTS, Area, Outcome
from pipelines.runner import chunks
from trainer import storage
from trainer.formats import tiles
from trainer.formats.dataset import SHARD_PATTERN, shard_name, shuffle_hash
from trainer.formats.labels import Palette
from trainer.options import InputError

FORMAT_VERSION = 6
"""Part of every fingerprint. Raise it whenever the same input gives other bytes, or finished shards would be kept.

Version 1, of programs up to 0.2, read palette PNGs by their indices even if their colours meant other classes,
accepted PNGs with damaged checksums, and stored MPO images as PNGs. Version 2, of programs up to 0.9, encoded labels
with PNG's filters: other bytes of the same ids. Version 3, of programs up to 0.15, dealt every copy to a shard of its
own, and scaled greys of 12 bits as if they had 16. Version 4, of programs up to 0.22, compressed labels by OpenCV:
other bytes of the same ids. Version 5, of programs up to 0.27, misread BMPs of 4 and 8 bits whose colours are greys,
made colours of 16 bits without a value over 255 black, and accepted more JPEGs that lack pixels.
"""

NO_GRIDS: Mapping[str, tiles.Grid] = MappingProxyType({})

OF_COPIES = frozenset({"seed", *(field.name for field in dataclasses.fields(AugmentOptions))})
"""The options that affect the bytes of augmented copies only."""


class Spec(NamedTuple):
    """A planned shard: an element of the Beam job.

    Attributes:
      name: the file name.
      split: the split.
      fingerprint: a digest of everything that determines its bytes, see `fingerprint`.
      records: the number of planned records; some may become rejects.
      plan: the digest of its plan file, once that is written; else "".
    """

    name: str
    split: str
    fingerprint: str
    records: int
    plan: str = ""


class ShardPlan(NamedTuple):
    """A shard, and the index of its first record in the plan's rows."""

    spec: Spec
    start: int


@dataclasses.dataclass(frozen=True)
class Plan:
    """All shards of the set.

    Attributes:
      shards: the shards, in order of split and number.
      rows: the records, shard after shard, with the fields of `Entry`.
      palette: the palette of the raw set.
    """

    shards: tuple[ShardPlan, ...]
    rows: Rows
    palette: Palette

    @property
    def records(self) -> int:
        """The number of planned records."""
        return len(self.rows)

    def entries(self, shard: ShardPlan) -> Iterator[Entry]:
        """The records of a shard, in order."""
        return itertools.starmap(Entry, self.rows.span(shard.start, shard.start + shard.spec.records))


class Place(NamedTuple):
    """A record and its place. Sorted, places are in order of shards, and of records in a shard.

    Attributes:
      split: the split.
      number: the number of its shard in the split, before empty shards are dropped: from the `shuffle_hash` of copy 0.
      value: the `shuffle_hash` of the record.
      key, copy, filename, image, label, tile: as in `Entry`.
      size, modified: as in `Pair`.
    """

    split: str
    number: int
    value: int
    key: str
    copy: int
    filename: str
    image: str
    label: str
    size: int
    modified: int
    tile: str = ""


def plan_for(area: Area, raw: RawSet, palette: Palette, options: Options) -> Plan:
    """Plans the shards of every split, see `plan_shards`, in as many as the folder has if that keeps more of them.

    Otherwise a few more images could change the number of shards, which follows from the size of the set, and with it
    every shard.
    """
    grids = grids_of(raw.pairs, options.tile, options.max_side, options.max_pixels)
    plan = plan_shards(raw, palette, options, grids)
    before = _numbers(area.outcomes)
    if not before or options.shards or options.overwrite:
        return plan
    if before == _numbers(shard.spec.name for shard in plan.shards):
        return plan
    other = plan_shards(raw, palette, options, grids, before)
    return max(plan, other, key=lambda one: len(finished_shards(area, one)))


def _numbers(names: Iterable[str]) -> dict[str, int]:
    """The number of shards of every split, as most of these names of shards state it."""
    counts_by_split: dict[str, Counter[int]] = {}
    for name in map(SHARD_PATTERN.fullmatch, names):
        counts_by_split.setdefault(name["split"], Counter())[int(name["count"])] += 1
    return {split: counts.most_common(1)[0][0] for split, counts in counts_by_split.items()}


def plan_shards(
    raw: RawSet,
    palette: Palette,
    options: Options,
    grids: Mapping[str, tiles.Grid] = NO_GRIDS,
    before: Mapping[str, int] | None = None,
) -> Plan:
    """Plans the shards of every split.

    Args:
      raw: the raw set.
      palette: its palette.
      options: the options of the command.
      grids: the grids of the images that are cut into tiles, by key, see `pipelines.inputs.tiling.grids_of`.
      before: the number of shards per split, to use instead of the number that follows from the size of the set,
        unless the two differ by more than a factor of 2.

    Raises:
      InputError: the name of a split cannot be part of a file name, or one of --augment-splits does not exist.
    """
    images: Counter[str] = Counter()
    sources: Counter[str] = Counter()
    sizes: Counter[str] = Counter()
    for pair in raw.pairs:
        images[pair.split] += 1
        sources[pair.split] += len(tiles_in(grids, pair.key))
        sizes[pair.split] += pair.size
    for split in images:
        if not re.fullmatch(r"[\w-]+", split):
            raise InputError(f"{raw.root}: a split is named {split!r}; expected letters, digits, '_' and '-' only")
    options.check_augmented(images, raw.root)
    versions = {split: options.versions(split) for split in images}
    totals = {split: count * versions[split] for split, count in sources.items()}
    largest = max(totals.values(), default=1)
    counts = {}
    for split, total in totals.items():
        if options.shards:
            count = chunks.shards_of_split(options.shards, total, largest)
        else:
            count = chunks.shards(total, sizes[split] * versions[split])
            earlier = (before or {}).get(split, 0)
            count = earlier if earlier <= 2 * count and count <= 2 * earlier else count
        counts[split] = min(count, images[split])
    return deal(raw.pairs, counts, versions, options, palette, raw.root, grids)


@in_bulk()
def deal(
    pairs: Iterable[Pair],
    counts: Mapping[str, int],
    versions: Mapping[str, int],
    options: RecordOptions,
    palette: Palette,
    root: str,
    grids: Mapping[str, tiles.Grid] = NO_GRIDS,
) -> Plan:
    """Deals the records of every split out to shards, none of them empty.

    Args:
      pairs: the images and labels.
      counts: the greatest number of shards, by split.
      versions: the number of records per image or tile, by split.
      options: the options of the records.
      palette: the palette of the raw set.
      root: the folder of the raw set.
      grids: as for `plan_shards`.
    """
    used = {split: np.zeros(count, bool) for split, count in counts.items()}

    def places() -> Iterator[Place]:
        for pair in pairs:
            name = filename(pair.image, root)
            number = shuffle_hash(options.seed, pair.key, 0) % counts[pair.split]
            used[pair.split][number] = True
            for tile in tiles_in(grids, pair.key):
                key = tiles.named(pair.key, tile)
                for copy in range(versions[pair.split]):
                    value = shuffle_hash(options.seed, key, copy)
                    yield (pair.split, number, value, pair.key, copy, name, *pair[1:3], pair.size, pair.modified, tile)

    dealt = ordered(places())
    filled = {split: int(numbers.sum()) for split, numbers in used.items()}
    rows, shards, numbers = Rows(), [], Counter()
    for (split, _), group in itertools.groupby(dealt, itemgetter(0, 1)):
        members = list(group)
        name = shard_name(split, numbers[split], filled[split])
        numbers[split] += 1
        digest = fingerprint(members, options, palette)
        shards.append(ShardPlan(Spec(name, split, digest, len(members)), len(rows)))
        # The fields of `Entry`, as plain tuples: millions of named tuples would take longer than all the rest.
        rows.extend((key, name, image, label, copy, tile) for *_, key, copy, name, image, label, _, _, tile in members)
    return Plan(tuple(shards), rows, palette)


def fingerprint(members: Sequence[tuple[Any, ...]], options: RecordOptions, palette: Palette) -> str:
    """The MD5 of everything that determines a shard's bytes, as hex digits.

    That is FORMAT_VERSION, options, palette, and the entries with the sizes and times of their files.

    Args:
      members: the records of the shard, with the fields of `Place`.
      options: the options of the records.
      palette: the palette of the raw set.
    """
    has_copies = any(member[4] for member in members)
    digest = _digest_of_options(FORMAT_VERSION, options, palette, has_copies).copy()
    for _, _, _, key, copy, name, _, _, size, modified, tile in members:
        # The same as json.dumps of a list of these, but faster.
        of_record, of_file = map(encode_basestring_ascii, (tiles.named(key, tile), name))
        digest.update(f"[{of_record}, {of_file}, {copy}, {size}, {modified}]".encode())
    return digest.hexdigest()


@functools.lru_cache(maxsize=4)
def _digest_of_options(version: int, options: RecordOptions, palette: Palette, has_copies: bool) -> hashlib._Hash:
    used = {field.name: getattr(options, field.name) for field in dataclasses.fields(RecordOptions)}
    if not has_copies:  # other augmentation does not change shards without copies
        used = {name: value for name, value in used.items() if name not in OF_COPIES}
    return hashlib.md5(json.dumps([version, used, palette.to_json()], sort_keys=True).encode())


def finished_shards(area: Area, plan: Plan) -> dict[str, Outcome]:
    """The outcomes of the shards that are in the output folder as planned, by name."""

    def is_finished(shard: ShardPlan) -> bool:
        outcome = area.outcomes.get(shard.spec.name)
        is_same = outcome is not None and outcome.shard.fingerprint == shard.spec.fingerprint
        return is_same and area.is_whole(shard.spec.name)

    with ThreadPoolExecutor(REQUESTS) as pool:
        results = pool.map(is_finished, plan.shards)
        return {
            shard.spec.name: area.outcomes[shard.spec.name]
            for shard, is_done in zip(plan.shards, results, strict=True)
            if is_done
        }


class Todo(NamedTuple):
    """The shards to write.

    Attributes:
      shards: the unfinished shards, and those of `again`.
      again: the names of finished shards with rejects whose cause may have passed.
      isolated: the names of shards whose images are decoded in another process, since one of them may end its process.
      older: the number of shards that an older version of this program wrote.
    """

    shards: tuple[ShardPlan, ...]
    again: frozenset[str] = frozenset()
    isolated: frozenset[str] = frozenset()
    older: int = 0


def shards_to_write(area: Area, plan: Plan, overwrite: bool, is_fatal: bool = False) -> Todo:
    """The shards to write, or to write again; with `overwrite`, all of them.

    Args:
      is_fatal: whether the set holds a label that ends its process.
    """
    outcomes = {} if overwrite else finished_shards(area, plan)
    with ThreadPoolExecutor(REQUESTS) as pool:
        is_worth_retrying = pool.map(_is_worth_retrying, outcomes.values())
        again = frozenset(name for name, is_worth in zip(outcomes, is_worth_retrying, strict=True) if is_worth)
    shards = tuple(shard for shard in plan.shards if shard.spec.name not in outcomes or shard.spec.name in again)
    older = sum(outcome.format < FORMAT_VERSION for outcome in area.outcomes.values())
    isolated = {shard.spec.name for shard in shards} if is_fatal else {name for name in again if outcomes[name].failed}
    return Todo(shards, again, frozenset(isolated), older)


def _is_worth_retrying(outcome: Outcome) -> bool:
    """Whether rejected entries may succeed now although their files have not changed."""
    return outcome.failed or any(map(_is_readable, outcome.unread))


def _is_readable(path: str) -> bool:
    try:
        storage.read(path)
        return True
    except OSError:
        return False

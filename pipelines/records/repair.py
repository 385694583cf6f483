"""Repairs damaged shards: makes records again if raw set and options give the original bytes, or leaves them out.

The planned result is written to `.repair/` before anything is changed, so that the next run can finish a killed
repair.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import json
import os
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Executor
from typing import NamedTuple

import numpy as np

from pipelines.entries.options import RecordOptions
from pipelines.entries.record import Entry, Unusable, filename, load, make_record
from pipelines.inputs.pairs import Pair
from pipelines.inputs.rawset import scan
from pipelines.records.lookup import apart
from pipelines.records.verify import check_message, key_of, name_of, verify
from pipelines.runner.isolation import Failed
from trainer import storage
from trainer.accounts import REJECTS_FILE, Accounts, Reject, counted, write_rejects
from trainer.formats import tiles
from trainer.formats.dataset import (
    DATASET_FILE,
    Dataset,
    Shard,
    Sums,
    fingerprint_of,
    load_dataset,
    maker,
    open_shard,
    save_dataset,
)
from trainer.formats.examples import encode
from trainer.formats.frames import HEAD, TAIL, CorruptRecord, frame, scan_frames
from trainer.formats.labels import Palette
from trainer.formats.records import summed
from trainer.options import InputError
from trainer.terminal import printable

FOLDER = ".repair"
BEFORE, SHARDS = "before.json", "shards.json"
"""Files in FOLDER: the dataset.json that the repair began with, and the names of the shards to write again."""
NAMES = (DATASET_FILE, SHARDS, REJECTS_FILE, BEFORE)
"""All files in FOLDER, in the order in which they are removed."""
STAGE = "repair"


class Repair(NamedTuple):
    """The plan of a repair.

    Attributes:
      faults: all faults, as sentences.
      changed: names of the shards to write again, or to remove if no record is left. Faults that do not concern single
        records are not repaired.
      dataset: the new dataset.json.
      rejects: the records to leave out.
      accounts: records kept, made again and left out.
    """

    faults: list[str]
    changed: list[str]
    dataset: Dataset
    rejects: tuple[Reject, ...]
    accounts: Accounts


class Mended(NamedTuple):
    """A record of the repaired shard: its bytes, size, pixels of every id, copy, and whether it was made again."""

    framed: bytes
    size: tuple[int, int]
    pixels: np.ndarray
    copy: int
    is_new: bool


class Source:
    """The source of the records according to dataset.json: the raw set, if it still exists, and the options."""

    def __init__(self, dataset: Dataset) -> None:
        self._dataset = dataset

    @functools.cached_property
    def _pairs(self) -> tuple[str, dict[str, Pair]]:
        """The root of the set, and its pairs by key. Raises InputError if there is no set."""
        options = self._dataset.options
        if not options.get("input"):
            raise InputError("dataset.json names no raw set")
        raw = scan(options["input"], options.get("layout", "auto"))
        return raw.root, {pair.key: pair for pair in raw.pairs}

    @functools.cached_property
    def _options(self) -> RecordOptions:
        """The options of the records. Raises InputError if one is missing, as may be in other versions."""
        given, names = self._dataset.options, {field.name for field in dataclasses.fields(RecordOptions)}
        if missing := sorted(names - given.keys()):
            raise InputError(f"dataset.json does not say {', '.join(missing)}")
        values = {name: tuple(given[name]) if isinstance(given[name], list) else given[name] for name in names}
        try:
            return RecordOptions(**values)
        except (TypeError, ValueError) as error:
            raise InputError(f"the options in dataset.json are invalid: {error}") from None

    def message(self, key: str, copy: int) -> bytes:
        """Makes the serialised record of an image, a tile, or a copy. Raises InputError if it cannot be made."""
        (root, pairs), tile = self._pairs, ""
        if self._dataset.options.get("tile") and key not in pairs:
            key, tile = tiles.parts_of(key)
        if key not in pairs:
            raise InputError(f"{root} has no image {key} with a label")
        image, label = pairs[key].image, pairs[key].label
        entry = Entry(key, filename(image, root), image, label, copy, tile)
        try:
            return apart(_message, entry, self._dataset.palette, self._options)
        except (ValueError, Failed) as error:
            raise InputError(str(error)) from None

    def copies(self) -> int:
        """The largest number of copies of an image."""
        copies = self._dataset.options.get("copies")
        return copies if type(copies) is int else 0


def _message(entry: Entry, palette: Palette, options: RecordOptions) -> bytes:
    try:
        return encode(make_record(entry, load([entry], palette, options), palette, options)[0])
    except Unusable as fault:
        raise ValueError(f"{fault.path}: {fault.reason}") from None


def plan(folder: str, dataset: Dataset, pool: Executor, beat: Callable[[], object]) -> Repair:
    """Finds the damaged records, and plans their repair; changes nothing.

    Raises:
      InputError: no record is left.
      UnbalancedError: records are neither kept nor made again nor left out.
    """
    faults, damaged, _ = verify(folder, dataset, pool, beat)
    existing = {file.relative for file in storage.files(folder, within=())}
    source = Source(dataset)
    shards, rejects, changed, remade = [], [], [], 0
    for shard in dataset.shards:
        path = storage.join(folder, shard.name)
        if shard.name not in existing:
            rejects.append(Reject(shard.name, path, STAGE, "the shard is missing", shard.records))
            continue
        if shard.name not in damaged:
            shards.append(shard)
            continue
        sums, new, unusable = _sums(folder, shard, dataset.palette, source)
        mended = sums.shard(shard.name, shard.split, shard.fingerprint, dataset.palette)
        is_balanced = sums.records + sum(reject.records for reject in unusable) == shard.records
        if not is_balanced or (mended == shard and not unusable and _is_done(folder, shard)):
            shards.append(shard)
            continue
        changed.append(shard.name)
        remade += new
        rejects += unusable
        shards += [mended] * (sums.records > 0)
    if not shards:
        raise InputError(f"no record of {folder} can be used; run the same {maker(folder)} again")
    kept = sum(shard.records for shard in shards) - remade
    inputs = sum(shard.records for shard in dataset.shards)
    accounts = Accounts("records", inputs, {"kept": kept, "made again": remade}, tuple(rejects))
    accounts.check()
    after = dataclasses.replace(
        dataset,
        shards=tuple(shards),
        fingerprint=fingerprint_of(shards),
        rejected=dataset.rejected + accounts.rejected,
    )
    return Repair(faults, changed, after, tuple(rejects), accounts)


def begin(folder: str, repair: Repair, before: bytes) -> None:
    """Records the plan in `.repair/`.

    Args:
      before: the dataset.json that the repair was planned with.

    Raises:
      InputError: dataset.json has been changed since then.
    """
    _check_unchanged(folder, before)
    work = storage.join(folder, FOLDER)
    storage.write(storage.join(work, BEFORE), before)
    storage.write_json(storage.join(work, SHARDS), repair.changed)
    rejects, listed = storage.join(folder, REJECTS_FILE), write_rejects(work, repair.rejects)
    if storage.exists(rejects):
        old = storage.read(rejects)  # some editors omit the last line break
        storage.write(listed, old + b"\n" * (old[-1:] not in (b"", b"\n")) + storage.read(listed))
    save_dataset(work, repair.dataset)  # last: only this file makes the repair count as begun


def has_begun(folder: str) -> bool:
    """Whether an earlier repair has to be finished; removes its plan if another command has made it obsolete."""
    work = storage.join(folder, FOLDER)
    storage.check_own(work)
    if not storage.exists(storage.join(work, BEFORE)):
        return False
    if storage.exists(storage.join(work, DATASET_FILE)):
        paths = ((folder, DATASET_FILE), (work, BEFORE), (work, DATASET_FILE))
        now, before, after = (storage.read(storage.join(*path)) for path in paths)
        if now in (before, after):
            return True
    _forget(folder)
    return False


def finish(folder: str) -> Dataset:
    """Carries out the recorded plan; returns the new dataset.json.

    Raises:
      InputError: a shard, the raw set or dataset.json has been changed since it was planned.
    """
    work = storage.join(folder, FOLDER)
    before, after = storage.read(storage.join(work, BEFORE)), load_dataset(work)
    old, new = ({shard.name: shard for shard in dataset.shards} for dataset in (load_dataset(folder), after))
    for name in _to_change(work, old):
        if name not in new:
            storage.discard(storage.join(folder, name))
        elif not _is_done(folder, new[name]):
            _rewrite(folder, old[name], new[name], after)
    rejects = storage.read(storage.join(work, REJECTS_FILE))
    described = storage.read(storage.join(work, DATASET_FILE))
    _check_unchanged(folder, before, described)
    storage.write(storage.join(folder, REJECTS_FILE), rejects)
    storage.write(storage.join(folder, DATASET_FILE), described)
    _forget(folder)
    storage.sweep(folder, {*new, DATASET_FILE, REJECTS_FILE})
    return after


def _to_change(work: str, old: Mapping[str, Shard]) -> list[str]:
    """The names of the shards to write again or to remove, all of them among those of dataset.json, `old`.

    The plan lies in the folder, and a folder may come from anywhere: its names must not lead out of it. Raises
    InputError if it is damaged.
    """
    path = storage.join(work, SHARDS)
    names = storage.read_json(path)
    if not isinstance(names, list) or not all(isinstance(name, str) and name in old for name in names):
        raise InputError(
            f"{path} is damaged, or `deeplab records repair` did not write it: expected names of shards in "
            f"{DATASET_FILE}, found {printable(json.dumps(names)[:80])}; remove {work}, and run this command again"
        )
    if missing := [name for name in NAMES if not storage.exists(storage.join(work, name))]:
        raise InputError(f"{work} lacks {missing[0]}; remove it, and run this command again")
    return names


def _check_unchanged(folder: str, *allowed: bytes) -> None:
    path = storage.join(folder, DATASET_FILE)
    if not storage.exists(path) or storage.read(path) not in allowed:
        raise InputError(
            f"{path} was changed by another command that works on this folder; wait for it to end, and run this "
            "command again"
        )


def _forget(folder: str) -> None:
    """Removes the recorded plan: first the file that makes it count as begun, last the one that identifies it."""
    work = storage.join(folder, FOLDER)
    for name in NAMES:
        storage.discard(storage.join(work, name))
    if not storage.is_remote(work):
        storage.sweep(work, NAMES)
        with contextlib.suppress(OSError):  # it holds other files too
            os.rmdir(work)


def _sums(folder: str, shard: Shard, palette: Palette, source: Source) -> tuple[Sums, int, list[Reject]]:
    """The entry of a repaired shard, the number of records made again, and the records left out."""
    sums, new, rejects = Sums(), 0, []
    for part in _mended(folder, shard, palette, source):
        if isinstance(part, Reject):
            rejects.append(part)
        else:
            sums.add(*part[:4])
            new += part.is_new
    return sums, new, rejects


def _rewrite(folder: str, old: Shard, shard: Shard, dataset: Dataset) -> None:
    """Replaces a shard by the repaired one. Raises InputError if that differs from the plan."""
    sums = Sums()
    with storage.writer(storage.join(folder, shard.name)) as file:
        for part in _mended(folder, old, dataset.palette, Source(dataset)):
            if not isinstance(part, Reject):
                file.write(part.framed)
                sums.add(*part[:4])
        if (sums.crc, sums.size) != (shard.crc32c, shard.bytes):
            raise InputError(
                f"{storage.join(folder, shard.name)} or the raw set was changed since the repair began; remove "
                f"{storage.join(folder, FOLDER)}, and run this command again"
            )


def _is_done(folder: str, shard: Shard) -> bool:
    whole = summed(folder, shard.name)
    return (whole.crc, whole.size) == (shard.crc32c, shard.bytes)


def _mended(folder: str, shard: Shard, palette: Palette, source: Source) -> Iterator[Mended | Reject]:
    """Yields the records of the repaired shard, and rejects for those that cannot be used."""
    path, count = storage.join(folder, shard.name), 0
    with open_shard(folder, shard.name) as file, open_shard(folder, shard.name) as again:
        for entry in scan_frames(file):
            if isinstance(entry, CorruptRecord) and entry.index >= shard.records:
                break  # bytes after the last record
            data, reason, is_new = entry.data, "", False
            if isinstance(entry, CorruptRecord):
                again.seek(entry.offset)
                data, why = _again(again.read(HEAD + len(entry.data) + TAIL), source)
                reason, is_new = f"{entry.reason}; {why}", data is not None
            if data is not None:
                try:
                    good = apart(check_message, data, palette)
                    yield Mended(frame(data), good.size, good.pixels, good.name[1], is_new)
                except (ValueError, Failed) as error:
                    data, reason = None, str(error)
            # After a damaged length no record can be found.
            last = isinstance(entry, CorruptRecord) and not entry.data
            count = shard.records if last else count + 1
            if data is None:
                records = shard.records - entry.index if last else 1
                yield Reject(key_of(entry.data), path, STAGE, f"record {entry.index}: {reason}", records)
    if count < shard.records:
        reason = f"the shard ends after {counted(count, 'record')}"
        yield Reject(shard.name, path, STAGE, reason, shard.records - count)


def _again(damaged: bytes, source: Source) -> tuple[bytes | None, str]:
    """The message of a damaged record, made again from raw set and options, or None; and the reason for None.

    The message must have the damaged record's length and checksum, or its bytes if only the checksum was damaged.
    """
    name = name_of(damaged[HEAD:-TAIL])
    if name is None:
        return None, "its key cannot be read"
    try:
        # The key of a message that cannot be parsed may still be read, but not which copy it is.
        for copy in range(source.copies() + 1) if name[1] is None else (name[1],):
            message = source.message(name[0], copy)
            whole = frame(message)
            is_same = whole[:12] == damaged[:12] and (whole[-4:] == damaged[-4:] or whole[:-4] == damaged[:-4])
            if is_same and len(whole) == len(damaged):
                return message, ""
    except InputError as error:
        return None, str(error)
    return None, "raw set and options now give different bytes: files, dataset.json or this program were changed since"

"""Writes the same records into a different number of shards: copies their bytes, without decoding images."""

from __future__ import annotations

import dataclasses
import functools
import io
import math
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Executor
from typing import NamedTuple

import numpy as np

from pipelines.records.lookup import apart, label_of
from pipelines.records.options import Reshard
from pipelines.runner import chunks
from pipelines.runner.isolation import Failed
from trainer import storage
from trainer.accounts import REJECTS_FILE, Accounts
from trainer.formats import tiles
from trainer.formats.dataset import (
    DATASET_FILE,
    SHARD_PATTERN,
    Dataset,
    Shard,
    Sums,
    check_unchanged,
    fingerprint_of,
    load_dataset,
    save_dataset,
    shard_name,
    shuffle_hash,
)
from trainer.formats.examples import Record, decode
from trainer.formats.frames import HEAD, TAIL, read_frames
from trainer.formats.labels import Palette
from trainer.formats.records import read_records
from trainer.formats.runs import pixels_of_ids
from trainer.options import InputError

STARTED = "reshard.json"
"""File in the new folder until its dataset.json is written: the shards to write, and the records they come from."""


class Place(NamedTuple):
    """The place of a record: its hash, which determines the order; that of its image's copy 0, which determines the
    shard; and its bytes in an old shard."""

    value: int
    image: int
    shard: str
    offset: int
    size: int


def reshard(options: Reshard, dataset: Dataset, pool: Executor, beat: Callable[[], object]) -> Dataset:
    """Writes the records of a set into new shards in another folder.

    Seed, key and copy determine the shard of a record and its place there, as in `deeplab prepare`, which would have
    written the same bytes with this number of shards. Labels are decoded to count the pixels of every new shard.

    Args:
      pool: reads and writes shards in parallel.
      beat: called after every record that is written.

    Returns:
      The dataset.json of the new folder.

    Raises:
      InputError: a shard is damaged or is changed by another command, or the new folder holds other records.
      UnbalancedError: shards do not hold as many records as dataset.json states.
    """
    places = list(pool.map(functools.partial(_places, options.records, dataset), dataset.shards))
    inputs = sum(shard.records for shard in dataset.shards)
    Accounts("records", inputs, {"found": sum(map(len, places))}).check()
    by_split: dict[str, list[Place]] = {}
    for shard, records in zip(dataset.shards, places, strict=True):
        by_split.setdefault(shard.split, []).extend(records)
    plan = plan_shards(by_split, options.shards, options.megabytes << 20)
    started = {"records": dataset.fingerprint, "shards": sorted(plan)}
    _begin(options.output, plan, started)
    write = functools.partial(_write, options, dataset, beat)
    shards = tuple(pool.map(write, sorted(plan), (plan[name] for name in sorted(plan))))
    moved = {"output": storage.absolute(options.output), "shards": options.shards}
    described = dataclasses.replace(
        dataset, shards=shards, options=dataset.options | moved, fingerprint=fingerprint_of(shards)
    )
    _refuse_others(options.output, started, begun=True)
    # Before the new folder is said to be whole: it may hold shards of before and of after a change.
    check_unchanged(options.records, dataset)
    _copy_rejects(options)
    save_dataset(options.output, described)
    _sweep(options.output, plan)
    return described


def _begin(folder: str, plan: Iterable[str], started: Mapping[str, object]) -> None:
    """Notes in the new folder what is about to be written there. Raises InputError if it cannot be, or must not."""
    _refuse_others(folder, started)
    for name in (*plan, DATASET_FILE, REJECTS_FILE, STARTED):
        storage.check_file(storage.join(folder, name))
    try:
        storage.write_json(storage.join(folder, STARTED), started)
    except FileNotFoundError as error:  # of a bucket
        raise InputError(f"{folder} cannot be written to: {error.strerror}; give another folder") from None


def _copy_rejects(options: Reshard) -> None:
    rejects = storage.join(options.output, REJECTS_FILE)
    if storage.exists(theirs := storage.join(options.records, REJECTS_FILE)):
        storage.write(rejects, storage.read(theirs))
    else:
        storage.discard(rejects)  # of an earlier run


def plan_shards(by_split: Mapping[str, Sequence[Place]], shards: int, size: int) -> dict[str, list[Place]]:
    """Assigns records to shards: name of a shard -> its records, in order.

    Args:
      by_split: the records of every split.
      shards: number of shards of the largest split, the others get a proportionate number; 0 for shards of `size`.
      size: the size of a shard, in bytes.
    """
    largest = max(map(len, by_split.values()))
    plan = {}
    for split, places in by_split.items():
        if shards:
            count = chunks.shards_of_split(shards, len(places), largest)
        else:
            count = math.ceil(sum(place.size for place in places) / size)
        groups: list[list[Place]] = [[] for _ in range(min(count, len({place.image for place in places})))]
        for place in places:
            groups[place.image % len(groups)].append(place)
        groups = [sorted(group) for group in groups if group]
        plan |= {shard_name(split, number, len(groups)): group for number, group in enumerate(groups)}
    return plan


def _places(folder: str, dataset: Dataset, shard: Shard) -> list[Place]:
    value = functools.partial(shuffle_hash, dataset.options.get("seed", 0))
    is_cut = bool(dataset.options.get("tile"))
    places = []
    for frame, record in read_records(folder, shard, unchanged=True):
        image = tiles.parts_of(record.key)[0] if is_cut else record.key
        size = len(frame.data) + HEAD + TAIL
        places.append(Place(value(record.key, record.copy), value(image, 0), shard.name, frame.offset, size))
    return places


def _refuse_others(folder: str, started: Mapping[str, object], begun: bool = False) -> None:
    """Raises InputError if the folder holds records other than those to be written.

    Args:
      begun: whether this run has written STARTED. Before that, one of another run is that of a killed one, since this
        run holds the lease.
    """
    if not storage.is_dir(folder):
        return
    there = {file.relative for file in storage.files(folder, within=())}
    if STARTED in there:
        if storage.read_json(storage.join(folder, STARTED)) == started:
            return
        if begun:
            raise InputError(
                f"another `deeplab records reshard` has begun in {folder}; wait for it to end, or give another folder"
            )
        raise InputError(
            f"{storage.join(folder, STARTED)} is of a `deeplab records reshard` that did not finish, of other records "
            "or into other shards; run that command again, empty the folder, or give another folder"
        )
    if DATASET_FILE in there:
        shards = load_dataset(folder).shards
        sources = {shard.fingerprint for shard in shards}
        if sources == {started["records"]} and sorted(shard.name for shard in shards) == started["shards"]:
            return
    others = sorted(name for name in there if SHARD_PATTERN.fullmatch(name) or name in (DATASET_FILE, REJECTS_FILE))
    if others:
        raise InputError(f"{storage.join(folder, others[0])} belongs to other records; give another folder")


def _write(options: Reshard, dataset: Dataset, beat: Callable[[], object], name: str, places: list[Place]) -> Shard:
    sums, palette = Sums(), dataset.palette
    with storage.writer(storage.join(options.output, name)) as file:
        for place, framed, record in _read(options.records, places):
            sums.add(framed, *_label(place, record, palette), record.copy)
            file.write(framed)
            beat()
    split = SHARD_PATTERN.fullmatch(name)["split"]
    return sums.shard(name, split, dataset.fingerprint, palette)


def _read(folder: str, places: Sequence[Place]) -> Iterator[tuple[Place, bytes, Record]]:
    """Yields every record with its bytes. Raises InputError if the shard has changed since it was scanned."""
    local = functools.cache(lambda shard: storage.localize(storage.join(folder, shard)))
    for place in places:
        with storage.reader(local(place.shard)) as file:
            file.seek(place.offset)
            framed = file.read(place.size)
        try:
            (frame,) = read_frames(io.BytesIO(framed))
            yield place, framed, decode(frame.data)
        except ValueError:  # CorruptRecord, or a message that is no record
            raise InputError(
                f"{place.shard} in {folder} was changed in the meantime; stop other commands that write there, and "
                "run this command again"
            ) from None


def _label(place: Place, record: Record, palette: Palette) -> tuple[tuple[int, int], np.ndarray]:
    """The size of a record's label, and the number of its pixels of every id."""
    try:
        return apart(_counted, record, palette)
    except (ValueError, Failed) as error:  # ImageError, LabelError
        raise InputError(
            f"{place.shard}: record at byte {place.offset}, key {record.key}: {error}; `deeplab records verify` lists "
            "all faults"
        ) from None


def _counted(record: Record, palette: Palette) -> tuple[tuple[int, int], np.ndarray]:
    ids = label_of(record, palette)
    return ids.shape, pixels_of_ids(ids)


def _sweep(folder: str, names: Collection[str]) -> None:
    """Removes STARTED, and the unfinished files of killed runs."""
    ours = {*names, DATASET_FILE, REJECTS_FILE, STARTED}
    for file in storage.files(folder, within=()):
        if file.relative == STARTED or storage.unfinished(file.relative) in ours:
            storage.discard(file.path)

"""Writes records back to a raw set in the layout images/SPLIT, labels/SPLIT with a palette.json."""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
import json
import threading
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Executor
from typing import NamedTuple

from pipelines.inputs.coding import PALETTE_FILE
from pipelines.inputs.names import hidden
from pipelines.records.lookup import SUFFIXES, file_stem
from pipelines.records.options import Export
from pipelines.records.target import Target, check_apart
from trainer import prefetch, storage
from trainer.accounts import Accounts, Reject
from trainer.formats.dataset import Dataset, Shard, check_unchanged
from trainer.formats.examples import Record
from trainer.formats.records import read_records
from trainer.options import InputError

KINDS = ("images", "labels")
CHECKS = 64
"""The most times that an export looks whether the records have changed: with 1,000 shards each look takes 23 ms."""


class ShardExport(NamedTuple):
    """The result for one shard: records written, copies left out, and records whose files cannot be written."""

    exported: int
    left_out: int
    rejects: tuple[Reject, ...]


def export(
    options: Export, dataset: Dataset, pool: Executor, beat: Callable[[], object]
) -> tuple[Accounts, list[str]]:
    """Writes the files of every record, then palette.json; identical existing files are kept.

    Args:
      pool: writes the shards in parallel.
      beat: called after every record.

    Returns:
      The accounts; and the files of the folders of images and labels, relative to the output, that are of no record.

    Raises:
      InputError: another command changes the records, a shard is damaged, a key would leave the output folder, two
        records have the same files, or (before anything is written) other files are in the way.
      UnbalancedError: shards do not hold as many records as dataset.json says.
    """
    check_apart(options.output, options.records)
    target = Target.of(options.output, dataset)
    target.refuse_raw_set(f"{kind}/{split}" for kind in KINDS for split in dataset.splits)
    # Records hold class ids, regardless of the coding of the raw set.
    palette = dataclasses.replace(dataset.palette, source_ids=(), aliases=())
    palette_json = f"{json.dumps(palette.to_json(), indent=2, sort_keys=True)}\n".encode()
    if target.files:
        target.check([PALETTE_FILE])
        others = pool.map(lambda shard: in_the_way(options, shard, target), dataset.shards)
        palettes = target.others({PALETTE_FILE: palette_json})
        target.refuse([*palettes, *(path for paths in others for path in paths)], options.overwrite)
    names = Names(target)
    every = -(-len(dataset.shards) // CHECKS)

    def write(number: int, shard: Shard) -> ShardExport:
        if number % every == 0:
            check_unchanged(options.records, dataset)
        return export_shard(options, shard, target, names, beat)

    parts = list(pool.map(write, itertools.count(), dataset.shards))
    accounts = Accounts(
        "records",
        sum(shard.records for shard in dataset.shards),
        {"exported": sum(part.exported for part in parts), "left out": sum(part.left_out for part in parts)},
        tuple(reject for part in parts for reject in part.rejects),
    )
    accounts.check()
    target.write(PALETTE_FILE, palette_json)
    names.sweep()
    return accounts, names.others()


def in_the_way(options: Export, shard: Shard, target: Target) -> list[str]:
    """Existing files that the records of a shard would change. Raises InputError if a folder is in the way."""
    others = []
    for _, files in _files(options, shard):
        target.check(files)
        others += target.others(files)
    return others


def export_shard(
    options: Export, shard: Shard, target: Target, names: Names, beat: Callable[[], object]
) -> ShardExport:
    exported, left_out, rejects = 0, 0, []

    def claimed() -> Iterator[tuple[Record, dict[str, bytes]]]:
        nonlocal left_out
        for record, files in _files(options, shard):
            if files:
                names.take(files)
                yield record, files
            else:
                beat()
                left_out += 1

    write = lambda claim: _write_all(target, claim[1])
    size = lambda claim: sum(map(len, claim[1].values()))
    for (record, files), written in prefetch.write_behind(claimed(), options.output, write, size):
        beat()
        try:
            written()
            exported += 1
        except OSError as error:  # such as a name that is too long with its suffix
            path = target.path(next(iter(files)))
            rejects.append(Reject(record.key, path, "export", f"cannot be written: {error.strerror or error}"))
    return ShardExport(exported, left_out, tuple(rejects))


class Names:
    """The paths that are taken, shared by all threads."""

    def __init__(self, target: Target) -> None:
        self._target, self._lock, self._taken = target, threading.Lock(), set()

    def take(self, files: Mapping[str, bytes]) -> None:
        """Claims the files of a record. Raises InputError if another record has claimed one of them."""
        folded = {self._target.fold(relative): relative for relative in files}
        with self._lock:
            repeated = [relative for name, relative in folded.items() if name in self._taken]
            self._taken |= folded.keys()
        if repeated:
            raise InputError(
                f"two records would both be {repeated[-1]}; export without copies (--originals), or rename one of the "
                "images in the raw set and prepare it again"
            )

    def others(self) -> list[str]:
        """The files that were in the folders of images and labels before, and that no record has."""
        files = (file.relative for name, file in self._target.files.items() if name not in self._taken)
        return sorted(name for name in files if name.partition("/")[0] in KINDS and not hidden(name))

    def sweep(self) -> None:
        """Removes the unfinished files of a killed export."""
        whole = set(map(storage.shortened, {*self._taken, self._target.fold(PALETTE_FILE)}))
        for name, file in self._target.files.items():
            if storage.unfinished(name) in whole:
                storage.remove(file.path)


def _files(options: Export, shard: Shard) -> Iterator[tuple[Record, dict[str, bytes]]]:
    """Yields every record of a shard with its files, path below the output folder -> contents; {} if left out."""
    for _, record in read_records(options.records, shard):
        if record.copy and options.originals:
            yield record, {}
        else:
            yield record, dict(zip(export_paths(shard.split, record), (record.image, record.label), strict=True))


def _write_all(target: Target, files: Mapping[str, bytes]) -> None:
    """Writes an image and its label, or neither."""
    written = []
    try:
        for relative, data in files.items():
            target.write(relative, data)
            written.append(relative)
    except OSError:
        for relative in written:
            if target.fold(relative) not in target.files:
                with contextlib.suppress(OSError):
                    storage.remove(target.path(relative))
        raise


def export_paths(split: str, record: Record) -> tuple[str, str]:
    """Paths of the image and its label below the output folder. Raises InputError for keys that would leave it."""
    # Keys of sets with split folders begin with the split, which is also a folder of the output.
    stem = file_stem(record).removeprefix(f"{split}/")
    suffix = SUFFIXES.get(record.image_format)
    if suffix is None:
        raise InputError(f"record {record.key}: image format {record.image_format!r}; expected jpeg or png")
    paths = (f"images/{split}/{stem}{suffix}", f"labels/{split}/{stem}.png")
    return tuple(map(storage.safe_relative, paths))

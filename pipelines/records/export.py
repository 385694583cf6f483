"""Writes records back to a raw set in the layout images/SPLIT, labels/SPLIT with a palette.json."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Callable
from concurrent.futures import Executor
from typing import NamedTuple

from pipelines.inputs.coding import PALETTE_FILE
from pipelines.records.options import Export
from pipelines.records.reading import SUFFIXES, file_stem, read_records
from trainer import storage
from trainer.accounts import Accounts
from trainer.formats.dataset import Dataset, Shard
from trainer.formats.examples import Record
from trainer.options import InputError


class ShardExport(NamedTuple):
    """What came of one shard: the paths of the labels that were written, and how many copies were left out."""

    labels: list[str]
    left_out: int


def export(options: Export, dataset: Dataset, pool: Executor, beat: Callable[[], object]) -> Accounts:
    """Writes the files of every record, then palette.json.

    Args:
      pool: writes the shards in parallel.
      beat: called after every record.

    Raises:
      InputError: a shard is damaged, a key would leave the output folder, or two records have the same files.
      UnbalancedError: shards do not hold as many records as dataset.json says.
    """
    parts = list(pool.map(lambda shard: export_shard(options, shard, beat), dataset.shards))
    labels = Counter(label for part in parts for label in part.labels)
    accounts = Accounts(
        "records",
        sum(shard.records for shard in dataset.shards),
        {"exported": labels.total(), "left out": sum(part.left_out for part in parts)},
    )
    accounts.check()
    repeated = next((label for label, count in labels.items() if count > 1), None)
    if repeated:
        raise InputError(f"two records would both be {repeated}; export without copies (--originals)")
    # Records hold class ids, whatever the coding of the raw set was.
    palette = dataclasses.replace(dataset.palette, source_ids=(), aliases=())
    storage.write_json(storage.join(options.output, PALETTE_FILE), palette.to_json())
    return accounts


def export_shard(options: Export, shard: Shard, beat: Callable[[], object]) -> ShardExport:
    labels, left_out = [], 0
    for _, record in read_records(options.records, shard):
        beat()
        if record.copy and options.originals:
            left_out += 1
            continue
        paths = export_paths(shard.split, record)
        for path, data in zip(paths, (record.image, record.label), strict=True):
            storage.write(storage.join(options.output, *path.split("/")), data)
        labels.append(paths[1])
    return ShardExport(labels, left_out)


def export_paths(split: str, record: Record) -> tuple[str, str]:
    """Paths of the image and its label below the output folder; InputError for keys that would leave it."""
    # Keys of sets with split folders begin with the split, which is a folder here as well.
    stem = file_stem(record).removeprefix(f"{split}/")
    suffix = SUFFIXES.get(record.image_format)
    if suffix is None:
        raise InputError(f"record {record.key}: image format {record.image_format!r}; expected jpeg or png")
    paths = (f"images/{split}/{stem}{suffix}", f"labels/{split}/{stem}.png")
    return tuple(map(storage.safe_relative, paths))

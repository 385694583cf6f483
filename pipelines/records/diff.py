"""The differences between two sets of records."""

from __future__ import annotations

import functools
import hashlib
import itertools
from collections.abc import Callable, Iterator
from concurrent.futures import Executor
from typing import NamedTuple

from trainer.accounts import counted
from trainer.formats.dataset import Dataset, Shard
from trainer.formats.records import read_records
from trainer.options import InputError

PLACES = ("input", "output", "shards", "overwrite", "max_reject_rate")
"""Options of `prepare` that affect only the places and sizes of files, not the records."""


class Contents(NamedTuple):
    """A record without its bytes: its split, the digests of image and label, and its other fields."""

    split: str
    image: bytes
    label: bytes
    rest: tuple[object, ...]


Contained = dict[tuple[str, int], Contents]
"""(key, copy) -> the contents of that record."""


def contained(folder: str, dataset: Dataset, pool: Executor, beat: Callable[[], object]) -> Contained:
    """The contents of all records of a set.

    Raises InputError if a shard is missing or damaged, or two records have the same key and copy.
    """

    def of_shard(shard: Shard) -> Contained:
        contents = {}
        for _, record in read_records(folder, shard):
            rest = (record.filename, record.image_format, record.height, record.width, record.channels)
            digests = (hashlib.sha256(data).digest() for data in (record.image, record.label))
            contents[record.key, record.copy] = Contents(shard.split, *digests, rest)
            beat()
        return contents

    records = functools.reduce(lambda all, part: all | part, pool.map(of_shard, dataset.shards), {})
    if lost := sum(shard.records for shard in dataset.shards) - len(records):
        raise InputError(
            f"{folder}: {counted(lost, 'record')} with the key and copy of another, which cannot be told "
            f"apart; `deeplab records verify {folder}` lists all faults"
        )
    return records


def of_datasets(one: Dataset, other: Dataset) -> Iterator[str]:
    """Yields the differences between two dataset.json files, as sentences."""
    classes = (zip(side.palette.names, side.palette.colors, strict=True) for side in (one, other))
    for number, pair in enumerate(itertools.zip_longest(*classes)):
        if pair[0] != pair[1]:
            here, there = (f"{entry[0]} {entry[1]}" if entry else "missing" for entry in pair)
            yield f"palette: class {number} is {here} and {there}"
    palettes = one.palette.to_json(), other.palette.to_json()
    for name in sorted((palettes[0].keys() | palettes[1].keys()) - {"classes"}):
        values = [palette.get(name) for palette in palettes]
        if values[0] != values[1]:
            yield f"palette: {name} is {_short(values[0])} and {_short(values[1])}"
    for name in sorted((one.options.keys() | other.options.keys()).difference(PLACES)):
        values = [dataset.options.get(name) for dataset in (one, other)]
        if values[0] != values[1]:
            yield f"options: {name} is {_short(values[0])} and {_short(values[1])}"
    if one.rejected != other.rejected:
        yield f"rejected records: {one.rejected} and {other.rejected}"


def of_records(one: Contained, other: Contained) -> Iterator[tuple[str, str]]:
    """Yields the differences between the records of two sets: the kind of difference, and the record."""
    for key, copy in sorted(one.keys() | other.keys()):
        name = f"{key} copy {copy}" if copy else key
        here, there = one.get((key, copy)), other.get((key, copy))
        if here is None or there is None:
            yield "only in the second" if here is None else "only in the first", name
        elif here != there:
            if here.split != there.split:
                yield "in another split", f"{name} ({here.split} and {there.split})"
            kinds = ("with another image", "with another label", "with other features")
            for kind, a, b in zip(kinds, here[1:], there[1:], strict=True):
                if a != b:
                    yield kind, name


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:77]}..."

"""Shards that are damaged, in every way and under every command that reads them."""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from tests.drawn.encoded import saved
from tests.zoo.engine import DONE, REFUSED, TROUBLE, Case
from tests.zoo.worlds import both, file, gone
from trainer.formats import images
from trainer.formats.examples import Record, decode, encode
from trainer.formats.frames import frame, read_frames

FIRST, LAST = "records/train-00000-of-00002.tfrecord", "records/val-00000-of-00001.tfrecord"
READERS = {
    "records ls": "records ls @/records",
    "records show": "records show @/records --record train/g0",
    "records stats": "records stats @/records",
    "records verify": "records verify @/records",
    "records export": "records export @/records @/out",
    "records repair": "records repair @/records",
    "records reshard": "records reshard @/records @/out --shards 1",
    "records diff": "records diff @/records @/records",
    "evaluate": "evaluate --labels @/set/labels --masks @/masks --model @/model --output @/out --records @/records",
    "segment": "segment --input @/set/images --model @/model --output @/out --records @/records",
    "tune-crf": "tune-crf --model @/model --records @/records",
}
"""What reads dataset.json, by command."""


def cut(name: str, size: int) -> Callable[[Path], object]:
    return lambda world: os.truncate(world / name, (world / name).stat().st_size - size)


def flip(name: str, offset: int) -> Callable[[Path], object]:
    def make(world: Path) -> None:
        data = bytearray((world / name).read_bytes())
        data[offset] ^= 1
        (world / name).write_bytes(data)

    return make


def changed(change: Callable[[Record], Record | bytes]) -> Callable[[Path], object]:
    """The first record of FIRST is another one, with right checksums."""

    def make(world: Path) -> None:
        with open(world / FIRST, "rb") as shard:
            payloads = [one.data for one in read_frames(shard)]
        new = change(decode(payloads[0]))
        payloads[0] = new if isinstance(new, bytes) else encode(new)
        (world / FIRST).write_bytes(b"".join(map(frame, payloads)))

    return make


def record(**values: Any) -> Callable[[Path], object]:
    return changed(lambda one: Record(**{**vars(one), **values}))


def other_format(one: Record) -> Record:
    return Record(**{**vars(one), "image_format": "png" if one.image_format == "jpeg" else "jpeg"})


def twice(world: Path) -> None:
    """FIRST with its first record once more, under another key."""
    with open(world / FIRST, "rb") as shard:
        one = decode(next(read_frames(shard)).data)
    with open(world / FIRST, "ab") as shard:
        shard.write(frame(encode(Record(**{**vars(one), "key": "more"}))))


DIRECTORY = both(gone(FIRST), lambda world: (world / FIRST).mkdir())
BEHIND, FLIPPED, EXPORT = "bytes behind the last record", "a flipped bit in an image", "records export"
ADVICE = "`deeplab records verify"
SHARDS = {
    "a shard that is missing": (gone(FIRST), "the shard is missing", ""),
    "an empty shard": (file(FIRST, b""), "has 0 records, expected", None),
    "a shard cut off in a record": (cut(FIRST, 40), "the shard ends after", "the shard ends after"),
    "a shard cut off in a header": (
        lambda world: os.truncate(world / FIRST, 7),
        "ends in a header of 7 of 12",
        "ends in a",
    ),
    "a flipped bit in an image": (flip(FIRST, 300), "checksum of the data is wrong", "checksum of the data is wrong"),
    "a flipped bit in a length": (
        flip(FIRST, 0),
        "checksum of the length is wrong",
        "checksum of the length is wrong",
    ),
    "a record more than dataset.json says": (twice, "records, expected", "but dataset.json says"),
    "bytes behind the last record": (lambda world: (world / FIRST).open("ab").write(b"more"), "bytes, expected", None),
    "a shard that is a folder": (DIRECTORY, "the shard is missing", "cannot be read: Is a directory"),
    "a shard that is text": (
        file(FIRST, b"this is no shard at all"),
        "checksum of the length",
        "checksum of the length",
    ),
    "a record that is no message": (
        changed(lambda one: b"\xff\xff\xff\xff"),
        "not a tf.train.Example",
        "not a tf.train.Example",
    ),
    "a record without an image": (changed(lambda one: frame(b"")[:0] or b"\n\0"), "feature 'image", "feature 'image"),
    "a record whose image is empty": (record(image=b""), "the file is empty", None),
    "a record whose image is a GIF": (record(image=saved(np.zeros((24, 32), np.uint8), "GIF")), "is a GIF", None),
    "a record whose label is a JPEG": (
        record(label=images.encode_jpeg(np.zeros((24, 32, 3), np.uint8))),
        "label is jpeg",
        None,
    ),
    "a record whose label has unknown ids": (
        record(label=images.encode_png(np.full((24, 32), 9, np.uint8))),
        "unknown class id 9",
        None,
    ),
    "a record whose label has another size": (
        record(label=images.encode_png(np.zeros((9, 9), np.uint8))),
        "label 9x9",
        None,
    ),
    "a record of another size than it says": (record(height=99), "but the record says 32x99", None),
    "a record that says it is of another format": (changed(other_format), "expected upright", None),
    "a record whose key is not UTF-8": (
        changed(lambda one: encode(one).replace(one.key.encode(), one.key.encode()[:-1] + b"\xff")),
        "not UTF-8",
        "not UTF-8",
    ),
    "a record whose key leads elsewhere": (record(key="../../x"), None, None),
    "a record twice": (changed(lambda one: one), None, None),
}


def each_shard() -> list[Case]:
    """Every damage of a shard under `verify` and `repair`; where it cannot be read, under what reads it, in turn."""
    cases, turn = [], itertools.cycle(("records export", "segment", "records diff", "evaluate", "records reshard"))
    for name, (make, says, read) in SHARDS.items():
        if says:
            lines = (FIRST[8:], says, "fault", "records = ")
            verify = Case(f"{name}: records verify", READERS["records verify"], TROUBLE, lines, make, stays=True)
            status = DONE if name in (BEHIND, FLIPPED) else TROUBLE
            repair = Case(
                f"{name}: records repair", READERS["records repair"], status, (says,), make, writes=("records",)
            )
            cases += [verify, repair]
        for command in itertools.islice(turn, 2 if read is not None else 0):
            line = READERS[command] + (" --split train" if command in ("segment", "evaluate") else "")
            # What was exported before the damage was met stays.
            cases.append(
                Case(f"{name}: {command}", line, REFUSED, (FIRST[8:], read, ADVICE), make, stays=command != EXPORT)
            )
    return cases

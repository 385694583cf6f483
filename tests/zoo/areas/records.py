"""Records that are damaged, in every way and under every command that reads them."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from tests.drawn.encoded import saved
from tests.drawn.records import PALETTE
from tests.zoo.engine import DONE, REFUSED, TROUBLE, Area, Case
from tests.zoo.worlds import LABEL, both, file, gone, whole
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


def described(**changes: Any) -> Callable[[Path], object]:
    """dataset.json with other values."""

    def make(world: Path) -> None:
        path = world / "records/dataset.json"
        path.write_text(json.dumps(json.loads(path.read_bytes()) | changes))

    return make


def shards(change: Callable[[list[dict[str, Any]]], object]) -> Callable[[Path], object]:
    """dataset.json with other shards."""

    def make(world: Path) -> None:
        path = world / "records/dataset.json"
        value = json.loads(path.read_bytes())
        change(value["shards"])
        path.write_text(json.dumps(value))

    return make


def written(data: bytes) -> Callable[[Path], object]:
    return file("records/dataset.json", data)


PALETTE_JSON = PALETTE.to_json()
DESCRIPTIONS = {
    "a folder without dataset.json": (gone("records/dataset.json"), "holds no records: dataset.json is missing"),
    "no folder of records": (gone("records"), "holds no records: dataset.json is missing"),
    "an empty dataset.json": (written(b""), "dataset.json is not valid JSON"),
    "a dataset.json cut off": (written(b'{"version": 2, "shards": ['), "dataset.json is not valid JSON"),
    "a dataset.json of brackets": (written(b"[" * 100_000), "dataset.json is not valid JSON"),
    "a dataset.json that is a list": (written(b"[]"), "dataset.json is damaged"),
    "a dataset.json that is null": (written(b"null"), "dataset.json is damaged"),
    "a dataset.json of a later version": (described(version=99), "has version 99, this program reads 1 and 2"),
    "a dataset.json without shards": (described(shards=[]), "dataset.json is damaged"),
    "shards that are an object": (described(shards={"a": 1}), "dataset.json is damaged"),
    "a shard without its counts": (shards(lambda some: some[0].pop("records")), "dataset.json is damaged"),
    "a shard with a text for a count": (shards(lambda some: some[0].update(records="7")), "dataset.json is damaged"),
    "a shard of fewer than no records": (shards(lambda some: some[0].update(records=-1)), "dataset.json is damaged"),
    "a shard with a fraction for a count": (shards(lambda some: some[0].update(bytes=1.5)), "dataset.json is damaged"),
    "a shard of more images than records": (shards(lambda some: some[0].update(images=99)), "dataset.json is damaged"),
    "a shard twice": (shards(lambda some: some.append(some[0])), "dataset.json is damaged"),
    "a shard of another split than its name says": (
        shards(lambda some: some[0].update(split="val")),
        "dataset.json is damaged",
    ),
    "a shard whose name leads elsewhere": (
        shards(lambda some: some[0].update(name="../set/palette.json")),
        "names a shard '../set/palette.json', expected",
    ),
    "a shard with pixels of other classes": (
        shards(lambda some: some[0].update(class_pixels=[1, 2])),
        "dataset.json is damaged",
    ),
    "options that are a text": (described(options="x"), "dataset.json is damaged"),
    "an input that is a number": (described(options={"input": 1}), "dataset.json is damaged"),
    "a fingerprint that is a number": (described(fingerprint=3), "dataset.json is damaged"),
    "a bound on sizes that is a text": (described(max_side="513"), "dataset.json is damaged"),
    "a palette of records that is damaged": (described(palette=PALETTE_JSON | {"ignore_id": 1}), "ignore_id must be"),
    "a palette of records that is missing": (described(palette=None), "needs a list of classes"),
}


def each_description() -> list[Case]:
    """Every damage of dataset.json, the readers in turn: each meets a third of them, and the first all of them."""
    names = list(READERS)
    cases = []
    for number, (name, (make, says)) in enumerate(DESCRIPTIONS.items()):
        for command in dict.fromkeys(names[place % len(names)] for place in (0, number, 3 * number + 1)):
            line = READERS[command]
            cases.append(Case(f"{name}: {command}", line, make=make, says=(says,), writes=("out", "records", "model")))
    return cases


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
    "a record whose image is a GIF": (record(image=saved(np.zeros((24, 32), np.uint8), "GIF")), "not an image", None),
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
    """Every damage of a shard under `verify` and `repair`; where it cannot be read, under what reads it as well."""
    cases = []
    for name, (make, says, read) in SHARDS.items():
        if says:
            lines = (FIRST[8:], says, "fault", "records = ")
            verify = Case(f"{name}: records verify", READERS["records verify"], TROUBLE, lines, make, stays=True)
            status = DONE if name in (BEHIND, FLIPPED) else TROUBLE
            repair = Case(
                f"{name}: records repair", READERS["records repair"], status, (says,), make, writes=("records",)
            )
            cases += [verify, repair]
        for command in (
            ("records export", "records reshard", "records diff", "segment", "evaluate") if read is not None else ()
        ):
            line = READERS[command] + (" --split train" if command in ("segment", "evaluate") else "")
            # What was exported before the damage was met stays.
            cases.append(
                Case(f"{name}: {command}", line, REFUSED, (FIRST[8:], read, ADVICE), make, stays=command != EXPORT)
            )
    return cases


CASES = (
    *each_description(),
    Case(
        "records that are whole: records verify", READERS["records verify"], status=DONE, stays=True, says=("is good",)
    ),
    Case(
        "records that are whole: records repair",
        READERS["records repair"],
        status=DONE,
        stays=True,
        says=("nothing to repair",),
    ),
    Case(
        "records that are whole: records diff", READERS["records diff"], status=DONE, stays=True, says=("the same in",)
    ),
    Case(
        "records that are whole: records export",
        READERS["records export"] + " --originals",
        status=DONE,
        done=("out/palette.json",),
    ),
    Case(
        "records that are whole: records reshard", READERS["records reshard"], status=DONE, done=("out/dataset.json",)
    ),
    *each_shard(),
    Case(
        "a shard that dataset.json does not list",
        READERS["records verify"],
        status=TROUBLE,
        make=file("records/x.tfrecord", b"x"),
        says=("x.tfrecord: is not in dataset.json",),
        stays=True,
    ),
    Case(
        "a record that is not there",
        "records show @/records --record nowhere",
        says=("has no record 'nowhere'", "expected a key such as"),
    ),
    Case(
        "a number of a record that is not there",
        "records show @/records --record 999",
        says=("has no record '999'", "or a number from 0 to"),
    ),
    Case(
        "a number of more digits than can be read",
        f"records show @/records --record {'9' * 5000}",
        says=("has no record",),
    ),
    Case("a number in other digits", "records show @/records --record ²", says=("has no record",)),
    Case(
        "a copy that is not there",
        "records show @/records --record train/g0 --copy 7",
        says=("has no record 'train/g0' copy 7",),
    ),
    Case(
        "a folder where the files of others lie: records show",
        "records show @/records --record train/g0 --save @/out",
        make=file("out/train_g0-label.png", b"mine"),
        says=("would be replaced by other contents",),
    ),
    Case(
        "a folder where the files of others lie: records export",
        READERS["records export"],
        make=file("out/palette.json", b"mine"),
        says=("palette.json would be replaced by other contents",),
    ),
    Case(
        "records of others in the output: records reshard",
        READERS["records reshard"],
        make=file("out/dataset.json", b"{}"),
        says=("dataset.json",),
    ),
    Case(
        "a shard of others in the output: records reshard",
        READERS["records reshard"],
        make=file("out/train-00000-of-00001.tfrecord", b"x"),
        says=("belongs to other records",),
    ),
    Case(
        "the output is the records' own folder: records reshard",
        "records reshard @/records @/records --shards 1",
        says=("is the folder of the records themselves",),
    ),
    Case(
        "the output is the raw set: records export",
        "records export @/records @/set",
        says=("would be replaced by other contents",),
    ),
    Case(
        "a split that records do not have",
        READERS["segment"] + " --split test",
        says=("has no split 'test'; it has train, val",),
    ),
    Case(
        "images of the records that are not there",
        READERS["segment"],
        make=both(gone("set/images/val"), file("set/images/x.png", LABEL)),
        says=("no file has the name of one of the 2 images",),
    ),
    Case(
        "a repair that was begun by another program",
        READERS["records repair"],
        status=DONE,
        make=file("records/.repair/notes", b"mine"),
        stays=True,
    ),
    Case("the records' folder is a file", "records ls @/set/palette.json", says=("holds no records",)),
)
AREA = Area("Records", whole, CASES)

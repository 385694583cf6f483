"""Records whose dataset.json is damaged, under every command that reads it, and what else may be wrong with them."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.drawn.records import PALETTE
from tests.zoo.areas import shards
from tests.zoo.areas.shards import READERS
from tests.zoo.engine import DONE, TROUBLE, Area, Case
from tests.zoo.worlds import LABEL, both, file, gone, whole


def described(**changes: Any) -> Callable[[Path], object]:
    """dataset.json with other values."""

    def make(world: Path) -> None:
        path = world / "records/dataset.json"
        path.write_text(json.dumps(json.loads(path.read_bytes()) | changes))

    return make


def listed(change: Callable[[list[dict[str, Any]]], object]) -> Callable[[Path], object]:
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
    "a shard without its counts": (listed(lambda some: some[0].pop("records")), "dataset.json is damaged"),
    "a shard with a text for a count": (
        listed(lambda some: some[0].update(records="7")),
        "dataset.json is damaged",
    ),
    "a shard of fewer than no records": (
        listed(lambda some: some[0].update(records=-1)),
        "dataset.json is damaged",
    ),
    "a shard with a fraction for a count": (
        listed(lambda some: some[0].update(bytes=1.5)),
        "dataset.json is damaged",
    ),
    "a shard of more images than records": (
        listed(lambda some: some[0].update(images=99)),
        "dataset.json is damaged",
    ),
    "a shard twice": (listed(lambda some: some.append(some[0])), "dataset.json is damaged"),
    "a shard of another split than its name says": (
        listed(lambda some: some[0].update(split="val")),
        "dataset.json is damaged",
    ),
    "a shard whose name leads elsewhere": (
        listed(lambda some: some[0].update(name="../set/palette.json")),
        "names a shard '../set/palette.json', expected",
    ),
    "a shard with pixels of other classes": (
        listed(lambda some: some[0].update(class_pixels=[1, 2])),
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
    """Every damage of dataset.json under two of the readers in turn: all of them ask one function for it."""
    names = list(READERS)
    cases = []
    for number, (name, (make, says)) in enumerate(DESCRIPTIONS.items()):
        for command in dict.fromkeys(names[place % len(names)] for place in (number, 3 * number + 1)):
            line = READERS[command]
            cases.append(Case(f"{name}: {command}", line, make=make, says=(says,), writes=("out", "records", "model")))
    return cases


def in_the_way() -> list[Case]:
    """A folder where a verb is to write a file, and a file where it needs a folder."""
    verbs = {"export": "@/out", "reshard": "@/out --shards 1", "show": "--record train/g0 --save @/out"}
    names = {"export": "palette.json", "reshard": "dataset.json", "show": "train_g0-label.png"}
    cases = [
        Case(
            f"a folder where a file is to be written: records {verb}",
            f"records {verb} @/records {rest}",
            make=file(f"out/{names[verb]}/x", b"mine"),
            says=(f"out/{names[verb]} is a folder, where a file is to be written",),
        )
        for verb, rest in verbs.items()
    ]
    says = ("out/images is not a folder",)
    name = "a file where a folder is to be made: records export"
    return [*cases, Case(name, READERS["records export"], make=file("out/images", b"mine"), says=says)]


CASES = (
    *each_description(),
    Case("sound records: records verify", READERS["records verify"], status=DONE, stays=True, says=("is good",)),
    Case(
        "sound records: records repair",
        READERS["records repair"],
        status=DONE,
        stays=True,
        says=("nothing to repair",),
    ),
    Case("sound records: records diff", READERS["records diff"], status=DONE, stays=True, says=("the same in",)),
    Case(
        "sound records: records export",
        READERS["records export"] + " --originals",
        status=DONE,
        done=("out/palette.json",),
    ),
    Case("sound records: records reshard", READERS["records reshard"], status=DONE, done=("out/dataset.json",)),
    *shards.each_shard(),
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
        says=("has no copy 7 of 'train/g0'; expected one of 0, 1",),
    ),
    Case("a copy of a number", "records show @/records --record 3 --copy 1", says=("--copy 1 goes with a key",)),
    Case(
        "another program's files in the output folder: records show",
        "records show @/records --record train/g0 --save @/out",
        make=file("out/train_g0-label.png", b"mine"),
        says=("would be replaced by other contents",),
    ),
    *in_the_way(),
    Case(
        "another program's files in the output folder: records export",
        READERS["records export"],
        make=file("out/palette.json", b"mine"),
        says=("palette.json would be replaced by other contents",),
    ),
    Case(
        "other records in the output: records reshard",
        READERS["records reshard"],
        make=file("out/dataset.json", b"{}"),
        says=("dataset.json",),
    ),
    Case(
        "another set's shard in the output: records reshard",
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

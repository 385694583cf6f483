"""Cloud Storage that refuses, fails or spoils what it is asked for, under every command that reads or writes there."""

from __future__ import annotations

import functools
import shutil
from pathlib import Path

from tests.drawn import objects
from tests.zoo.areas import jobs
from tests.zoo.areas.shards import flip
from tests.zoo.engine import DONE, PASSING, REFUSED, TROUBLE, Area, Case
from tests.zoo.worlds import both, file

ALL = "--max-reject-rate 1"
IMAGES = {
    "prepare": (f"prepare --input gs://seg/set --output gs://seg/out {ALL}", "images/train/g0.png"),
    "segment": (f"segment --input gs://seg/set/images --model @/seg/model --output gs://seg/out {ALL}", "g0.png"),
    "evaluate": (
        "evaluate --labels gs://seg/set/labels --masks gs://seg/masks --palette @/seg/set/palette.json "
        f"--output gs://seg/out {ALL}",
        "labels/train/g0.png",
    ),
}
"""What works on images one by one: the command, and an object."""
FILES = {
    "prepare, its palette": (IMAGES["prepare"][0], "set/palette.json"),
    "segment, its model": (IMAGES["segment"][0].replace("@/seg/model", "gs://seg/model"), "model.json"),
    "export": ("export --model gs://seg/model --format savedmodel --output @/out", "model.json"),
    "tune-crf": ("tune-crf --model @/seg/model --records gs://seg/records", "dataset.json"),
    "records ls": ("records ls gs://seg/records", "dataset.json"),
    "records show": ("records show gs://seg/records", "train-00000"),
    "records export": ("records export gs://seg/records @/out", "train-00000"),
    "records reshard": ("records reshard gs://seg/records @/out --shards 1", "train-00000"),
    "records diff": ("records diff @/seg/records gs://seg/records", "train-00000"),
    "plan": ("plan prepare --input gs://seg/many --output @/out", "palette.json"),
}
"""What cannot go on without one object: the command, and that object."""
WRITERS = {
    "prepare": IMAGES["prepare"][0],
    "segment": IMAGES["segment"][0],
    "evaluate": IMAGES["evaluate"][0],
    "doctor": "doctor @/seg/set --output gs://seg/out",
    "records export": "records export @/seg/records gs://seg/out",
    "records reshard": "records reshard @/seg/records gs://seg/out --shards 1",
    "records show": "records show @/seg/records --save gs://seg/out",
    "plan": "plan prepare --input @/many --output @/out --json gs://seg/out/plan.json",
}
FAULTS = {
    "an object that may not be read": (objects.of_status(403), "Cloud Storage answered 403 Forbidden"),
    "an object that is gone": (objects.of_status(404), ""),
    "an object that always fails": (objects.of_status(500), "Cloud Storage answered 500 Internal Server Error"),
    "an object cut off on its way": (
        objects.cut_off,
        "the bytes received are not the bytes stored: their checksums differ",
    ),
    "an object that arrives changed": (
        objects.spoilt,
        "the bytes received are not the bytes stored: their checksums differ",
    ),
    "connections that break": (objects.reset, "no complete answer (ConnectionError), despite several attempts"),
}
GONE = {"prepare": "no such object or bucket", "segment": "file not found", "evaluate": "listed, but not found"}
REFUSALS = {
    "an output that may not be written to": (objects.of_status(403), REFUSED, "Cloud Storage answered 403 Forbidden"),
    "an output in a missing bucket": (objects.of_status(404), REFUSED, "no such object or bucket"),
    "an output that always fails": (objects.of_status(500), PASSING, "500 Internal Server Error, despite several"),
    "an output whose connections break": (objects.reset, PASSING, "no complete answer (ConnectionError)"),
}
WRITES = ("seg/out", "out")


def many(world: Path) -> None:
    """Ten images in the bucket."""
    jobs.many(world)
    shutil.move(world / "many", world / "seg")


def of_images() -> list[Case]:
    """Every fault of an image or label under what works on them one by one."""
    found = []
    for kind, (fault, says) in FAULTS.items():
        for command, (line, name) in IMAGES.items():
            around = functools.partial(objects.buckets, fault, name)
            if fault is objects.reset:
                found.append(Case(f"{kind}: {command}", line, PASSING, (says,), around=around, writes=WRITES))
            else:
                rejects = {"g0.png" if command != "evaluate" else "g0": says or GONE[command]}
                found.append(
                    Case(f"{kind}: {command}", line, DONE, rejects=rejects, around=around, writes=WRITES, stays=False)
                )
    return found


def of_files() -> list[Case]:
    """Faults of an object that a command cannot do without; each meets two, and all of them in `make test-slow`."""
    found = []
    for number, (command, (line, name)) in enumerate(FILES.items()):
        for place, (kind, (fault, says)) in enumerate(FAULTS.items()):
            status = PASSING if fault is objects.reset else REFUSED
            around = functools.partial(jobs.together, functools.partial(objects.buckets, fault, name), jobs.not_tried)
            found.append(
                Case(
                    f"{kind}: {command}",
                    line,
                    status,
                    (name, says),
                    many if command == "plan" else lambda world: None,
                    around=around,
                    writes=WRITES,
                    stays=False,
                    slow=(place - number) % 3 != 0,
                )
            )
    return found


def of_outputs() -> list[Case]:
    found = []
    for number, (command, line) in enumerate(WRITERS.items()):
        for place, (kind, (fault, status, says)) in enumerate(REFUSALS.items()):
            around = functools.partial(
                jobs.together, functools.partial(objects.buckets, fault, "out/", True), jobs.not_tried
            )
            make = jobs.many if command == "plan" else lambda world: None
            case = Case(f"{kind}: {command}", line, status, ("gs://seg/out", says), make, around=around, stays=True)
            found.append(case if (place - number) % 2 == 0 else Case(**vars(case) | {"slow": True}))
    return found


def of_shards() -> list[Case]:
    """A shard that cannot be read is no damaged one: neither deleted nor left out."""
    found = []
    for kind, (fault, says) in FAULTS.items():
        if fault in (objects.reset,) or not says:
            continue
        around = functools.partial(objects.buckets, fault, "train-00000")
        for command in ("verify --delete", "repair --drop"):
            verb = command.partition(" ")[0]
            found.append(
                Case(
                    f"{kind}: records {verb}",
                    f"records {command.replace(' ', ' gs://seg/records ')}",
                    TROUBLE,
                    (f"train-00000-of-00002.tfrecord: cannot be read: {says}",),
                    around=around,
                    writes=("seg/records",),
                    keeps=("seg/records/train-00000-of-00002.tfrecord",),
                    stays=verb == "verify",
                )
            )
    return found


SHARD = "seg/records/train-00000-of-00002.tfrecord"
CASES = (
    *of_images(),
    *of_files(),
    *of_outputs(),
    *of_shards(),
    Case(
        "a set, its records and their repair, all in a bucket",
        "records repair gs://seg/records",
        DONE,
        ("1 made again",),
        flip(SHARD, 300),
        around=objects.buckets,
        writes=("seg/records",),
    ),
    Case(
        "records in a bucket that differ from those here",
        "records diff gs://seg/records @/seg/other",
        REFUSED,
        ("other holds no records",),
        around=objects.buckets,
    ),
    Case(
        "an address of a missing bucket",
        "prepare --input gs://nowhere/set --output @/out",
        REFUSED,
        ("gs://nowhere/set",),
        around=objects.buckets,
    ),
    Case(
        "an object whose name is a folder's",
        "doctor gs://seg/set --output @/out",
        DONE,
        ("healthy",),
        both(file("seg/set/notes/a.txt", b"x")),
        around=objects.buckets,
    ),
)
AREA = Area("Cloud Storage that fails", jobs.world, CASES)

"""Runs that were made before, or were cut short."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

from tests.drawn.encoded import saved
from tests.drawn.tuning import weights_file
from tests.zoo.engine import REFUSED, Area, Case
from tests.zoo.worlds import LABEL, both, file, gone, image, put, run, whole

PREPARE = "prepare --input @/set --output @/records --shards 2 --copies 1"
SEGMENT = "segment --input @/set/images --model @/model --output @/masks"
EVALUATE = "evaluate --labels @/set/labels --masks @/masks --palette @/set/palette.json --output @/out"
IN_RECORDS, IN_MASKS = ("records",), ("masks",)


def again(line: str) -> Callable[[Path], object]:
    return lambda world: run(world, line)


def left(name: str) -> Callable[[Path], object]:
    """What a killed process leaves of a file that it was writing."""
    folder, slash, base = name.rpartition("/")
    return file(f"{folder}{slash}.{base}.0123abcd.tmp", b"half")


def older(name: str, **changes: object) -> Callable[[Path], object]:
    """A JSON file of an earlier run, with other values."""

    def make(world: Path) -> None:
        value = json.loads((world / name).read_bytes())
        (world / name).write_text(json.dumps(value | changes))

    return make


SIDECAR = "records/shards/train-00000-of-00002.tfrecord.json"
RERUNS = (
    Case(
        "the same again: prepare",
        PREPARE,
        0,
        ("3 of 3 shards are finished already and kept", "8 kept"),
        writes=IN_RECORDS,
    ),
    Case("the same again: segment", SEGMENT, 0, ("5 images = 0 written + 5 skipped + 0 rejected",), writes=IN_MASKS),
    Case("the same again: evaluate", EVALUATE, 0, ("5 labels = 5 evaluated",), again(EVALUATE)),
    Case(
        "the same again: doctor", "doctor @/set --output @/out", 0, ("verdict:",), again("doctor @/set --output @/out")
    ),
    Case(
        "the same again: records export",
        "records export @/records @/out --originals",
        0,
        (),
        again("records export @/records @/out --originals"),
    ),
    Case(
        "the same again: records reshard",
        "records reshard @/records @/out --shards 1",
        0,
        (),
        again("records reshard @/records @/out --shards 1"),
    ),
    Case(
        "an image that was changed since: prepare",
        PREPARE,
        0,
        ("shards are finished already",),
        lambda world: put(world, "set/images/train/g0.png", saved(image(9))),
        writes=IN_RECORDS,
    ),
    Case(
        "an image that was changed since: segment",
        SEGMENT,
        0,
        ("1 written + 4 skipped",),
        lambda world: put(world, "set/images/train/g0.png", saved(image(9))),
        writes=IN_MASKS,
    ),
    Case(
        "an image more: segment",
        SEGMENT,
        0,
        ("1 written + 5 skipped",),
        file("set/images/x.png"),
        writes=IN_MASKS,
        done=("masks/x.png",),
    ),
    Case(
        "an image fewer: segment",
        SEGMENT,
        0,
        ("0 written + 4 skipped",),
        gone("set/images/train/g0.png"),
        writes=IN_MASKS,
        keeps=("masks/train/g0.png",),
    ),
    Case(
        "another model: segment",
        SEGMENT,
        REFUSED,
        ("holds masks made with another model or other options",),
        file("model/model.keras", weights_file(b"other")),
    ),
    Case(
        "other options: segment",
        f"{SEGMENT} --max-side 16",
        REFUSED,
        ("holds masks made with another model or other options",),
    ),
    Case(
        "other options, to be made anew: segment",
        f"{SEGMENT} --max-side 16 --overwrite",
        0,
        ("5 written + 0 skipped",),
        writes=IN_MASKS,
    ),
    Case(
        "other options: prepare",
        PREPARE.replace("--copies 1", "--copies 0"),
        0,
        ("3 written + 2 kept",),
        writes=IN_RECORDS,
    ),
    Case(
        "another number of shards: prepare",
        PREPARE.replace("--shards 2", "--shards 1"),
        0,
        ("removed",),
        writes=IN_RECORDS,
    ),
    Case(
        "a mask that was removed: segment",
        SEGMENT,
        0,
        ("1 written + 4 skipped",),
        gone("masks/val/g3.png"),
        writes=IN_MASKS,
    ),
    Case(
        "a mask that was replaced by another file: segment",
        f"{SEGMENT} --max-reject-rate 1",
        0,
        ("0 written + 4 skipped + 1 rejected",),
        file("masks/val/g3.png", LABEL),
        writes=IN_MASKS,
        keeps=("masks/val/g3.png",),
        rejects={"val/g3.png": "this program did not write it"},
    ),
    Case(
        "a mask that is empty, as after a power failure: segment",
        SEGMENT,
        0,
        ("1 written + 4 skipped",),
        file("masks/val/g3.png", b""),
        writes=IN_MASKS,
    ),
    Case(
        "a mask cut off: segment",
        SEGMENT,
        0,
        ("5 images = ",),
        lambda world: put(world, "masks/val/g3.png", (world / "masks/val/g3.png").read_bytes()[:150]),
        writes=IN_MASKS,
    ),
    Case("a damaged segment.json", SEGMENT, REFUSED, ("segment.json",), file("masks/segment.json", b"{")),
    Case("another program's segment.json", SEGMENT, REFUSED, ("segment.json",), file("masks/segment.json", b"{}")),
    Case(
        "a segment.json that is a list: evaluate",
        EVALUATE,
        REFUSED,
        ("segment.json is not what `deeplab segment` writes",),
        file("masks/segment.json", b"[]"),
    ),
    Case(
        "a segment.json of numbers: evaluate",
        EVALUATE,
        REFUSED,
        ("segment.json is not what `deeplab segment` writes",),
        older("masks/segment.json", input=1),
    ),
    Case(
        "masks that are not finished: evaluate",
        EVALUATE,
        0,
        ("is unfinished, according to its segment.json",),
        older("masks/segment.json", status="running"),
    ),
    Case(
        "a shard that was removed: prepare",
        PREPARE,
        0,
        ("2 of 3 shards are finished already",),
        gone("records/val-00000-of-00001.tfrecord"),
        writes=IN_RECORDS,
        done=("records/val-00000-of-00001.tfrecord",),
    ),
    Case(
        "a shard that was cut off: prepare",
        PREPARE,
        0,
        ("2 of 3 shards are finished already",),
        lambda world: put(world, "records/val-00000-of-00001.tfrecord", b"cut"),
        writes=IN_RECORDS,
    ),
    Case(
        "a sidecar that is damaged: prepare",
        PREPARE,
        REFUSED,
        ("would be replaced and was not written by this command",),
        file(SIDECAR, b"{"),
        writes=IN_RECORDS,
    ),
    Case(
        "a sidecar whose values are of another kind: prepare",
        PREPARE,
        REFUSED,
        ("would be replaced and was not written",),
        older(SIDECAR, unread=3),
        writes=IN_RECORDS,
    ),
    Case(
        "a run that was killed while it wrote a shard: prepare",
        PREPARE,
        0,
        ("2 of 3 shards",),
        both(
            gone("records/val-00000-of-00001.tfrecord", "records/dataset.json"),
            left("records/val-00000-of-00001.tfrecord"),
            left("records/dataset.json"),
        ),
        writes=IN_RECORDS,
        done=("records/dataset.json",),
    ),
    Case(
        "a run that was killed while it wrote a mask: segment",
        SEGMENT,
        0,
        ("1 written + 4 skipped",),
        both(gone("masks/val/g3.png"), left("masks/val/g3.png"), left("masks/segment.json")),
        writes=IN_MASKS,
    ),
    Case(
        "a run that was killed while it wrote its report: evaluate",
        EVALUATE,
        0,
        ("5 evaluated",),
        both(left("out/report.html"), left("out/evaluation.json"), file("out/.in-flight/x.started", b"{}")),
    ),
    Case(
        "files that look like another program's leftovers: evaluate",
        EVALUATE,
        0,
        ("5 evaluated",),
        both(file("out/.notes.txt.0123abcd.tmp", b"x"), file("out/.report.html.zzz.tmp", b"x")),
        keeps=("out/.notes.txt.0123abcd.tmp", "out/.report.html.zzz.tmp"),
    ),
    Case(
        "a note of a killed run that is damaged: prepare",
        PREPARE,
        0,
        (),
        file("records/shards/0123456789abcdef01234567.started", b"\xff{"),
        writes=IN_RECORDS,
    ),
    Case(
        "a report of another program: evaluate",
        EVALUATE,
        REFUSED,
        ("evaluation.json was not written by `deeplab evaluate`",),
        file("out/evaluation.json", b"[]"),
    ),
    Case(
        "a doctor.json of another program",
        "doctor @/set --output @/out",
        REFUSED,
        ("doctor.json was not written by `deeplab doctor`",),
        file("out/doctor.json", b"[]"),
    ),
    Case(
        "a list that would be replaced: segment",
        "segment --input @/out/rejects.jsonl --model @/model --output @/out",
        REFUSED,
        ("lies in the output folder",),
        file("out/rejects.jsonl", b'{"image": "x.png"}\n'),
    ),
    Case(
        "a list that would be replaced: evaluate",
        f"{EVALUATE} --list @/out/rejects.jsonl",
        REFUSED,
        ("would be replaced",),
        file("out/rejects.jsonl", b'{"image": "x.png"}\n'),
    ),
)
AREA = Area("Reruns, and runs that were killed", whole, RERUNS)

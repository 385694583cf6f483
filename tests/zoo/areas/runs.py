"""Runs that were made before, were cut short, or are given wrong flags, and paths of every kind."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path

from tests.drawn.encoded import saved
from tests.zoo.engine import REFUSED, Area, Case
from tests.zoo.worlds import LABEL, PNG, both, file, gone, image, put, run, whole

PREPARE = "prepare --input @/set --output @/records --shards 2 --copies 1"
SEGMENT = "segment --input @/set/images --model @/model --output @/masks"
EVALUATE = "evaluate --labels @/set/labels --masks @/masks --palette @/set/palette.json --output @/out"
DATAFLOW, PYTHON = "--runner DataflowRunner", ".".join(map(str, sys.version_info[:2]))
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
        file("model/model.keras", b"other"),
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
    Case("a segment.json of others", SEGMENT, REFUSED, ("segment.json",), file("masks/segment.json", b"{}")),
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
        ("is not finished, as its segment.json says",),
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
        "files that look like leftovers of others: evaluate",
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
FLAGS = {
    "no command": ("", "usage: deeplab COMMAND"),
    "a command that there is not": ("prepair", "unknown command 'prepair'; expected one of demo"),
    "a verb that there is not": ("records list @/records", "unknown verb 'list'; expected one of ls"),
    "no verb": ("records", "usage: deeplab records VERB"),
    "a required flag that is missing": ("prepare --input @/set", "--output"),
    "a flag that there is not": ("prepare --input @/set --output @/out --copys 2", "unknown arguments: --copys"),
    "a flag that there is not, of a command without Beam": (
        "train --records @/records --output @/out --epoch 3",
        "unrecognized arguments: --epoch 3",
    ),
    "a flag without its value": ("prepare --input @/set --output @/out --copies", "expected one argument"),
    "a text for a number": ("prepare --input @/set --output @/out --copies two", "invalid int value: 'two'"),
    "a fraction for a whole number": ("prepare --input @/set --output @/out --copies 1.5", "invalid int value"),
    "a number below its bound": (
        "prepare --input @/set --output @/out --copies -1",
        "--copies must be 0 or more, got -1",
    ),
    "a number above its bound": ("prepare --input @/set --output @/out --val-fraction 2", "--val-fraction must be"),
    "a number that is none": ("prepare --input @/set --output @/out --val-fraction nan", "--val-fraction must be"),
    "a number without an end": ("train --records @/records --output @/out --learning-rate inf", "--learning-rate"),
    "a number of 5000 digits": (f"prepare --input @/set --output @/out --copies {'9' * 5000}", "--copies"),
    "a range that is turned round": (
        "prepare --input @/set --output @/out --scale 2 1",
        "--scale must be a range, lowest first, got 2.0 1.0",
    ),
    "a range of one number": ("prepare --input @/set --output @/out --scale 2", "expected 2 arguments"),
    "a choice that there is not": ("prepare --input @/set --output @/out --layout cocoa", "invalid choice: 'cocoa'"),
    "an empty value": ("prepare --input= --output @/out", "--input must not be empty"),
    "an address of another storage": ("prepare --input hdfs://x/y --output @/out", "hdfs:// is not supported"),
    "a bucket without a name": ("prepare --input gs:// --output @/out", "names no bucket"),
    "a negative number of workers": (
        "prepare --input @/set --output @/out --direct_num_workers -3",
        "--direct_num_workers must be 0",
    ),
    "a runner that there is not": (
        "prepare --input @/set --output @/out --runner NoRunner",
        "--runner NoRunner is none of Beam's; expected",
    ),
    "Dataflow without a project": (
        "prepare --input gs://b/s --output gs://b/o --runner DataflowRunner",
        "needs --project and --region",
    ),
    "Dataflow on local paths": (
        f"{PREPARE} {DATAFLOW} --project p --region r --temp_location gs://b/t --sdk_container_image x:python{PYTHON}",
        "cannot see",
    ),
    "a scale whose ends are turned round": (
        "train --records @/records --output @/out --scale-min 2 --scale-max 1",
        "--scale-min must not exceed",
    ),
    "a crop that is too small": (
        "train --records @/records --output @/out --crop 5",
        "--crop must be 32 or more, got 5",
    ),
    "a batch of no images": (
        "train --records @/records --output @/out --batch-size 0",
        "--batch-size must be 1 or more",
    ),
    "a file to tune into that is no JSON": (
        "tune-crf --model @/model --records @/records --output @/out.txt",
        "must name a .json file",
    ),
    "too few images to tune on": (
        "tune-crf --model @/model --records @/records --images 3",
        "--images must be 0 for all, or 10 or more",
    ),
    "TFLite without a size": ("export --model @/model --format tflite --output @/m.tflite", "--size HEIGHT WIDTH"),
    "a size for another format": (
        "export --model @/model --format onnx --output @/m.onnx --size 9 9",
        "are for --format tflite",
    ),
    "int8 without records": (
        "export --model @/model --format tflite --size 9 9 --quantize int8 --output @/m.tflite",
        "give the records",
    ),
    "a demo of too few images": ("demo --output @/out --images 3", "--images must be"),
    "a demo in Cloud Storage": ("demo --output gs://b/demo", "must be a local folder"),
    "a number of shards below 1": ("records reshard @/records @/out --shards -2", "--shards must be"),
    "records and a list": (f"{EVALUATE} --records @/records --list @/l.txt", "--list"),
    "a split of nothing": (f"{EVALUATE} --split val", "--split"),
    "a gallery of fewer than none": (f"{EVALUATE} --gallery -1", "--gallery must be 0 or more"),
    "a CRF of a word that there is not": (f"{SEGMENT} --crf perhaps", "invalid choice: 'perhaps'"),
    "a rate above 1": (f"{SEGMENT} --max-reject-rate 7", "--max-reject-rate must be 0 to 1"),
}
DEMOS = (
    Case(
        "a demo where a set of others is",
        "demo --output @/d --images 60",
        REFUSED,
        ("set was not made by `deeplab demo`",),
        file("d/set/images/train/mine.png", PNG),
    ),
    Case(
        "a demo with other options",
        "demo --output @/d --images 60",
        REFUSED,
        ("holds a demo with other options",),
        file("d/demo.json", json.dumps({"images": 5})),
    ),
    Case(
        "a demo.json that is damaged",
        "demo --output @/d --images 60",
        REFUSED,
        ("demo.json",),
        file("d/demo.json", b"["),
    ),
    Case(
        "a demo.json that is a list",
        "demo --output @/d --images 60",
        REFUSED,
        ("demo.json",),
        file("d/demo.json", b"[]"),
    ),
    Case("a demo whose output is a file", "demo --output @/d", REFUSED, ("d is no folder",), file("d", b"x")),
)
ODD = (
    "a b",
    "[ab]",
    "#a",
    "100%",
    "ü",
    "u\u0308",
    "a,b",
    "'a'",
    '"a"',
    "-a",
    "--x",
    "$HOME",
    "a*",
    "日本",
    "a=b",
    "~a",
    "a\nb",
    ".hidden",
    "a.csv",
)


def moved(name: str) -> Callable[[Path], object]:
    """All that commands work on, in a folder of that name."""

    def make(world: Path) -> None:
        (world / name).mkdir()
        for each in ("set", "model"):
            (world / each).rename(world / name / each)

    return make


def paths() -> list[Case]:
    cases = []
    for name in ODD:
        # "~" stands for a blank in the lines of cases, and a line break is none of theirs.
        word = f"@/{name}".replace("~", "@TILDE").replace(" ", "~").replace("\n", "@BREAK")
        shown = ascii(name)[1:-1]
        cases.append(
            Case(
                f"a folder called {shown}: prepare",
                f"prepare --input {word}/set --output {word}/records",
                0,
                ("5 written",),
                moved(name),
                writes=(f"{name}/records",),
            )
        )
        cases.append(
            Case(
                f"a folder called {shown}: segment",
                f"segment --input {word}/set/images --model {word}/model --output {word}/masks",
                0,
                ("5 written",),
                moved(name),
                writes=(f"{name}/masks",),
                done=(f"{name}/masks/train/g0.png",),
            )
        )
    return cases


AREA_RERUNS = Area("Reruns, and runs that were killed", whole, RERUNS)
AREA_FLAGS = Area(
    "Flags",
    whole,
    # Where nothing was asked for, the answer is the usage.
    tuple(
        Case(name, line, REFUSED, (says,), stays=None if "usage" not in says else False)
        for name, (line, says) in FLAGS.items()
    ),
)
AREA_DEMO = Area("The demo", lambda world: None, DEMOS)
AREA_PATHS = Area("Paths", whole, tuple(paths()))

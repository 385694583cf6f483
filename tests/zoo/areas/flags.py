"""Flags that are wrong, and what the demo is told."""

from __future__ import annotations

import json
import sys

from tests.zoo.areas.reruns import EVALUATE, PREPARE, SEGMENT
from tests.zoo.engine import REFUSED, Area, Case
from tests.zoo.worlds import PNG, file, whole

DATAFLOW, PYTHON = "--runner DataflowRunner", ".".join(map(str, sys.version_info[:2]))
FLAGS = {
    "no command": ("", "usage: deeplab COMMAND"),
    "an unknown command": ("prepair", "unknown command 'prepair'; expected one of demo"),
    "an unknown verb": ("records list @/records", "unknown verb 'list'; expected one of ls"),
    "no verb": ("records", "usage: deeplab records VERB"),
    "a required flag that is missing": ("prepare --input @/set", "--output"),
    "an unknown flag": (
        "prepare --input @/set --output @/out --copys 2",
        "unknown arguments: --copys (did you mean --copies?);",
    ),
    "an unknown flag of a command without Beam": (
        "train --records @/records --output @/out --epoch 3",
        "unrecognized arguments: --epoch (did you mean --epochs?) 3",
    ),
    "a required flag that is misspelt": (
        "prepare --inptu @/set --output @/out",
        "are required: --input; unrecognized arguments: --inptu (did you mean --input?)",
    ),
    "a flag of another command": ("doctor --input @/set", "unknown arguments: --input;"),
    "a flag without its value": ("prepare --input @/set --output @/out --copies", "expected one argument"),
    "a text for a number": ("prepare --input @/set --output @/out --copies two", "invalid int value: 'two'"),
    "a fraction for a whole number": ("prepare --input @/set --output @/out --copies 1.5", "invalid int value"),
    "a number below its bound": (
        "prepare --input @/set --output @/out --copies -1",
        "--copies must be 0 or more, got -1",
    ),
    "a number above its bound": ("prepare --input @/set --output @/out --val-fraction 2", "--val-fraction must be"),
    "not a number": ("prepare --input @/set --output @/out --val-fraction nan", "--val-fraction must be"),
    "a number without an end": ("train --records @/records --output @/out --learning-rate inf", "--learning-rate"),
    "a number of 5000 digits": (f"prepare --input @/set --output @/out --copies {'9' * 5000}", "--copies"),
    "copies in an unknown split": (
        "prepare --input @/set --output @/out --copies 1 --augment-splits trian",
        "set has no split trian; it has train, val",
    ),
    "copies in splits between which are commas": (
        "prepare --input @/set --output @/out --copies 1 --augment-splits train,val",
        "set has no split train,val; it has train, val; expected blanks between the splits, not commas",
    ),
    "a range in reverse order": (
        "prepare --input @/set --output @/out --scale 2 1",
        "--scale must be a range, lowest first, got 2.0 1.0",
    ),
    "a range of one number": ("prepare --input @/set --output @/out --scale 2", "expected 2 arguments"),
    "an unknown choice": ("prepare --input @/set --output @/out --layout cocoa", "invalid choice: 'cocoa'"),
    "an empty value": ("prepare --input= --output @/out", "--input must not be empty"),
    "an address of another storage": ("prepare --input hdfs://x/y --output @/out", "hdfs:// is not supported"),
    "a bucket without a name": ("prepare --input gs:// --output @/out", "names no bucket"),
    "a negative number of workers": (
        "prepare --input @/set --output @/out --direct_num_workers -3",
        "--direct_num_workers must be 0",
    ),
    "an unknown runner": (
        "prepare --input @/set --output @/out --runner NoRunner",
        "--runner NoRunner is not a runner of this program; expected",
    ),
    "Dataflow without a project": (
        "prepare --input gs://b/s --output gs://b/o --runner DataflowRunner",
        "needs --project and --region",
    ),
    "Dataflow on local paths": (
        f"{PREPARE} {DATAFLOW} --project p --region r --temp_location gs://b/t --sdk_container_image x:python{PYTHON}",
        "cannot see",
    ),
    "a scale in reverse order": (
        "train --records @/records --output @/out --scale-min 2 --scale-max 1",
        "--scale-min must not exceed",
    ),
    "a crop that is too small": (
        "train --records @/records --output @/out --crop 5",
        "--crop must be 32 or more, got 5",
    ),
    "copies of more pixels than an image may have": (
        f"{PREPARE} --copies 1 --pad 32766",
        "--pad 32766 makes copies of 1,073,610,756 pixels, over the limit of 178,956,970; give a smaller --pad",
    ),
    "a bound of more pixels than an image may have": (
        f"{PREPARE} --max-pixels 178956971",
        "--max-pixels must be 1 to 178956970, got 178956971",
    ),
    "a bound of more pixels than an image may have, for masks": (
        f"{SEGMENT} --max-pixels 400000000",
        "--max-pixels must be 1 to 178956970, got 400000000",
    ),
    "a bound of more pixels than an image may have, in a report": (
        "doctor @/set --max-pixels 178956971",
        "--max-pixels must be 1 to 178956970, got 178956971",
    ),
    "a window too small for its margins": (
        f"{SEGMENT} --window 512",
        "--window must be 1024 to 178956970, got 512",
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
    "a split of no records or list": (f"{EVALUATE} --split val", "--split"),
    "a gallery of fewer than no images": (f"{EVALUATE} --gallery -1", "--gallery must be 0 or more"),
    "an unknown word for the CRF": (f"{SEGMENT} --crf perhaps", "invalid choice: 'perhaps'"),
    "a rate above 1": (f"{SEGMENT} --max-reject-rate 7", "--max-reject-rate must be 0 to 1"),
}
DEMOS = (
    Case(
        "a demo over a set of another program",
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
    Case("a demo whose output is a file", "demo --output @/d", REFUSED, ("d is not a folder",), file("d", b"x")),
)
AREA = Area(
    "Flags",
    whole,
    # Where nothing was asked for, the answer is the usage.
    tuple(
        Case(name, line, REFUSED, (says,), stays=None if "usage" not in says else False)
        for name, (line, says) in FLAGS.items()
    ),
)
AREA_DEMO = Area("The demo", lambda world: None, DEMOS)

"""Folders and links: what is missing, what may not be read, what leads elsewhere, and where outputs lie."""

from __future__ import annotations

import os
import socket
from pathlib import Path

from tests.zoo.areas import masks
from tests.zoo.areas.masks import SEGMENT
from tests.zoo.engine import Area, Case
from tests.zoo.worlds import LABEL, both, file, folder, link, model

PREPARE = "prepare --input @/set --output @/out"


def fifo(name: str):
    return lambda world: os.mkfifo(world / name)


def sock(world: Path) -> None:
    """A socket; its path must be short, so that it is made by its name alone."""
    here = os.getcwd()
    os.chdir(world / "set/images/train")
    try:
        with socket.socket(socket.AF_UNIX) as one:
            one.bind("s.png")
    finally:
        os.chdir(here)


BROKEN_LINK = both(link("set/images/train/l.png", "@/nowhere"), file("set/labels/train/l.png", LABEL))
CASES = (
    Case("a set that is not there", "prepare --input @/no --output @/out", says=("no not found", "expected a folder")),
    Case(
        "a set that is a file",
        "prepare --input @/set/palette.json --output @/out",
        says=("is a file; expected a folder",),
    ),
    Case("an empty set", "prepare --input @/empty --output @/out", make=folder("empty"), says=("it is empty",)),
    Case(
        "a set one folder further down",
        "prepare --input @/above --output @/out",
        make=lambda world: (world / "above").mkdir() or (world / "set").rename(world / "above/set"),
        says=("looks like camvid: give that as --input",),
    ),
    Case("the output is the input", "prepare --input @/set --output @/set", says=("is the input folder",)),
    Case(
        "the output is the input, through a link",
        "prepare --input @/set --output @/l",
        make=link("l", "@/set"),
        says=("is the input folder",),
    ),
    Case(
        "the output is a file", "prepare --input @/set --output @/f", make=file("f", b"x"), says=("f is not a folder",)
    ),
    Case(
        "the output lies below a file",
        "prepare --input @/set --output @/f/a/b",
        make=file("f", b"x"),
        says=("f is not a folder",),
    ),
    Case(
        "the output is a link that leads nowhere",
        "prepare --input @/set --output @/l",
        make=link("l", "@/none"),
        says=("l is not a folder",),
    ),
    Case("the output is empty", "prepare --input @/set --output=", says=("--output must not be empty",)),
    Case(
        "the output is in another storage", "prepare --input @/set --output s3://b/x", says=("s3:// is not supported",)
    ),
    Case(
        "another program's file where a shard is to be written",
        PREPARE,
        make=file("out/train-00000-of-00001.tfrecord", b"mine"),
        says=("train-00000-of-00001.tfrecord would be replaced and was not written by this command",),
    ),
    Case(
        "another program's dataset.json",
        PREPARE,
        make=file("out/dataset.json", b"{}"),
        says=("dataset.json would be replaced",),
    ),
    Case(
        "another program's rejects.jsonl",
        PREPARE,
        make=file("out/rejects.jsonl", b"mine\n"),
        says=("rejects.jsonl would be replaced",),
    ),
    Case(
        "other programs' files beside the records, whatever their names",
        PREPARE,
        status=0,
        make=both(
            file("out/notes.txt", b"x"),
            file("out/shards/plan-x.jsonl", b"x"),
            file("out/test-00000-of-00001.tfrecord", b"x"),
            file("out/.dataset.json.0123abcd.tmpx", b"x"),
            file("out/shards/a.started.bak", b"x"),
        ),
        keeps=(
            "out/notes.txt",
            "out/shards/plan-x.jsonl",
            "out/test-00000-of-00001.tfrecord",
            "out/.dataset.json.0123abcd.tmpx",
            "out/shards/a.started.bak",
        ),
    ),
    Case(
        "a folder where dataset.json is to be written",
        PREPARE,
        make=folder("out/dataset.json"),
        says=("dataset.json is a folder, where a file is to be written",),
    ),
    Case(
        "a folder where a shard is to be written",
        PREPARE,
        make=folder("out/train-00000-of-00001.tfrecord"),
        says=("train-00000-of-00001.tfrecord is a folder",),
    ),
    Case(
        "a file where the work area is to be",
        PREPARE,
        make=file("out/shards", b"mine"),
        says=("out/shards",),
    ),
    Case(
        "links to images",
        PREPARE,
        status=0,
        make=both(link("set/images/train/l.png", "@/set/images/train/g0.png"), file("set/labels/train/l.png", LABEL)),
        says=("6 records = 6 written",),
    ),
    Case(
        "a link that leads nowhere",
        f"{PREPARE} --max-reject-rate 1",
        status=0,
        make=BROKEN_LINK,
        rejects={"l.png": "cannot be read"},
    ),
    Case(
        "the same, to be segmented",
        f"{SEGMENT} --max-reject-rate 1",
        status=0,
        make=BROKEN_LINK,
        rejects={"l.png": "file not found"},
    ),
    Case(
        "a link to itself",
        f"{PREPARE} --max-reject-rate 1",
        status=0,
        make=both(link("set/images/train/l.png", "l.png"), file("set/labels/train/l.png", LABEL)),
        rejects={"l.png": "cannot be read"},
    ),
    Case(
        "a link to the folder above",
        PREPARE,
        status=0,
        make=link("set/images/train/up", ".."),
        says=("5 records = 5 written",),
    ),
    Case(
        "a FIFO",
        f"{PREPARE} --max-reject-rate 1",
        status=0,
        make=both(fifo("set/images/train/f.png"), file("set/labels/train/f.png", LABEL)),
        rejects={"f.png": "a FIFO, not a file"},
    ),
    Case(
        "the same, to be segmented",
        f"{SEGMENT} --max-reject-rate 1",
        status=0,
        make=fifo("set/images/f.png"),
        rejects={"f.png": "a FIFO, not a file"},
    ),
    Case(
        "a socket",
        f"{PREPARE} --max-reject-rate 1",
        status=0,
        make=both(sock, file("set/labels/train/s.png", LABEL)),
        rejects={"s.png": "a socket, not a file"},
    ),
    Case(
        "a device",
        f"{PREPARE} --max-reject-rate 1",
        status=0,
        make=both(link("set/images/train/d.png", "/dev/zero"), file("set/labels/train/d.png", LABEL)),
        rejects={"d.png": "a device, not a file"},
    ),
    Case(
        "a folder called like an image",
        PREPARE,
        status=0,
        make=folder("set/images/train/x.png"),
        says=("5 records = 5 written",),
    ),
    Case(
        "a FIFO as the list of images",
        "segment --input @/set/images --model @/model --output @/out --list @/l.txt",
        make=fifo("l.txt"),
        says=("l.txt cannot be read",),
    ),
    Case(
        "a FIFO as the palette",
        "prepare --input @/set --output @/out --palette @/p.json",
        make=fifo("p.json"),
        says=("p.json",),
    ),
    Case("a FIFO as the input", "segment --input @/f --model @/model --output @/out", make=fifo("f"), says=("/f",)),
)


AREA = Area("Folders and links", model, (*CASES, *masks.CASES))

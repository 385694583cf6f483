"""Names of files and folders: what is in them, how long they are, and what else has the same one."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from tests.zoo.engine import Area, Case
from tests.zoo.worlds import LABEL, PNG, both, file, gone, model, pair

GOOD = (
    *(
        "a b",
        " a",
        "a ",
        "a'b",
        'a"b',
        "a#b",
        "#a",
        "a%20b",
        "a%b",
        "a[1]",
        "[ab]",
        "a*b",
        "a?b",
        "{a}",
        "a&b;c",
        "a$b",
    ),
    *(
        "~a",
        "-a",
        "--output",
        "a=b",
        "a,b",
        "a.b.c",
        "a.jpg",
        "a|b",
        "a<b>",
        "a@b",
        "a!b",
        "ä",
        "a\u0308",
        "ß",
        "日本",
        "🙂",
    ),
    *(
        "\u202ea",
        "\u2028a",
        "a\u00a0b",
        "\u200ba",
        "A",
        "CON",
        "nul",
        "a\nb",
        "a\tb",
        "a\x1b[31mb",
        "a\x7fb",
        "0",
        "a:b",
    ),
    *("x" * 200, "test_a", "train", "images", "labels", "overlays", "confidence", "rejects", "segment", "dataset"),
)
"""Names that are fine, each of an image and its label."""
SHOWN = {name: f"train/{name}.png" for name in GOOD}
LONG = "y" * 251
NOT_UTF8 = os.fsdecode(b"latin-\xe4")


def good(world: Path) -> None:
    for name in GOOD:
        pair(world, f"train/{name}.png")


def both_cases(world: Path) -> None:
    """Names that differ in upper and lower case alone, which are two here."""
    pair(world, "train/Same.png")
    pair(world, "train/same.png")


PREPARE = "prepare --input @/set --output @/out"
SEGMENT = "segment --input @/set/images --model @/model --output @/out"
EVALUATE = "evaluate --labels @/set/labels --masks @/masks --palette @/set/palette.json --output @/out"
ROWS = "image,label,split\nimages/train/g0.png,labels/train/g0.png,a b\nimages/val/g3.png,labels/val/g3.png,val\n"
CASES = (
    Case(
        "names of every kind",
        PREPARE,
        status=0,
        make=good,
        says=(f"{len(GOOD) + 5} records = {len(GOOD) + 5} written + 0 rejected",),
        rows={f"a name like {ascii(name[:20])[1:-1]!r}": "works" for name in GOOD},
    ),
    Case(
        "the same, to be segmented",
        SEGMENT,
        status=0,
        make=good,
        done=tuple(f"out/train/{name}.png" for name in GOOD),
    ),
    Case(
        "the same, evaluated",
        "evaluate --labels @/set/labels --masks @/set/labels2 --palette @/set/palette.json --output @/out",
        status=0,
        make=both(good, lambda world: shutil.copytree(world / "set/labels", world / "set/labels2")),
        says=(f"{len(GOOD) + 5} labels = {len(GOOD) + 5} evaluated + 0 rejected",),
    ),
    Case("the same, before any work", "doctor @/set --output @/out", status=0, make=good, says=("verdict: healthy",)),
    Case(
        "a name that is not UTF-8",
        f"{PREPARE} --max-reject-rate 1",
        status=0,
        make=lambda world: pair(world, f"train/{NOT_UTF8}.png"),
        rejects={f"{NOT_UTF8}.png": "its name is not UTF-8"},
    ),
    Case(
        "the same, to be segmented",
        f"{SEGMENT} --max-reject-rate 1",
        status=0,
        make=lambda world: pair(world, f"train/{NOT_UTF8}.png"),
        rejects={f"{NOT_UTF8}.png": "its name is not UTF-8"},
    ),
    Case(
        "the same, evaluated",
        f"{EVALUATE} --max-reject-rate 1",
        status=0,
        make=both(file(f"set/labels/{NOT_UTF8}.png", LABEL), file(f"masks/{NOT_UTF8}.png", LABEL)),
        rejects={f"{NOT_UTF8}.png": "its name is not UTF-8"},
    ),
    Case("a folder whose name is not UTF-8", f"prepare --input @/{NOT_UTF8} --output @/out", says=("is not UTF-8",)),
    Case(
        "a name with a backslash",
        f"{PREPARE} --max-reject-rate 1",
        status=0,
        make=lambda world: pair(world, "train/a\\b.png"),
        rejects={"a\\b.png": "has a backslash"},
    ),
    Case(
        "the same, to be segmented",
        f"{SEGMENT} --max-reject-rate 1",
        status=0,
        make=lambda world: pair(world, "train/a\\b.png"),
        rejects={"a\\b.png": "has a backslash"},
    ),
    Case(
        "a name like a drive of Windows",
        f"{SEGMENT} --max-reject-rate 1",
        status=0,
        make=file("set/images/c:x.png"),
        rejects={"c:x.png": "has a colon after its first letter"},
    ),
    Case(
        "a name that is too long for its mask",
        f"{SEGMENT} --max-reject-rate 1",
        status=0,
        make=lambda world: pair(world, f"train/{'z' * 251}.png"),
        done=(f"out/train/{'z' * 251}.png",),
    ),
    Case(
        "a JPEG's name that is too long for its mask",
        f"{SEGMENT} --max-reject-rate 1",
        status=0,
        make=file(f"set/images/{'z' * 252}.jp", PNG),
    ),
    Case(
        "names that differ in their suffixes alone",
        f"{PREPARE} --max-reject-rate 1",
        status=0,
        make=both(lambda world: pair(world, "train/a.png"), file("set/images/train/a.jpg")),
        rejects={"a.png": "2 images have the same name: a.jpg, a.png", "a.jpg": "2 images have the same name"},
    ),
    Case(
        "the same, to be segmented: both keep their suffix",
        SEGMENT,
        status=0,
        make=both(file("set/images/a.png"), file("set/images/a.jpg")),
        done=("out/a.png.png", "out/a.jpg.png"),
    ),
    Case(
        "two labels of one image",
        f"{PREPARE} --max-reject-rate 1",
        status=0,
        make=both(lambda world: pair(world, "train/a.png"), file("set/labels/train/a.bmp", LABEL)),
        rejects={"images/train/a.png": "2 labels have the image's name: a.bmp, a.png"},
    ),
    Case("names that differ in case alone", PREPARE, status=0, make=both_cases, says=("7 records = 7 written",)),
    Case(
        "an image without a label",
        f"{PREPARE} --max-reject-rate 1",
        status=0,
        make=file("set/images/train/a.png"),
        rejects={"images/train/a.png": "image without a label of that name"},
    ),
    Case(
        "a label without an image",
        f"{PREPARE} --max-reject-rate 1",
        status=0,
        make=file("set/labels/train/a.png", LABEL),
        rejects={"labels/train/a.png": "label without an image of that name"},
    ),
    Case(
        "the accents of an image as macOS writes them, of its label as all others do",
        PREPARE,
        status=0,
        make=both(file("set/images/train/u\u0308.png"), file("set/labels/train/ü.png", LABEL)),
    ),
    Case(
        "both ways of writing accents in the images, one in the labels",
        f"{PREPARE} --max-reject-rate 1",
        status=0,
        make=both(
            file("set/images/train/u\u0308.png"), file("set/images/train/ü.png"), file("set/labels/train/ü.png", LABEL)
        ),
        rejects={"u\u0308.png": "image without a label of that name"},
    ),
    Case(
        "hidden files, thumbs and notes of the system",
        PREPARE,
        status=0,
        make=both(
            file("set/images/train/.DS_Store", b"x"),
            file("set/images/train/._g0.png", b"x"),
            file("set/images/Thumbs.db", b"x"),
            file("set/.git/config", b"x"),
        ),
        rejects={},
        says=("5 records = 5 written + 0 rejected",),
    ),
    Case(
        "images in formats that are not read",
        PREPARE,
        status=0,
        make=both(file("set/images/train/a.gif"), file("set/images/train/b.heic"), file("set/images/train/c.npy")),
        says=("left out: 1 .gif, 1 .heic, 1 .npy",),
    ),
    Case(
        "a folder in the way of a mask",
        f"{SEGMENT} --max-reject-rate 1",
        status=0,
        make=both(file("set/images/a.png"), file("set/images/a.png.png/b.png")),
    ),
    Case(
        "a folder called like one of the output's own",
        f"{SEGMENT} --max-reject-rate 1",
        status=0,
        make=file("set/images/overlays/a.png"),
        rejects={"overlays/a.png": "reserved"},
    ),
    Case(
        "a name that a terminal would interpret, in a message",
        f"{PREPARE} --max-reject-rate 1",
        status=0,
        make=lambda world: pair(world, "train/\x1b]0;x\x07.png", b""),
        rejects={"\x1b]0;x\x07.png": "the file is empty"},
        says=("\\x1b]0;x\\x07.png: the file is empty",),
    ),
    Case(
        "a split whose name cannot be part of a file's",
        "prepare --input @/set/m.csv --output @/out --max-reject-rate 1",
        status=0,
        make=file("set/m.csv", ROWS),
        rejects={"g0.png": "a split is one word, got 'a b'"},
    ),
    Case("no images at all", PREPARE, make=gone("set/images"), says=("@/set".strip("@/"), "expected")),
)
AREA = Area("Names", model, CASES)

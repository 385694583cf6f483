"""Folders whose names have blanks, brackets, signs and letters of every kind."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

from tests.zoo.engine import Area, Case
from tests.zoo.worlds import whole

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


READ_PATHS = {
    "doctor": "doctor @/fifo --output @/out",
    "prepare": "prepare --input @/fifo --output @/out",
    "segment": "segment --input @/fifo --model @/model --output @/out",
    "the model": "segment --input @/set/images --model @/fifo --output @/out",
    "the records": "segment --input @/set/images --model @/model --records @/fifo --output @/out",
    "the list": "segment --input @/set/images --model @/model --list @/fifo.txt --output @/out",
    "the masks": "evaluate --masks @/fifo --labels @/set/labels --palette @/set/palette.json --output @/out",
    "the labels": "evaluate --masks @/set/labels --labels @/fifo --palette @/set/palette.json --output @/out",
    "the weights": "import-weights @/fifo --palette voc --output @/out",
}


def fifos(world: Path) -> None:
    """What the shell's `<(...)` gives for a file."""
    for name in ("fifo", "fifo.txt"):
        os.mkfifo(world / name)


AREA = Area(
    "Paths",
    whole,
    (
        *paths(),
        *(Case(f"a FIFO: {name}", line, says=("a FIFO",), make=fifos) for name, line in READ_PATHS.items()),
    ),
)

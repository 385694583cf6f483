"""The commands from a raw set to a report, run as a user does, and what they wrote."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path

from tests.drawn import outputs
from tests.drawn.places import ROOT
from tests.engines.cluster import SHORT_LIVED

COMMANDS = {
    "prepare": ("--input", "raw", "--copies", 1, "--shards", 6),
    "segment": ("--input", "raw/images", "--model", "model", "--crf", "--batch-size", 2),
    "evaluate": ("--masks", "local/segment", "--labels", "raw/labels", "--model", "model", "--gallery", 1),
    "doctor": ("raw", "--full"),
    "tune-crf": ("--model", "model", "--records", "local/prepare", "--split", "train"),
}
"""Command -> flags, with paths relative to the folder of the road."""
ROAD = ("prepare", "segment", "evaluate")
"""What runs on every engine; the others on one."""
PASSING = 1800
"""Seconds after which a command is given up."""


def arguments(command: str, *flags: object) -> list[str]:
    """The command with its flags, of which those that are given here count, not beside others but in their place."""
    words, kept = [], True
    for word in COMMANDS[command]:
        kept = word not in flags if str(word).startswith("--") else kept
        words += [word] * kept
    return [sys.executable, "-m", "pipelines", command, *map(str, (*words, *flags))]


def environment() -> dict[str, str]:
    return os.environ | SHORT_LIVED | {"PYTHONPATH": str(ROOT)}


def deeplab(folder: Path, command: str, *flags: object) -> str:
    """Runs a command in `folder`; returns what it printed, which is nothing of Beam's or Java's."""
    done = subprocess.run(
        arguments(command, *flags),
        cwd=folder,
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=PASSING,
    )
    assert done.returncode == 0, done.stdout
    noise = ("INFO", "WARNING", "ERROR", "Traceback", "SLF4J")
    assert [line for line in done.stdout.splitlines() if line.startswith(noise)] == [], done.stdout
    return done.stdout


def walk(folder: Path, output: str, flags: Sequence[object], commands: Iterable[str] = ROAD) -> None:
    """Runs commands, each into a folder of its own below `output`."""
    for command in commands:
        place = f"{output}/{command}" + "/crf.json" * (command == "tune-crf")
        said = deeplab(folder, command, *flags, "--output", place)
        assert f"{command}: " in said and "= 0 " not in said, said


def differences(folder: Path, output: str, command: str, local: str = "local") -> list[str]:
    """Names of files that are not what the local run wrote."""
    ours, theirs = (outputs.contents(folder / place / command) for place in (output, local))
    return sorted(name for name in ours.keys() | theirs.keys() if ours.get(name) != theirs.get(name))

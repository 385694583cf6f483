"""On a Flink cluster: a machine, the command or both fail in the middle, and no byte and nothing finished is lost."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from pipelines import cli
from pipelines.runner.progress import COUNT, FOLDER
from tests.drawn.outputs import State, finished_shards, states
from tests.drawn.places import ROOT
from tests.drawn.rawset import write_rawset
from tests.engines.cluster import Flink, kill, started, wait_for
from tests.engines.road import arguments, deeplab, differences, environment

pytestmark = pytest.mark.engines

LONG = {
    "prepare": ("--input", "many", "--copies", 80, "--shards", 24),
    "segment": ("--input", "many/images"),
    "evaluate": ("--masks", "many/labels", "--labels", "many/labels", "--gallery", 0),
}
"""Command -> flags of so much work that something can fail in the middle."""
IN_FLIGHT = 4
"""Shards or chunks that may be: two TaskManagers of two slots."""


def parts(masks: Path) -> list[Path]:
    """Of the table of images: the finished chunks."""
    return list((masks / "images.parquet").glob("*.parquet"))


def counts(report: Path) -> list[Path]:
    """That tell of finished labels."""
    return [path for path in (report / FOLDER).glob(f"*{COUNT}") if path.stat().st_size]


FINISHED: dict[str, Callable[[Path], list[Path]]] = {"prepare": finished_shards, "segment": parts}
"""Command -> from its output to what may not be written again; of `evaluate` there is nothing before its end."""


@pytest.fixture(scope="module")
def place(road: Path) -> Path:
    """The road's folder with many images more, and in `whole` what the commands of LONG write locally."""
    write_rawset(road / "many", {"train": 120}, 64)
    for command, flags in LONG.items():
        deeplab(road, command, *flags, "--output", f"whole/{command}")
    return road


def finished(place: Path, command: str, output: str) -> State:
    return states(FINISHED[command](place / output / command)) if command in FINISHED else {}


def assert_same(place: Path, command: str, output: str, before: State) -> None:
    """That the output is that of the local run, and nothing that was finished before was written again."""
    assert differences(place, output, command, "whole") == []
    if command in FINISHED:
        assert 0 < len(before) < len(finished(place, command, "whole")) - IN_FLIGHT, "it did not fail in the middle"
        after = finished(place, command, output)
        assert [path for path, state in before.items() if after[path] != state] == []
    assert [path.name for path in (place / output / command).iterdir() if path.name.startswith(".")] == []


@contextmanager
def begun(place: Path, command: str, output: str, flink: Flink) -> Iterator[subprocess.Popen]:
    """A command whose job has finished something; what it prints is in a file."""
    argv = arguments(command, *LONG[command], *flink.flags, "--output", f"{output}/{command}")
    look = FINISHED.get(command, counts)
    with started(argv, place / f"{output}-{command}.log", cwd=place, env=environment()) as process:
        wait_for("the first results", lambda: look(place / output / command), process)
        yield process


@pytest.mark.parametrize("command", LONG)
def test_a_machine_that_fails_costs_what_is_in_flight(place, flink, command):
    with begun(place, command, "machine", flink) as process:
        kill(flink.managers[0])
        before = finished(place, command, "machine")
        flink.fill()
        assert process.wait() == 0, (place / f"machine-{command}.log").read_text()
    assert_same(place, command, "machine", before)


def test_a_command_that_is_killed_leaves_its_job_which_the_next_follows(place, flink, monkeypatch, capsys):
    jobs = len(flink.states())
    monkeypatch.chdir(place)
    with begun(place, "prepare", "command", flink) as process:
        kill(process)
        before = finished(place, "prepare", "command")
    # In this process: by the time another one has started on a busy machine the job is done.
    flags = (*LONG["prepare"], "--output", "command/prepare", *flink.flags)
    assert cli.run(arguments("prepare", *flags)[3:]) == 0
    assert "which is already working on this" in "".join(capsys.readouterr())
    assert_same(place, "prepare", "command", before)
    assert flink.states()[jobs:] == ["FINISHED"]


def test_ctrl_c_leaves_the_job_and_cancel_ends_it(place, flink, monkeypatch):
    flags = (*LONG["prepare"], "--output", "ended/prepare")
    with begun(place, "prepare", "ended", flink) as process:
        process.send_signal(signal.SIGINT)
        assert process.wait() == 130
        before = finished(place, "prepare", "ended")
    assert "the job continues" in (place / "ended-prepare.log").read_text()
    monkeypatch.chdir(place)
    assert cli.run(arguments("prepare", *flags, *flink.flags, "--cancel")[3:]) == 0
    wait_for("the job's end", lambda: flink.states()[-1] == "CANCELED")
    deeplab(place, "prepare", *flags)
    assert_same(place, "prepare", "ended", before)


@pytest.mark.parametrize("command", ["prepare", "segment"])
def test_a_job_that_was_sent_alone_is_finished_by_the_same_command_without_another(place, flink, command):
    jobs = len(flink.states())
    flags = ("--output", f"sent/{command}", *flink.flags)
    deeplab(place, command, *flags, "--no_wait")
    wait_for("the job's end", lambda: flink.states()[jobs:] == ["FINISHED"])
    deeplab(place, command, *flags)
    assert differences(place, "sent", command) == []
    assert flink.states()[jobs:] == ["FINISHED"]


def test_the_program_for_users_kills_commands_on_a_cluster_of_its_own():
    program = [sys.executable, "-m", "tests.kills", "--flink", "--command", "evaluate", "--times", "1"]
    done = subprocess.run(program, cwd=ROOT, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    assert "evaluate: 1 kills" in done.stdout and ", 0 wrong," in done.stdout

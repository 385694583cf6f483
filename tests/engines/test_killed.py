"""On a Flink cluster: a machine, the command or both fail in the middle, and no byte and no finished shard is lost."""

from __future__ import annotations

import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.drawn.outputs import State, finished_shards, states
from tests.engines.cluster import Flink, kill, started, wait_for
from tests.engines.road import arguments, deeplab, environment

pytestmark = pytest.mark.engines

MANY = ("--copies", 400, "--shards", 24)
"""Enough for something to fail in the middle."""
SLOTS = 4
"""Shards that may be in flight: two TaskManagers of two slots."""


@pytest.fixture(scope="module")
def whole(place: Path) -> Path:
    """The records of a local run."""
    deeplab(place, "prepare", *MANY, "--output", "whole")
    return place / "whole"


def assert_same(records: Path, whole: Path, before: State) -> None:
    """That the shards are those of the local run, and none that was finished before was written again."""
    assert {path.name: path.read_bytes() for path in records.glob("*.tfrecord")} == {
        path.name: path.read_bytes() for path in whole.glob("*.tfrecord")
    }
    assert 0 < len(before) < len(finished_shards(whole)) - SLOTS, "it did not fail in the middle"
    after = states(map(Path, before))
    assert [path for path, state in before.items() if after[path] != state] == []
    assert [path.name for path in records.iterdir() if path.name.startswith(".")] == []


@contextmanager
def begun(place: Path, output: str, flink: Flink) -> Iterator[subprocess.Popen]:
    """A command whose job has finished some shards; what it prints is in a file."""
    command = arguments("prepare", *MANY, *flink.flags, "--output", output)
    with started(command, place / f"{output}.log", cwd=place, env=environment()) as process:
        wait_for("the first shards", lambda: finished_shards(place / output), process)
        yield process


def test_a_machine_that_fails_costs_the_shards_in_flight(place, flink, whole):
    with begun(place, "machine", flink) as command:
        kill(flink.managers[0])
        before = states(finished_shards(place / "machine"))
        flink.fill()
        assert command.wait() == 0, (place / "machine.log").read_text()
    assert_same(place / "machine", whole, before)


def test_a_command_that_is_killed_leaves_its_job_which_the_next_follows(place, flink, whole):
    jobs = len(flink.states())
    with begun(place, "command", flink) as command:
        kill(command)
        before = states(finished_shards(place / "command"))
    said = deeplab(place, "prepare", *MANY, *flink.flags, "--output", "command")
    assert "is at work on this already, and is followed" in said
    assert_same(place / "command", whole, before)
    assert flink.states()[jobs:] == ["FINISHED"]


def test_ctrl_c_leaves_the_job_and_cancel_ends_it(place, flink, whole):
    with begun(place, "ended", flink) as command:
        command.send_signal(signal.SIGINT)
        assert command.wait() == 130
        before = states(finished_shards(place / "ended"))
    assert "the job goes on" in (place / "ended.log").read_text()
    deeplab(place, "prepare", *MANY, *flink.flags, "--output", "ended", "--cancel")
    wait_for("the job's end", lambda: flink.states()[-1] == "CANCELED")
    deeplab(place, "prepare", *MANY, "--output", "ended")
    assert_same(place / "ended", whole, before)

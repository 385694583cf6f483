"""On a Spark cluster: the bytes are those of the local run; a worker or the command fails, and nothing is lost."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest

from pipelines.runner.progress import FOLDER, STAGED
from tests.drawn.outputs import finished_shards, states
from tests.drawn.rawset import write_rawset
from tests.engines.cluster import kill, started, wait_for
from tests.engines.road import ROAD, arguments, deeplab, differences, environment, walk

pytestmark = pytest.mark.engines

LONG = ("--input", "many", "--copies", 80, "--shards", 24)
"""Of `prepare`: so much work that something can fail in the middle."""
IN_FLIGHT = 2
"""Shards that may be: two executors of one core."""


@pytest.fixture(scope="module")
def place(road: Path) -> Path:
    """The road's folder with many images more, and in `whole` what `prepare` writes of them locally."""
    write_rawset(road / "many", {"train": 120}, 64)
    deeplab(road, "prepare", *LONG, "--output", "whole/prepare")
    return road


def test_a_spark_cluster(road, spark):
    walk(road, "spark", spark.flags)
    assert [command for command in ROAD if differences(road, "spark", command)] == []
    assert spark.applications_and_workers()[0] == ["FINISHED"] * len(ROAD)


def assert_same(place, output, before):
    """That the output is that of the local run, and nothing that was finished before was written again."""
    assert differences(place, output, "prepare", "whole") == []
    after = states(finished_shards(place / output / "prepare"))
    assert 0 < len(before) < len(after) - IN_FLIGHT, "it did not fail in the middle"
    assert [path for path, state in before.items() if after[path] != state] == []


def begun(place, output, spark):
    """The process of `prepare`; what it prints is in a file."""
    argv = arguments("prepare", *LONG, *spark.flags, "--output", f"{output}/prepare")
    return started(argv, place / f"{output}.log", cwd=place, env=environment())


def some_are_finished(place, output):
    return lambda: finished_shards(place / output / "prepare")


def test_a_worker_that_fails_costs_what_is_in_flight(place, spark):
    with begun(place, "worker", spark) as process:
        wait_for("the first shard", some_are_finished(place, "worker"), process)
        assert any((place / "worker/prepare" / FOLDER / STAGED).iterdir()), "machines see no folder of another one"
        kill(spark.workers[0])
        before = states(finished_shards(place / "worker/prepare"))
        spark.fill()
        assert process.wait() == 0, (place / "worker.log").read_text()
    assert_same(place, "worker", before)


@pytest.mark.parametrize("end", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_a_job_ends_with_its_command_and_the_next_run_does_the_rest(place, spark, end):
    output = end.name
    with begun(place, output, spark) as process:
        wait_for("the first shard", some_are_finished(place, output), process)
        process.send_signal(end)
        assert process.wait() == {signal.SIGINT: 130, signal.SIGTERM: 143}.get(end, -end)
        wait_for("the end of the job", lambda: "RUNNING" not in spark.applications_and_workers()[0])
        before = states(finished_shards(place / output / "prepare"))
    assert end == signal.SIGKILL or "the job ends as well" in (place / f"{output}.log").read_text()
    deeplab(place, "prepare", *LONG, "--output", f"{output}/prepare")
    assert_same(place, output, before)

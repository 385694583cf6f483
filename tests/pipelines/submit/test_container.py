"""The command of a job, run as its container runs it: a process that reads and writes gs:// and may be ended."""

from __future__ import annotations

import os
import re
import resource
import signal
import subprocess
import sys
import time

import pytest
import yaml

from pipelines.submit import kubernetes
from tests.drawn.places import ROOT
from tests.drawn.submitting import submit, upload_records
from trainer import storage

STEPS = 30
FLAGS = [
    *("--alpha", "0.35", "--crop", "32", "--batch-size", "2", "--epochs", "2", "--steps-per-epoch", str(STEPS)),
    *("--checkpoint-minutes", "0.01"),
]
NOTICE = 20
"""Seconds that a spot machine may leave."""


@pytest.fixture(scope="module")
def records(bucket, tmp_path_factory):
    return upload_records(tmp_path_factory.mktemp("records"), f"{bucket}/jobs/records")


def container(command: list[str], capsys) -> subprocess.Popen:
    """Starts what the container of a submitted job would, with `deeplab` as the entry point."""
    capsys.readouterr()
    assert submit("kubernetes", "--spot", "--dry-run", command=command) == 0
    (one,) = yaml.safe_load(capsys.readouterr().out)["spec"]["template"]["spec"]["containers"]
    return subprocess.Popen(
        [sys.executable, "-u", "-m", "pipelines.cli", *one["args"]], cwd=ROOT, stdout=subprocess.PIPE, text=True
    )


def finished(process: subprocess.Popen) -> str:
    """What a process printed that ended well."""
    out, _ = process.communicate(timeout=900)
    assert process.returncode == 0, out
    return out


def state(output: str) -> dict:
    """What a training would resume from."""
    path = storage.join(output, "checkpoints", "state.json")
    return storage.read_json(path) if storage.exists(path) else {"history": [], "step": 0}


def scores(output: str) -> list[dict]:
    """What a training has come to, epoch by epoch, without the seconds it took."""
    return [{name: value for name, value in row.items() if "second" not in name} for row in state(output)["history"]]


def used(process: subprocess.Popen) -> float:
    """Seconds of processor time of a running process."""
    with open(f"/proc/{process.pid}/stat") as file:
        fields = file.read().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


@pytest.mark.slow
def test_a_job_that_is_ended_and_started_again_comes_to_the_same(records, bucket, capsys):
    output, before = f"{bucket}/jobs/ended", resource.getrusage(resource.RUSAGE_CHILDREN)
    command = ["train", "--records", records, "--output", output, *FLAGS]
    first = container(command, capsys)
    while not (state(output)["history"] and state(output)["step"]):
        assert first.poll() is None, "the training has ended before it could be ended"
        time.sleep(0.5)
    at = used(first)
    first.send_signal(signal.SIGTERM)
    assert first.wait(900) == kubernetes.TERMINATED
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    # In processor time, for a busy machine lets it wait.
    assert after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime - at < NOTICE
    assert len(state(output)["history"]) == 1 and 0 < state(output)["step"] < STEPS

    again = finished(container(command, capsys))
    assert re.search(rf"resuming after step \d+ of {STEPS} in epoch 2", again)
    finished(container([word.replace("/ended", "/left-alone") for word in command], capsys))
    undisturbed = scores(f"{bucket}/jobs/left-alone")
    assert len(undisturbed) == 2
    for row, expected in zip(scores(output), undisturbed, strict=True):
        assert row == pytest.approx(expected, rel=1e-4)

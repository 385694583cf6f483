"""The command of a job, run as its container runs it: a process that reads and writes gs:// and may be ended."""

from __future__ import annotations

import json
import re
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

FLAGS = [
    "--alpha",
    "0.35",
    "--crop",
    "32",
    "--batch-size",
    "2",
    "--epochs",
    "2",
    "--steps-per-epoch",
    "30",
    "--checkpoint-minutes",
    "0",
]
NOTICE = 20
"""Seconds that a spot machine may leave."""


@pytest.fixture(scope="module")
def records(bucket, tmp_path_factory):
    return upload_records(tmp_path_factory.mktemp("records"), f"{bucket}/jobs/records")


def container(command: list[str], capsys) -> subprocess.Popen:
    """Starts what the container of a submitted job would, with the entry point's `deeplab` before it."""
    capsys.readouterr()
    assert submit("kubernetes", "--spot", "--dry-run", command=command) == 0
    (one,) = yaml.safe_load(capsys.readouterr().out)["spec"]["template"]["spec"]["containers"]
    return subprocess.Popen(
        [sys.executable, "-u", "-m", "pipelines.cli", *one["args"]], cwd=ROOT, stdout=subprocess.PIPE, text=True
    )


def finished(process: subprocess.Popen) -> str:
    out, _ = process.communicate(timeout=900)
    assert process.returncode == 0, out
    return out


def scores(output: str) -> list[dict]:
    """What a training has come to, epoch by epoch, without the seconds it took."""
    history = storage.read_json(storage.join(output, "checkpoints", "state.json"))["history"]
    return [{name: value for name, value in row.items() if "second" not in name} for row in history]


@pytest.mark.slow
def test_a_job_that_is_ended_and_started_again_comes_to_the_same(records, bucket, capsys):
    command = ["train", "--records", records, "--output", f"{bucket}/jobs/ended", *FLAGS]
    first = container(command, capsys)
    while "epoch 1/2" not in (line := first.stdout.readline()):
        assert line, "the training has ended before its first epoch did"
    time.sleep(0.5)
    first.send_signal(signal.SIGTERM)
    start = time.monotonic()
    assert first.wait(120) == kubernetes.TERMINATED
    assert time.monotonic() - start < NOTICE
    kept = storage.read_json(f"{bucket}/jobs/ended/checkpoints/state.json")
    assert len(kept["history"]) == 1 and 0 < kept["step"] < 30, json.dumps(kept)[:300]

    again = finished(container(command, capsys))
    assert re.search(r"resuming after step \d+ of 30 in epoch 2", again)
    finished(container([word.replace("/ended", "/left-alone") for word in command], capsys))
    assert scores(f"{bucket}/jobs/ended") == scores(f"{bucket}/jobs/left-alone")

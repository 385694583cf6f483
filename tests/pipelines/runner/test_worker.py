"""Worker processes of a local job end with it, also while they are starting, and say nothing then."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time

import pytest

from tests.drawn.places import ROOT

PROGRAM = """
import os, subprocess, sys, time
from pipelines.runner import worker
folder = sys.argv[1]
started = [subprocess.Popen(worker.command(f"{folder}/{name}.log"), shell=True) for name in ("known", "gone/unknown")]
started[1].wait()
print(started[0].pid, flush=True)
time.sleep(60)
"""


@pytest.fixture
def job(tmp_path):
    """A process that has started a worker, in a process group of its own; and the worker's id."""
    url = 'url: "localhost:1"'  # where nobody answers, and a worker of Beam waits for a minute
    environment = {"CONTROL_API_SERVICE_DESCRIPTOR": url, "PIPELINE_OPTIONS": "{}"}
    with subprocess.Popen(
        ["env", "--default-signal=INT", sys.executable, "-c", PROGRAM, str(tmp_path)],
        env=os.environ | environment,
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    ) as process:
        yield process, int(process.stdout.readline())
        process.kill()


def is_alive(process):
    state = subprocess.run(["ps", "-o", "stat=", "-p", str(process)], capture_output=True, text=True).stdout
    return bool(state.strip()) and not state.startswith("Z")


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT])
def test_a_worker_ends_with_its_job_while_it_is_starting(number, job):
    process, worker = job
    if number == signal.SIGINT:
        os.killpg(process.pid, number)
    else:
        time.sleep(0.7)  # it has begun to import Beam
        process.kill()
    assert "unknown.log" not in process.stderr.read()
    deadline = time.monotonic() + 20
    while is_alive(worker):
        assert time.monotonic() < deadline
        time.sleep(0.1)

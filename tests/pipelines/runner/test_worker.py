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


LATE = """
import sys
import apache_beam as beam
from pipelines.runner import worker
from pipelines.runner.flags import beam_options
from pipelines.runner.run import run

folder, command = sys.argv[1], worker.command
# One of the two, whichever starts first or second, needs seconds for it.
worker.command = lambda log: f"mkdir {folder}/first 2>/dev/null %s sleep 3; {command(log)}"
options = beam_options(["--direct_running_mode=multi_processing", "--direct_num_workers=2"])
steps = lambda pipeline, _: pipeline | beam.Create([0]) | beam.Map(lambda number: 1 / number)
try:
    run(steps, options, total=1, unit="things", title="testing", folder="")
except Exception as error:
    print(error)
"""


@pytest.mark.parametrize("late", ["&&", pytest.param("||", marks=pytest.mark.slow)])
def test_a_run_that_fails_before_all_its_workers_have_started_ends(late, tmp_path):
    done = subprocess.run(
        [sys.executable, "-c", LATE % late, str(tmp_path)], cwd=ROOT, capture_output=True, text=True, timeout=60
    )
    assert "the testing job failed" in done.stdout and "ZeroDivisionError" in done.stdout

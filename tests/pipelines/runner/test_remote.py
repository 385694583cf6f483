"""What is said of a job elsewhere when the waiting for it ends before the job: Ctrl-C, and a lost connection."""

from __future__ import annotations

import importlib
import signal
import subprocess
import sys
import textwrap
import threading

import apache_beam as beam
import pytest

from pipelines import cli
from pipelines.runner import remote
from pipelines.runner.flags import beam_options
from pipelines.runner.run import run
from tests.drawn.places import ROOT
from trainer.options import InputError

CLOUD = [
    "--runner=DataflowRunner",
    "--project=p",
    "--region=r",
    "--temp_location=gs://b/tmp",
    "--sdk_container_image=x",
]
FLINK = [
    "--runner=FlinkRunner",
    "--flink_master=h:8081",
    "--environment_type=PROCESS",
    '--environment_config={"command": "boot"}',
]
PORTABLE = [
    "--runner=PortableRunner",
    "--job_endpoint=h:8099",
    "--environment_type=EXTERNAL",
    "--environment_config=h:9",
]
LOOPBACK = ["--runner=PortableRunner", "--job_endpoint=embed", "--environment_type=LOOPBACK"]


class Portable:
    """What Beam's runners for clusters return: `error` ends the waiting, the job was last seen in `state`."""

    _job_id = "job-7"

    def __init__(self, error=None, state="RUNNING"):
        self._error, self._state, self.cancelled = error, state, False

    def wait_until_finish(self):
        if self._error:
            raise self._error
        return self._state

    def cancel(self):
        self.cancelled = True
        raise ConnectionError("the job server has gone too")


class Dataflow(Portable):
    def job_id(self):
        return "2026-7"

    def is_in_terminal_state(self):
        return self._state != "RUNNING"


DATAFLOW_REMEDY = (
    "See https://console.cloud.google.com/dataflow/jobs/r/2026-7?project=p; cancel it with "
    "`gcloud dataflow jobs cancel 2026-7 --project=p --region=r`, or let it finish and then run the same command again"
)
CASES = [
    (CLOUD, Dataflow, DATAFLOW_REMEDY),
    (FLINK, Portable, "It is job-7 at h:8081; cancel it there, or let it finish and then run the same command again"),
    (PORTABLE, Portable, "It is job-7 at h:8099; cancel it there, or let it finish"),
]


@pytest.mark.parametrize(("flags", "result", "remedy"), CASES)
def test_ctrl_c_says_that_the_job_goes_on_and_how_to_end_it(flags, result, remedy):
    job = result(KeyboardInterrupt())
    with pytest.raises(KeyboardInterrupt) as interrupt:
        remote.wait(job, beam_options(flags), "segment")
    assert str(interrupt.value).startswith(f"the job goes on. {remedy}")
    assert not job.cancelled


@pytest.mark.parametrize(("flags", "result", "remedy"), CASES)
def test_a_lost_connection_is_not_taken_for_the_end_of_the_job(flags, result, remedy):
    with pytest.raises(InputError) as error:
        remote.wait(result(ConnectionError("reset\nby peer")), beam_options(flags), "segment")
    said = "no word of the segment job any more: ConnectionError: reset by peer; it may go on all the same. "
    assert str(error.value).startswith(said + remedy)


def test_workers_of_this_process_end_with_it():
    job = Portable(KeyboardInterrupt())
    with pytest.raises(KeyboardInterrupt, match="the job ends as well"):
        remote.wait(job, beam_options(LOOPBACK), "segment")
    assert job.cancelled


@pytest.mark.parametrize("result", [Portable, Dataflow])
def test_a_job_that_failed_is_said_to_have_failed(result):
    with pytest.raises(InputError, match="the segment job failed: OSError: disk"):
        remote.wait(result(RuntimeError("Traceback\nOSError: disk"), "FAILED"), beam_options(LOOPBACK), "segment")
    with pytest.raises(InputError, match="the portablerunner job ended in state CANCELLED"):
        remote.wait(result(state="CANCELLED"), beam_options(LOOPBACK), "segment")
    remote.wait(result(state="DONE"), beam_options(LOOPBACK), "segment")


def test_an_interrupt_while_a_job_is_sent_says_how_to_look_for_it(monkeypatch):
    class Sending:
        def __init__(self, options):
            pass

        def run(self):
            raise KeyboardInterrupt

    monkeypatch.setattr(beam, "Pipeline", Sending)
    listing = "gcloud dataflow jobs list --status=active --project=p --region=r"
    with pytest.raises(KeyboardInterrupt, match=listing):
        run(lambda pipeline, _: None, beam_options(CLOUD), total=1, unit="x", title="segment")


def test_the_command_line_prints_what_becomes_of_the_job(monkeypatch, capsys):
    def wait(options, flags):
        remote.wait(Dataflow(KeyboardInterrupt()), beam_options(CLOUD), "demo")

    monkeypatch.setattr(importlib.import_module("pipelines.demo.command"), "run", wait)
    assert cli.main(["demo"]) == 130
    said = capsys.readouterr().err
    assert f"deeplab demo: interrupted; the job goes on. {DATAFLOW_REMEDY}" in said and "Traceback" not in said


def test_ctrl_c_ends_a_portable_job_and_its_workers():
    """With Beam's own job service, whose threads would keep the program alive."""
    program = textwrap.dedent(
        f"""
        import sys, time
        import apache_beam as beam
        from pipelines import cli
        from pipelines.demo import command
        from pipelines.runner.flags import beam_options
        from pipelines.runner.run import run

        def work(element):
            print("at work", flush=True)
            time.sleep(10)

        def wait(options, flags):
            build = lambda pipeline, _: pipeline | beam.Create([1]) | beam.Map(work)
            run(build, beam_options({LOOPBACK!r}), total=1, unit="x", title="demo")

        command.run = wait
        sys.exit(cli.main(["demo"]))
        """
    )
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    with subprocess.Popen([sys.executable, "-c", program], cwd=ROOT, **pipes) as process:
        guard = threading.Timer(60, process.kill)
        guard.start()
        assert process.stdout.readline() == "at work\n"
        process.send_signal(signal.SIGINT)
        _, said = process.communicate()
        guard.cancel()
    assert process.returncode == 130
    assert "deeplab demo: interrupted; the job ends as well" in said and "Traceback" not in said

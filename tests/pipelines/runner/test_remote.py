"""What is said of a job elsewhere when the waiting for it ends before the job, and what is left of it afterwards."""

from __future__ import annotations

import importlib
import json
import signal
import subprocess
import sys
import textwrap
import threading

import apache_beam as beam
import pytest

from pipelines import cli
from pipelines.runner import following, progress, remote, services
from pipelines.runner.flags import beam_options
from pipelines.runner.following import follow
from pipelines.runner.progress import Heartbeat
from pipelines.runner.remote import attach
from pipelines.runner.run import run
from pipelines.runner.services import Job
from tests.drawn.places import ROOT
from trainer import storage
from trainer.options import CheckedOptions, InputError

PROCESS = ["--environment_type=PROCESS", '--environment_config={"command": "boot"}']
FLINK = ["--runner=FlinkRunner", "--flink_master=h:8081", *PROCESS]
PORTABLE = ["--runner=PortableRunner", "--job_endpoint=h:8099", *PROCESS]
SPARK = ["--runner=SparkRunner", "--spark_master_url=spark://h:7077", *PROCESS]
SUBMITTED = [*SPARK, "--spark_submit_uber_jar"]
PRISM = ["--runner=PrismRunner", *PROCESS]
LOOPBACK = ["--runner=PortableRunner", "--job_endpoint=embed", "--environment_type=LOOPBACK"]


class Drawn(Job):
    """A job that is in `states`, one after another, and stays in the last one; an exception among them is raised."""

    poll = 0.01

    def __init__(self, *states, error=""):
        super().__init__("job-7", "name")
        self._states, self._error, self.cancelled, self.released = [*states], error, False, False

    def state(self):
        state = self._states.pop(0) if len(self._states) > 1 else self._states[0]
        if isinstance(state, BaseException):
            raise state
        return state

    def error(self):
        return self._error

    def cancel(self):
        self.cancelled = True
        raise ConnectionError("the job server has gone too")

    def release(self):
        self.released = True


CASES = [
    (FLINK, "It is job-7 at http://h:8081; cancel it with the same command and --cancel, or let it finish: the same"),
    (PORTABLE, "It is job-7 at h:8099; cancel it with the same command and --cancel, or let it finish: the same"),
    (SUBMITTED, "It is job-7 at spark://h:7077; cancel it there, or wait until it has finished, and only then"),
]


@pytest.mark.parametrize(("flags", "remedy"), CASES)
def test_ctrl_c_says_that_the_job_goes_on_and_how_to_end_it(flags, remedy, tmp_path):
    job = Drawn(KeyboardInterrupt())
    with pytest.raises(KeyboardInterrupt) as interrupt:
        follow(job, beam_options(flags), "segment", str(tmp_path))
    assert str(interrupt.value).startswith(f"the job continues. {remedy}")
    assert not job.cancelled


@pytest.mark.parametrize(("flags", "remedy"), CASES)
def test_a_lost_connection_is_not_taken_for_the_end_of_the_job(flags, remedy, tmp_path, monkeypatch):
    options = beam_options(flags)
    follow(Drawn("RUNNING", ConnectionError(), "DONE"), options, "segment", str(tmp_path))
    monkeypatch.setattr(following, "LOST", 0.02)
    with pytest.raises(storage.Unavailable) as error:
        follow(Drawn("RUNNING", ConnectionError("reset\nby peer")), options, "segment", str(tmp_path))
    said = "lost contact with the segment job: ConnectionError: reset by peer; it may still be running. "
    assert str(error.value).startswith(said + remedy)


def test_a_job_server_of_this_command_that_has_ended_is_not_waited_for(tmp_path, monkeypatch):
    monkeypatch.setattr(following, "ENDED", 0.02)
    for flags, job in ((PRISM, Drawn(ConnectionError("reset"))), (SPARK, Drawn("RUNNING", ConnectionError("reset")))):
        with pytest.raises(storage.Unavailable, match=r"has ended, and the segment job with it \(.*reset"):
            follow(job, beam_options(flags), "segment", str(tmp_path))


@pytest.mark.parametrize("flags", [LOOPBACK, PRISM, SPARK])
def test_a_job_in_processes_of_this_one_ends_with_it(tmp_path, flags):
    job = Drawn(KeyboardInterrupt())
    with pytest.raises(KeyboardInterrupt, match="the job ends as well"):
        follow(job, beam_options(flags), "segment", str(tmp_path))
    assert job.cancelled and job.released


def test_a_job_that_failed_is_said_to_have_failed(tmp_path):
    job = Drawn("RUNNING", "FAILED", error="Traceback\nOSError: disk")
    with pytest.raises(InputError, match="the segment job failed: OSError: disk"):
        follow(job, beam_options(LOOPBACK), "segment", str(tmp_path))
    assert job.released
    java = "org.apache.flink.runtime.client.JobCancellationException: Job was cancelled."
    for cancelled in (Drawn("CANCELLED"), Drawn("FAILED", error=java)):
        with pytest.raises(InputError, match="the portablerunner job ended in state CANCELLED; its own log has the"):
            follow(cancelled, beam_options(LOOPBACK), "segment", str(tmp_path))


def test_workers_count_beside_the_output_and_nothing_stays(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(progress, "PLAIN_SECONDS", 0.02)
    counts = tmp_path / progress.FOLDER
    counts.mkdir()
    (counts / progress.EXPECTED).write_text(json.dumps({"total": 9, "unit": "images"}))
    heartbeat = Heartbeat(str(counts))
    heartbeat.check()
    heartbeat.beat(7)
    follow(Drawn(*["RUNNING"] * 9, "RESTARTING", "DONE"), beam_options(PORTABLE), "segment", str(tmp_path))
    said = capsys.readouterr().err
    assert "segment: 7/9 images" in said and "segment: the job is restarting\n" in said
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(InputError, match=r"does not exist on the worker .* give folders that all workers see"):
        Heartbeat(str(counts)).check()


def test_items_that_an_engine_repeats_do_not_count_beyond_the_total(monkeypatch, capsys):
    monkeypatch.setattr(progress, "PLAIN_SECONDS", 0.01)
    for total, shown in ((9, "9/9 images"), (0, "12 images")):
        with progress.progress(lambda: 12, total, "images", "segment", sys.stderr):
            pass
        assert f"segment: {shown}, " in capsys.readouterr().err


def test_workers_count_in_cloud_storage_too(bucket, monkeypatch):
    monkeypatch.setattr(progress, "PLAIN_SECONDS", 0.0)
    for number in (2, 3):
        heartbeat = Heartbeat(f"{bucket}/out/.progress")
        heartbeat.check()
        heartbeat.beat(number)
        heartbeat.beat(number)
    assert progress.beats(f"{bucket}/out/.progress") == 10


def test_that_no_worker_reports_is_said_once(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(following, "SILENCE", 0.0)
    for flags, is_told in ((PORTABLE, False), (SPARK, True)):
        (tmp_path / progress.FOLDER).mkdir()
        follow(Drawn(*["RUNNING"] * 5, "DONE"), beam_options(flags), "segment", str(tmp_path))
        said = capsys.readouterr().err
        assert said.count("no worker has reported for 0 s; each needs Python") == 1
        assert ("an executor of Spark a core and memory (spark.executor.memory" in said) == is_told


def test_a_job_whose_workers_were_of_another_process_is_not_waited_for(tmp_path, monkeypatch):
    flags = ["--runner=PortableRunner", "--job_endpoint=h:8099", "--environment_type=LOOPBACK"]
    jobs: list[Job] = []
    monkeypatch.setattr(services, "active", lambda options: iter(jobs))
    options = beam_options(flags)
    assert attach(options, CheckedOptions(), str(tmp_path), "segment") == ""
    jobs.append(Job("job-7", options.get_all_options()["job_name"]))
    with pytest.raises(InputError, match="with workers of the process that sent it; wait for it to end or"):
        attach(beam_options(flags), CheckedOptions(), str(tmp_path), "segment")


def test_cancel_waits_for_the_end_of_the_job_and_leaves_nothing(tmp_path, monkeypatch, capsys):
    options = beam_options([*PORTABLE, "--cancel"])
    job = Drawn("CANCELLING", "CANCELLED")
    monkeypatch.setattr(Drawn, "cancel", lambda self: setattr(self, "cancelled", True))
    monkeypatch.setattr(services, "active", lambda options: iter([job]))
    with pytest.raises(InputError, match="there is nothing to cancel"):
        attach(options, CheckedOptions(), str(tmp_path), "segment")
    job.name = options.get_all_options()["job_name"]
    (tmp_path / progress.FOLDER).mkdir()
    again = beam_options([*PORTABLE, "--cancel"])
    assert attach(again, CheckedOptions(), str(tmp_path), "segment") == remote.CANCELLED
    assert job.cancelled and job.state() == "CANCELLED" and list(tmp_path.iterdir()) == []
    assert "job job-7 is being cancelled; finished outputs are kept" in capsys.readouterr().err


def test_a_job_sent_by_a_killed_command_is_followed_and_ends_with_the_work(tmp_path, monkeypatch, capsys):
    options, jobs = beam_options([*FLINK, "--job_endpoint=h:9"]), [Drawn("RUNNING", "DONE"), Drawn("RUNNING", "DONE")]
    monkeypatch.setattr(services, "active", lambda options: (job for job in jobs if job._states[0] == "RUNNING"))
    monkeypatch.setattr(Drawn, "cancel", lambda self: self._states.pop(0))
    for number, job in enumerate(jobs):
        job.id, job.name = f"job-{number}", "of-another"
    assert attach(options, CheckedOptions(), str(tmp_path), "segment") == ""
    for job in jobs:
        job.name = options.get_all_options()["job_name"]
    again = beam_options(FLINK)
    assert attach(again, CheckedOptions(), str(tmp_path), "segment") == remote.FOLLOWED
    said = capsys.readouterr().err
    assert "following job job-0" in said and "following job job-1" in said
    jobs.append(Drawn("RUNNING", "CANCELLED"))
    jobs[-1].name = jobs[0].name
    remote.end_others(again, str(tmp_path))
    assert jobs[-1].state() == "CANCELLED"


@pytest.mark.parametrize(
    ("flags", "said", "needs_result"),
    [
        ([*PORTABLE, "--no_wait"], "evaluate reads the job's result itself; omit --no_wait", True),
        (
            [*PORTABLE, "--template_location=gs://bucket/job"],
            "evaluate reads the job's result itself; omit --template_location",
            True,
        ),
        (
            [*SPARK, "--no_wait"],
            "the sparkrunner job would end with this command, or could not be found again",
            False,
        ),
    ],
)
def test_flags_without_waiting_are_refused_for_jobs_that_must_be_awaited(flags, said, needs_result):
    with pytest.raises(InputError, match=said):
        attach(beam_options(flags), CheckedOptions(), "/out", "evaluate", needs_result)


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (FLINK, "the same command, run again, follows it if it runs"),
        (SUBMITTED, "if it runs already, cancel it there"),
        (SPARK, "the job ends as well"),
        (LOOPBACK, "the job ends as well"),
        (PRISM, "the job ends as well"),
    ],
)
@pytest.mark.parametrize("has_been_sent", [False, True])
def test_an_interrupt_while_a_job_is_sent_says_what_becomes_of_it(flags, said, has_been_sent, monkeypatch, tmp_path):
    def interrupt(*args):
        raise KeyboardInterrupt

    class Sending:
        runner = None

        def __init__(self, options):
            pass

        def run(self):
            if not has_been_sent:
                interrupt()

    monkeypatch.setattr(beam, "Pipeline", Sending)
    monkeypatch.setattr(services, "sent", interrupt)
    with pytest.raises(KeyboardInterrupt, match=said):
        run(lambda pipeline, _: None, beam_options(flags), total=1, unit="x", title="segment", folder=str(tmp_path))


def test_the_command_line_prints_what_becomes_of_the_job(monkeypatch, capsys, tmp_path):
    def wait(options, flags):
        follow(Drawn(KeyboardInterrupt()), beam_options(FLINK), "demo", str(tmp_path))

    monkeypatch.setattr(importlib.import_module("pipelines.demo.command"), "run", wait)
    assert cli.main(["demo"]) == 130
    said = capsys.readouterr().err
    assert f"deeplab demo: interrupted; the job continues. {CASES[0][1]}" in said and "Traceback" not in said


def test_ctrl_c_ends_a_portable_job_and_its_workers(tmp_path):
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
            time.sleep(90)

        def wait(options, flags):
            build = lambda pipeline, _: pipeline | beam.Create([1]) | beam.Map(work)
            run(build, beam_options({LOOPBACK!r}), total=1, unit="x", title="demo", folder={str(tmp_path)!r})

        command.run = wait
        sys.argv[1:] = ["demo"]
        cli.main()
        """
    )
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    with subprocess.Popen([sys.executable, "-c", program], cwd=ROOT, **pipes) as process:
        guard = threading.Timer(300, process.kill)  # starting takes a minute on a busy machine
        guard.start()
        began = process.stdout.readline()
        process.send_signal(signal.SIGINT)
        _, said = process.communicate()
        guard.cancel()
    assert (began, process.returncode) == ("at work\n", 130), said
    assert "deeplab demo: interrupted; the job ends as well" in said and "Traceback" not in said

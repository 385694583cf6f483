"""The local runner: options, progress, and failures that people can read."""

from __future__ import annotations

import io
import logging
import os
import pickle
import re
import subprocess
import sys
import textwrap
import threading
import time
from pathlib import Path
from typing import ClassVar

import apache_beam as beam
import pytest
from apache_beam.runners.worker import sdk_worker, statesampler

from pipelines.runner import failures, worker
from pipelines.runner.flags import beam_options
from pipelines.runner.progress import Heartbeat, beats
from pipelines.runner.run import run
from tests.drawn.places import ROOT
from trainer import processes, storage
from trainer.options import InputError

DATAFLOW = ["--runner", "DataflowRunner", "--project", "p", "--region", "r", "--temp_location", "gs://b/tmp"]


class Beat(beam.DoFn):
    def __init__(self, heartbeat):
        self.heartbeat = heartbeat

    def process(self, element):
        self.heartbeat.beat(element)


class Fail(beam.DoFn):
    def __init__(self, error):
        self.error = error

    def process(self, element):
        raise self.error


class FailFirst(beam.DoFn):
    """Fails on the element 1; a second worker goes on with another until the run has ended, and then may fail too."""

    begun: ClassVar[threading.Event]
    run_ended: ClassVar[threading.Event]
    second: ClassVar[threading.Thread | None]

    def __init__(self, late):
        self.late = late

    def process(self, element):
        if element == 1:
            self.begun.wait(30)
            raise InputError("the first")
        FailFirst.second = threading.current_thread()
        self.begun.set()
        self.run_ended.wait(30)
        if self.late:
            raise self.late


def test_heartbeats_of_all_workers_add_up(tmp_path):
    first = Heartbeat(str(tmp_path))
    first.beat()
    second = pickle.loads(pickle.dumps(first))
    second.beat(5)
    second.beat(0)
    first.beat(2)
    assert beats(str(tmp_path)) == 8
    assert len(list(tmp_path.iterdir())) == 2


def test_a_heartbeat_without_a_folder_is_silent(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Heartbeat().beat(3)
    assert list(tmp_path.iterdir()) == []


def test_progress_ends_with_what_was_done(capsys):
    def build(pipeline, heartbeat):
        pipeline | beam.Create([1, 2, 3, 4]) | beam.Reshuffle() | beam.ParDo(Beat(heartbeat))

    options = beam_options(["--direct_num_workers", "2"])
    for _ in range(2):  # the same options serve again
        assert run(build, options, total=10, unit="things", title="testing", folder="") is True
        assert "testing: 10/10 things" in capsys.readouterr().err


def test_a_terminal_gets_a_bar(monkeypatch):
    class Terminal(io.StringIO):
        def isatty(self):
            return True

    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)

    def build(pipeline, heartbeat):
        pipeline | beam.Create([3, 4]) | beam.ParDo(Beat(heartbeat))

    run(build, beam_options([]), total=7, unit="things", title="testing", folder="")
    last = terminal.getvalue().replace("\r", "\n").strip().splitlines()[-1]
    assert "testing: 100%" in last
    assert "7/7" in last


@pytest.mark.parametrize("mode", ["in_memory", "multi_threading"])
def test_a_failing_step_is_one_line_with_its_cause(mode, capfd, caplog):
    def build(pipeline, heartbeat):
        error = OSError(28, "No space left on device")
        pipeline | beam.Create([1, 2]) | "Write shards" >> beam.ParDo(Fail(error))

    with pytest.raises(InputError) as error:
        run(build, beam_options([f"--direct_running_mode={mode}"]), total=2, unit="things", title="testing", folder="")
    message = str(error.value)
    assert "step 'Write shards': OSError: [Errno 28] No space left on device" in message
    assert "\n" not in message
    kept = Path(message.split("full traceback: ")[1].split(")")[0])
    assert "No space left on device" in kept.read_text()
    kept.unlink()
    # What a worker logs after the run has ended as well.
    logging.getLogger("apache_beam.runners.common").error("%s [while running 'Write shards']\nTraceback", message)
    assert "Traceback" not in capfd.readouterr().err
    assert "Traceback" not in caplog.text


@pytest.mark.parametrize("late", [None, OSError(28, "No space left on device")], ids=["done", "failed"])
def test_a_worker_that_outlives_a_failed_run_prints_nothing(late, monkeypatch, capfd, caplog):
    """Beam has forgotten its bundle by then, and raises a KeyError at the end of it."""

    def build(pipeline, heartbeat):
        pipeline | beam.Create([1, 2], reshuffle=False) | beam.Reshuffle() | beam.ParDo(FailFirst(late))

    def execute(*arguments):
        original(*arguments)
        if threading.current_thread() is FailFirst.second:
            ended.set()

    original, ended = sdk_worker.SdkHarness._execute, threading.Event()
    monkeypatch.setattr(sdk_worker.SdkHarness, "_execute", execute)
    FailFirst.second, FailFirst.begun, FailFirst.run_ended = None, threading.Event(), threading.Event()
    with pytest.raises(InputError, match="the first"):
        run(build, beam_options(["--direct_num_workers=2"]), total=2, unit="things", title="testing", folder="")
    FailFirst.run_ended.set()
    assert ended.wait(30)
    assert re.fullmatch("testing: .*\n", capfd.readouterr().err)
    assert "Traceback" not in caplog.text


@pytest.mark.parametrize(
    "message",
    ["label.png: what a label", "no\nValueError: a\n\nb.png: is bad, [x] 'y'"],
)
@pytest.mark.parametrize("mode", ["in_memory", "multi_threading"])
def test_input_errors_of_a_step_reach_the_user_as_they_are(message, mode):
    def build(pipeline, heartbeat):
        pipeline | beam.Create([1]) | beam.ParDo(Fail(InputError(message)))

    with pytest.raises(InputError) as error:
        run(build, beam_options([f"--direct_running_mode={mode}"]), total=1, unit="things", title="testing", folder="")
    assert str(error.value) == message


@pytest.mark.parametrize("mode", ["in_memory", "multi_threading", "multi_processing"])
def test_storage_that_does_not_answer_ends_the_run_in_one_line(mode):
    """Not as an error of the input: the same command, run again later, resumes."""

    def build(pipeline, heartbeat):
        error = storage.Unavailable("b/a.jpg: 503; run the same command again")
        pipeline | beam.Create([1]) | beam.ParDo(Fail(error))

    with pytest.raises(storage.Unavailable, match=r"^b/a\.jpg: 503; run the same command again$"):
        run(build, beam_options([f"--direct_running_mode={mode}"]), total=1, unit="things", title="testing", folder="")


@pytest.mark.parametrize("text", ["no model in gs: b", "x\udcff: Error: what", "a\nNameError: b"])
def test_an_error_of_the_input_is_left_as_it_is(text):
    assert str(failures.readable(InputError(text), "testing")) == text


def test_names_that_are_not_utf_8_are_kept_with_the_traceback():
    message = str(failures.readable(RuntimeError("OSError: a\udcff"), "testing"))
    kept = Path(message.split("full traceback: ")[1].split(")")[0])
    assert kept.read_text() == r"OSError: a\udcff"
    kept.unlink()


def test_a_killed_worker_process_ends_the_run(tmp_path):
    (tmp_path / "killing.py").write_text(
        textwrap.dedent(
            """
            import os, signal
            import apache_beam as beam
            from pipelines.runner.flags import beam_options
            from pipelines.runner.run import run

            def kill(element):
                os.kill(os.getpid(), signal.SIGKILL)

            def main():
                signal.signal(signal.SIGINT, signal.SIG_IGN)  # as in what a script starts with "&"
                options = beam_options(["--direct_running_mode=multi_processing", "--direct_num_workers=2"])
                build = lambda pipeline, _: pipeline | beam.Create([1, 2]) | beam.Map(kill)
                run(build, options, total=2, unit="x", title="testing", folder="")
            """
        )
    )
    environment = os.environ | {"PYTHONPATH": f"{ROOT}{os.pathsep}{tmp_path}"}
    done = subprocess.run(
        [sys.executable, "-c", "import killing; killing.main()"],
        env=environment,
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=90,
    )
    assert done.returncode == failures.STATUS_WORKER_DIED
    assert "error: a worker process ended with status" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_worker_whose_connection_breaks_before_its_end_is_known_ends_the_run_as_well(monkeypatch):
    def end():
        ended.wait(0.1)
        raise RuntimeError("Worker subprocess exited with return code 139")

    def leave(status, text, out):
        left.append((status, text, out))
        ended.set()

    beam_log, out, ended = logging.getLogger("apache_beam"), io.StringIO(), threading.Event()
    level, left = beam_log.level, []
    monkeypatch.setattr(failures.ending, "leave", leave)
    monkeypatch.setattr(failures.time, "sleep", ended.wait)
    try:
        with failures.stop_when_worker_dies(out, "testing"):
            threading.Thread(target=end).start()
            failures.await_death_report(RuntimeError("Channel closed prematurely."))
    finally:
        beam_log.setLevel(level)
    ((status, text, printed),) = left
    assert status == failures.STATUS_WORKER_DIED and printed is out
    assert "a worker process ended with status 139" in text


class Slow:
    """Takes longer to pickle than Beam waits before it sends what has been written so far, if it is the first."""

    def __init__(self, number):
        self.number = number

    def __reduce__(self):
        time.sleep(1.2 if self.number == 1 else 0)
        return Slow, (self.number,)


def test_elements_that_take_long_to_encode_arrive_whole(tmp_path):
    """Beam's threads would otherwise send half of an element: what comes behind it is read as if it were a length."""

    def build(pipeline, heartbeat):
        def write(element):
            (tmp_path / str(element[1].number)).write_text(element[0])

        slow = pipeline | beam.Create([1, 2, 3]) | beam.Map(lambda number: ("x" * number, Slow(number)))
        slow | beam.Reshuffle() | beam.Map(write)

    options = beam_options(["--direct_num_workers", "2"])
    run(build, options, total=3, unit="elements", title="testing", folder="")
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == {"1": "x", "2": "xx", "3": "xxx"}


@pytest.mark.parametrize("mode", ["multi_threading", "multi_processing"])
def test_workers_end_without_waiting_for_a_look_at_their_steps(mode, tmp_path):
    def build(pipeline, heartbeat):
        def note(place):
            (tmp_path / place).write_text(str(statesampler.get_current_tracker().sampling_period_ms))

        pipeline | beam.Create(["here"]) | beam.Map(note)

    run(build, beam_options([f"--direct_running_mode={mode}"]), total=1, unit="elements", title="testing", folder="")
    assert int((tmp_path / "here").read_text()) == worker.SAMPLING_MS < 10


def test_a_job_for_which_too_few_threads_are_allowed_is_not_begun(tmp_path, monkeypatch):
    """gRPC aborts the process that may not start its threads."""

    def refuse(number):
        raise MemoryError(f"no {number} threads")

    monkeypatch.setattr(processes, "check_threads", refuse)
    options = beam_options(["--direct_num_workers", "3"])
    with pytest.raises(MemoryError, match="no 64 threads"):
        run(lambda *_: pytest.fail("begun"), options, total=1, unit="items", title="test", folder=str(tmp_path))

"""Failures of jobs elsewhere, as services report them, in one line."""

from __future__ import annotations

import errno
import io
import os
import threading

import pytest

from pipelines.runner import failures
from pipelines.runner.failures import readable
from pipelines.runner.flags import beam_options
from pipelines.runner.run import run
from trainer import processes, storage
from trainer.options import InputError

PYTHON = """Error received from SDK harness for instruction 4: Traceback (most recent call last):
  File "apache_beam/runners/common.py", line 1498, in process
    return self.do_fn_invoker.invoke_process(windowed_value)
{error} [while running 'Write shards-ptransform-20']

"""
JAVA = """java.util.concurrent.ExecutionException: java.lang.RuntimeException: PYTHON
\tat java.base/java.util.concurrent.CompletableFuture.reportGet(CompletableFuture.java:396)
\tat org.apache.beam.runners.flink.FlinkPipelineRunner.lambda$run$0(FlinkPipelineRunner.java:98)
\t... 12 more
Caused by: java.lang.RuntimeException: PYTHON
\tat org.apache.beam.runners.fnexecution.control.FnApiControlClient$ResponseStreamObserver.onNext(FnApi.java:180)
\t... 3 common frames omitted
""".replace("PYTHON", PYTHON)


@pytest.mark.parametrize("text", [PYTHON, JAVA])
def test_what_a_worker_said_is_what_the_user_reads(text):
    for known in (InputError, storage.Unavailable):
        error = text.replace("{error}", f"{known.__module__}.{known.__name__}: b.png: is\nno image; move it")
        found = readable(RuntimeError(error), "prepare")
        assert (type(found), str(found)) == (known, "b.png: is\nno image; move it")
    said = str(readable(RuntimeError(text.replace("{error}", "OSError: [Errno 28] No space")), "prepare"))
    assert said.startswith("the prepare job failed in step 'Write shards': OSError: [Errno 28] No space (")


def test_a_cause_in_java_that_names_nothing_is_told_by_the_exception_that_names_it():
    text = """java.lang.RuntimeException: The Runner experienced the following error
\tat org.apache.flink.Task.run(Task.java:562)
Caused by: java.io.IOException: Cannot run program "/opt/boot": error=2, No such file or directory
\tat java.base/java.lang.ProcessBuilder.start(ProcessBuilder.java:1143)
Caused by: java.io.IOException: error=2, No such file or directory
\t... 9 more
"""
    assert 'Cannot run program "/opt/boot": error=2, No such file' in str(readable(RuntimeError(text), "prepare"))


def test_a_helper_thread_that_can_start_no_other_ends_the_run_which_would_wait_for_it_for_ever(monkeypatch):
    def refuse():
        raise RuntimeError("can't start new thread")

    left, out = [], io.StringIO()
    monkeypatch.setattr(failures.ending, "leave", lambda *arguments: left.append(arguments))
    with failures.stop_when_worker_dies(out, "testing"):
        thread = threading.Thread(target=refuse)
        thread.start()
        thread.join()
    ((status, text, printed),) = left
    assert status == 1 and printed is out and "\n" not in text
    assert text.startswith("deeplab testing: error: there is not enough memory, or no more threads are allowed")


def test_a_run_that_can_start_no_thread_says_what_the_machine_lacks():
    with pytest.raises(MemoryError, match="no more threads"):
        raise readable(RuntimeError("can't start new thread"), "testing")


def test_a_job_for_which_too_few_files_may_be_open_is_not_begun(tmp_path, monkeypatch):
    """gRPC would print and wait for half a minute, and give no reason."""

    def refuse(number):
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

    monkeypatch.setattr(processes, "check_files", refuse)
    with pytest.raises(
        storage.Unavailable, match=r"for the test job \(Too many open files\); allow more \(`ulimit -n"
    ):
        run(
            lambda *_: pytest.fail("begun"),
            beam_options([]),
            total=1,
            unit="items",
            title="test",
            folder=str(tmp_path),
        )


@pytest.mark.parametrize(("error", "waits"), [("Channel closed prematurely.", 1), ("another", 0)])
def test_only_a_worker_that_broke_its_connection_is_given_time_to_be_reported(error, waits, monkeypatch):
    naps = []
    monkeypatch.setattr(failures.time, "sleep", naps.append)
    failures.await_death_report(RuntimeError(error))
    assert naps == [failures.REPORT_SECONDS] * waits

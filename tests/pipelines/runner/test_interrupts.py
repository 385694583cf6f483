"""Ctrl-C during a job: it ends at once with its status and, if anybody is there to read it, a line."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from pipelines.runner import failures, sending
from tests.drawn.places import ROOT
from trainer import ending, leases, startup
from trainer.files import scratch

LINE = "deeplab testing: {}; finished outputs are kept, run the same command again to resume\n"


# Each of these prepares a process that is then interrupted.


def nothing():
    pass


def close_reader():
    """As Ctrl-C ends `tee`, which reads the output."""
    reader, writer = os.pipe()
    os.close(reader)
    os.dup2(writer, 1)
    os.dup2(writer, 2)
    with contextlib.suppress(BrokenPipeError):  # where Python is told not to buffer it
        print("in the buffer")


def close_stdout():
    """As a shell does for `>&-`."""
    sys.stdout = None


def load_model_in_a_thread():
    def load():
        with startup.quiet_startup(), scratch.folder("model"):
            print("of C++", file=sys.stderr)
            begun.set()
            time.sleep(60)

    begun = threading.Event()
    threading.Thread(target=load).start()
    begun.wait()


def lose_storage():
    """The lease cannot be released for a while, and this thread holds the lock with which threads are started."""
    threading._active_limbo_lock.acquire()
    ending.SECONDS, leases.release = 0.1, lambda: time.sleep(60)


CASES = (nothing, close_reader, close_stdout, load_model_in_a_thread, lose_storage)
WORDS = {signal.SIGINT: "interrupted", signal.SIGTERM: "terminated", signal.SIGHUP: "terminated"}


def interrupt(prepare, number=signal.SIGINT):
    """Status and standard error of a process that is interrupted by a signal; Ctrl-C is ignored where it is not."""
    reader, writer = os.pipe()
    process = os.fork()
    if not process:
        os.dup2(writer, 2)
        signal.signal(signal.SIGINT, signal.default_int_handler if number == signal.SIGINT else signal.SIG_IGN)
        ending.watch_interrupts("deeplab testing")
        with failures.stop_when_worker_dies(sys.stderr, "testing"):
            with contextlib.suppress(BaseException):  # where Beam would take no notice of an exception
                prepare()
                os.kill(os.getpid(), number)
                time.sleep(5)
            os._exit(0)
    os.close(writer)
    with open(reader) as file:
        said = file.read()
    return os.waitstatus_to_exitcode(os.waitpid(process, 0)[1]), said


@pytest.fixture(scope="module")
def endings(tmp_path_factory):
    """Status, standard error and temporary files of every case, from one process that is forked for each."""
    folder = tmp_path_factory.mktemp("scratch")
    program = f"import json; from {__name__} import CASES, WORDS, interrupt, nothing; " + (
        "ends = {case.__name__: interrupt(case) for case in CASES}; "
        "print(json.dumps(ends | {number: interrupt(nothing, number) for number in WORDS}))"
    )
    done = subprocess.run(
        [sys.executable, "-c", program],
        cwd=ROOT,
        env=os.environ | {"TMPDIR": str(folder)},
        capture_output=True,
        text=True,
        timeout=90,
        check=True,
    )
    return json.loads(done.stdout), [path.name for path in folder.iterdir()]


@pytest.mark.parametrize("case", CASES)
def test_an_interrupt_ends_a_job_at_once(case, endings):
    status, said = endings[0][case.__name__]
    line = LINE.format("interrupted")
    assert status == 130
    assert said == {close_reader: "", load_model_in_a_thread: f"of C++\n{line}"}.get(case, line)


@pytest.mark.parametrize("number", WORDS)
def test_sigterm_and_sighup_end_a_job_as_ctrl_c_does(number, endings):
    assert endings[0][str(number.value)] == [128 + number, LINE.format(WORDS[number])]


def test_an_interrupted_job_leaves_no_temporary_files(endings):
    assert endings[1] == []


def swallow():
    with contextlib.suppress(KeyboardInterrupt):
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(10)


def fail():
    swallow()
    raise RuntimeError("the job server has gone")


@pytest.mark.parametrize("send", [swallow, fail])
def test_ctrl_c_that_is_lost_while_a_job_is_sent_comes_after_it(send):
    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt), sending.own_interrupt():
        send()
    assert signal.getsignal(signal.SIGINT) is before


def test_a_job_is_sent_where_ctrl_c_has_another_handler_or_none():
    for handler in (signal.SIG_IGN, lambda *_: None):
        before = signal.signal(signal.SIGINT, handler)
        try:
            with sending.own_interrupt():
                signal.signal(signal.SIGINT, signal.SIG_DFL)
            assert signal.getsignal(signal.SIGINT) is handler
        finally:
            signal.signal(signal.SIGINT, before)
    with ThreadPoolExecutor(1) as pool:
        pool.submit(sending.own_interrupt().__enter__).result()

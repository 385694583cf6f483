"""A signal ends a command within seconds, also where Python, a library or C++ keeps the exception from it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time

import pytest

from tests.drawn.places import ROOT

PROGRAM = """
import contextlib, ctypes, os, signal, sys, threading, time, weakref
from trainer import ending
from trainer.files import scratch

ending.SECONDS = 0.2
signal.signal(signal.SIGINT, signal.default_int_handler)
{before}
ending.watch_interrupts("testing")
try:
    with scratch.of_command():
        {body}
except KeyboardInterrupt:
    ending.received()
    time.sleep(0.5)
    print(*ending.cause())
    sys.stdout.flush()
    os._exit(3)
"""
LATE = 10
"""Seconds that a process would sleep."""
INTERRUPT = "signal.raise_signal(signal.SIGINT)"
LINES = {
    number: (128 + number, f"\ntesting: {word}; run the same command again to resume\n")
    for number, word in ((signal.SIGINT, "interrupted"), (signal.SIGTERM, "terminated"), (signal.SIGHUP, "terminated"))
}
"""Signal -> exit status and the line that is printed."""


def run(body, folder, before="pass"):
    """Exit status, output and seconds of a program with that body."""
    begin = time.monotonic()
    program = PROGRAM.format(body=body.replace("\n", "\n        "), before=before)
    done = subprocess.run(
        [sys.executable, "-c", program],
        env=os.environ | {"TMPDIR": str(folder)},
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    return done.returncode, done.stdout, time.monotonic() - begin


LOST = {
    "callback": f"weakref.finalize(threading.Event(), lambda: {INTERRUPT})\ntime.sleep({LATE})",
    "destructor": f"type('A', (), {{'__del__': lambda _: {INTERRUPT}}})()\ntime.sleep({LATE})",
    "library": f"with contextlib.suppress(BaseException):\n    {INTERRUPT}\ntime.sleep({LATE})",
    "block": f"try:\n    {INTERRUPT}\nfinally:\n    time.sleep({LATE})",
    # Another thread takes the signal, and this one does not return to Python.
    "C": f"threading.Timer(0.1, lambda: {INTERRUPT}).start()\nctypes.CDLL(None).sleep({LATE})",
}


@pytest.mark.parametrize("number", LINES)
@pytest.mark.parametrize("case", LOST)
def test_an_interrupt_that_gets_lost_ends_the_program(case, number, tmp_path):
    status, said, seconds = run(LOST[case].replace("SIGINT", number.name), tmp_path)
    assert (status, said) == LINES[number] and seconds < LATE
    assert list(tmp_path.iterdir()) == []


def test_another_interrupt_on_the_way_out_does_not_stop_the_clearing(tmp_path):
    body = f"abandon = scratch.abandon\nscratch.abandon = lambda: ({INTERRUPT}, abandon())\n{LOST['destructor']}"
    assert run(body, tmp_path)[:2] == LINES[signal.SIGINT] and list(tmp_path.iterdir()) == []


def test_an_interrupt_that_is_received_is_left_to_the_program(tmp_path):
    assert run(INTERRUPT, tmp_path)[:2] == (3, "interrupted 130\n")


@pytest.mark.parametrize("number", LINES)
def test_whoever_handles_or_ignores_a_signal_is_left_alone(number, tmp_path):
    for handler in ("signal.SIG_IGN", "lambda *_: None"):
        handled = f"signal.signal(signal.{number.name}, {handler})"
        interrupt = f"signal.raise_signal(signal.{number.name})\ntime.sleep(0.5)"
        assert run(interrupt, tmp_path, before=handled)[:2] == (0, "")  # as `nohup` does with SIGHUP
        assert run(f"{handled}\n{interrupt}", tmp_path)[:2] == (0, "")


@pytest.mark.parametrize("handler", ["signal.SIG_IGN", "lambda *_: None", "lambda *_: print('stopped')"])
def test_sigterm_ends_what_does_not_listen_to_ctrl_c_too(handler, tmp_path):
    """As `kill` does what a script has started with `&`; and whoever handles Ctrl-C has its say first."""
    body = "signal.raise_signal(signal.SIGTERM)"
    said = "stopped\n" if "print" in handler else ""
    ends = run(f"signal.signal(signal.SIGINT, {handler})\n{body}", tmp_path)
    assert ends[:2] == (3, f"{said}terminated 143\n")


def test_a_signal_that_is_sent_twice_does_not_stop_the_way_out(tmp_path):
    twice = "signal.raise_signal(signal.SIGTERM); signal.raise_signal(signal.SIGHUP)"
    body = f"try:\n    {twice}\nfinally:\n    {twice}\n    print('cleared')"
    assert run(body, tmp_path)[:2] == (3, "cleared\nterminated 143\n")


def test_other_exceptions_in_callbacks_are_still_printed(tmp_path):
    status, said, _ = run("type('A', (), {'__del__': lambda _: 1 / 0})()", tmp_path)
    assert status == 0 and "ZeroDivisionError" in said


def test_the_line_is_printed_where_no_thread_can_be_started():
    program = """
import _thread
from trainer import ending
def refuse(*_):
    raise RuntimeError("can't start new thread")
_thread.start_new_thread = refuse
ending.leave(3, "there is no memory")
"""
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (3, "there is no memory\n")

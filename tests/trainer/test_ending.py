"""Ctrl-C ends a command within seconds, also where Python, a library or C++ keeps the exception from it."""

from __future__ import annotations

import os
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
ending.watch_interrupts("interrupted")
try:
    with scratch.of_command():
        {body}
except KeyboardInterrupt:
    ending.received()
    time.sleep(0.5)
    os._exit(3)
"""
LATE = 10
"""Seconds that a process would sleep."""
INTERRUPT = "signal.raise_signal(signal.SIGINT)"


def run(body, folder):
    """Exit status, standard error and seconds of a program with that body."""
    begin = time.monotonic()
    program = PROGRAM.format(body=body.replace("\n", "\n        "))
    done = subprocess.run(
        [sys.executable, "-c", program],
        env=os.environ | {"TMPDIR": str(folder)},
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    return done.returncode, done.stderr, time.monotonic() - begin


LOST = {
    "callback": f"weakref.finalize(threading.Event(), lambda: {INTERRUPT})\ntime.sleep({LATE})",
    "destructor": f"type('A', (), {{'__del__': lambda _: {INTERRUPT}}})()\ntime.sleep({LATE})",
    "library": f"with contextlib.suppress(BaseException):\n    {INTERRUPT}\ntime.sleep({LATE})",
    "block": f"try:\n    {INTERRUPT}\nfinally:\n    time.sleep({LATE})",
    # Another thread takes the signal, and this one does not return to Python.
    "C": f"threading.Timer(0.1, lambda: {INTERRUPT}).start()\nctypes.CDLL(None).sleep({LATE})",
}


@pytest.mark.parametrize("case", LOST)
def test_an_interrupt_that_gets_lost_ends_the_program(case, tmp_path):
    status, said, seconds = run(LOST[case], tmp_path)
    assert (status, said) == (130, "interrupted\n") and seconds < LATE
    assert list(tmp_path.iterdir()) == []


def test_another_interrupt_on_the_way_out_does_not_stop_the_clearing(tmp_path):
    body = f"abandon = scratch.abandon\nscratch.abandon = lambda: ({INTERRUPT}, abandon())\n{LOST['destructor']}"
    assert run(body, tmp_path)[:2] == (130, "interrupted\n") and list(tmp_path.iterdir()) == []


def test_an_interrupt_that_is_received_is_left_to_the_program(tmp_path):
    assert run(INTERRUPT, tmp_path)[:2] == (3, "")


def test_whoever_handles_or_ignores_interrupts_is_left_alone(tmp_path):
    for handler in ("signal.SIG_IGN", "lambda *_: None"):
        body = f"signal.signal(signal.SIGINT, {handler})\n{INTERRUPT}\ntime.sleep(0.5)"
        assert run(body, tmp_path)[:2] == (0, "")


def test_other_exceptions_in_callbacks_are_still_printed(tmp_path):
    status, said, _ = run("type('A', (), {'__del__': lambda _: 1 / 0})()", tmp_path)
    assert status == 0 and "ZeroDivisionError" in said

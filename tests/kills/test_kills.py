"""A few kills of every kind; `python -m tests.kills` goes on for longer, and kills the other commands as well."""

from __future__ import annotations

import subprocess
import sys

import pytest

from tests.drawn.places import ROOT


@pytest.mark.slow
def test_commands_that_are_killed_come_to_what_an_undisturbed_run_writes():
    argv = ["--command", "prepare", "segment", "--times", "3", "--seed", "1"]
    done = subprocess.run([sys.executable, "-m", "tests.kills", *argv], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count(": 3 kills (") == 2

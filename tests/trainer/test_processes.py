"""What is known of processes."""

from __future__ import annotations

import subprocess
import sys

from tests.drawn.places import ROOT

PROGRAM = "from trainer import processes; print(processes.peak_memory())"


def test_the_peak_memory_of_a_program_is_not_that_of_the_one_that_started_it():
    ballast = bytearray(b"1") * (64 << 20)
    child = subprocess.run([sys.executable, "-c", PROGRAM], cwd=ROOT, stdout=subprocess.PIPE, check=True)
    assert 4 << 20 < int(child.stdout) < len(ballast)

"""What is known of processes."""

from __future__ import annotations

import subprocess
import sys

from tests.drawn.places import ROOT
from trainer import processes

PROGRAM = "from trainer import processes; print(processes.peak_memory())"


def test_the_peak_memory_of_a_program_is_not_that_of_the_one_that_started_it():
    ballast = bytearray(b"1") * (64 << 20)
    child = subprocess.run([sys.executable, "-c", PROGRAM], cwd=ROOT, stdout=subprocess.PIPE, check=True)
    assert 4 << 20 < int(child.stdout) < len(ballast)


def test_the_end_of_a_child_tells_its_status_and_what_it_alone_took():
    ballast = bytearray(b"1") * (64 << 20)
    program = "import time; block = bytearray(b'1') * (16 << 20); time.sleep(0.5); exit(3)"
    status, seconds, memory = processes.end(subprocess.Popen([sys.executable, "-c", program]).pid)
    assert status == 3 and 0 < seconds < 5 and 16 << 20 < memory < len(ballast)

"""What is known of processes."""

from __future__ import annotations

import os
import platform
import resource
import subprocess
import sys
import threading

import pytest

from tests.drawn.places import ROOT
from trainer import processes

GLIBC = pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="other C libraries have no such function")
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


@GLIBC
def test_released_memory_is_the_systems_again():
    """Blocks between others that stay are kept by glibc when they are freed."""
    program = """
from trainer import processes
def held():
    with open("/proc/self/status") as file:
        return next(int(line.split()[1]) for line in file if line.startswith("VmRSS:")) / 1024
blocks = [bytearray(b'1') * 100_000 for _ in range(1000)]
last = blocks[-1]
before = held()
del blocks
processes.release_memory()
print(before - held())
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, cwd=ROOT, check=True)
    assert float(done.stdout) > 80


@GLIBC
def test_the_memory_of_an_image_is_kept_for_the_next_one():
    """Otherwise each needs thousands of new pages, in a thread even of images of a megapixel."""
    program = """
import resource, threading
import numpy as np
from trainer import processes
from trainer.formats import images
data = images.encode_jpeg(np.full((1024, 2048, 3), 100, np.uint8))
processes.keep_memory()
def work():
    for n in range(22):
        if n == 2:
            begin = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
        images.decode_image(data)
    print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - begin)
thread = threading.Thread(target=work)
thread.start()
thread.join()
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, cwd=ROOT, check=True)
    assert int(done.stdout) < 1000


def faults_of_threads(call: str) -> list[int]:
    """New pages of eight threads that decode an image of 1024x2048 one after another; `call` precedes them."""
    program = f"""
import resource, threading
import numpy as np
from trainer import processes
from trainer.formats import images
data = images.encode_jpeg(np.full((1024, 2048, 3), 100, np.uint8))
{call}
turn, end = threading.Condition(), threading.Barrier(8)
done = []
def work(number):
    with turn:
        turn.wait_for(lambda: len(done) == number)
        begin = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
        images.decode_image(data)
        done.append(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - begin)
        turn.notify_all()
    end.wait()
threads = [threading.Thread(target=work, args=(number,)) for number in range(8)]
for thread in threads: thread.start()
for thread in threads: thread.join()
print(*done)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, cwd=ROOT, check=True)
    return [int(faults) for faults in done.stdout.split()]


@GLIBC
def test_the_memory_of_an_image_is_kept_for_the_next_one_of_any_thread():
    """Otherwise every thread keeps that of its own images, and none of the others can use it."""
    kept, usual = faults_of_threads("processes.keep_memory()"), faults_of_threads("")
    # The libraries' own threads may have memory of their own already, which one of the eight takes.
    assert max(kept[2:]) < 200 < min(usual)


@pytest.mark.parametrize(
    ("program", "argv"),
    [("from pipelines.cli import main", ["--version"]), ("from pipelines.runner.worker import main", ["1"])],
)
def test_a_program_keeps_memory_before_it_has_other_threads(program, argv):
    """Those that begin earlier have heaps of their own."""
    call = "processes.keep_memory = lambda: [print(threading.active_count(), flush=True), os._exit(0)]; main()"
    lines = ["import os, sys, threading", "from trainer import processes", program, call]
    command = [sys.executable, "-c", "\n".join(lines), *argv]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, cwd=ROOT, check=True)
    assert done.stdout == "1\n"


def test_threads_that_are_not_allowed_are_missed_before_they_are_needed(monkeypatch):
    start, others = threading.Thread.start, threading.active_count()
    processes.check_threads(5)

    def start_three(thread):
        if threading.active_count() - others == 3:
            raise RuntimeError("can't start new thread")
        start(thread)

    monkeypatch.setattr(threading.Thread, "start", start_three)
    processes.check_threads(3)
    with pytest.raises(MemoryError, match="no more threads are allowed here"):
        processes.check_threads(4)
    assert threading.active_count() == others


def is_free(number: int) -> bool:
    try:
        os.fstat(number)
    except OSError:
        return True
    return False


def test_files_that_may_not_be_opened_are_missed_before_they_are_needed():
    processes.check_files(5)
    next_one, limits = os.dup(0), resource.getrlimit(resource.RLIMIT_NOFILE)
    os.close(next_one)
    free = sum(map(is_free, range(next_one + 3)))
    resource.setrlimit(resource.RLIMIT_NOFILE, (next_one + 3, limits[1]))
    try:
        processes.check_files(free)
        with pytest.raises(OSError, match="Too many open files"):
            processes.check_files(free + 1)
        processes.check_files(free)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)

"""The CRF's engine in threads and forked processes: the same bits, Python's lock released, no memory lost."""

from __future__ import annotations

import hashlib
import os
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from pipelines.crf import refine as crf
from pipelines.crf.engine import builds
from tests.drawn.crf_inputs import BUILDS, DEFAULT, draw_image, draw_softmax


def _digest(seed: int) -> str:
    image, probabilities = draw_image("noise", 50 + seed, 70, seed), draw_softmax(50 + seed, 70, 2 + 3 * seed, seed)
    return hashlib.sha256(crf.refine(image, probabilities, DEFAULT).tobytes()).hexdigest()


def test_the_same_bits_on_every_run_and_in_threads(build):
    expected = [_digest(seed) for seed in range(6)]
    assert [_digest(seed) for seed in range(6)] == expected
    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(_digest, [*range(6)] * 4)) == expected * 4


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
def test_the_same_bits_after_fork_while_threads_refine(build):
    expected, stop = _digest(3), threading.Event()

    def keep_busy():
        while not stop.is_set():
            _digest(5)

    busy = [threading.Thread(target=keep_busy) for _ in range(2)]
    for thread in busy:
        thread.start()
    try:
        children = []
        for _ in range(5):
            child = os.fork()
            if not child:
                status = 1
                try:
                    status = 0 if _digest(3) == expected else 2
                finally:
                    os._exit(status)
            children.append(child)
        statuses = [_wait(child) for child in children]
    finally:
        stop.set()
        for thread in busy:
            thread.join()
    assert statuses == [0] * 5
    assert _digest(3) == expected


def _wait(child: int) -> int:
    """Exit status of a child process, which is killed when it takes longer than a minute (it hangs)."""
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        ended, status = os.waitpid(child, os.WNOHANG)
        if ended:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.01)
    os.kill(child, 9)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def test_refiners_threads_give_the_same(build):
    pool = crf.Refiner(2, DEFAULT)
    images = [(draw_image("scene", 40, 60, seed), draw_softmax(40, 60, 5, seed)) for seed in range(8)]
    try:
        futures = [pool.submit(*pair) for pair in images]
        for pair, future in zip(images, futures, strict=True):
            refined, seconds = future.result(60)
            np.testing.assert_array_equal(refined, crf.refine(*pair, DEFAULT))
            assert 0 < seconds < 10
        with pytest.raises(ValueError, match="NaN"):
            pool.submit(images[0][0], images[0][1] * np.nan).result(60)
    finally:
        pool.close()


def test_python_goes_on_while_a_image_is_refined(build):
    image, probabilities = draw_image("noise", 240, 320), draw_softmax(240, 320, 21)
    entered, done, steps = threading.Event(), threading.Event(), []

    def count():
        entered.set()
        while not done.is_set():
            steps.append(1)
            time.sleep(0.001)

    thread = threading.Thread(target=count)
    thread.start()
    entered.wait()
    before = len(steps)
    crf.refine(image, probabilities, DEFAULT)
    after = len(steps)
    done.set()
    thread.join()
    assert after - before >= 10  # with the lock held there would be time for one step before and one after


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="resident memory is read from /proc")
def test_memory_does_not_grow(build):
    images = [
        (draw_image("noise", 8 + size, 40), draw_softmax(8 + size, 40, labels))
        for size in (0, 5, 24)
        for labels in (2, 5, 21)
    ]
    sizes = [{"sxy_gaussian": 3.0 + i} for i in range(10)]  # more lattices of positions than are kept

    def resident_after(count: int) -> int:
        for i in range(count):
            image, probabilities = images[i % len(images)]
            crf.refine(image, probabilities, replace(DEFAULT, iterations=1, **sizes[i % len(sizes)]))
        with open("/proc/self/statm") as file:
            return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")

    first = resident_after(200)
    assert resident_after(1800) - first < 2 << 20


def test_builds_are_what_was_compiled_for_this_processor():
    assert list(BUILDS)[-1] == "baseline"
    assert builds.load() is builds.builds()[0]
    assert set(BUILDS) <= {"avx512", "avx2", "baseline"}
    assert all(f"pipelines.crf.engine.{name}" in sys.modules for name in BUILDS)

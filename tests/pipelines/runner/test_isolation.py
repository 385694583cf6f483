"""An image that fails is tried again alone, then rejected."""

from __future__ import annotations

import functools
import gc
import threading
import time
import weakref

import numpy as np
import pytest

from pipelines.runner import isolation
from pipelines.runner.isolation import Failed, attempt
from pipelines.runner.subprocesses import LONGEST, cause
from trainer import storage
from trainer.accounts import UnbalancedError
from trainer.options import InputError


class Known(ValueError):
    pass


def failing(*errors):
    """A work that raises these errors, one at a call, and then returns how often it was called."""
    calls = []

    def work():
        calls.append(None)
        if len(calls) <= len(errors):
            raise errors[len(calls) - 1]
        return len(calls)

    work.calls = calls
    return work


def test_attempt_returns_the_result():
    assert attempt(failing()) == 1


@pytest.mark.parametrize("error", [MemoryError("9 GiB"), RuntimeError("CRF"), TypeError("EXIF"), OSError("disk")])
def test_unexpected_errors_are_retried_once(error):
    assert attempt(failing(error)) == 2


def test_a_second_failure_says_the_cause_in_one_line():
    with pytest.raises(Failed) as failed:
        attempt(failing(RuntimeError("first"), MemoryError("Unable to\n  allocate 9 GiB")))
    assert failed.value.reason == "MemoryError: Unable to allocate 9 GiB; tried alone"


@pytest.mark.parametrize(
    "error",
    [
        Known("bad file"),
        InputError("changed"),
        storage.Unavailable("down"),
        UnbalancedError("lost"),
        KeyboardInterrupt(),
        SystemExit(3),
        GeneratorExit(),
    ],
)
def test_known_and_fatal_errors_are_raised_at_once(error):
    work = failing(error)
    with pytest.raises(type(error)) as raised:
        attempt(work, known=(Known, (KeyError,)))
    assert raised.value is error and len(work.calls) == 1


def test_memory_of_the_first_try_is_free_at_the_second():
    held = []

    def work():
        if held:
            gc.disable()
            assert held[0]() is None
            return "done"
        array = np.zeros(10)
        held.append(weakref.ref(array))
        raise MemoryError

    try:
        assert attempt(work) == "done"
    finally:
        gc.enable()


def test_a_cause_is_never_longer_than_a_few_lines():
    assert len(cause(ValueError("x" * 10_000))) == LONGEST
    assert cause(MemoryError()) == "MemoryError"


def in_threads(count, work):
    threads = [threading.Thread(target=work, args=(number,), daemon=True) for number in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    assert not any(thread.is_alive() for thread in threads), "deadlock"


def test_attempts_run_side_by_side():
    meeting = threading.Barrier(4, timeout=60)
    in_threads(4, lambda number: attempt(meeting.wait))
    assert not meeting.broken


def test_a_second_try_runs_alone():
    at_work, seen = set(), []

    def work(number, tries):
        tries.append(None)
        at_work.add(number)
        time.sleep(0.005)
        if len(tries) == 2:
            seen.append(set(at_work))
        at_work.discard(number)
        if number % 2 and len(tries) == 1:
            raise MemoryError

    def thread(number):
        for _ in range(5):
            attempt(functools.partial(work, number, []))

    in_threads(6, thread)
    assert len(seen) == 15 and all(len(numbers) == 1 for numbers in seen)


def test_nested_attempts_that_fail_in_every_thread_end(monkeypatch):
    monkeypatch.setattr(isolation.gc, "collect", lambda: None)  # which takes its time where much is loaded
    failures = []

    def thread(number):
        for _ in range(10):
            try:
                attempt(lambda: attempt(failing(*[MemoryError("inner")] * 9)))
            except Failed as error:
                failures.append(error.reason)

    in_threads(6, thread)
    assert failures == ["MemoryError: inner; tried alone"] * 60

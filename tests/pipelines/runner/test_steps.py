"""The time of a worker by steps, on a clock that the test turns."""

from __future__ import annotations

import threading
import time

import pytest

from pipelines.runner import steps
from pipelines.runner.steps import step, timed, watched, worked


def turned(monkeypatch, name, now):
    """Stops the clock of that name at `now`; returns what lets time pass."""

    def turn(seconds):
        nonlocal now
        now += seconds

    monkeypatch.setattr(steps.time, name, lambda: now)
    return turn


@pytest.fixture
def wait(monkeypatch):
    return turned(monkeypatch, "perf_counter", 0.0)


@pytest.fixture
def spend(monkeypatch):
    """Lets the processor work."""
    return turned(monkeypatch, "process_time", 7.0)


def test_a_step_counts_without_the_steps_within_it(wait):
    with watched() as times:
        wait(100)
        for _ in range(2):
            with step("write"):
                wait(1)
                with step("encode"):
                    wait(4)
                wait(2)
        with step("read"):
            wait(8)
    assert times.wall == {"write": 6, "encode": 8, "read": 8}


def test_a_step_that_fails_counts_and_those_of_others_do_not(wait):
    def work():
        with step("network"):
            wait(16)

    with watched() as times:
        with pytest.raises(ValueError), step("decode"):
            wait(3)
            raise ValueError
        thread = threading.Thread(target=work)
        thread.start()
        thread.join()
    with step("read"):
        wait(5)
    assert times.wall == {"decode": 3}


def test_the_processor_s_time_is_given_out_once_to_workers_that_share_a_process(spend):
    begun, over = threading.Event(), threading.Event()
    of_other = []

    def other():
        with watched() as times:
            begun.set()
            over.wait(60)
        of_other.append(times.processor["all"])

    spend(100)
    with watched() as times:
        spend(1)
        thread = threading.Thread(target=other)
        thread.start()
        begun.wait(60)
        spend(2)
    spend(4)
    over.set()
    thread.join()
    spend(200)
    assert (times.processor["all"], of_other) == (3, [4])
    with watched() as later:
        spend(8)
    assert later.processor == {"all": 8}


def test_what_other_threads_and_processes_have_worked_counts(spend):
    worked("CRF", 5.0)
    with watched() as times:
        worked("CRF", 1.0)
        worked("CRF", 2.0, in_process=False)
        spend(8)
    worked("CRF", 5.0)
    assert times.processor == {"CRF": 3.0, "all": 10.0} and not times.wall


def test_work_is_timed_by_the_processor_and_not_by_the_clock():
    result, seconds = timed(lambda duration: time.sleep(duration) or "done", duration=0.2)
    assert result == "done" and 0 <= seconds < 0.1

"""The time of a worker by steps, on a clock that the test turns."""

from __future__ import annotations

import threading

import pytest

from pipelines.runner import steps
from pipelines.runner.steps import step, watched


@pytest.fixture
def wait(monkeypatch):
    """Lets time pass."""
    now = [0.0]
    monkeypatch.setattr(steps.time, "perf_counter", lambda: now[0])

    def wait(seconds):
        now[0] += seconds

    return wait


def test_a_step_counts_without_the_steps_within_it(wait):
    with watched() as seconds:
        wait(100)
        for _ in range(2):
            with step("write"):
                wait(1)
                with step("encode"):
                    wait(4)
                wait(2)
        with step("read"):
            wait(8)
    assert seconds == {"write": 6, "encode": 8, "read": 8}


def test_a_step_that_fails_counts_and_those_of_others_do_not(wait):
    def work():
        with step("network"):
            wait(16)

    with watched() as seconds:
        with pytest.raises(ValueError), step("decode"):
            wait(3)
            raise ValueError
        thread = threading.Thread(target=work)
        thread.start()
        thread.join()
    with step("read"):
        wait(5)
    assert seconds == {"decode": 3}

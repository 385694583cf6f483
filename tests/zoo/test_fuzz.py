"""Everything that parses bytes gives a value or the project's own error for what is spoilt at random."""

from __future__ import annotations

import pytest

from tests.zoo import fuzz
from tests.zoo.fuzz import Runner
from tests.zoo.targets import TARGETS

SEED = 20
CASES = 40
"""Of each target; about ten seconds in all. `python -m tests.zoo.fuzz --minutes 60` runs many more."""


@pytest.fixture(scope="module")
def runner():
    with Runner(SEED) as runner:
        yield runner


@pytest.mark.parametrize("name", TARGETS)
def test_corrupted_bytes_give_a_value_or_a_known_error(runner, name):
    assert runner.run(name, range(CASES)) == []


@pytest.mark.slow
@pytest.mark.parametrize("name", TARGETS)
def test_many_corrupted_bytes_give_a_value_or_a_known_error(runner, name):
    assert runner.run(name, range(CASES, 5 * CASES)) == []


@pytest.mark.slow
def test_corrupted_archives_and_checkpoints_give_a_value_or_a_known_error():
    with Runner(SEED, "tests.zoo.heavy") as runner:
        assert [found for name in runner.targets for found in runner.run(name, range(CASES))] == []


def test_forbidden_behaviour_of_cases_is_detected(monkeypatch):
    found = {}
    with Runner(SEED, "tests.zoo.crashing") as runner:
        for name in runner.targets:
            monkeypatch.setattr(fuzz, "PATIENCE", 3.0 if name == "hanging" else 300.0)
            found[name] = [finding.what for finding in runner.run(name, range(1))]
    assert found.pop("good") == []
    expected = {"broken": "IndexError", "slow": "took 1", "deadly": "with -11", "greedy": "MemoryError"}
    expected |= {"hanging": "no answer in 3 s"}
    for name, what in found.items():
        assert len(what) == 1 and expected[name] in what[0], (name, what)

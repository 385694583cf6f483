"""Rows that do not fit in memory are the same rows, in the same order."""

from __future__ import annotations

import random

import pytest

from pipelines.inputs import rows
from pipelines.inputs.rows import Rows, ordered

NAMES = [("ä\udcff", 1), ("b", 2**70), ("a", 3), ("a", -1), ("", 0), ("two\nlines", 0)]


@pytest.fixture(params=[(10**6, 3, 2), (6, 3, 2), (4, 2, 3), (1, 1, 2)])
def held(request, monkeypatch: pytest.MonkeyPatch) -> None:
    """All rows in memory, some, and none, merged in one step or in several."""
    for name, value in zip(("HELD", "BLOCK", "FAN_IN"), request.param, strict=True):
        monkeypatch.setattr(rows, name, value)


def test_rows_are_read_as_they_were_added_and_again(held: None) -> None:
    added = Rows(NAMES)
    one, other = iter(added), iter(added)
    assert [next(one), *other, *one] == [NAMES[0], *NAMES, *NAMES[1:]]
    added.extend([("c", 1)])
    assert [*added] == [*NAMES, ("c", 1)] and len(added) == 7
    assert [added[index] for index in (0, 3, 6, -1, -7)] == [[*added][index] for index in (0, 3, 6, -1, -7)]
    for span in ((0, 7), (2, 2), (1, 5), (5, 7)):
        assert [*added.span(*span)] == [*added][slice(*span)]
    with pytest.raises(IndexError):
        added[7]
    assert [*Rows()] == [] and len(Rows()) == 0


@pytest.mark.parametrize("count", [0, 1, 7, 50])
def test_rows_come_in_order(held: None, count: int) -> None:
    drawn = [(f"{random.Random(number).random()}", number) for number in range(count)] + NAMES
    assert [*ordered(iter(drawn))] == sorted(drawn)
    assert [*ordered(sorted(drawn))] == sorted(drawn)
    assert [*ordered([*sorted(drawn), ("", 0)])] == sorted([*drawn, ("", 0)])

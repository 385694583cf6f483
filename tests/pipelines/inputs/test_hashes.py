"""Hashes that do not fit in memory are the same hashes."""

from __future__ import annotations

import random
from collections import Counter

import numpy as np
import pytest

from pipelines.inputs import hashes
from pipelines.inputs.hashes import Hashes, hashed, places_of, repeated


@pytest.fixture(params=[1 << 22, 7, 1])
def held(request, monkeypatch: pytest.MonkeyPatch) -> None:
    """All hashes in memory, some, and none."""
    monkeypatch.setattr(hashes, "HELD", request.param)


@pytest.mark.parametrize("count", [0, 1, 6, 7, 500])
def test_what_occurs_more_than_once_is_found_wherever_it_is_kept(held, count):
    names = [f"{random.Random(number).randrange(100)}" for number in range(count)]
    expected = {hash(name) for name, times in Counter(names).items() if times > 1}
    assert repeated(iter(names)) == expected
    one_by_one = Hashes()
    for name in names:
        one_by_one.add(name)
    assert one_by_one.repeated() == expected == one_by_one.repeated()
    one_by_one.extend(["new", "new"])
    assert one_by_one.repeated() == expected | {hash("new")}


def test_names_are_looked_up_among_others():
    known = np.sort(hashed(["a", "b", "c"]))
    places, are_there = places_of(hashed(["b", "z", "a"]), known)
    assert are_there.tolist() == [True, False, True] and known[places[0]] == hash("b")
    assert places_of(hashed(["a"]), hashed([]))[1].tolist() == [False]

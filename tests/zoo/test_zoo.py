"""Every case of the zoo does what its table says, see `tests.zoo.engine`."""

from __future__ import annotations

import pytest

from tests.zoo.areas import AREAS
from tests.zoo.engine import at_hand, faults

CASES = [
    pytest.param(area, case, id=f"{area.title}: {case.name}", marks=pytest.mark.slow if case.slow else ())
    for area in AREAS
    for case in area.cases
]


@pytest.fixture(scope="session")
def worlds(tmp_path_factory):
    """Makes what an area's cases work on, once for all areas with the same."""
    made = {}

    def world(area):
        if area.world not in made:
            made[area.world] = tmp_path_factory.mktemp("world") / "world"
            made[area.world].mkdir()
            area.world(made[area.world])
        return made[area.world]

    return world


@pytest.mark.parametrize(("area", "case"), CASES)
def test_case(area, case, worlds, tmp_path):
    with at_hand(area.drawn):
        found = faults(case, worlds(area), tmp_path)
    assert not found, "\n".join(found)

"""docs/zoo.md is what the tables say, and they say enough."""

from __future__ import annotations

import importlib.util

from pipelines.cli import COMMANDS
from tests.drawn.places import ROOT
from tests.zoo.areas import AREAS

CASES = [case for area in AREAS for case in area.cases]
NOT_HELD = {"submit", "plan", "select"}
"""Commands with cases of their own elsewhere."""


def test_the_page_is_that_of_the_tables():
    spec = importlib.util.spec_from_file_location("zoo_page", ROOT / "docs" / "zoo.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    assert (ROOT / "docs" / "zoo.md").read_text() == module.page(), "run `make docs`"


def test_there_are_many_kinds_and_every_command_meets_some():
    assert sum(max(1, len(case.rows)) for case in CASES) >= 600
    assert {case.command.split()[0] for case in CASES if case.command} >= COMMANDS.keys() - NOT_HELD

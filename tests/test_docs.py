from __future__ import annotations

import importlib
import re

import pytest

from tests.drawn.places import ROOT
from trainer.options import markdown

README = (ROOT / "README.md").read_text()

TABLES = {
    "prepare": "pipelines.prepare.command:PrepareOptions",
    "train": "trainer.train.command:TrainOptions",
    "import-weights": "trainer.weights.checkpoints:ImportOptions",
    "tune-crf": "pipelines.tune_crf.command:TuneOptions",
    "segment": "pipelines.segment.job:SegmentOptions",
    "evaluate": "pipelines.evaluate.command:EvaluateOptions",
    "demo": "pipelines.demo.command:DemoOptions",
}


@pytest.mark.parametrize("command", TABLES)
def test_option_tables_hold_every_flag_as_the_command_has_it(command):
    module, _, name = TABLES[command].partition(":")
    table = markdown(getattr(importlib.import_module(module), name))
    found = re.search(rf"<!-- options: {command} -->\n(.*?)\n<!-- end -->", README, re.DOTALL)
    assert found, f"README.md has no table of the options of {command}"
    assert found.group(1).strip() == table


def test_files_the_readme_points_to_exist():
    for target in re.findall(r"\]\((?!http|#)([^)#]+)", README):
        assert (ROOT / target).exists(), target
    for target in re.findall(r'src="(?!http)([^"]+)"', README):
        assert (ROOT / target).exists(), target


def test_the_two_first_commands_are_targets_of_the_makefile():
    makefile = (ROOT / "Makefile").read_text()
    commands = re.findall(r"^make (\w+)", README, re.MULTILINE)
    assert commands[:2] == ["demo", "test"]
    for target in commands:
        assert re.search(rf"^{target}:", makefile, re.MULTILINE), target
    assert re.search(r"^make test$", (ROOT / ".ci/run").read_text(), re.MULTILINE)

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

from pipelines import cli
from tests.drawn.places import ROOT


def imported(path: Path) -> set[str]:
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            names.add(node.module)
    return {name.split(".")[0] for name in names}


def test_no_import_points_upstream():
    for path in (ROOT / "trainer").rglob("*.py"):
        assert not imported(path) & {"pipelines", "apache_beam", "tests"}, path
    for path in (ROOT / "pipelines").rglob("*.py"):
        assert "tests" not in imported(path), path


def test_preparing_and_evaluating_do_not_load_tensorflow():
    code = (
        "import sys, pipelines.prepare.command, pipelines.evaluate.command;"
        "import pipelines.records.command, pipelines.tune_crf.command;"
        "sys.exit(bool({'tensorflow', 'keras', 'jax', 'torch'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT).returncode == 0


def test_usage_names_every_command(capsys):
    assert cli.main(["--help"]) == 0
    text = capsys.readouterr().out
    assert all(f"  {name} " in text for name in cli.COMMANDS)
    assert cli.main([]) == 2


def test_unknown_commands_are_refused(capsys):
    assert cli.main(["prepair"]) == 2
    assert "unknown command 'prepair'" in capsys.readouterr().err


@pytest.mark.parametrize("command", cli.COMMANDS)
def test_every_command_teaches_its_use(command, capsys):
    try:
        status = cli.main([command, "--help"])
    except SystemExit as stop:  # argparse ends the program after its help
        status = stop.code
    assert status == 0
    text = capsys.readouterr().out
    assert f"deeplab {command}" in text
    assert len(text.splitlines()) > 8


@pytest.mark.parametrize(
    "argv",
    [
        ["prepare", "--input", "nowhere", "--output", "out"],
        ["records", "verify", "nowhere"],
        ["train", "--records", "nowhere", "--output", "out"],
        ["import-weights", "nowhere.ckpt", "--palette", "voc", "--output", "out"],
        ["tune-crf", "--model", "nowhere", "--records", "nowhere"],
        ["segment", "--input", "nowhere", "--model", "nowhere", "--output", "out"],
        ["evaluate", "--masks", "nowhere", "--labels", "nowhere", "--palette", "voc", "--output", "out"],
    ],
)
def test_missing_inputs_are_said_in_one_line_with_status_2(argv, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert cli.main(argv) == 2
    error = capsys.readouterr().err
    assert error.startswith(f"deeplab {argv[0]}: error: ") and "nowhere" in error
    assert "Traceback" not in error
    assert list(tmp_path.iterdir()) == []

"""The command line: commands and verbs are found, help is printed, errors become messages and statuses."""

from __future__ import annotations

import importlib
import os
import subprocess
import sys

import pytest

from pipelines import __version__, cli
from trainer.accounts import UnbalancedError
from trainer.options import InputError

VERBS = list(cli.options_of("records").VERBS)


def help_of(argv, capsys):
    """Text and status of `deeplab ARGV --help`."""
    try:
        status = cli.main([*argv, "--help"])
    except SystemExit as stop:  # argparse ends the program after its help
        status = stop.code
    printed = capsys.readouterr()
    assert not printed.err
    return printed.out, status


def test_usage_names_every_command(capsys):
    assert cli.main(["--help"]) == 0
    text = capsys.readouterr().out
    assert all(f"  {name} " in text for name in cli.COMMANDS)
    assert cli.main([]) == 2


def test_the_version_is_printed(capsys):
    assert cli.main(["--version"]) == 0
    assert capsys.readouterr().out == f"deeplab {__version__}\n"


@pytest.mark.parametrize("argv", [["prepair"], ["records", "verfy", "x"]])
def test_unknown_commands_and_verbs_are_refused(argv, capsys):
    assert cli.main(argv) == 2
    assert f"unknown {'verb' if len(argv) > 1 else 'command'} {argv[-2:][0]!r}" in capsys.readouterr().err


@pytest.mark.parametrize("command", cli.COMMANDS)
def test_every_command_teaches_its_use(command, capsys):
    text, status = help_of([command], capsys)
    assert status == 0
    assert text.startswith(f"usage: deeplab {command} ")
    assert "\nexamples:\n" in text and f"  deeplab {command} " in text


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_teaches_its_use(verb, capsys):
    text, status = help_of(["records", verb], capsys)
    assert status == 0
    assert text.startswith(f"usage: deeplab records {verb} FOLDER ") and "\nexamples:\n" in text


def test_a_command_with_verbs_lists_them(capsys):
    text, status = help_of(["records"], capsys)
    assert status == 0 and all(f"  {verb} " in text for verb in VERBS)


@pytest.mark.parametrize(
    ("error", "status", "message"),
    [
        (InputError("no such folder"), 2, "deeplab demo: error: no such folder"),
        (UnbalancedError("3 images != 2 written"), 1, "deeplab demo: error: 3 images != 2 written"),
        (KeyboardInterrupt(), 130, "deeplab demo: interrupted; run the same command again to resume"),
    ],
)
def test_errors_become_messages_and_statuses(error, status, message, monkeypatch, capsys):
    def fail(options, flags):
        raise error

    monkeypatch.setattr(importlib.import_module("pipelines.demo.command"), "run", fail)
    assert cli.main(["demo"]) == status
    assert capsys.readouterr().err.strip() == message


def test_a_reader_that_has_seen_enough_ends_the_command_quietly():
    command = f"{sys.executable} -m pipelines.cli prepare --help | true; exit ${{PIPESTATUS[0]}}"
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, env=os.environ)
    assert done.returncode in (0, 120) and "Traceback" not in done.stderr

"""The command line: commands and verbs are found, help is printed, errors become messages and statuses."""

from __future__ import annotations

import importlib
import os
import subprocess
import sys
import tempfile

import pytest

from pipelines import __version__, cli
from tests.drawn.places import ROOT
from trainer import storage
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
def test_arguments_that_are_not_utf_8_are_refused(command, capsys):
    """Beam cannot send them: a job whose errors name such a folder would wait for ever."""
    assert cli.main([command, "--output", "a\udcff"]) == 2
    assert capsys.readouterr().err == f"deeplab {command}: error: a\\udcff is not UTF-8; rename the file or folder\n"


def test_a_working_directory_that_is_not_utf_8_is_refused(tmp_path, monkeypatch, capsys):
    place = tmp_path / os.fsdecode(b"latin-\xe4")
    place.mkdir()
    monkeypatch.chdir(place)
    assert cli.main(["records", "ls", "out/records"]) == 2
    assert "latin-\\udce4 is not UTF-8; rename the file or folder" in capsys.readouterr().err


def test_a_working_directory_that_is_gone_is_refused(tmp_path, monkeypatch, capsys):
    place = tmp_path / "gone"
    place.mkdir()
    monkeypatch.chdir(place)
    place.rmdir()
    assert cli.main(["records", "ls", "out/records"]) == 2
    assert "the current folder no longer exists" in capsys.readouterr().err


REQUIRED = {
    "demo": [],
    "prepare": ["--input", "x"],
    "records": ["export", "x"],
    "train": ["--records", "x"],
    "import-weights": ["x", "--palette", "voc"],
    "segment": ["--input", "x", "--model", "x"],
    "evaluate": ["--labels", "x", "--masks", "x", "--palette", "voc"],
}


@pytest.mark.parametrize("command", REQUIRED)
@pytest.mark.parametrize("below", ["", "/", "/below/it"])
def test_an_output_folder_that_is_a_file_or_lies_below_one_is_refused(command, below, tmp_path, capsys):
    (tmp_path / "file").write_text("mine")
    output = f"{tmp_path}/file{below}"
    assert cli.main([command, *REQUIRED[command], *output_flag(command, output)]) == 2
    assert f"{output} cannot be written to: {tmp_path}/file is not a folder" in capsys.readouterr().err
    assert (tmp_path / "file").read_text() == "mine"


@pytest.mark.parametrize("command", REQUIRED)
def test_an_empty_output_is_not_the_folder_of_the_call(command, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert cli.main([command, *REQUIRED[command], *output_flag(command, "")]) == 2
    assert "output must not be empty" in capsys.readouterr().err.lower()
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("command", REQUIRED)
@pytest.mark.parametrize(
    "address", ["s3://bucket/out", "hdfs://host/out", "file:///out", "GS://bucket/out", "gs:/b/out"]
)
def test_addresses_of_other_storage_are_not_taken_for_folders(command, address, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert cli.main([command, *REQUIRED[command], *output_flag(command, address)]) == 2
    assert f"{address}: expected a local path or a gs:// address" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("command", REQUIRED)
def test_an_address_without_a_bucket_is_not_taken_for_a_folder(command, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert cli.main([command, *REQUIRED[command], *output_flag(command, "gs://")]) == 2
    assert "gs:// names no bucket; expected gs://BUCKET/FOLDER" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def output_flag(command: str, output: str) -> list[str]:
    return [output] if command == "records" else ["--output", output]


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
        (storage.Unavailable("gs://b/x: 503 for 5 minutes"), 75, "deeplab demo: error: gs://b/x: 503 for 5 minutes"),
        (
            MemoryError("3 GiB"),
            1,
            "deeplab demo: error: there is not enough memory (3 GiB); finished outputs are kept, run the same "
            "command again with more memory or threads to resume",
        ),
        (
            PermissionError(13, "Permission denied", "a\nb"),
            2,
            r"deeplab demo: error: a\nb: Permission denied; fix that, and run it again",
        ),
        (InputError("no a\x1b[2J\n\udcff"), 2, r"deeplab demo: error: no a\x1b[2J\n\udcff"),
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


PROGRAM = """
import importlib, sys
from pipelines import cli
def run(options, flags):
    {body}
    return 0
importlib.import_module("pipelines.demo.command").run = run
sys.exit(cli.main(["demo"]))
"""


def piped(body, shell, **environment):
    """stdout, stderr and status of a command whose `run` is `body`, its output used as `shell` says."""
    program = f"\"{sys.executable}\" -c '{PROGRAM.format(body=body)}'"
    command = f"set -o pipefail; {program} {shell}"
    env = {**os.environ, **environment}
    done = subprocess.run(["bash", "-c", command], capture_output=True, env=env, cwd=ROOT)
    return done.stdout, done.stderr.decode(), done.returncode


@pytest.mark.parametrize("lines", [1, 3, 100_000])
def test_a_command_whose_reader_has_gone_does_not_claim_to_be_done(lines):
    body = f"for number in range({lines}): print(number, flush=True)\n    import time; time.sleep(0.3); print()"
    _, said, status = piped(body, "| head -1")
    assert status == 141 and "Traceback" not in said and "Exception ignored" not in said
    assert "deeplab: stopped, because the reader of its output has gone; run the same command again to resume" in said


@pytest.mark.parametrize("arguments", ["records ls --help", "prepare --help", "--help", "--version"])
def test_a_reader_that_has_seen_enough_of_a_listing_hears_no_complaint(arguments):
    command = f"{sys.executable} -m pipelines {arguments} | true; exit ${{PIPESTATUS[0]}}"
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, cwd=ROOT)
    assert (done.returncode, done.stderr) in ((0, ""), (141, ""))


def test_control_characters_in_names_never_reach_the_terminal():
    body = (
        r"print(chr(27) + chr(0xdcff) + chr(0x202e) + chr(252)); print(chr(155), file=sys.stderr); "
        + "sys.stdout.flush()"
    )
    out, err, status = piped(body, "", PYTHONIOENCODING="utf-8")
    assert (out, err, status) == ("\\x1b\\udcff\\u202eü\n".encode(), "\\x9b\n", 0)


def test_a_terminal_that_cannot_show_a_name_gets_it_escaped():
    out, _, status = piped("print(chr(252) + chr(0x732b))", "", PYTHONIOENCODING="latin-1")
    assert (out, status) == (b"\xfc\\u732b\n", 0)


def test_a_command_with_nothing_to_do_removes_what_a_killed_one_left(tmp_path, monkeypatch):
    """It may have been killed when all was done but this."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    program = "import os, signal\nfrom trainer.files import scratch\n"
    program += "with scratch.folder('run'): os.kill(os.getpid(), signal.SIGKILL)"
    subprocess.run([sys.executable, "-c", program], env=os.environ | {"TMPDIR": str(tmp_path)}, cwd=ROOT)
    assert len(list(tmp_path.iterdir())) == 1
    monkeypatch.setattr(importlib.import_module("pipelines.demo.command"), "run", lambda options, flags: 0)
    assert cli.main(["demo"]) == 0 and not list(tmp_path.iterdir())


def test_a_failed_job_whose_threads_are_still_at_work_ends_with_its_status():
    program = """
import sys, threading, time
import cv2, numpy
from pipelines import cli
from trainer.options import InputError
image = numpy.zeros((2000, 2000), numpy.uint8)
def work():
    while True:
        cv2.GaussianBlur(image, (31, 31), 0)
def run(argv):
    for _ in range(3):
        threading.Thread(target=work, daemon=True).start()
    time.sleep(0.1)
    raise InputError("it failed")
cli.run = run
sys.argv = ["deeplab", "segment"]
sys.exit(cli.main())
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, cwd=ROOT)
    assert (done.returncode, done.stderr) == (2, "deeplab segment: error: it failed\n")


ENDED = """
import os, signal, sys, time
from pipelines import cli
from trainer.options import InputError
def run(argv):
    {body}
    raise InputError("it failed")
cli.run = run
sys.argv = ["deeplab", "segment"]
signal.signal(signal.SIGINT, signal.default_int_handler)
{before}
sys.exit(cli.main())
"""


def ended(body, shell="", before=""):
    """Standard error and status of a process whose command is `body`, and fails behind it."""
    program = f"\"{sys.executable}\" -c '{ENDED.format(body=body, before=before)}' {shell}"
    done = subprocess.run(["bash", "-c", program], capture_output=True, text=True, cwd=ROOT)
    return done.stderr, done.returncode


def test_ctrl_c_ends_a_command_with_a_line_also_where_python_drops_the_exception():
    interrupt = "signal.raise_signal(signal.SIGINT)"
    for body in (interrupt, f"""type("A", (), {{"__del__": lambda _: {interrupt}}})(); time.sleep(30)"""):
        line = "\ndeeplab segment: interrupted; run the same command again to resume\n"
        assert ended(body) == (line, 130)
    # And another one while the first is answered, and one before the command has begun.
    assert ended(f"cli.say = lambda text: {interrupt}; {interrupt}") == ("", 130)
    assert ended("pass", before=f"cli.ending.watch_interrupts = lambda title: {interrupt}") == ("", 130)


def test_a_failure_that_nobody_reads_has_its_status():
    assert ended("time.sleep(0.3)", "2>&1 | true; exit ${PIPESTATUS[0]}") == ("", 2)

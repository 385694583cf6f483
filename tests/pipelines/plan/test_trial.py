from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from pipelines.plan import trial
from pipelines.runner import partners
from tests.drawn.places import ROOT
from tests.drawn.rawset import write_rawset
from tests.drawn.segmenting import draw, save
from trainer import processes
from trainer.options import InputError


def test_a_trial_that_fails_ends_the_plan_with_its_message(tmp_path: Path):
    source = write_rawset(tmp_path / "set", {"train": 10}, 64)
    output = tmp_path / "before"
    save(output / "what the trial before it has written.png", draw(40, 56, 1))
    with pytest.raises(InputError, match="nowhere not found"):
        trial.run(["prepare", "--input", str(source / "nowhere"), "--output", str(output)], str(output), 10)
    assert not output.exists()


@pytest.mark.parametrize(("records", "has_partners"), [(1_999, False), (2_000, True)])
def test_a_trial_has_partners_if_its_whole_job_has(monkeypatch, records, has_partners):
    monkeypatch.setattr(partners, "MANY", partners.MANY)
    monkeypatch.setattr(trial.ending, "watch_parent", lambda parent: None)
    monkeypatch.setattr(sys, "argv", ["trial", str(os.getppid()), str(records), "prepare"])
    monkeypatch.setattr(trial.cli, "main", lambda: partners.number(2, items=50))
    with pytest.raises(SystemExit) as ended:
        trial.main()
    assert (sys.argv, bool(ended.value.code)) == (["trial", "prepare"], has_partners)


SLEEPER = """
import os, time
from pipelines.plan import trial

def main():
    with open("{0}/number.part", "w") as file:
        file.write(str(os.getpid()))
    os.rename("{0}/number.part", "{0}/number")
    time.sleep(600)

trial.cli.main = main
trial.main()
"""
"""A trial of a command that sleeps, and writes the number of its process."""


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_a_trial_ends_with_its_plan(number, tmp_path: Path):
    (tmp_path / "sleeper.py").write_text(SLEEPER.format(tmp_path))
    sleeper = tmp_path / "sleeper"
    sleeper.write_text(f'#!/bin/sh\nshift 2\nexec {sys.executable} {tmp_path}/sleeper.py "$@"\n')
    sleeper.chmod(0o755)
    program = "import sys\nfrom pipelines.plan import trial\n"
    program += f"sys.executable = {str(sleeper)!r}\ntrial.run(['demo'], {str(tmp_path / 'out')!r}, 10)"
    with subprocess.Popen([sys.executable, "-c", program], cwd=ROOT) as plan:
        while not (tmp_path / "number").exists():
            assert plan.poll() is None
            time.sleep(0.01)
        trial_process = processes.name(int((tmp_path / "number").read_text()))
        plan.send_signal(number)
        assert plan.wait() == -number
    for _ in range(1000):
        if not processes.is_alive(trial_process):
            break
        time.sleep(0.02)
    assert not processes.is_alive(trial_process)


def tried(tmp_path: Path, damaged: int) -> trial.Trial:
    """A trial of prepare of ten images, as many of which are `damaged`."""
    source, output = write_rawset(tmp_path / "set", {"train": 10}, 64), str(tmp_path / "records")
    for number in range(damaged):
        (source / f"images/train/a{number}.jpg").write_bytes(b"no image")
    flags = ["--input", str(source), "--output", output, "--copies", "1", "--max-reject-rate", "1"]
    return trial.run(["prepare", *flags], output, 10)


@pytest.mark.parametrize("damaged", [0, 3])
def test_a_trial_counts_the_images_that_were_rejected(damaged, tmp_path: Path):
    assert tried(tmp_path, damaged).rejected == damaged


def test_a_trial_of_which_all_was_rejected_measures_nothing(tmp_path: Path):
    expected = (
        r"all 10 images of the trial were rejected, such as \S+a0\.jpg: .+; mend the cause, or give a larger --sam"
    )
    with pytest.raises(InputError, match=expected):
        tried(tmp_path, 10)


@pytest.mark.parametrize(
    ("lines", "status", "expected"),
    [
        ("deeplab train: error: the loss is NaN\\nsaved", 1, "the loss is NaN"),
        ("Traceback:\\n  File\\nStopIteration\\n", 1, "deeplab train ended with status 1: StopIteration"),
        ("", 7, "deeplab train ended with status 7"),
    ],
)
def test_a_training_that_fails_ends_the_plan_with_its_last_words(lines, status, expected, tmp_path, monkeypatch):
    script = tmp_path / "fails"
    script.write_text(f"#!/bin/sh\nprintf '{lines}'\nexit {status}\n")
    script.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(script))
    with pytest.raises(InputError) as error:
        trial.run(["train"], str(tmp_path / "model"), 10)
    assert str(error.value) == expected

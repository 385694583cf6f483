"""Whatever one label or mask does, it becomes a reject, and all others are evaluated."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from pipelines.evaluate import sources
from tests.drawn.evaluating import PNG, evaluate, evaluation, put, rejects
from tests.drawn.places import ROOT

BAD = "bad.png"


@pytest.fixture
def root(tmp_path: Path) -> Path:
    for folder in ("labels", "masks", "images"):
        put(tmp_path / folder, "a.png", BAD, "c.png")
    return tmp_path


def test_any_error_of_a_label_becomes_its_reject(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    confusions = sources.band_confusions
    calls = []

    def fail(label, masks, classes, ignore_id):
        calls.append(len(calls))
        if len(calls) in (2, 3):  # once, and once more alone
            raise MemoryError("Unable to allocate 3 GiB")
        return confusions(label, masks, classes, ignore_id)

    monkeypatch.setattr(sources, "band_confusions", fail)
    assert evaluate(root, "--direct_num_workers", "1") == 1
    assert list(rejects(root / "out").values()) == ["MemoryError: Unable to allocate 3 GiB; tried alone"]
    assert evaluation(root / "out")["images"] == 2 and len(calls) == 4


def test_a_label_that_ran_out_of_memory_is_evaluated_alone(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    confusions, failed = sources.band_confusions, []

    def fail_once(*arguments):
        if not failed:
            failed.append(True)
            raise MemoryError
        return confusions(*arguments)

    monkeypatch.setattr(sources, "band_confusions", fail_once)
    assert evaluate(root) == 0 and evaluation(root / "out")["images"] == 3


def test_images_that_the_gallery_cannot_show_end_no_evaluation(
    root: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    (root / "images" / BAD).unlink()
    (root / "images" / BAD).mkdir()

    def refuse(*arguments):
        raise RuntimeError("no image")

    assert evaluate(root, "--gallery", "3", "--images", str(root / "images")) == 0
    monkeypatch.setattr("pipelines.pages.gallery.entry", refuse)
    assert evaluate(root, "--gallery", "3", "--images", str(root / "images")) == 0
    assert "gallery: a: RuntimeError: no image; tried alone" in capsys.readouterr().out
    assert evaluation(root / "out")["gallery"] == []


KILLER = """
import os, signal
import {module} as place

decode = place.{name}

def end(data, *arguments, **flags):
    if data == open(os.environ["DEADLY"], "rb").read():
        signal.raise_signal(signal.SIGSEGV)  # in this very thread, as faults of decoders are
    return decode(data, *arguments, **flags)

place.{name} = end
"""
"""Python imports it in every process, as `sitecustomize`."""
IN_THE_JOB = ("pipelines.evaluate.sources", "decode_ids")
IN_ITS_SAMPLE_AS_WELL = ("trainer.formats.label_images", "read_label")


@pytest.mark.parametrize("place", [pytest.param(IN_THE_JOB, marks=pytest.mark.slow), IN_ITS_SAMPLE_AS_WELL])
def test_a_label_that_ends_its_process_is_found_by_the_rerun(root: Path, place: tuple[str, str]) -> None:
    put(root / "labels", BAD, data=PNG + b"deadly")
    (root / "palette.json").write_text(
        '{"name": "two", "classes": [{"name": "a", "color": [9, 0, 0]}, {"name": "b", "color": [0, 9, 0]}]}'
    )
    (root / "sitecustomize.py").write_text(KILLER.format(module=place[0], name=place[1]))
    command = [sys.executable, "-m", "pipelines", "evaluate", "--masks"]
    command += [str(root / "masks"), "--labels", str(root / "labels"), "--palette", str(root / "palette.json")]
    command += ["--output", str(root / "out"), "--gallery", "0", "--direct_num_workers", "1"]
    environment = os.environ | {"PYTHONPATH": f"{root}{os.pathsep}{ROOT}", "DEADLY": str(root / "labels" / BAD)}
    first = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert first.returncode == -signal.SIGSEGV, first.stderr
    second = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert second.returncode == 1, second.stderr
    ((path, reason),) = rejects(root / "out").items()
    assert path == str(root / "labels" / BAD) and "SIGSEGV" in reason
    assert evaluation(root / "out")["images"] == 2
    names = {path.name for path in (root / "out").iterdir()}
    assert names == {"evaluation.json", "report.html", "rejects.jsonl", ".in-flight"}

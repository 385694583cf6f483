"""The output is a folder of its own, and nothing that others wrote is replaced in it."""

from __future__ import annotations

import contextlib
import json
from pathlib import Path

import pytest

from pipelines.evaluate import command
from pipelines.masks.stamps import Stamp, stamp_png
from tests.drawn.evaluating import PNG, evaluate, evaluation, put, rejects
from tests.drawn.held import held
from trainer.options import InputError


@pytest.fixture
def root(tmp_path: Path) -> Path:
    put(tmp_path / "labels", "a.png")
    put(tmp_path / "masks", "a.png")
    put(tmp_path / "others", "a.png")
    (tmp_path / "shortcut").symlink_to("masks")
    return tmp_path


@pytest.mark.parametrize("output", ["masks", "masks/", "shortcut", "labels", "labels/../labels", "others"])
def test_an_output_that_is_an_input_is_refused(root: Path, output: str) -> None:
    with pytest.raises(InputError, match=r"is an input folder; give a folder of its own"):
        evaluate(root, "--images", str(root / "others"), output=output)
    assert [path.name for path in (root / "masks").iterdir()] == ["a.png"]


def test_a_masks_folder_that_is_named_twice_is_refused_through_links_too(root: Path) -> None:
    for name in ("masks/", "shortcut"):
        with pytest.raises(InputError, match="--masks names a folder twice"):
            evaluate(root, "--masks", str(root / "masks"), str(root / name))


@pytest.mark.parametrize("name", ["report.html", "evaluation.json", "rejects.jsonl"])
def test_reports_of_others_are_replaced_with_overwrite_alone(root: Path, name: str) -> None:
    put(root / "out", name, data=b'{"mine": 1}')
    with pytest.raises(InputError, match=rf"{name} was not written by `deeplab evaluate`; .*--overwrite"):
        evaluate(root)
    assert (root / "out" / name).read_bytes() == b'{"mine": 1}'
    assert evaluate(root, "--overwrite") == 0 and evaluation(root / "out")["images"] == 1


def test_masks_of_another_model_that_an_earlier_run_left_in_the_folder_are_not_scored(
    root: Path, capsys: pytest.CaptureFixture
) -> None:
    for name, fingerprint in (("a", "1" * 32), ("b", "2" * 32), ("c", "1" * 32)):
        put(root / "labels", f"{name}.png")
        put(root / "masks", f"{name}.png", data=stamp_png(PNG, Stamp(fingerprint, "id")))
    assert evaluate(root) == 0 and evaluation(root / "out")["images"] == 3, "nothing says what the masks should be"
    (root / "masks/segment.json").write_text(json.dumps({"fingerprint": "1" * 32}))
    assert evaluate(root) == 1 and evaluation(root / "out")["images"] == 2
    assert rejects(root / "out") == {
        str(root / "masks/b.png"): "made with another model or other options than segment.json in its folder says; "
        "make it again with `deeplab segment`, or remove it"
    }


def test_masks_of_images_that_segment_has_rejected_since_are_not_scored(root: Path) -> None:
    put(root / "labels", "a.png", "b.png")
    put(root / "masks", "a.png", "b.png")
    (root / "masks/segment.json").write_text("{}")
    lines = [
        {"key": "b", "path": "photos/b.jpg", "stage": "segment", "reason": "truncated JPEG"},
        {"key": "photos/a.jpeg", "path": "photos/a.jpeg", "stage": "segment", "reason": "its name is taken"},
    ]
    (root / "masks/rejects.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    evaluate(root, "--max-reject-rate", "1")
    assert evaluation(root / "out")["images"] == 1
    (reason,) = rejects(root / "out").values()
    assert f"{root}/masks/b.png is not from the last" in reason and "(truncated JPEG); run it again" in reason
    (root / "masks/rejects.jsonl").write_text("")
    evaluate(root)
    assert evaluation(root / "out")["images"] == 2


def test_a_report_of_this_command_is_replaced(root: Path) -> None:
    assert evaluate(root) == 0
    put(root / "labels", "b.png")
    put(root / "masks", "b.png")
    assert evaluate(root) == 0 and evaluation(root / "out")["images"] == 2


def test_a_run_into_the_same_folder_does_not_change_what_another_works_on(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(root / "labels", "b.png")
    put(root / "masks", "b.png")
    run_job = command.run_job

    def after_another(*arguments, **named) -> bool:
        monkeypatch.setattr(command, "run_job", run_job)
        assert evaluate(root, labels="others") == 0 and evaluation(root / "out")["images"] == 1
        return run_job(*arguments, **named)

    monkeypatch.setattr(command, "run_job", after_another)
    assert evaluate(root) == 0 and evaluation(root / "out")["images"] == 2


def test_other_files_in_the_output_stay(root: Path) -> None:
    put(root / "out", "notes.txt", ".plan.jsonl")
    assert evaluate(root) == 0
    assert {path.name for path in (root / "out").iterdir()} == {
        "notes.txt",
        ".plan.jsonl",
        "evaluation.json",
        "report.html",
        "rejects.jsonl",
    }


@pytest.mark.parametrize("status", ["running", "incomplete"])
def test_masks_that_segment_has_not_finished_are_said(root: Path, status: str, capsys: pytest.CaptureFixture) -> None:
    (root / "masks/segment.json").write_text(json.dumps({"status": status}))
    assert evaluate(root) == 0
    assert f"warning: {root / 'masks'} is unfinished" in capsys.readouterr().out


def test_masks_that_segment_is_just_writing_are_said(root: Path, capsys: pytest.CaptureFixture) -> None:
    (root / "masks/segment.json").write_text(json.dumps({"status": "running"}))
    with held(root / "masks", "segment"):
        assert evaluate(root) == 0
    text = capsys.readouterr().out
    assert "masks is being written by `deeplab segment` of" in text and "is unfinished" not in text


@pytest.mark.parametrize("is_at_work", [True, False])
def test_masks_of_another_model_that_come_meanwhile_end_the_evaluation(
    root: Path, monkeypatch: pytest.MonkeyPatch, is_at_work: bool
) -> None:
    """They would be rejected as left by an earlier run, and the report would have the others alone."""
    score = command.score

    def overtaken(*arguments: object) -> object:
        (root / "masks/segment.json").write_text(json.dumps({"fingerprint": "2" * 32}))
        return score(*arguments)

    monkeypatch.setattr(command, "score", overtaken)
    (root / "masks/segment.json").write_text(json.dumps({"fingerprint": "1" * 32}))
    put(root / "masks", "a.png", data=stamp_png(PNG, Stamp("1" * 32, "id")))
    cure = (
        "is being written by `deeplab segment` .*; run this command again once" if is_at_work else "run this command"
    )
    writer = held(root / "masks", "segment") if is_at_work else contextlib.nullcontext()
    with writer, pytest.raises(InputError, match=f"masks of another model or other options than when .*{cure}"):
        evaluate(root)
    assert not (root / "out/evaluation.json").exists()


def test_masks_that_the_last_segment_did_not_write_are_said(root: Path, capsys: pytest.CaptureFixture) -> None:
    (root / "masks/segment.json").write_text(json.dumps({"status": "done", "options": {"masks": False}}))
    assert evaluate(root) == 0
    assert "wrote no masks (--no-masks): those there are older" in capsys.readouterr().out


def test_what_killed_runs_left_is_removed_and_nothing_of_others(root: Path) -> None:
    ours = [f".{name}.0123abcd.tmp" for name in ("report.html", "evaluation.json", "rejects.jsonl")]
    ours += [f".{file}.0123abcd.tmp" for file in (".plan-0123456789abcdef.jsonl", ".tally-0123456789abcdef.npz")]
    ours += [".in-flight/.0123456789abcdef01234567.started.0123abcd.tmp"]
    ours += [".plan-0123456789abcdef.jsonl", ".tally-0123456789abcdef.npz"]
    ours += [".progress/expected.json", ".progress/ab.count", ".progress/artifacts/1/1/file"]
    theirs = [".notes.0123abcd.tmp", "sub/.report.html.0123abcd.tmp", ".progress/notes.txt"]
    put(root / "out", *ours, *theirs)
    assert evaluate(root) == 0
    names = {path.relative_to(root / "out").as_posix() for path in (root / "out").rglob("*") if path.is_file()}
    assert names == {"report.html", "evaluation.json", "rejects.jsonl", *theirs}

from pathlib import Path

import pytest

from pipelines.runner import handover
from trainer.options import InputError


def test_lines_of_a_plan_come_back_beside_the_plan_of_another_run(tmp_path: Path) -> None:
    plans = [[b"one", b""], [b"other"]]
    for lines in plans:
        handover.write_plan(str(tmp_path), lines)
    one, other = map(handover.digest_of, plans)
    assert [handover.read_line(str(tmp_path), one, number) for number in (0, 1)] == [b"one", b""]
    assert handover.read_line(str(tmp_path), other, 0) == b"other"
    for name in (".mine", f".plan-{one}.json", ".report.json.0123abcd.tmp", ".other.json.0123abcd.tmp"):
        (tmp_path / name).touch()
    handover.tidy(str(tmp_path), ["report.json"])
    left = {".mine", f".plan-{one}.json", ".other.json.0123abcd.tmp"}
    assert {path.name for path in tmp_path.iterdir()} == left, "plans and what was half written, and nothing else"


def test_a_plan_that_another_run_changed_is_not_worked_on(tmp_path: Path) -> None:
    folder, digest = str(tmp_path), handover.digest_of([b"one"])
    handover.write_plan(folder, [b"one"])
    Path(handover.plan_path(folder, digest)).write_bytes(b"other")
    with pytest.raises(
        InputError, match=r"was changed while the job was running; give every run an --output of its own"
    ):
        handover.read_line(folder, digest, 0)
    Path(handover.plan_path(folder, digest)).unlink()
    with pytest.raises(InputError, match="has another run used the folder"):
        handover.read_line(folder, digest, 0)


def test_a_tally_that_is_gone_is_said(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="has another run used the folder"):
        handover.read_tally(str(tmp_path), "0" * 16)


def test_both_files_are_removed_or_the_one_that_is_there(tmp_path: Path) -> None:
    folder, digest = str(tmp_path), handover.digest_of([b"one"])
    handover.write_plan(folder, [b"one"])
    (tmp_path / "other").touch()
    handover.remove(folder, digest)
    assert [path.name for path in tmp_path.iterdir()] == ["other"]

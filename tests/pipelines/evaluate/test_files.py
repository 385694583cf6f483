"""Every file that looks like a label is evaluated, rejected with a reason, or said to be left out."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest

from pipelines.evaluate.plan import Plan, pair
from pipelines.evaluate.sources import Sources
from tests.drawn.evaluating import PALETTE, evaluate, evaluation, put, rejects
from trainer.formats.palettes import resolve
from trainer.options import InputError


def plan_of(root: Path, palette: str = "") -> Plan:
    return pair(Sources(str(root / "labels"), (str(root / "masks"),), resolve(palette) if palette else PALETTE))


def reasons(plan: Plan, root: Path) -> dict[str, str]:
    return {os.path.relpath(reject.path, root / "labels"): reject.reason for reject in plan.rejects}


def test_two_labels_of_one_name_are_rejects_and_end_no_job(tmp_path: Path) -> None:
    put(tmp_path / "labels", "a.png", "a.bmp", "b.png", "b.PNG", "c.png")
    put(tmp_path / "masks", "a.png", "b.png", "c.png")
    plan = plan_of(tmp_path)
    assert [one.key for one in plan.comparisons] == ["c"] and plan.total == 5
    assert set(reasons(plan, tmp_path)) == {"a.png", "a.bmp", "b.png", "b.PNG"}
    assert "2 labels have the same name but for the suffix: a.bmp, a.png; keep one" in reasons(plan, tmp_path)["a.png"]


def test_jpegs_in_place_of_labels_are_rejects_and_those_beside_labels_are_said(tmp_path: Path) -> None:
    put(tmp_path / "labels", "a.png", "a.jpg", "b.jpg", "preview/c.JPEG", "notes.txt", "README", ".a.png")
    put(tmp_path / "masks", "a.png", "b.png")
    plan = plan_of(tmp_path)
    assert reasons(plan, tmp_path) == {"b.jpg": "is a JPEG, which blurs class ids; expected a lossless label (PNG)"}
    assert plan.total == 2
    assert plan.notes[0].endswith(": 1 of .JPEG, 1 of .jpg, 1 of .txt, 1 of no suffix, 1 hidden")


def test_labels_that_lack_the_coding_which_is_read_are_rejects(tmp_path: Path) -> None:
    names = ("ulm_1_gtFine_labelIds.png", "ulm_1_gtFine_labelTrainIds.png", "ulm_2_gtFine_labelIds.png")
    put(tmp_path / "labels", *names)
    put(tmp_path / "masks", "ulm_1_leftImg8bit.png", "ulm_2_leftImg8bit.png")
    plan = plan_of(tmp_path, "cityscapes-trainids")
    assert [one.key for one in plan.comparisons] == ["ulm_1_leftImg8bit"]
    assert (
        "no label that ends in _gtFine_labelTrainIds.png, which the palette reads"
        in reasons(plan, tmp_path)["ulm_2_gtFine_labelIds.png"]
    )


def test_masks_may_have_suffixes_in_capitals_but_not_both(tmp_path: Path) -> None:
    put(tmp_path / "labels", "a.png", "b.png", "x.1.png")
    put(tmp_path / "masks", "a.PNG", "b.PNG", "b.png", "x.1.png")
    plan = plan_of(tmp_path)
    assert [(one.key, one.masks) for one in plan.comparisons] == [("a", ("a.PNG",)), ("x.1", ("x.1.png",))]
    assert (
        "2 masks in" in reasons(plan, tmp_path)["b.png"]
        and "b.PNG, b.png; keep one" in (reasons(plan, tmp_path)["b.png"])
    )


def test_labels_whose_accents_another_system_wrote_find_their_masks(tmp_path: Path) -> None:
    put(tmp_path / "labels", "Mu\u0308nchen.png", "o\u0308.png", "\u00f6.png")
    put(tmp_path / "masks", "M\u00fcnchen.png", "o\u0308.png", "\u00f6.png")
    assert evaluate(tmp_path) == 0
    assert evaluation(tmp_path / "out")["images"] == 3


def test_labels_that_are_links_to_nothing_or_folders_are_in_the_accounts(tmp_path: Path) -> None:
    put(tmp_path / "labels", "a.png", "sub/b.png")
    put(tmp_path / "masks", "a.png", "c.png", "sub/b.png", "again/b.png")
    (tmp_path / "labels/c.png").symlink_to("nowhere.png")
    (tmp_path / "labels/again").symlink_to("sub")
    assert evaluate(tmp_path) == 1
    assert evaluation(tmp_path / "out")["images"] == 3
    assert rejects(tmp_path / "out") == {str(tmp_path / "labels/c.png"): "the label is listed, but not found"}


@pytest.mark.skipif(os.geteuid() == 0, reason="root reads everything")
def test_labels_that_may_not_be_read_are_rejects(tmp_path: Path) -> None:
    put(tmp_path / "labels", "a.png", "b.png")
    put(tmp_path / "masks", "a.png", "b.png")
    (tmp_path / "labels/b.png").chmod(0)
    assert evaluate(tmp_path) == 1
    assert "cannot be read: Permission denied" in rejects(tmp_path / "out")[str(tmp_path / "labels/b.png")]


def test_no_label_at_all_is_an_input_error(tmp_path: Path) -> None:
    put(tmp_path / "labels", "a.jpg", "b.gif")
    put(tmp_path / "masks", "a.png")
    with pytest.raises(InputError, match=r"labels: none of its 2 files ends in \.png or"):
        plan_of(tmp_path)


def test_masks_in_a_folder_below_are_pointed_out(tmp_path: Path) -> None:
    put(tmp_path / "labels", "a.png", "x/b.png")
    put(tmp_path / "masks", "pred/a.png", "pred/x/b.png")
    with pytest.raises(InputError, match=r"the first mask pred/a\.png; give --masks .*/masks/pred$"):
        plan_of(tmp_path)


def test_labels_without_a_pixel_to_score_are_warned_of(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    put(tmp_path / "labels", "a.png", data=PALETTE.encode_mask(np.full((4, 5), PALETTE.ignore_id, np.uint8)))
    put(tmp_path / "masks", "a.png", data=PALETTE.encode_mask(np.zeros((4, 5), np.uint8)))
    assert evaluate(tmp_path) == 0
    assert "warning: every pixel of the labels is ignored (id 255" in capsys.readouterr().out


def test_the_first_reject_is_quoted_if_nothing_pairs_up(tmp_path: Path) -> None:
    put(tmp_path / "labels", "a.png", "a.bmp")
    put(tmp_path / "masks", "a.png")
    with pytest.raises(InputError, match=r"rejected: .*2 labels have the same name but for the suffix"):
        plan_of(tmp_path)


@pytest.mark.parametrize(
    "name", ["set [2024]", "a*b?", "100%", "say 'x' & \"y\" #1", "line\nbreak", "u\u2028\x85\x0c", "-x"]
)
def test_folders_and_files_may_have_any_name(tmp_path: Path, name: str) -> None:
    root = tmp_path / name
    put(root / "labels", f"{name}/{name}.png", "a.png")
    put(root / "masks", f"{name}/{name}.png", "a.png")
    assert evaluate(root, "--gallery", "2") == 0
    assert evaluation(root / "out")["images"] == 2
    assert {entry["key"] for entry in evaluation(root / "out")["gallery"]} == {f"{name}/{name}", "a"}


def test_names_that_are_not_utf_8_are_rejects(tmp_path: Path) -> None:
    put(tmp_path / "labels", "M\udcfcll.png", "a.png")
    put(tmp_path / "masks", "M\udcfcll.png", "a.png")
    assert evaluate(tmp_path) == 1
    ((path, reason),) = rejects(tmp_path / "out").items()
    assert path.endswith("M\udcfcll.png") and "not UTF-8" in reason


def test_names_are_escaped_in_the_page(tmp_path: Path) -> None:
    name = "<script>alert('1')</script>\" onload=\"x"
    put(tmp_path / "labels", f"{name}.png")
    put(tmp_path / "masks", f"{name}.png")
    assert evaluate(tmp_path, "--gallery", "1") == 0
    page = (tmp_path / "out/report.html").read_text()
    assert "<script>alert" not in page and 'onload="x' not in page and "&lt;script&gt;" in page


def test_a_list_of_labels_is_never_replaced(tmp_path: Path) -> None:
    put(tmp_path, "labels/a.png", "masks/a.png")
    put(tmp_path, "out/rejects.jsonl", data=b'{"image": "a"}\n')
    (tmp_path / "link").symlink_to(tmp_path / "out")
    for folder in ("out", "link"):
        with pytest.raises(InputError, match=r"--list .* would be replaced by what is written"):
            evaluate(tmp_path, "--overwrite", "--list", str(tmp_path / folder / "rejects.jsonl"))
    assert (tmp_path / "out/rejects.jsonl").read_bytes() == b'{"image": "a"}\n'

"""Files that this program did not write, and images, are never replaced by masks."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pipelines.segment import plan as planning
from tests.drawn.segmenting import draw, outcomes_of, rejects_of, save, segment
from trainer.options import InputError

DRAWN = np.full((24, 32), 77, np.uint8)


@pytest.fixture
def images(tmp_path: Path) -> Path:
    folder = tmp_path / "in"
    for seed, name in enumerate("abc"):
        save(folder / f"{name}.jpg", draw(24, 32, seed))
    return folder


def drawn(path: Path) -> bytes:
    """Somebody's own file at `path`; its bytes."""
    save(path, DRAWN)
    return path.read_bytes()


def test_a_folder_of_hand_drawn_masks_is_refused_before_the_work(model, images, tmp_path):
    mask = drawn(tmp_path / "out/b.png")
    with pytest.raises(InputError, match=r"out/b\.png is in the way: this program did not write it"):
        segment("--input", images, "--model", model, "--output", tmp_path / "out")
    assert [(path.name, path.read_bytes()) for path in (tmp_path / "out").iterdir()] == [("b.png", mask)]


def test_a_rerun_names_the_masks_of_images_that_were_renamed_or_removed(model, images, tmp_path, capsys):
    run = ("--input", images, "--model", model, "--output", tmp_path / "out")
    assert segment(*run) == 0
    (images / "a.jpg").rename(images / "A.jpg")
    (images / "b.jpg").unlink()
    capsys.readouterr()
    assert segment(*run) == 0
    said = capsys.readouterr().out
    assert f"still holds what an earlier run wrote for 2 images that this one did not take, such as {tmp_path}" in said
    assert outcomes_of(tmp_path / "out") == (1, 1, 0)
    assert segment(*run) == 0
    assert "did not take" not in capsys.readouterr().out


@pytest.mark.parametrize("overwrite", [(), ("--overwrite",)])
def test_a_folder_in_the_place_of_a_part_of_the_table_is_named_with_the_cure(model, images, tmp_path, overwrite):
    run = ("--input", images, "--model", model, "--output", tmp_path / "out")
    assert segment(*run) == 0
    (part,) = (tmp_path / "out/images.parquet").iterdir()
    part.unlink()
    part.mkdir()
    with pytest.raises(Exception, match=r"part-.*\.parquet is a folder, where a file is to be written; move it away"):
        segment(*run, *overwrite)


@pytest.mark.parametrize("path", ["b.png", "overlays/b.jpg", "confidence/b.png"])
def test_a_hand_drawn_file_among_masks_is_a_reject_and_kept(path, model, images, tmp_path):
    run = ("--input", images, "--model", model, "--output", tmp_path / "out", "--overlays", "--confidence")
    assert segment(*run) == 0
    file = drawn(tmp_path / "out" / path)
    (tmp_path / "out/c.png").unlink()
    assert segment(*run) == 1
    assert outcomes_of(tmp_path / "out") == (1, 1, 1)
    (reject,) = rejects_of(tmp_path / "out")
    assert reject["key"] == "b"
    assert reject["reason"] == (
        f"{tmp_path}/out/{path} is in the way: this program did not write it; move it, or give --overwrite"
    )
    assert (tmp_path / "out" / path).read_bytes() == file
    assert segment(*run, "--overwrite") == 0
    assert (tmp_path / "out" / path).read_bytes() != file


def test_a_hand_drawn_file_is_kept_without_masks_and_when_it_came_after_the_plan(model, images, tmp_path, monkeypatch):
    run = ("--input", images, "--model", model, "--output", tmp_path / "out", "--no-masks", "--overlays")
    assert segment(*run) == 0
    file = drawn(tmp_path / "out/overlays/b.jpg")
    assert segment(*run) == 1
    assert outcomes_of(tmp_path / "out") == (0, 2, 1) and (tmp_path / "out/overlays/b.jpg").read_bytes() == file
    write = planning.write
    monkeypatch.setattr(planning, "write", lambda *plan: write(*plan) or drawn(tmp_path / "late/b.png"))
    assert segment("--input", images, "--model", model, "--output", tmp_path / "late") == 1
    assert outcomes_of(tmp_path / "late") == (2, 0, 1) and read_drawn(tmp_path / "late/b.png")


def read_drawn(path: Path) -> bool:
    with Image.open(path) as image:
        return (np.asarray(image) == DRAWN).all()


def test_overlays_that_are_not_asked_for_may_be_anybodys(model, images, tmp_path):
    file = drawn(tmp_path / "out/overlays/b.jpg")
    assert segment("--input", images, "--model", model, "--output", tmp_path / "out") == 0
    assert (tmp_path / "out/overlays/b.jpg").read_bytes() == file


def test_a_mask_that_cannot_be_read_is_a_reject_and_kept(model, images, tmp_path):
    run = ("--input", images, "--model", model, "--output", tmp_path / "out")
    assert segment(*run) == 0
    (tmp_path / "out/b.png").unlink()
    (tmp_path / "out/b.png").mkdir()
    assert segment(*run) == 1
    (reject,) = rejects_of(tmp_path / "out")
    assert reject["key"] == "b" and "b.png" in reject["reason"]
    assert outcomes_of(tmp_path / "out") == (0, 2, 1)


def test_masks_whose_folder_cannot_be_entered_are_rejects_and_the_others_are_made(model, images, tmp_path):
    save(images / "deep/e.png", draw(24, 32, 5))
    (tmp_path / "out").mkdir()
    (tmp_path / "out/deep").symlink_to("deep")  # to itself
    assert segment("--input", images, "--model", model, "--output", tmp_path / "out") == 1
    (reject,) = rejects_of(tmp_path / "out")
    assert reject["key"] == "deep/e" and "out/deep/e.png: Too many levels of symbolic links" in reject["reason"]
    assert outcomes_of(tmp_path / "out") == (3, 0, 1)


@pytest.mark.parametrize("flags", [(), ("--overwrite",)])
def test_images_are_not_replaced_through_a_link_to_their_folder(flags, model, tmp_path):
    save(tmp_path / "photos/set/a.png", draw(24, 32, 0))
    before = (tmp_path / "photos/set/a.png").read_bytes()
    (tmp_path / "whole").symlink_to(tmp_path / "photos")
    (tmp_path / "parts").mkdir()
    (tmp_path / "parts/set").symlink_to(tmp_path / "photos/set")
    run = ("--input", tmp_path / "photos", "--model", model, *flags)
    with pytest.raises(InputError, match="same folder"):
        segment(*run, "--output", tmp_path / "whole")
    with contextlib.suppress(InputError):
        assert segment(*run, "--output", tmp_path / "parts") == 1
    assert (tmp_path / "photos/set/a.png").read_bytes() == before


def test_an_image_is_not_replaced_through_a_link_to_itself(model, images, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out/b.png").symlink_to(images / "b.jpg")
    for flags in ((), ("--overwrite",)):
        with pytest.raises(InputError, match=r"out/b\.png would be written for .*in/b\.jpg, but is the image"):
            segment("--input", images, "--model", model, "--output", tmp_path / "out", *flags)
    assert (tmp_path / "out/b.png").is_symlink()


def test_masks_of_images_that_are_rejected_now_are_warned_of(model, images, tmp_path, capsys):
    out = tmp_path / "out"
    run = ("--input", images, "--model", model, "--output", out)
    assert segment(*run) == 0
    for name in "bcd":
        (images / f"{name}.jpg").write_bytes(b"no image")
    capsys.readouterr()
    for flags in ((), ("--overwrite",)):
        assert segment(*run, *flags) == 1
        (line,) = [line for line in capsys.readouterr().out.splitlines() if line.startswith("warning")]
        assert line == (
            f"warning: 2 of the 3 rejected images still have masks in {out} that are not from this run, such as "
            f"{out}/b.png; mend the images and run this command again, or remove these masks"
        )
    (out / "b.png").unlink()
    save(out / "c.png", draw(24, 32, 1))  # drawn by hand, which nobody is told to remove
    assert segment(*run) == 1 and "warning" not in capsys.readouterr().out


def test_masks_and_overlays_of_an_earlier_run_among_the_images_are_rejects(model, images, tmp_path):
    first = ("--input", images, "--model", model, "--output", images / "masks", "--overlays", "--confidence")
    assert segment(*first) == 0
    assert segment("--input", images, "--model", model, "--output", tmp_path / "out") == 1
    assert outcomes_of(tmp_path / "out") == (3, 0, 9)
    assert all("is an output of `deeplab segment`" in one["reason"] for one in rejects_of(tmp_path / "out"))


def test_the_counts_of_jobs_are_not_removed_through_a_link(model, images, tmp_path):
    other = tmp_path / "other"
    (other / "artifacts").mkdir(parents=True)
    for name in ("artifacts/mine", "my.count", "expected.json"):
        (other / name).write_text("precious")
    (tmp_path / "out").mkdir()
    (tmp_path / "out/.progress").symlink_to(other)
    assert segment("--input", images, "--model", model, "--output", tmp_path / "out") == 0
    assert sorted(path.name for path in other.rglob("*")) == ["artifacts", "expected.json", "mine", "my.count"]


@pytest.mark.parametrize("name", ["segment.json", "rejects.jsonl"])
@pytest.mark.parametrize("make", [os.mkfifo, lambda path: os.symlink("nowhere", path)], ids=["FIFO", "broken link"])
def test_what_is_no_file_is_not_replaced_by_one(model, images, tmp_path, name, make):
    (tmp_path / "out").mkdir()
    make(tmp_path / "out" / name)
    with pytest.raises(InputError, match=f"{name} is (no regular file|a broken link), where a file is to be written"):
        segment("--input", images, "--model", model, "--output", tmp_path / "out")
    assert os.listdir(tmp_path / "out") == [name]

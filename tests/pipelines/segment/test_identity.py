"""Which image a mask is of: it is finished where the image has the same bytes still, whatever the files' times are."""

from __future__ import annotations

import os
import shutil
import struct
import zlib
from pathlib import Path

import pytest
from PIL import Image

from pipelines.masks.stamps import Stamp, read_stamp, stamp_jpeg, stamp_png
from tests.drawn.segmenting import draw, outcomes_of, rejects_of, report_of, save, segment
from trainer import storage

KINDS = {"masks": "a.png", "overlays": "overlays/a.jpg", "confidence": "confidence/a.png"}


@pytest.fixture
def run(model, tmp_path):
    """Segments the folder `in` with a.bmp and b.bmp into `out`, once already; returns how to do it again."""
    for seed, name in enumerate("ab"):
        save(tmp_path / f"in/{name}.bmp", draw(24, 32, seed))
        os.utime(tmp_path / f"in/{name}.bmp", ns=(10**18, 10**18))

    def again(*flags: object) -> tuple[int, int, int]:
        segment("--input", tmp_path / "in", "--model", model, "--output", tmp_path / "out", *flags)
        return outcomes_of(tmp_path / "out")

    assert again("--overlays", "--confidence") == (2, 0, 0)
    return again


def contents(folder: Path) -> dict[str, bytes]:
    return {kind: (folder / "out" / path).read_bytes() for kind, path in KINDS.items()}


def test_all_that_is_written_for_an_image_says_which_it_is(run, tmp_path):
    expected = Stamp(
        report_of(tmp_path / "out")["fingerprint"], storage.identity((tmp_path / "in/a.bmp").read_bytes())
    )
    assert {read_stamp(file) for file in contents(tmp_path).values()} == {expected}
    for path in KINDS.values():
        Image.open(tmp_path / "out" / path).load()


def test_another_image_of_equal_size_and_time_gets_its_own_mask(run, tmp_path):
    before = contents(tmp_path)
    save(tmp_path / "in/a.bmp", draw(24, 32, 5))
    os.utime(tmp_path / "in/a.bmp", ns=(10**18, 10**18))
    assert run("--overlays", "--confidence") == (1, 1, 0)
    after = contents(tmp_path)
    assert all(before[kind] != after[kind] for kind in KINDS)


def test_an_older_image_in_the_place_of_another_gets_its_own_mask(run, tmp_path):
    save(tmp_path / "old.bmp", draw(30, 20, 5))
    os.utime(tmp_path / "old.bmp", ns=(1, 1))
    shutil.copy2(tmp_path / "old.bmp", tmp_path / "in/a.bmp")
    assert run() == (1, 1, 0)


def test_a_later_time_alone_changes_nothing(run, tmp_path):
    before = contents(tmp_path)
    (tmp_path / "in/a.bmp").touch()
    for path in KINDS.values():
        os.utime(tmp_path / "out" / path, ns=(0, 0))
    assert run("--overlays", "--confidence") == (0, 2, 0)
    assert contents(tmp_path) == before


def test_overlays_of_an_image_that_was_replaced_are_drawn_again(run, tmp_path):
    save(tmp_path / "in/a.bmp", draw(24, 32, 5))
    before = contents(tmp_path)
    assert run() == (1, 1, 0)
    stale = contents(tmp_path)
    assert stale["masks"] != before["masks"] and stale["overlays"] == before["overlays"]
    assert run("--overlays") == (1, 1, 0)
    assert read_stamp(contents(tmp_path)["overlays"]) == read_stamp(contents(tmp_path)["masks"])
    assert run("--overlays") == (0, 2, 0)


def test_an_image_that_is_gone_is_a_reject_although_its_mask_is_there(run, tmp_path, model):
    (tmp_path / "list.txt").write_text("in/a.bmp\nin/b.bmp\n")
    (tmp_path / "in/a.bmp").unlink()
    flags = ("--input", tmp_path / "list.txt", "--model", model, "--output", tmp_path / "out")
    assert segment(*flags) == 1
    (reject,) = rejects_of(tmp_path / "out")
    assert (reject["key"], reject["reason"]) == ("a", "file not found")


def as_version_0_2(folder: Path) -> None:
    """Turns what was written for a and b into what version 0.2 wrote: stamps on masks alone, without an image."""
    for path in (path.replace("a.", f"{name}.") for path in KINDS.values() for name in "ab"):
        file = (folder / path).read_bytes()
        stamp = read_stamp(file)
        if path.endswith(".jpg"):
            file = file.replace(stamp_jpeg(file[:20], stamp)[20:], b"")
        else:
            body = b"tEXtdeeplab\0" + stamp.fingerprint.encode()
            chunk = struct.pack(">I", len(body) - 4) + body + struct.pack(">I", zlib.crc32(body))
            file = file.replace(stamp_png(file[:33], stamp)[33:], b"" if "/" in path else chunk)
        (folder / path).write_bytes(file)
    report = report_of(folder)
    del report["plan"], report["unstamped"]
    storage.write_json(str(folder / "segment.json"), report)


def test_masks_of_version_0_2_are_made_again_and_that_is_said_once(run, tmp_path, capsys):
    new = contents(tmp_path)
    as_version_0_2(tmp_path / "out")
    assert all(file != contents(tmp_path)[kind] for kind, file in new.items())
    capsys.readouterr()
    assert run() == (2, 0, 0)
    assert "masks from version 0.2 and earlier do not record their image" in capsys.readouterr().out
    assert run() == (0, 2, 0)
    assert "version 0.2" not in capsys.readouterr().out
    # Their overlays have no stamp, but are this program's.
    assert run("--overlays", "--confidence") == (2, 0, 0)
    assert contents(tmp_path) == new
    assert run("--overlays", "--confidence") == (0, 2, 0)


@pytest.mark.parametrize("names", [("a", "A"), ("\u00e4", "a\u0308")])
def test_objects_whose_names_a_disk_may_not_distinguish_are_told_apart(names, server, model, tmp_path):
    for seed, name in enumerate(names):
        save(tmp_path / "image.png", draw(24, 32, seed))
        storage.write(f"gs://seg/in/{name}.png", (tmp_path / "image.png").read_bytes())

    def outcomes() -> tuple[int, int]:
        assert segment("--input", "gs://seg/in", "--model", model, "--output", "gs://seg/out") == 0
        report = storage.read_json("gs://seg/out/segment.json")
        return report["written"], report["skipped"]

    assert [outcomes(), outcomes()] == [(2, 0), (0, 2)]
    for name in names:
        storage.remove(f"gs://seg/out/{name}.png")
        assert outcomes() == (1, 1)
        assert storage.exists(f"gs://seg/out/{name}.png")

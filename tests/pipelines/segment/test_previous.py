"""An earlier run's results are continued, or refused unless they are to be overwritten."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest

from pipelines.masks.stamps import Stamp, stamp_jpeg, stamp_png
from pipelines.segment import table
from pipelines.segment.plan import make_plan
from pipelines.segment.previous import (
    check_output_is_ours,
    chunk_size_of,
    left_behind,
    may_lack_stamps,
    no_longer_taken,
    outdated,
    previous_report,
)
from pipelines.segment.table import Row
from tests.drawn.segmenting import PALETTE, listing, options
from trainer.formats import images
from trainer.options import InputError


def test_the_last_runs_chunks_are_remembered() -> None:
    assert [chunk_size_of(report) for report in (None, {}, {"chunk": "8"}, {"chunk": 8})] == [0, 0, 0, 8]


def write_report(folder: Path, **report: object) -> None:
    (folder / "segment.json").write_text(json.dumps(report))


def test_an_output_of_other_masks_is_refused_unless_it_is_overwritten(tmp_path: Path) -> None:
    assert previous_report(options(tmp_path), "f") is None
    write_report(tmp_path, fingerprint="f")
    assert previous_report(options(tmp_path), "f") == {"fingerprint": "f"}
    (tmp_path / "a.png").write_bytes(b"")
    for text in ('{"fingerprint": "g"}', "{}", "[]", "no JSON"):
        (tmp_path / "segment.json").write_text(text)
        with pytest.raises(InputError, match="another model or other options"):
            previous_report(options(tmp_path), "f")
        previous_report(options(tmp_path, overwrite=True), "f")


def test_overlays_without_stamps_can_be_those_of_version_0_2(tmp_path: Path) -> None:
    assert not may_lack_stamps(None) and not may_lack_stamps({"plan": "p"})
    assert may_lack_stamps({"fingerprint": "f"}) and may_lack_stamps({"plan": "p", "unstamped": True})


def test_rejects_of_another_command_are_not_replaced(tmp_path: Path) -> None:
    (tmp_path / "rejects.jsonl").write_text("")
    with pytest.raises(InputError, match="was not written by this command"):
        previous_report(options(tmp_path), "f")
    assert previous_report(options(tmp_path, overwrite=True), "f") is None
    write_report(tmp_path, fingerprint="f")
    previous_report(options(tmp_path), "f")


def test_overlays_of_another_model_that_are_not_made_again_are_warned_of(tmp_path: Path) -> None:
    assert list(left_behind(options(tmp_path), "f")) == []
    for kind, name, stamp in (("overlays", "deep/a.jpg", stamp_jpeg), ("confidence", "a.png", stamp_png)):
        path = tmp_path / kind / name
        path.parent.mkdir(parents=True)
        path.write_bytes(stamp(images.encode(path.suffix, np.zeros((2, 2), np.uint8), []), Stamp("g", "i")))
        (warning,) = left_behind(options(tmp_path), "f")
        assert warning == (
            f"warning: {tmp_path / kind} is of an earlier run with another model or other options; give --{kind} to "
            "make it again, or remove it"
        )
        assert list(left_behind(options(tmp_path), "g")) == []
        assert list(left_behind(options(tmp_path, **{kind: True}), "f")) == []
        path.write_bytes(b"of another program")
        assert list(left_behind(options(tmp_path), "f")) == []


@pytest.mark.parametrize(
    ("kind", "name", "more"),
    [
        ("masks", "deep/a.png", {"masks": False, "overlays": True}),
        ("overlays", "a.jpg", {}),
        ("confidence", "a.png", {}),
    ],
)
def test_files_that_are_not_made_again_are_warned_of_where_images_are(
    kind: str, name: str, more, tmp_path: Path
) -> None:
    folder = tmp_path if kind == "masks" else tmp_path / kind
    (folder / name).parent.mkdir(parents=True, exist_ok=True)
    stamp = stamp_jpeg if name.endswith("jpg") else stamp_png
    (folder / name).write_bytes(stamp(images.encode(name[-4:], np.zeros((2, 2), np.uint8), []), Stamp("f", "i")))
    (warning,) = outdated(options(tmp_path, **more), 3)
    assert warning.startswith(f"warning: {kind} in {folder} are of an earlier run; those of the 3 images")
    assert f"give --{kind} to make them again" in warning
    assert list(outdated(options(tmp_path, **more), 0)) == []
    assert list(outdated(options(tmp_path, overlays=True, confidence=True), 3)) == []


def test_what_is_left_of_images_that_are_no_longer_taken_is_warned_of(tmp_path: Path) -> None:
    rows = [Row(key, key, "i", 1, 1, (1, 0, 0), None, None) for key in ("0001", "a", "deep/b", "c", "../d")]
    table.write(str(tmp_path), f"{table.FOLDER}/part-{'0' * 16}.parquet", rows, "of another model", PALETTE)
    whole = make_plan(listing(3), options(tmp_path))
    assert no_longer_taken(str(tmp_path), whole) == ""
    for name in ("0001.png", "a.png", "overlays/a.jpg", "confidence/deep/b.png", "other.png"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    assert no_longer_taken(str(tmp_path), whole) == (
        f"warning: {tmp_path} still holds what an earlier run wrote for 2 images that this one did not take, such as "
        f"{tmp_path}/a.png; if the images are gone or renamed, remove these files"
    )


@pytest.mark.parametrize("name", ["rejects.jsonl", "segment.json"])
@pytest.mark.parametrize("flag", ["input", "list"])
def test_a_list_of_images_is_never_replaced(name: str, flag: str, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(tmp_path)
    given = dataclasses.replace(options(tmp_path, overwrite=True), **{flag: str(tmp_path / "link" / name)})
    with pytest.raises(InputError, match=f"--{flag} .* would be replaced by what is written"):
        previous_report(given, "f")


def test_a_folder_of_somebody_elses_files_is_refused(tmp_path: Path) -> None:
    def check() -> None:
        check_output_is_ours(make_plan(listing(20), options(tmp_path)))

    check()
    (tmp_path / "0005.png").write_bytes(b"")
    png = PALETTE.encode_mask(np.zeros((2, 2), np.uint8))
    (tmp_path / "0006.png").write_bytes(stamp_png(png, Stamp("f", "i")))
    check()
    (tmp_path / "0007.png").write_bytes(png)
    with pytest.raises(InputError, match=r"0007\.png is in the way: this program did not write it"):
        check()

"""Names of images, whatever they are: each works or is a reject, and terminals get no control characters."""

from __future__ import annotations

import os
import re
from pathlib import Path

import pytest

from tests.drawn.segmenting import draw, outcomes_of, rejects_of, save, segment

GOOD = (
    "two\nlines",
    "line\u2028separator",
    "next\x85line",
    "return\r",
    "tab\tand \x1b[31mred",
    "mirrored\u202e",
    "quotes\"'`$(x)",
    "100%s%2F",
    "# {0}",
    "IMG[1]*?",
    " blank ",
    "ä\U0001f600",
    "a\u0308",
    "-n",
    "~",
    "dots.1.5m",
    "a" * 251,
    "ä" * 125,
)
BAD = (b"not utf-8 \xff", b"half \xed\xa0\x80")


@pytest.fixture
def images(tmp_path: Path) -> Path:
    """One small image under every name."""
    folder = tmp_path / "in"
    save(folder / "first.png", draw(8, 8, 0))
    data = (folder / "first.png").read_bytes()
    (folder / "first.png").unlink()
    for name in (*map(os.fsencode, GOOD), *BAD):
        with open(os.path.join(os.fsencode(folder), name + b".png"), "wb") as file:
            file.write(data)
    return folder


def test_every_name_works_or_is_a_reject(model, images, tmp_path, capsys):
    run = ("--input", images, "--model", model, "--output", tmp_path / "out", "--overlays", "--max-reject-rate", 1)
    assert segment(*run) == 0
    assert outcomes_of(tmp_path / "out") == (len(GOOD), 0, len(BAD))
    masks = {path.name for path in (tmp_path / "out").glob("*.png")}
    assert masks == {f"{name}.png" for name in GOOD}
    rejects = rejects_of(tmp_path / "out")
    assert {os.fsencode(Path(reject["path"]).name) for reject in rejects} == {name + b".png" for name in BAD}
    assert all("not UTF-8" in reject["reason"] for reject in rejects)
    assert segment(*run) == 0
    assert outcomes_of(tmp_path / "out") == (0, len(GOOD), len(BAD))
    text = capsys.readouterr()
    assert not re.search(r"[\x00-\x09\x0b-\x1f\x7f-\x9f\u2028\u202e\ud800-\udfff]", text.out), text.out


def test_a_single_image_with_an_odd_name_is_segmented(model, images, tmp_path):
    for number, name in enumerate(("two\nlines", "IMG[1]*?", "100%s%2F")):
        assert segment("--input", images / f"{name}.png", "--model", model, "--output", tmp_path / str(number)) == 0
        assert (tmp_path / str(number) / f"{name}.png").exists()


def test_names_that_differ_in_suffix_or_case_alone_get_masks_of_their_own(model, tmp_path):
    for seed, name in enumerate(("a.png", "a.bmp", "b.png", "B.png")):
        save(tmp_path / "in" / name, draw(8, 8, seed))
    assert segment("--input", tmp_path / "in", "--model", model, "--output", tmp_path / "out") == 0
    masks = {path.name for path in (tmp_path / "out").glob("*.png")}
    assert masks == {"a.png.png", "a.bmp.png", "b.png", "B.png"}

"""Images that end the process they are worked on in: found by the rerun, named as rejects, and the set finishes.

Code that kills its process is planted with a `sitecustomize`, which every Python process loads at its start.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import PngImagePlugin

from pipelines.runner.notes import InFlight
from pipelines.segment.table import part_of
from tests.drawn.places import ROOT
from tests.drawn.segmenting import draw, outcomes_of, rejects_of, save, segment

BAD_DECODER = """
import os, signal
from trainer.formats import images
decode = images.decode_image
def planted(data, *arguments):
    if b"worst" in data:
        os.kill(os.getpid(), signal.SIGSEGV)
    return decode(data, *arguments)
images.decode_image = planted
"""
BAD_NETWORK = """
import os, signal
from pipelines.masks import network
def planted(self, images, what, window):
    os.kill(os.getpid(), signal.SIGKILL)
network.Network.__call__ = planted
"""


@pytest.fixture
def plant(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Lets every Python process from now on begin with some code."""

    def planted(code: str) -> None:
        (tmp_path / "planted").mkdir()
        (tmp_path / "planted/sitecustomize.py").write_text(code)
        monkeypatch.setenv("PYTHONPATH", f"{tmp_path / 'planted'}{os.pathsep}{ROOT}")

    return planted


@pytest.fixture
def images(tmp_path: Path) -> Path:
    """a, b and c, of which b bears a word."""
    for seed, name in enumerate("abc"):
        word = PngImagePlugin.PngInfo()
        word.add_text("Comment", "worst" if name == "b" else "")
        save(tmp_path / f"in/{name}.png", draw(24, 32, seed), pnginfo=word)
    return tmp_path / "in"


@pytest.mark.slow
def test_an_image_that_ends_the_decoders_process_is_named_by_the_rerun(model, images, plant, tmp_path):
    plant(BAD_DECODER)
    output = tmp_path / "out"
    flags = ("--input", images, "--model", model, "--output", output, "--max-reject-rate", 0.5)
    command = [sys.executable, "-m", "pipelines", "segment", *map(str, flags)]
    first, again = (subprocess.run(command, cwd=ROOT, capture_output=True, text=True) for _ in range(2))
    assert first.returncode == -signal.SIGSEGV
    assert again.returncode == 0, again.stderr
    assert "3 images = 2 written + 0 skipped + 1 rejected" in again.stdout
    (reject,) = rejects_of(output)
    assert (reject["key"], reject["path"]) == ("b", str(images / "b.png"))
    assert "SIGSEGV" in reject["reason"] and "Traceback" not in again.stderr
    assert len(list((output / "in-flight").iterdir())) == 1, (
        "a third run finds it, begins in recovery mode, and does not crash"
    )


@pytest.mark.slow
def test_an_image_that_ends_the_networks_process_is_tried_alone_and_named(model, images, plant, tmp_path):
    plant(BAD_NETWORK)  # for subprocesses: this process has begun already
    output = tmp_path / "out"
    # As left by two runs that were killed, the second while it worked on b in recovery mode.
    InFlight(str(output / "in-flight")).start(part_of("abc"), frozenset("b"))
    assert segment("--input", images, "--model", model, "--output", output) == 1
    assert outcomes_of(output) == (2, 0, 1)
    (reject,) = rejects_of(output)
    assert reject["key"] == "b" and "SIGKILL, usually for lack of memory" in reject["reason"]


def test_an_image_at_which_a_run_was_killed_by_chance_gets_the_same_mask(model, images, tmp_path):
    flags = ("--input", images, "--model", model, "--batch-size", 1)
    assert segment(*flags, "--output", tmp_path / "calm") == 0
    InFlight(str(tmp_path / "out/in-flight")).start(part_of("b"), frozenset("b"))
    assert segment(*flags, "--output", tmp_path / "out") == 0
    for name in "abc":
        masks = [(tmp_path / folder / f"{name}.png").read_bytes() for folder in ("calm", "out")]
        assert masks[0] == masks[1]

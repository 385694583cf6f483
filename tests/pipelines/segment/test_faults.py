"""Whatever one image raises, wherever: it is tried again alone, and then a reject with its cause; the others go on."""

from __future__ import annotations

import errno
import re
from pathlib import Path

import cv2
import numpy as np
import pytest

from pipelines.masks.network import Network
from tests.drawn.faults import swept
from tests.drawn.segmenting import outcomes_of, rejects_of, save, segment
from trainer import storage
from trainer.formats import images
from trainer.formats.labels import Palette

SIDE = 29
"""Height of the image that everything fails on; the others are 30 high."""


def is_bad(value: object) -> bool:
    return isinstance(value, np.ndarray) and SIDE in value.shape


STEPS = {
    "decoding": (images, "decode_image", lambda arguments, result: is_bad(result)),
    "network": (Network, "__call__", lambda arguments, result: is_bad(arguments[1])),
    "confidence": (images, "encode_png", lambda arguments, result: is_bad(arguments[0])),
    "painting": (Palette, "overlay", lambda arguments, result: is_bad(arguments[1])),
    "overlay": (images, "encode_jpeg", lambda arguments, result: is_bad(arguments[0])),
    "mask": (Palette, "encode_mask", lambda arguments, result: is_bad(arguments[1])),
}
ERRORS = [MemoryError("Unable to allocate 9 GiB"), cv2.error("OpenCV(4) error"), TypeError("not an int")]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name, height in (("a", 30), ("b", SIDE), ("c", 30)):
        save(tmp_path / f"in/{name}.png", np.full((height, 20, 3), 90, np.uint8))
    return tmp_path / "in"


def test_what_the_system_refuses_is_said_in_words(model, folder, tmp_path, monkeypatch):
    read, bad = storage.read, str(folder / "b.png")

    def refused(path: str) -> bytes:
        if path == bad:
            raise PermissionError(errno.EACCES, "Permission denied", path)
        return read(path)

    monkeypatch.setattr(storage, "read", refused)
    (tmp_path / "out/c.png").mkdir(parents=True)
    assert segment("--input", folder, "--model", model, "--output", tmp_path / "out") == 1
    reasons = {reject["key"]: reject["reason"] for reject in rejects_of(tmp_path / "out")}
    assert reasons["b"] == "cannot be read: Permission denied"
    assert str(tmp_path / "out") in reasons["c"] and "Errno" not in reasons["c"]


@pytest.mark.parametrize(("times", "rejects"), [(2, 0), (10**6, 3)])
def test_files_that_another_attempt_at_the_chunk_sweeps_are_written_again(
    times, rejects, model, folder, tmp_path, monkeypatch
):
    run = ("--input", folder, "--model", model, "--output", tmp_path / "out")
    with monkeypatch.context() as patch:
        swept(patch, times, ".png")
        assert segment(*run) == bool(rejects)
    assert outcomes_of(tmp_path / "out") == (3 - rejects, 0, rejects)
    for reject in rejects_of(tmp_path / "out"):  # nor are these called images that are not there
        assert re.fullmatch(rf"{tmp_path}/out/\.\w\.png\..*\.tmp: No such file or directory", reject["reason"])
    assert segment(*run) == 0


@pytest.mark.parametrize("step", STEPS)
@pytest.mark.parametrize("times", [1, 10**6])
def test_an_image_that_fails_in_a_step_is_tried_again_and_then_a_reject(
    times, step, model, folder, tmp_path, monkeypatch
):
    owner, name, fails = STEPS[step]
    true, calls = getattr(owner, name), []
    error = ERRORS[list(STEPS).index(step) % 3]

    def planted(*arguments: object, **named: object) -> object:
        result = true(*arguments, **named)
        if len(calls) < times and fails(arguments, result):
            calls.append(None)
            raise error
        return result

    monkeypatch.setattr(owner, name, planted)
    flags = ("--input", folder, "--model", model, "--output", tmp_path / "out", "--overlays", "--confidence")
    status = segment(*flags)
    if times == 1:
        assert (status, outcomes_of(tmp_path / "out")) == (0, (3, 0, 0))
        return
    assert (status, outcomes_of(tmp_path / "out")) == (1, (2, 0, 1))
    (reject,) = rejects_of(tmp_path / "out")
    assert (reject["key"], reject["path"]) == ("b", str(folder / "b.png"))
    assert reject["reason"].endswith("tried alone") and str(error) in reject["reason"]
    assert not (tmp_path / "out/b.png").exists()

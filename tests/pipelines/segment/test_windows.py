"""Images too large for one pass of the network are seen in windows, in all that `deeplab segment` does with them."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pipelines import cli
from pipelines.segment.memory import GIB
from tests.drawn.segmenting import draw, outcomes_of, read_mask, rejects_of, report_of, save, segment
from tests.pipelines.segment.test_memory import job
from trainer.formats.cards import load_card
from trainer.formats.images import ImageError
from trainer.network.options import bytes_per_pixel
from trainer.options import InputError

SIZE = (1100, 1000)
"""Height and width, in pixels, of an image that `--window 1024` cuts; random weights see little beyond a margin."""


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("large")
    save(folder / "large.png", np.kron(draw(110, 100, 3), np.ones((10, 10, 1), np.uint8)))
    save(folder / "small.png", draw(40, 56, 1))
    return folder


SLOW = [pytest.param(flags, marks=pytest.mark.slow) for flags in (("--crf",), ("--max-side", 1090))]


@pytest.mark.parametrize("flags", [(), ("--scales", 0.5, 1, "--flip"), *SLOW])
def test_windows_give_nearly_the_masks_of_whole_images(flags, large, model, tmp_path):
    run = ("--input", large, "--model", model, "--confidence", *flags)
    assert segment(*run, "--output", tmp_path / "whole") == 0
    assert segment(*run, "--output", tmp_path / "cut", "--window", 1024) == 0
    whole, cut = (read_mask(tmp_path / name / "large.png") for name in ("whole", "cut"))
    assert cut.shape == SIZE and 0.9 < (whole == cut).mean() < 1
    sure = [np.float32(Image.open(tmp_path / name / "confidence/large.png")) for name in ("whole", "cut")]
    assert np.abs(sure[0] - sure[1]).mean() < 8
    assert (read_mask(tmp_path / "whole/small.png") == read_mask(tmp_path / "cut/small.png")).all()


@pytest.mark.slow
def test_an_export_sees_windows_as_well(large, model, tmp_path):
    export = tmp_path / "model.onnx"
    assert cli.run(["export", "--model", str(model), "--format", "onnx", "--output", str(export)]) == 0
    for name, path in (("folder", model), ("export", export)):
        assert segment("--input", large, "--model", path, "--output", tmp_path / name, "--window", 1024) == 0
    found, expected = (read_mask(tmp_path / name / "large.png") for name in ("export", "folder"))
    assert (found == expected).mean() > 0.999


def test_masks_of_other_windows_are_those_of_other_options(large, model, tmp_path):
    run = ("--input", large, "--model", model, "--output", tmp_path / "out", "--window", 1024)
    assert segment(*run) == 0
    assert segment(*run) == 0
    assert outcomes_of(tmp_path / "out") == (0, 2, 0)
    assert report_of(tmp_path / "out")["options"]["window"] == 1024
    with pytest.raises(InputError, match="other options"):
        segment(*run[:-2])


def test_an_image_may_have_more_pixels_than_a_window_and_is_rejected_for_its_memory_alone(large, model, tmp_path):
    assert job(max_memory=16).budget.check(12_000, 12_000) == 12_000**2 * 16, "several wait for each other"
    assert job(max_memory=16).budget.check(8000, 8000) == 0
    run = ("--input", large, "--model", model, "--output", tmp_path / "out", "--window", 1024)
    assert segment(*run, "--max-memory", 0.1) == 1
    (reject,) = rejects_of(tmp_path / "out")
    assert reject["key"] == "large" and "--window" not in reject["reason"]


def test_the_cure_for_too_little_memory_is_a_window_that_fits():
    with pytest.raises(ImageError, match=r"another --output and --window 2\d{3}, or --max-side to shrink") as reject:
        job(max_memory=4).budget.check(4000, 4000)
    side = int(str(reject.value).partition("--window ")[2].partition(",")[0])
    job(max_memory=4, window=side).budget.check(4000, 4000)
    with pytest.raises(ImageError):
        job(max_memory=4, window=side + 1).budget.check(4000, 4000)
    assert 3 * GIB < side**2 * 550 < 4 * GIB


def test_the_cure_that_a_reject_names_works_in_the_output_that_it_asks_for(large, model, tmp_path):
    pixels = bytes_per_pixel(load_card(str(model)).architecture) * 1040**2
    run = ("--input", large, "--model", model, "--max-memory", (pixels + SIZE[0] * SIZE[1] * 16) / GIB)
    assert segment(*run, "--output", tmp_path / "out") == 1
    (reject,) = rejects_of(tmp_path / "out")
    side = re.search(r"raise --max-memory .* or give another --output and --window (\d+)", reject["reason"])[1]
    with pytest.raises(InputError, match="give another --output"):
        segment(*run, "--output", tmp_path / "out", "--window", side)
    assert segment(*run, "--output", tmp_path / "other", "--window", side) == 0
    assert segment(*run[:-1], 1, "--output", tmp_path / "out") == 0
    assert outcomes_of(tmp_path / "out") == (1, 1, 0)

"""Flags of `deeplab tune-crf` and their bounds."""

from __future__ import annotations

import pytest

from pipelines.tune_crf.options import Options
from trainer.options import InputError


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ({"images": 9}, "--images must be 0 for all, or 10 or more, got 9"),
        ({"images": -1}, "--images must be 0 for all, or 10 or more, got -1"),
        ({"trimap_width": 3}, "--trimap-width must be one of 1, 2, 4, 8, 16, got 3"),
        ({"trimap_width": 2}, "--trimap-width is for --metric trimap; give it, or omit the width"),
        ({"metric": "iou"}, "--metric must be one of miou, trimap, got 'iou'"),
        ({"output": "crf.html"}, "--output must name a .json file, got crf.html"),
        ({"max_reject_rate": 1.5}, "--max-reject-rate must be 0 to 1, got 1.5"),
    ],
)
def test_values_out_of_bounds_are_refused(flags: dict[str, object], message: str) -> None:
    with pytest.raises(InputError) as refusal:
        Options(model="m", records="r", **flags)
    assert str(refusal.value) == message


@pytest.mark.parametrize("images", [0, 10, 1000])
def test_all_images_or_enough_of_them_are_taken(images: int) -> None:
    assert Options(model="m", records="r", images=images).images == images

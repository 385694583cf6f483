"""Labels and masks as arrays, in every coding they may have, and why some cannot be used."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from pipelines.evaluate.sources import Sources, Unusable, segment_notes
from trainer.formats import images
from trainer.formats.labels import Palette
from trainer.options import InputError

PALETTE = Palette("two", ("left", "right"), ((200, 0, 0), (0, 200, 0)), source_ids=((7, 0), (8, 1), (9, 255)))
IDS = np.uint8([[0, 0, 1], [0, 1, 255]])
RAW = np.uint8([[7, 7, 8], [7, 8, 9]])
MASK = np.uint8([[0, 1, 1], [0, 1, 0]])


def sources(folder: Path, label: bytes, *masks: bytes) -> Sources:
    """The sources of label a/b.bmp and its masks, in folders m0, m1, ..."""
    files = {"labels/a/b.bmp": label} | {f"m{number}/a/b.png": data for number, data in enumerate(masks)}
    for name, data in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)
    return Sources(str(folder / "labels"), tuple(str(folder / f"m{number}") for number in range(len(masks))), PALETTE)


@pytest.mark.parametrize("label", [RAW, PALETTE.colorize(IDS)], ids=["ids", "colours"])
def test_labels_are_coded_as_the_raw_set_is_and_masks_by_class_ids(tmp_path: Path, label: np.ndarray) -> None:
    codings = [images.encode_png(MASK), PALETTE.encode_mask(MASK), images.encode_png(PALETTE.colorize(MASK))]
    truth, masks = sources(tmp_path, images.encode_png(label), *codings).read("a/b.bmp")
    np.testing.assert_array_equal(truth, IDS)
    for mask in masks:
        np.testing.assert_array_equal(mask, MASK)


@pytest.mark.parametrize(
    ("label", "mask", "file", "reason"),
    [
        (b"", MASK, "labels/a/b.bmp", "the file is empty"),
        (images.encode_png(IDS), MASK, "labels/a/b.bmp", "unknown class id"),
        (images.encode_png(RAW), MASK[:1], "m1/a/b.png", "the mask is 3x1 pixels, its label 3x2"),
        (images.encode_png(RAW), RAW, "m1/a/b.png", "unknown class id 7 in 3 pixels"),
        (images.encode_png(RAW), np.where(MASK == 1, 255, 0), "m1/a/b.png", "no class (id 255) in 3 pixels that have"),
    ],
    ids=["empty label", "ids of no source", "size of mask", "raw ids in mask", "hole in mask"],
)
def test_the_first_file_that_cannot_be_used_is_named(
    tmp_path: Path, label: bytes, mask: np.ndarray, file: str, reason: str
) -> None:
    good, other = images.encode_png(MASK), images.encode_png(mask.astype(np.uint8))
    with pytest.raises(Unusable) as fault:
        sources(tmp_path, label, good, other).read("a/b.bmp")
    assert fault.value.path == str(tmp_path / file)
    assert reason in fault.value.reason


def test_a_mask_that_vanished_since_it_was_listed_is_named(tmp_path: Path) -> None:
    some = sources(tmp_path, images.encode_png(RAW), images.encode_png(MASK))
    (tmp_path / "m0/a/b.png").unlink()
    with pytest.raises(Unusable) as fault:
        some.read("a/b.bmp")
    assert fault.value.reason == "no mask found for this label"


def test_what_segment_notes_of_a_folder_is_read_and_compared(tmp_path: Path) -> None:
    folder = str(tmp_path)
    assert segment_notes(folder, PALETTE) == {}
    notes = {"head": "subpixel", "crf": None, "input": "images", "palette": PALETTE.to_json()}
    (tmp_path / "segment.json").write_text(json.dumps(notes))
    assert segment_notes(folder, PALETTE) == notes
    other = Palette("other", ("left", "middle"), ((200, 0, 0), (0, 200, 0)))
    with pytest.raises(InputError, match=r"have 2 classes \(left, right\), but the evaluation has 2 \(left, middle\)"):
        segment_notes(folder, other)

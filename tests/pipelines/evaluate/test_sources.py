"""Labels and masks as arrays, in every coding they may have, and why some cannot be used."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from pipelines.evaluate.sources import Comparison, Sources, Unusable, segment_notes
from pipelines.masks.stamps import Stamp, stamp_png
from tests.drawn.encoded import palette_png
from trainer import storage
from trainer.formats import images
from trainer.formats.labels import Palette
from trainer.options import InputError

PALETTE = Palette("two", ("left", "right"), ((200, 0, 0), (0, 200, 0)), source_ids=((7, 0), (8, 1), (9, 255)))
IDS = np.uint8([[0, 0, 1], [0, 1, 255]])
RAW = np.uint8([[7, 7, 8], [7, 8, 9]])
MASK = np.uint8([[0, 1, 1], [0, 1, 0]])
ONE_OPEN = np.uint8([[0, 1, 1], [0, 255, 255]])


def sources(folder: Path, label: bytes, *masks: bytes) -> Sources:
    """The sources of label a/b.bmp and its masks, in folders m0, m1, ..."""
    files = {"labels/a/b.bmp": label} | {f"m{number}/a/b.png": data for number, data in enumerate(masks)}
    for name, data in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)
    return Sources(str(folder / "labels"), tuple(str(folder / f"m{number}") for number in range(len(masks))), PALETTE)


def comparison(masks: int) -> Comparison:
    return Comparison("a/b", "a/b.bmp", ("a/b.png",) * masks)


@pytest.mark.parametrize("label", [RAW, PALETTE.colorize(IDS)], ids=["ids", "colours"])
def test_labels_are_coded_as_the_raw_set_is_and_masks_by_class_ids(tmp_path: Path, label: np.ndarray) -> None:
    codings = [images.encode_png(MASK), PALETTE.encode_mask(MASK), images.encode_png(PALETTE.colorize(MASK))]
    truth, masks = sources(tmp_path, images.encode_png(label), *codings).read(comparison(3))
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
        (images.encode_png(RAW), ONE_OPEN, "m1/a/b.png", "no class (id 255) in 1 pixel that has one in the label"),
    ],
    ids=["empty label", "ids of no source", "size of mask", "raw ids in mask", "hole in mask", "open pixel in mask"],
)
def test_the_first_file_that_cannot_be_used_is_named(
    tmp_path: Path, label: bytes, mask: np.ndarray, file: str, reason: str
) -> None:
    good, other = images.encode_png(MASK), images.encode_png(mask.astype(np.uint8))
    with pytest.raises(Unusable) as fault:
        sources(tmp_path, label, good, other).read(comparison(2))
    assert fault.value.path == str(tmp_path / file)
    assert reason in fault.value.reason


def test_a_mask_that_vanished_since_it_was_listed_is_named(tmp_path: Path) -> None:
    some = sources(tmp_path, images.encode_png(RAW), images.encode_png(MASK))
    (tmp_path / "m0/a/b.png").unlink()
    with pytest.raises(Unusable) as fault:
        some.read(comparison(1))
    assert fault.value.reason == "no mask found for this label"


def test_palette_pngs_are_read_by_the_colours_that_the_palette_knows(tmp_path: Path) -> None:
    # PNG optimisers number colours as they come.
    plain = replace(PALETTE, source_ids=())
    file = palette_png([[1, 1, 0], [1, 0, 2]], [*PALETTE.colors[1::-1], PALETTE.ignore_color])
    some = replace(sources(tmp_path, file, images.encode_png(MASK), file), palette=plain)
    truth, masks = some.read(comparison(2))
    np.testing.assert_array_equal(truth, IDS)
    np.testing.assert_array_equal(masks[1], IDS)


def test_palette_pngs_that_can_be_read_in_two_ways_need_the_users_word(tmp_path: Path) -> None:
    plain = replace(PALETTE, source_ids=())
    file = palette_png(1 - MASK, PALETTE.colors[1::-1])
    some = replace(sources(tmp_path, file, file), palette=plain)
    with pytest.raises(Unusable, match=r"can be read in two ways.*--label-coding"):
        some.read(comparison(1))
    for coding, expected in (("colors", MASK), ("ids", 1 - MASK)):
        truth, (mask,) = replace(some, coding=coding, mask_coding=coding).read(comparison(1))
        np.testing.assert_array_equal(truth, expected)
        np.testing.assert_array_equal(mask, expected)


def test_own_masks_hold_ids_whatever_the_colours_of_their_models_palette(tmp_path: Path) -> None:
    swapped = Palette("swapped", PALETTE.names, PALETTE.colors[::-1])
    mask = swapped.encode_mask(MASK)
    label = images.encode_png(RAW)
    (_, (ids,)) = sources(tmp_path, label, stamp_png(mask, Stamp("0" * 32, "id"))).read(comparison(1))
    np.testing.assert_array_equal(ids, MASK)
    with pytest.raises(Unusable, match="can be read in two ways"):
        sources(tmp_path, label, mask).read(comparison(1))


@pytest.mark.parametrize("file", ["labels/a/b.bmp", "m0/a/b.png"])
def test_a_file_that_may_not_be_read_is_named(tmp_path: Path, file: str) -> None:
    some = sources(tmp_path, images.encode_png(RAW), images.encode_png(MASK))

    def refuse(path: str) -> bytes:
        if path.endswith(file):
            raise PermissionError(13, "Permission denied", path)
        return storage.read(path)

    with pytest.raises(Unusable) as fault:
        some.read(comparison(1), refuse)
    assert (fault.value.path, fault.value.reason) == (str(tmp_path / file), "cannot be read: Permission denied")


@pytest.mark.parametrize("content", ["", "{", "[]", '{"palette": 5}', '{"palette": {"classes": [1]}}'])
def test_a_segment_json_of_others_is_an_input_error(tmp_path: Path, content: str) -> None:
    (tmp_path / "segment.json").write_text(content)
    with pytest.raises(InputError, match=r"segment\.json is not what `deeplab segment` writes"):
        segment_notes(str(tmp_path), PALETTE)


def test_what_segment_notes_of_a_folder_is_read_and_compared(tmp_path: Path) -> None:
    folder = str(tmp_path)
    assert segment_notes(folder, PALETTE) == {}
    notes = {"head": "subpixel", "crf": None, "input": "images", "palette": PALETTE.to_json()}
    (tmp_path / "segment.json").write_text(json.dumps(notes))
    assert segment_notes(folder, PALETTE) == notes
    other = Palette("other", ("left", "middle"), ((200, 0, 0), (0, 200, 0)))
    with pytest.raises(InputError, match=r"have 2 classes \(left, right\), but the evaluation has 2 \(left, middle\)"):
        segment_notes(folder, other)

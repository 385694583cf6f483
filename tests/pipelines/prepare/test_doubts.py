"""What `deeplab prepare` warns of at its end, and what it refuses before: labels that are not what they seem."""

from __future__ import annotations

import json

import numpy as np
import pytest

from tests.drawn.prepared import prepare_here
from tests.drawn.rawset import write_pair, write_rawset
from tests.drawn.records import draw_image
from trainer.options import InputError

IMAGE = draw_image(0)[0]


def warnings_of(text: str) -> list[str]:
    return [line for line in text.splitlines() if line.startswith("warning: ")]


def test_sound_labels_give_no_warning(prepared, source, tmp_path, capsys):
    prepare_here(source, tmp_path)
    assert warnings_of(capsys.readouterr().out) == []


def test_classes_without_a_pixel_mostly_ignored_pixels_and_one_class_are_said_last_and_again(tmp_path, capsys):
    raw = write_rawset(tmp_path / "raw", {"train": 2})
    disc = np.full([96, 96], 255, np.uint8)
    disc[:40] = 1
    write_pair(raw, "val", "a.jpg", IMAGE, disc)
    for _ in range(2):
        assert prepare_here(raw, tmp_path / "records") == 0
        lines = capsys.readouterr().out.splitlines()
        assert lines[-3:] == [
            "warning: val: 2 of 3 classes have no pixel in its labels: ground, bar",
            "warning: val: every pixel that is not ignored is of the class disc; nothing else can be learnt",
            "warning: val: 58.3% of the pixels are ignored (id 255)",
        ]
        assert not any(line.startswith("warning: train") for line in lines)


@pytest.mark.parametrize("palette", ["in the folder", "given"])
def test_masks_of_0_and_255_are_not_taken_for_one_class_and_ignored_pixels(tmp_path, palette):
    raw, label = write_rawset(tmp_path / "raw", {}), np.zeros([96, 96], np.uint8)
    label[20:60, 20:60] = 255
    for split in ("train", "val"):
        write_pair(raw, split, "a.jpg", IMAGE, label)
    classes = [{"name": "ground", "color": [0, 0, 0]}, {"name": "thing", "color": [255, 0, 0]}]
    path = raw / "palette.json" if palette == "in the folder" else tmp_path / "two.json"
    (raw / "palette.json").unlink()
    path.write_text(json.dumps({"name": "two", "classes": classes}))
    flags = [] if palette == "in the folder" else ["--palette", str(path)]
    with pytest.raises(InputError, match="255") as stop:
        prepare_here(raw, tmp_path / "records", *flags)
    assert "source_ids" in str(stop.value)
    assert not (tmp_path / "records").exists()
    path.write_text(
        json.dumps({"name": "two", "classes": classes, "ignore_id": 254, "source_ids": {"0": 0, "255": 1}})
    )
    assert prepare_here(raw, tmp_path / "records", *flags) == 0

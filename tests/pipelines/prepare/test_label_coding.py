"""What `prepare` makes of labels that can be read in two ways, and of masks whose foreground would be ignored."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.drawn.encoded import optimised, saved
from tests.drawn.prepared import prepare_here, read_records
from tests.drawn.rawset import write_rawset
from trainer.formats.dataset import DATASET_FILE
from trainer.formats.label_images import decode_label
from trainer.formats.palettes import CAMVID
from trainer.options import InputError


@pytest.fixture
def source(tmp_path):
    return write_rawset(tmp_path / "raw", {"train": 4, "val": 2})


def relabel(source: Path, encode) -> dict[str, np.ndarray]:
    """Writes every label anew; returns what it held, by the key of its image."""
    held = {}
    for path in sorted((source / "labels").rglob("*.png")):
        ids = np.asarray(Image.open(path))
        held[path.relative_to(source / "labels").with_suffix("").as_posix()] = ids
        path.write_bytes(encode(ids))
    return held


def test_palette_images_of_optimisers_are_refused_until_it_is_said_how_they_are_read(source, tmp_path, capsys):
    held = relabel(source, lambda ids: optimised(CAMVID.colorize(ids % 11)))
    output = tmp_path / "records"
    with pytest.raises(InputError, match="can be read in two ways"):
        prepare_here(source, output, "--palette", "camvid")
    assert not (output / DATASET_FILE).exists()
    assert prepare_here(source, output, "--palette", "camvid", "--label-coding", "colors") == 0
    assert "labels are read by their colors, as given by --label-coding" in capsys.readouterr().out
    for record in read_records(output):
        np.testing.assert_array_equal(decode_label(record.label), held[record.key] % 11)


def test_masks_of_0_and_255_are_refused_with_a_cure_that_works(source, tmp_path):
    held = relabel(source, lambda ids: saved(np.where(ids > 0, 255, 0).astype(np.uint8)))
    classes = {"classes": [{"name": "rest", "color": [0, 0, 0]}, {"name": "thing", "color": [255, 0, 0]}]}
    palette = tmp_path / "classes.json"
    palette.write_text(json.dumps(classes))
    output = tmp_path / "records"
    with pytest.raises(InputError, match=r'"source_ids": \{"0": 0, "255": 1\}'):
        prepare_here(source, output, "--palette", str(palette))
    palette.write_text(json.dumps({**classes, "source_ids": {"0": 0, "255": 1}}))
    assert prepare_here(source, output, "--palette", str(palette)) == 0
    for record in read_records(output):
        np.testing.assert_array_equal(decode_label(record.label), held[record.key] > 0)

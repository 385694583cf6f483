"""The class sets that are built in, and those in files."""

from __future__ import annotations

import json

import numpy as np
import pytest

from trainer.formats.labels import LabelError, Palette
from trainer.formats.options import PALETTES
from trainer.formats.palettes import BUILT_IN, CAMVID, CITYSCAPES, CITYSCAPES_TRAINIDS, VOC, resolve, voc_colormap
from trainer.options import InputError


def test_class_sets_have_their_published_sizes_and_colours():
    assert {name: palette.num_classes for name, palette in BUILT_IN.items()} == {
        "voc": 21,
        "camvid": 11,
        "cityscapes": 19,
        "cityscapes-trainids": 19,
    }
    assert (VOC.ignore_id, CAMVID.ignore_id, CITYSCAPES.ignore_id) == (255, 11, 255)
    assert VOC.colors[8] == (64, 0, 0) and VOC.names[8] == "cat"
    assert VOC.colors[20] == (0, 64, 128) and VOC.names[20] == "tvmonitor"
    assert CAMVID.colors[3] == (128, 64, 128) and CAMVID.names[3] == "road"
    assert CITYSCAPES.colors[13] == (0, 0, 142) and CITYSCAPES.names[13] == "car"


def test_voc_colormap_ends_in_the_colour_of_void():
    colors = voc_colormap()
    assert len(set(colors)) == 256
    assert (colors[0], colors[1], colors[255]) == ((0, 0, 0), (128, 0, 0), VOC.ignore_color)


def test_camvids_own_colours_are_grouped_as_segnet_does():
    wall, lane, sidewalk, child, truck, void = (
        [64, 192, 0],
        [128, 0, 192],
        [0, 0, 192],
        [192, 128, 64],
        [192, 128, 192],
        [0] * 3,
    )
    assert CAMVID.to_ids(np.uint8([[wall, lane, sidewalk, child, truck, void]])).tolist() == [[1, 3, 4, 9, 8, 11]]
    assert len(CAMVID.known_colors()) == 34  # CamVid's 32, SegNet's own pavement and road marking


def test_cityscapes_label_ids_become_train_ids():
    assert CITYSCAPES.to_ids(np.uint8([[7, 8, 11, 26, 33, 0, 6, 255]])).tolist() == [[0, 1, 2, 13, 18, 255, 255, 255]]
    assert CITYSCAPES_TRAINIDS.to_ids(np.uint8([[7, 18, 255]])).tolist() == [[7, 18, 255]]
    with pytest.raises(LabelError, match="unknown class id 34"):
        CITYSCAPES.to_ids(np.uint8([[34]]))
    assert sorted(source for source, _ in CITYSCAPES.source_ids) == list(range(34))


def test_resolve_finds_names_and_files(tmp_path):
    assert resolve("voc") is VOC
    path = tmp_path / "mine.json"
    mine = Palette("two", ("sky", "road"), ((1, 2, 3), (4, 5, 6)), ignore_id=9, ignore_color=(7, 8, 9))
    path.write_text(json.dumps(mine.to_json()))
    assert resolve(str(path)) == mine
    with pytest.raises(InputError, match=r"'nope' is neither one of voc, camvid, cityscapes, .* nor a file"):
        resolve("nope")


def test_options_name_every_built_in_palette():
    assert tuple(BUILT_IN) == PALETTES

"""Which palette the labels of a set are coded by."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pipelines.inputs import coding
from pipelines.inputs.coding import NoPalette, detect_palette
from pipelines.inputs.rawset import RawSet, scan
from pipelines.inputs.sampling import read_label
from tests.drawn.places import DATA
from tests.drawn.rawset import touch
from trainer.formats.labels import Palette
from trainer.formats.palettes import CAMVID, CITYSCAPES, CITYSCAPES_TRAINIDS, VOC
from trainer.options import InputError

CAMVID_DATA = DATA / "camvid"
VOC_FOLDERS = ("JPEGImages", "SegmentationClass")
USUAL = "palette voc, as is usual for voc sets"


def write_label(path: Path, label: np.ndarray, colormap: np.ndarray | None = None) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    encoded = Image.fromarray(np.asarray(label, np.uint8))
    if colormap is not None:
        encoded.putpalette(colormap.tobytes())
    encoded.save(path)


def labelled(root: Path, *arrays: np.ndarray, folders=("images", "labels"), colormap=None) -> RawSet:
    for index, array in enumerate(arrays):
        touch(root, f"{folders[0]}/{index}.jpg")
        write_label(root / f"{folders[1]}/{index}.png", array, colormap)
    return scan(str(root))


def test_palette_file_in_the_root_wins(tmp_path):
    mine = Palette("mine", ("a", "b"), ((1, 1, 1), (2, 2, 2)))
    touch(tmp_path, "JPEGImages/a.jpg", "SegmentationClass/a.png")
    (tmp_path / "palette.json").write_text(json.dumps(mine.to_json()))
    palette, reason, _ = detect_palette(scan(str(tmp_path)))
    assert palette == mine and reason.startswith("palette mine of 2 classes, from ")
    assert detect_palette(scan(str(tmp_path)), "camvid")[0] is CAMVID


def test_layout_implies_the_palette(tmp_path):
    touch(tmp_path, "JPEGImages/a.jpg", "SegmentationClass/a.png")
    assert detect_palette(scan(str(tmp_path))) == (VOC, USUAL, False)


def test_camvid_ids_are_recognised_and_unreadable_labels_passed_over(tmp_path):
    folders = ("images/train", "labels/train")
    labelled(tmp_path, [[0, 1, 2]], [[3, 5, 11]], folders=folders)
    touch(tmp_path, "images/train/z.jpg", "labels/train/z.png")
    palette, reason, _ = detect_palette(scan(str(tmp_path)))
    assert palette is CAMVID
    assert reason == "palette camvid: 2 sampled labels hold ids 0-3, 5, 11"


def test_ids_of_a_few_classes_in_folders_of_splits_are_not_those_of_camvid(tmp_path):
    with pytest.raises(NoPalette):
        detect_palette(labelled(tmp_path, [[*range(8)]], folders=("images/train", "labels/train")))


@pytest.mark.parametrize(
    ("label", "colormap"),
    [
        ([[0, 1, 2]], None),
        ([[0, 1, 2]], VOC.colormap()),
        ([[0, 1, 2]], np.uint8([[0, 0, 0], [9, 9, 9], [7, 8, 9]])),
        (VOC.colorize(np.uint8([[0, 1, 2]])), None),
    ],
)
def test_labels_in_vocs_folders_that_seem_to_hold_other_classes_are_doubted(tmp_path, label, colormap):
    palette, reason, _ = detect_palette(labelled(tmp_path, label, folders=VOC_FOLDERS, colormap=colormap))
    assert palette is VOC and reason.startswith("warning: palette voc, as is usual for voc sets, but the sampled")
    assert "only its first 3 classes (background, aeroplane, bicycle)" in reason and "palette.json" in reason


def test_a_black_and_red_mask_is_not_of_cityscapes_whose_red_is_a_rider(tmp_path):
    with pytest.raises(NoPalette):
        detect_palette(labelled(tmp_path, np.uint8([[[0, 0, 0], [255, 0, 0]]])))


def test_a_mask_in_vocs_first_colours_is_doubted_in_any_folder(tmp_path):
    palette, reason, _ = detect_palette(labelled(tmp_path, np.uint8([[[0, 0, 0], [128, 0, 0], [0, 128, 0]]])))
    assert palette is VOC and reason.startswith("warning: palette voc: 1 sampled label holds 3 colours")


@pytest.mark.parametrize("ids", [[0, 1, 2, 255], [0, 15], [1, 2], [0], [*range(21)]])
def test_labels_of_voc_are_not_doubted(tmp_path, ids):
    assert detect_palette(labelled(tmp_path, [ids], folders=VOC_FOLDERS))[1] == USUAL
    optimised = VOC.colormap()[ids]  # as PNG optimisers renumber it
    raw = labelled(tmp_path, [[*range(len(ids))]], folders=VOC_FOLDERS, colormap=optimised)
    assert detect_palette(raw)[1] == USUAL


@pytest.mark.parametrize("palette", [VOC, CAMVID, CITYSCAPES], ids=lambda palette: palette.name)
def test_colours_known_to_one_palette_identify_it(tmp_path, palette):
    ids = np.uint8([[*range(palette.num_classes), palette.ignore_id]])
    detected, reason, _ = detect_palette(labelled(tmp_path, palette.colorize(ids)))
    assert detected is palette and f"{palette.num_classes + 1} colours" in reason


@pytest.mark.parametrize("palette", [VOC, CAMVID, CITYSCAPES_TRAINIDS], ids=lambda palette: palette.name)
def test_the_colour_map_inside_palette_pngs_tells_the_palette(tmp_path, palette):
    ids = np.uint8([[0, 1, palette.ignore_id]])
    assert detect_palette(labelled(tmp_path, ids, colormap=palette.colormap()))[0] is palette


@pytest.mark.parametrize(
    ("label", "seen"),
    [
        ([[0, 1, 2, 7]], "1 sampled label holds ids 0-2, 7"),
        ([[[0, 0, 0], [128, 0, 0]]], r"label holds 2 colours \(0, 0, 0\), \(128, 0, 0\)"),  # VOC's as well as CamVid's
        ([[[1, 2, 3], [128, 0, 0]]], r"2 colours \(1, 2, 3\), \(128, 0, 0\)"),
    ],
)
def test_ambiguous_labels_require_a_palette(tmp_path, label, seen):
    with pytest.raises(
        InputError, match=rf"cannot tell the palette; .*{seen}.* Give --palette voc, camvid.*deeplab doctor"
    ):
        detect_palette(labelled(tmp_path, np.uint8(label)))


def test_a_label_that_fails_in_an_unknown_way_is_passed_over(tmp_path):
    """A job does not end of one image before it has begun either."""
    raw = labelled(tmp_path, [[0, 1, 2]], [[3, 5, 11]], [[7, 8]], folders=("images/train", "labels/train"))

    def read(path):
        if path.endswith("2.png"):
            raise MemoryError
        return read_label(path)

    assert detect_palette(raw, "auto", read)[1] == "palette camvid: 2 sampled labels hold ids 0-3, 5, 11"


def test_labels_that_cannot_be_read_ask_for_a_palette(tmp_path):
    touch(tmp_path, "images/a.jpg", "labels/a.png")
    with pytest.raises(InputError, match="none of the sampled labels could be read"):
        detect_palette(scan(str(tmp_path)))


@pytest.mark.skipif(not CAMVID_DATA.is_dir(), reason="the CamVid images are not beside the project")
def test_real_camvid_is_recognised():
    raw = scan(str(CAMVID_DATA))
    assert raw.summary == "camvid: images/{train,val} with labels/{train,val}, 367 train + 101 val images"
    assert not raw.rejects and detect_palette(raw)[0] is CAMVID


@pytest.mark.parametrize("colormap", [None, VOC.colormap()], ids=["ids", "colours"])
def test_palette_and_coding_are_found_in_labels_that_are_read_once(tmp_path, colormap):
    raw = labelled(tmp_path, [[0, 1, 2]], [[3, 5, 11]], folders=("images/train", "labels/train"), colormap=colormap)
    read = []
    found = coding.recognise(raw, read=lambda path: read.append(path) or read_label(path))
    palette, why, _ = detect_palette(raw)
    assert found == (palette, why, *coding.settle_coding(raw.labels, palette))
    assert sorted(read) == sorted(raw.labels)

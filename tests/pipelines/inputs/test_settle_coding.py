"""Whether a set's labels are read by numbers or by colours, as a sample of them tells."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pipelines.inputs.coding import detect_palette, settle_coding
from pipelines.inputs.rawset import RawSet, scan
from tests.drawn.encoded import optimised, palette_png, saved
from tests.drawn.places import DATA
from tests.drawn.rawset import touch
from trainer.formats.codings import decode_ids
from trainer.formats.labels import LabelError, Palette
from trainer.formats.palettes import CAMVID, VOC, voc_colormap
from trainer.options import InputError

CAMVID_DATA = DATA / "camvid"
PLAIN = Palette("plain", ("rest", "thing"), ((10, 20, 30), (40, 50, 60)))


def row(*values: int) -> np.ndarray:
    return np.uint8([values])


def written(folder: Path, *labels: bytes) -> list[str]:
    paths = [folder / f"{index}.png" for index in range(len(labels))]
    for path, label in zip(paths, labels, strict=True):
        path.write_bytes(label)
    return [str(path) for path in paths]


def labelled(root: Path, labels: Sequence[bytes]) -> RawSet:
    touch(root, *(f"images/train/{index}.jpg" for index in range(len(labels))))
    (root / "labels/train").mkdir(parents=True)
    written(root / "labels/train", *labels)
    return scan(str(root))


def shuffled(ids: np.ndarray, palette: Palette) -> bytes:
    """A colour label in a palette, with entries that are not used in front, so that indices are no ids."""
    colors = [*[(1, 1, 1)] * 50, *palette.colormap()[:20].tolist()]
    return palette_png(ids + 50, colors)


def test_labels_that_say_one_thing_leave_the_coding_as_it_is(tmp_path):
    for labels in (
        [saved(row(0, 1, 2))],
        [saved(CAMVID.colorize(row(0, 1)))],
        [palette_png(row(0, 1), CAMVID.colormap())],
        [palette_png(row(0, 1, 2), voc_colormap()), saved(row(0, 11))],
        [],
    ):
        assert settle_coding(written(tmp_path, *labels), CAMVID) == ("auto", "")


def test_palette_images_of_vocs_layout_with_other_colours_are_doubted(tmp_path):
    others = np.roll(np.arange(768, dtype=np.uint8).reshape(256, 3), 5)
    coding, doubt = settle_coding(written(tmp_path, palette_png(row(0, 1, 2), others)), VOC)
    assert coding == "auto" and doubt.startswith(
        "warning: the sampled palette images have other colours than Pascal VOC's"
    )
    for colors in (VOC.colormap(), np.arange(256).repeat(3).reshape(256, 3)):
        assert settle_coding(written(tmp_path, palette_png(row(0, 1, 2, 255), colors)), VOC) == ("auto", "")


def test_palette_images_that_colours_alone_explain_are_read_by_colours(tmp_path):
    paths = written(tmp_path, shuffled(row(0, 1, 3), CAMVID), palette_png(row(0, 1), CAMVID.colormap()))
    coding, reason = settle_coding(paths, CAMVID)
    assert coding == "colors" and reason == "palette images are read by their colours, which palette camvid knows"
    assert decode_ids(Path(paths[0]).read_bytes(), CAMVID, coding=coding).tolist() == [[0, 1, 3]]


GREYS = Palette("greys", ("a", "b", "c"), ((0, 0, 0), (85, 85, 85), (255, 255, 255)))


def test_grey_labels_whose_values_are_no_ids_but_greys_of_the_palette_are_read_by_these(tmp_path):
    paths = written(tmp_path, saved(row(0, 85)), saved(row(0, 255)), saved(row(0, 0)))
    coding, reason = settle_coding(paths, GREYS)
    assert coding == "colors" and reason == "grey labels are read by their greys, which palette greys knows as colours"
    read = [decode_ids(Path(path).read_bytes(), GREYS, coding=coding).tolist() for path in paths]
    assert read == [[[0, 1]], [[0, 2]], [[0, 0]]]


@pytest.mark.parametrize("values", [(0, 1, 2), (0, 255, 1), (0, 85, 86), (0, 1, 85), (85,)])
def test_other_grey_labels_are_read_by_their_numbers(values, tmp_path):
    assert settle_coding(written(tmp_path, saved(row(*values))), GREYS)[0] != "colors"


def test_a_set_that_can_be_read_in_two_ways_is_refused_by_the_name_of_a_label(tmp_path):
    paths = written(tmp_path, saved(row(1)), optimised(CAMVID.colorize(row(0, 1, 3, 4))))
    with pytest.raises(InputError, match=r"1\.png can be read in two ways: index 0 .*--label-coding ids or"):
        settle_coding(paths, CAMVID)
    for coding in ("ids", "colors"):
        assert settle_coding(paths, CAMVID, coding) == (
            coding,
            f"labels are read by their {coding}, as given by --label-coding",
        )


def test_a_set_of_which_some_labels_go_by_indices_and_some_by_colours_is_refused(tmp_path):
    paths = written(tmp_path, shuffled(row(0, 1), CAMVID), palette_png(row(0, 2), voc_colormap()))
    with pytest.raises(InputError, match=r"knows .*1\.png by its indices alone, and .*0\.png by its colours alone"):
        settle_coding(paths, CAMVID)


def test_a_set_of_masks_of_0_and_255_is_refused_with_the_cure(tmp_path):
    masks = [saved(row(0, 255)), saved(row(0, 0)), saved(row(255))]
    for palette in (PLAIN, VOC):
        with pytest.raises(InputError, match=r'labels contain only 0 and 255; .*"source_ids": \{"0": 0, "255": 1\}'):
            settle_coding(written(tmp_path, *masks), palette)
    assert settle_coding(written(tmp_path, *masks), PLAIN, "ids")[0] == "ids"
    cured = Palette("cured", PLAIN.names, PLAIN.colors, source_ids=((0, 0), (255, 1)))
    assert settle_coding(written(tmp_path, *masks), cured) == ("auto", "")


def test_255_beside_a_class_is_the_ignore_id(tmp_path):
    paths = written(tmp_path, saved(row(0, 1, 255)), saved(row(0, 255)))
    coding, _ = settle_coding(paths, PLAIN)
    assert decode_ids(Path(paths[1]).read_bytes(), PLAIN, coding=coding).tolist() == [[0, 255]]
    # Two halves of a set that mean different things by it do not.
    paths = written(tmp_path, saved(row(0, 1)), saved(row(0, 255)))
    coding, _ = settle_coding(paths, PLAIN)
    with pytest.raises(LabelError, match="only 0 and 255"):
        decode_ids(Path(paths[1]).read_bytes(), PLAIN, coding=coding)


# Recognition of the palette


def test_colours_of_palette_images_tell_the_palette(tmp_path):
    raw = labelled(tmp_path, [shuffled(row(0, 1, 3, 4), CAMVID)] * 2)
    palette, reason, _ = detect_palette(raw)
    assert palette is CAMVID and "4 colours" in reason


def test_indices_without_known_colours_tell_no_palette_by_themselves(tmp_path):
    raw = labelled(tmp_path, [palette_png(row(0, 1, 2), [(9, 9, 8)] * 3)])
    with pytest.raises(InputError, match=r"cannot tell the palette; 1 sampled label holds ids 0-2 and 1 colour "):
        detect_palette(raw)


@pytest.mark.skipif(not CAMVID_DATA.is_dir(), reason="the CamVid images are not beside the project")
def test_real_camvid_labels_that_an_optimiser_gave_palettes_are_right_or_refused(tmp_path):
    labels = sorted((CAMVID_DATA / "labels/train").iterdir())[:4]
    ids = [np.asarray(Image.open(path)) for path in labels]
    raw = labelled(tmp_path, [optimised(CAMVID.colorize(each)) for each in ids])
    palette, _, _ = detect_palette(raw)
    assert palette is CAMVID
    paths = [pair.label for pair in raw.pairs]
    with pytest.raises(InputError, match="two ways"):
        settle_coding(paths, palette)
    coding, _ = settle_coding(paths, palette, "colors")
    for path, expected in zip(sorted(paths), [ids[int(Path(path).stem)] for path in sorted(paths)], strict=True):
        np.testing.assert_array_equal(decode_ids(Path(path).read_bytes(), palette, coding=coding), expected)


def test_ids_from_0_to_the_number_of_classes_are_doubted(tmp_path):
    palette = Palette("plain", ("a", "b", "c"), ((1, 1, 1), (2, 2, 2), (3, 3, 3)))
    _, doubt = settle_coding(written(tmp_path, saved(row(0, 1, 2, 3, 255))), palette)
    assert "hold all ids from 0 to 3, and palette plain has 3 classes: either 0" in doubt

"""What a palette does: labels to class ids, class ids to colours, masks and overlays; and its JSON form."""

from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from trainer.formats import images, label_images
from trainer.formats.labels import LabelError, Palette
from trainer.formats.palettes import BUILT_IN, CAMVID, CITYSCAPES, VOC, resolve
from trainer.formats.runs import pixels_of_ids
from trainer.options import InputError

TWO = Palette("two", ("sky", "road"), ((1, 2, 3), (4, 5, 6)), ignore_id=9, ignore_color=(7, 8, 9))
EVERY = pytest.mark.parametrize("palette", [*BUILT_IN.values(), TWO], ids=lambda palette: palette.name)


def every_id(palette: Palette) -> np.ndarray:
    """Every class id and the ignore id, as an image of one row."""
    return np.uint8([[*range(palette.num_classes), palette.ignore_id]])


@EVERY
def test_ids_to_colours_and_back(palette):
    ids = every_id(palette)
    np.testing.assert_array_equal(palette.to_ids(palette.colorize(ids)), ids)


@EVERY
def test_json_round_trip_in_any_order(palette):
    assert Palette.from_json(json.loads(json.dumps(palette.to_json(), sort_keys=True))) == palette


@EVERY
def test_mask_png_holds_the_class_ids_and_the_colours(palette):
    ids = np.repeat(every_id(palette), 3, axis=0)
    encoded = palette.encode_mask(ids)
    np.testing.assert_array_equal(label_images.decode_label(encoded), ids)
    np.testing.assert_array_equal(images.decode_image(encoded), palette.colorize(ids))


def test_every_id_is_known_ignored_or_refused():
    for value in range(256):
        label = np.full((2, 3), value, np.uint8)
        if value <= 11:
            assert (CAMVID.to_ids(label) == value).all()
        else:
            with pytest.raises(LabelError, match=f"unknown class id {value} in 6 pixels"):
                CAMVID.to_ids(label)


def test_unknown_ids_are_named_with_their_pixels():
    label = np.zeros((40, 40), np.uint8)
    label[:30] = 37
    label[39, 39] = 12
    with pytest.raises(LabelError) as error:
        CAMVID.to_ids(label)
    assert str(error.value) == (
        "unknown class id 37 in 1200 pixels, 12 in 1 pixel; palette camvid knows 0-10 and 11 (ignored)"
    )


def test_of_many_unknown_colours_the_five_largest_are_named():
    label = np.zeros((1, 28, 3), np.uint8)
    label[0, :, 2] = np.repeat(np.arange(1, 8), np.arange(1, 8))
    with pytest.raises(
        LabelError, match=r"unknown colour \(0, 0, 7\) in 7 pixels, .* \(0, 0, 3\) in 3 pixels and 2 more"
    ):
        VOC.to_ids(label)


def test_check_ids_takes_class_ids_whatever_the_source_coding():
    ids = every_id(CITYSCAPES)
    assert CITYSCAPES.check_ids(ids) is ids
    with pytest.raises(LabelError, match="unknown class id 19 in 1 pixel; palette cityscapes knows 0-18 and 255"):
        CITYSCAPES.check_ids(np.uint8([[19]]))


@pytest.mark.parametrize("label", [np.zeros((2, 2), np.int32), np.zeros((2, 2, 4), np.uint8), np.zeros(4, np.uint8)])
def test_labels_of_other_shapes_and_types_are_refused(label):
    with pytest.raises(LabelError, match="a label must be uint8"):
        VOC.to_ids(label)


@given(st.data())
@settings(max_examples=30, deadline=None)
def test_any_palette_reads_back_what_it_colours(data):
    colors = data.draw(st.lists(st.tuples(*[st.integers(0, 255)] * 3), min_size=2, max_size=12, unique=True))
    classes = len(colors) - 1
    ignore_id = data.draw(st.integers(classes, 255))
    names = tuple(f"class {index}" for index in range(classes))
    palette = Palette("any", names, tuple(colors[1:]), ignore_id, colors[0])
    ids = every_id(palette)
    np.testing.assert_array_equal(palette.to_ids(palette.colorize(ids)), ids)
    np.testing.assert_array_equal(palette.to_ids(ids), ids)


def test_overlay_blends_classes_draws_boundaries_and_leaves_the_rest():
    image = np.full((4, 6, 3), 100, np.uint8)
    ids = np.uint8([[1, 1, 1, 8, 8, 255]] * 4)
    ids[3] = 0
    shown = VOC.overlay(image, ids, alpha=0.5)
    assert shown[1, 0].tolist() == [114, 50, 50]  # half of grey 100, half of (128, 0, 0)
    assert shown[0, 3].tolist() == [159, 127, 127]  # the boundary to another class: (64, 0, 0), half way to white
    assert shown[2, 0].tolist() == [191, 127, 127]  # the boundary to the background
    assert (shown[3] == 100).all() and (shown[:, 5] == 100).all()
    assert (image == 100).all()


def changed(**entries) -> dict:
    return {**TWO.to_json(), **entries}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ([], "needs a list of classes"),
        ({"name": "x"}, "needs a list of classes"),
        (changed(classes=[]), "expected 1 to 254 classes, got 0"),
        (changed(classes=[{"name": "a"}]), "entry 'color' is missing"),
        (changed(classes=[{"name": "a", "color": [1, 2]}]), r"three whole numbers from 0 to 255, got \[1, 2\]"),
        (changed(classes=[{"name": "a", "color": [1, 2, 256]}]), "a colour must be three whole numbers"),
        (changed(classes=[{"name": "a", "color": "red"}]), "a colour must be three whole numbers"),
        (changed(classes=[{"name": "a", "color": [i, 0, 0]} for i in (1, 2)]), "class name 'a' appears twice"),
        (changed(classes=[{"name": n, "color": [0, 0, 0]} for n in "ab"]), r"colour \(0, 0, 0\) appears twice"),
        (changed(name="p\nFAKE"), r"the name 'p\\nFAKE' has a control character, '\\n'; write it without"),
        (changed(classes=[{"name": "a\u2028", "color": [1, 0, 0]}]), r"'a\\u2028' has a control character"),
        (changed(classes=[{"name": "a\x9b2J", "color": [1, 0, 0]}]), r"'a\\x9b2J' has a control character"),
        (changed(classes=[{"name": " ", "color": [1, 0, 0]}]), r"class names must be non-empty strings, got \[' '\]"),
        (changed(ignore_id=1), "ignore_id must be 2 to 255"),
        (changed(ignore_id="9"), "ignore_id must be 2 to 255"),
        (changed(ignore_color=[1, 2, 3]), r"colour \(1, 2, 3\) appears twice"),
        (changed(source_ids={"7": 5}), "7 is mapped to 5, expected 0-1 or 9"),
        (changed(source_ids={"300": 1}), "source ids must be 0 to 255, got 300"),
        (changed(source_ids={"sky": 1}), "malformed palette: invalid literal"),
        (changed(aliases=[{"color": [9, 9, 9], "id": 4}]), r"\(9, 9, 9\) is mapped to 4"),
        (changed(color_map=[]), "unknown entry 'color_map'"),
    ],
)
def test_a_malformed_palette_is_named(content, message, tmp_path):
    path = tmp_path / "palette.json"
    path.write_text(json.dumps(content))
    with pytest.raises(InputError, match=message) as error:
        resolve(str(path))
    assert str(error.value).startswith(str(path))


@pytest.mark.parametrize(
    "ids",
    [
        [[7]],
        [[0, 0, 3], [3, 255, 0]],
        [[2] * 99 + [7] * 99 + [2] * 9],
        np.random.default_rng(0).integers(0, 256, (9, 31)),
        np.random.default_rng(0).integers(0, 256, (9, 31)) // 100,
        np.arange(15)[None] // 8,
        np.arange(17)[None] // 8,
    ],
)
def test_pixels_are_counted_by_id(ids):
    ids = np.array(ids, np.uint8)
    assert pixels_of_ids(ids[:, ::-1]).tolist() == [int((ids == i).sum()) for i in range(256)]


def test_ids_that_are_those_of_the_label_are_not_copied():
    label = every_id(CAMVID)
    assert CAMVID.to_ids(label) is label
    channels = np.repeat(label[..., None], 3, axis=2)
    assert CAMVID.to_ids(channels[..., 0]).flags.c_contiguous

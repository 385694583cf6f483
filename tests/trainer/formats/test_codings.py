"""Label files to class ids: by numbers, by colours, and not at all where the two differ."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from tests.drawn.encoded import noise, optimised, palette_png, png, saved, tiff_of, two_pictures
from trainer.formats.codings import decode_ids, decode_mask
from trainer.formats.images import ImageError
from trainer.formats.label_images import decode_label
from trainer.formats.labels import LabelError, Palette
from trainer.formats.palettes import CAMVID, CITYSCAPES, CITYSCAPES_TRAINIDS, VOC, voc_colormap

BINARY = Palette("binary", ("rest", "thing"), ((0, 0, 0), (255, 255, 255)))
PLAIN = Palette("plain", ("rest", "thing"), ((10, 20, 30), (40, 50, 60)))
CLASSES = Palette("classes", tuple("abcde"), tuple((200 + index, 0, 100) for index in range(5)))


def row(*values: int) -> np.ndarray:
    return np.uint8([values])


def every_class(palette: Palette) -> np.ndarray:
    return row(*range(palette.num_classes), palette.ignore_id)


# Palette images whose indices are ids, and those whose colours are


@pytest.mark.parametrize("palette", [VOC, CAMVID, CITYSCAPES_TRAINIDS, CLASSES], ids=lambda palette: palette.name)
def test_colours_and_indices_that_agree_are_read(palette):
    ids = every_class(palette)
    np.testing.assert_array_equal(decode_ids(palette_png(ids, palette.colormap()), palette), ids)
    np.testing.assert_array_equal(decode_ids(palette.encode_mask(ids), palette), ids)


@pytest.mark.parametrize("palette", [VOC, CAMVID, CITYSCAPES, CLASSES], ids=lambda palette: palette.name)
def test_a_colour_label_that_an_optimiser_gave_a_palette_is_read_by_colour_or_refused(palette):
    ids = every_class(palette)
    data = optimised(palette.colorize(ids))
    np.testing.assert_array_equal(decode_ids(data, palette, coding="colors"), ids)
    try:
        np.testing.assert_array_equal(decode_ids(data, palette), ids)
    except LabelError as error:
        assert "can be read in two ways" in str(error) and "--label-coding" in str(error)


def test_colours_count_where_an_index_is_no_id():
    colors = [*[(9, 9, 9)] * 40, *CLASSES.colors]
    assert decode_ids(palette_png(row(40, 42, 44), colors), CLASSES).tolist() == [[0, 2, 4]]


def test_colours_that_the_palette_does_not_know_leave_the_indices():
    for colors in (
        noise(256, 3, 1),
        np.uint8([(255, 0, 0)] * 256),
        voc_colormap(),
        [(9, 8, index) for index in range(9)],
    ):
        assert decode_ids(palette_png(row(0, 1, 4, 3), colors), CLASSES).tolist() == [[0, 1, 4, 3]]
    # VOC's colour map is what many tools give to any ids.
    assert decode_ids(palette_png(row(*range(12)), voc_colormap()), CAMVID).tolist() == [list(range(12))]


def test_both_readings_that_differ_are_refused_unless_one_is_chosen():
    data = palette_png(row(0, 1, 1), [CLASSES.colors[3], CLASSES.colors[1]])
    with pytest.raises(LabelError) as refused:
        decode_ids(data, CLASSES)
    assert str(refused.value) == (
        "can be read in two ways: index 0 of its colour map is class 0 (a), its colour (203, 0, 100) is class 3 (d); "
        "state which one is right with --label-coding ids or --label-coding colors"
    )
    assert decode_ids(data, CLASSES, coding="ids").tolist() == [[0, 1, 1]]
    assert decode_ids(data, CLASSES, coding="colors").tolist() == [[3, 1, 1]]


def test_a_grey_label_that_is_to_be_read_by_colours_is_if_its_greys_are_colours():
    greys = Palette("greys", ("a", "b", "c"), ((100, 100, 100), (0, 0, 0), (200, 200, 200)))
    assert decode_ids(saved(row(0, 100, 200)), greys, coding="colors").tolist() == [[1, 0, 2]]
    assert decode_ids(saved(row(0, 1, 2)), greys, coding="colors").tolist() == [[0, 1, 2]]


def test_values_unknown_to_both_readings_are_named_by_index_and_chosen_coding():
    data = palette_png(row(0, 7), [(1, 2, 3)] * 8)
    with pytest.raises(LabelError, match="unknown class id 7 in 1 pixel"):
        decode_ids(data, CLASSES)
    with pytest.raises(LabelError, match=r"unknown colour \(1, 2, 3\) in 2 pixels"):
        decode_ids(data, CLASSES, coding="colors")


def test_entries_that_are_not_used_do_not_count():
    colors = [*CLASSES.colors[:3], (1, 1, 1), CLASSES.colors[0]]
    assert decode_ids(palette_png(row(0, 1, 2), colors), CLASSES).tolist() == [[0, 1, 2]]


def test_a_transparent_colour_is_no_known_colour():
    colors = [CLASSES.colors[3], CLASSES.colors[1]]
    assert decode_ids(palette_png(row(0, 1), colors, alpha=b"\0\xff"), CLASSES).tolist() == [[0, 1]]
    assert decode_ids(palette_png(row(0, 1), CLASSES.colors, alpha=b"\0\xff"), CLASSES).tolist() == [[0, 1]]


def test_colours_beside_transparent_ones_count_where_they_differ_from_the_indices():
    colors = [CLASSES.colors[1], CLASSES.colors[0], CLASSES.colors[2]]
    data = palette_png(row(0, 1, 2), colors, alpha=b"\xff\0")
    with pytest.raises(LabelError, match=r"index 0 .* is class 0 \(a\), its colour .* is class 1 \(b\)"):
        decode_ids(data, CLASSES)
    assert decode_ids(data, CLASSES, coding="ids").tolist() == [[0, 1, 2]]
    with pytest.raises(LabelError, match=r"transparent in 1 pixel, .*without transparency"):
        decode_ids(data, CLASSES, coding="colors")


def test_an_index_without_a_colour_is_its_number():
    data = png(8, 3, size=(1, 3), rows=b"\0\0\1\4", before=[(b"PLTE", bytes(CLASSES.colors[0] + CLASSES.colors[1]))])
    assert decode_ids(data, CLASSES).tolist() == [[0, 1, 4]]


@pytest.mark.parametrize("bits", [1, 2, 4, 8])
def test_palettes_of_few_bits_are_read_alike(bits):
    ids = row(0, 1, 1, 0, 1)
    assert decode_ids(palette_png(ids, CLASSES.colors[: 1 << bits], bits=bits), CLASSES).tolist() == ids.tolist()


def test_palette_images_of_other_formats_are_read_alike():
    image = Image.fromarray(row(0, 1, 1))
    image.putpalette(np.uint8([CLASSES.colors[3], CLASSES.colors[1]]).tobytes())
    for format in ("BMP", "TIFF"):
        with pytest.raises(LabelError, match="two ways"):
            decode_ids(saved(image, format), CLASSES)
        assert decode_ids(saved(image, format), CLASSES, coding="colors").tolist() == [[3, 1, 1]]


# Greys in palettes, and of few bits


def test_a_grey_label_in_a_palette_is_a_grey_label():
    greys = np.arange(256)[:, None].repeat(3, axis=1)
    for palette, ids in ((CAMVID, row(0, 0)), (CAMVID, row(0, 5)), (VOC, row(0, 20, 255)), (PLAIN, row(1, 0))):
        np.testing.assert_array_equal(decode_ids(palette_png(ids, greys), palette), ids)


def test_greys_out_of_order_are_refused_where_both_are_ids():
    data = palette_png(row(0, 1), [(0, 0, 0), (4, 4, 4)])
    with pytest.raises(LabelError, match=r"index 1 .* is class 1 \(b\), its colour \(4, 4, 4\) is class 4 \(e\)"):
        decode_ids(data, CLASSES)
    assert decode_ids(palette_png(row(0, 1), [(0, 0, 0), (90, 90, 90)]), CLASSES).tolist() == [[0, 1]]


@pytest.mark.parametrize("format", ["PNG", "TIFF", "BMP"])
def test_a_mask_of_one_bit_is_of_0_and_1(format):
    mask = saved(Image.fromarray(np.array([[False, True, True]])), format)
    assert decode_ids(mask, PLAIN).tolist() == [[0, 1, 1]]
    assert decode_ids(mask, BINARY).tolist() == [[0, 1, 1]]
    assert decode_ids(mask, CAMVID).tolist() == [[0, 1, 1]]
    # Optimisers make such an image of a label that holds 0 and 255.
    with pytest.raises(LabelError, match=r"index 1 .* is class 1 \(b\), its colour \(255, 255, 255\) is ignored"):
        decode_ids(mask, CLASSES)
    assert decode_ids(mask, CLASSES, coding="ids").tolist() == [[0, 1, 1]]


@pytest.mark.parametrize("format", ["PNG", "TIFF", "BMP"])
def test_a_mask_of_one_bit_is_of_0_and_255_where_the_palette_says_so(format):
    told = Palette(PLAIN.name, PLAIN.names, PLAIN.colors, source_ids=((0, 0), (255, 1)))
    assert decode_ids(saved(Image.fromarray(np.array([[False, True, True]])), format), told).tolist() == [[0, 1, 1]]
    assert decode_ids(palette_png(row(1, 0), [(255, 255, 255), (0, 0, 0)]), told).tolist() == [[0, 1]]
    assert decode_ids(palette_png(row(0, 1, 2), [(0, 0, 0), (1, 1, 1), (255, 255, 255)]), PLAIN).tolist() == [
        [0, 1, 255]
    ]


def test_a_mask_whose_colour_map_begins_with_white_is_refused():
    data = palette_png(row(0, 1), [(255, 255, 255), (0, 0, 0)])
    with pytest.raises(LabelError, match=r"index 0 .* is class 0 \(rest\), its colour .* is class 1 \(thing\)"):
        decode_ids(data, PLAIN)
    with pytest.raises(LabelError, match="if its colours are, add these to a palette file"):
        decode_ids(data, PLAIN)
    named = Palette(PLAIN.name, PLAIN.names, PLAIN.colors, aliases=(((0, 0, 0), 0), ((255, 255, 255), 1)))
    assert decode_ids(data, named, coding="colors").tolist() == [[1, 0]]


def test_greys_of_few_bits_are_numbers_unless_their_levels_are_ids_too():
    data = png(4, 0, size=(1, 4), rows=b"\0\x01\x23")
    assert decode_label(data).tolist() == [[0, 1, 2, 3]]
    assert decode_ids(data, CLASSES).tolist() == [[0, 1, 2, 3]]
    for data in (png(4, 0, size=(1, 2), rows=b"\0\x01"), tiff_of(2, depths=(4,), content=b"\x01")):
        with pytest.raises(LabelError, match=r"its colour \(17, 17, 17\) is class 17"):
            decode_ids(data, VOC)
        assert decode_ids(data, VOC, coding="ids").tolist() == [[0, 1]]


# Masks of 0 and 255


def test_a_mask_of_0_and_255_with_two_classes_is_refused_with_the_cure():
    with pytest.raises(LabelError, match=r'contains only 0 and 255; .*"source_ids": \{"0": 0, "255": 1\}'):
        decode_ids(saved(row(0, 255, 255)), PLAIN)
    assert decode_ids(saved(row(0, 255)), PLAIN, coding="ids").tolist() == [[0, 255]]
    for meaning in (1, 255):
        cured = replace(PLAIN, source_ids=((0, 0), (7, 1), (255, meaning)))
        assert decode_ids(saved(row(0, 255)), cured).tolist() == [[0, meaning]]
    with pytest.raises(LabelError, match="contains only 0 and 255"):
        decode_ids(saved(row(0, 255)), replace(PLAIN, source_ids=((0, 0), (7, 1))))


@pytest.mark.parametrize(
    ("palette", "ids"),
    [(PLAIN, row(0, 1, 255)), (PLAIN, row(0, 1)), (PLAIN, row(0, 0)), (PLAIN, row(255)), (VOC, row(0, 255))],
)
def test_other_labels_with_255_are_read(palette, ids):
    np.testing.assert_array_equal(decode_ids(saved(ids), palette), ids)


def test_a_third_value_of_a_mask_is_unknown():
    with pytest.raises(LabelError, match="unknown class id 128"):
        decode_ids(saved(row(0, 128, 255)), PLAIN)


# Colours


def test_ids_in_three_channels_are_read_as_ids_when_that_is_said():
    data = saved(np.repeat(row(0, 3, 11)[..., None], 3, axis=2))
    with pytest.raises(LabelError, match=r"unknown colour.*; if its greys are class ids, give --label-coding ids"):
        decode_ids(data, CAMVID)
    assert decode_ids(data, CAMVID, coding="ids").tolist() == [[0, 3, 11]]
    with pytest.raises(LabelError, match="its three channels differ"):
        decode_ids(saved(noise()), CAMVID, coding="ids")


def test_colours_of_16_bits_are_read_where_they_are_colours_of_8():
    ids = every_class(CAMVID)
    colors = CAMVID.colorize(ids).astype(">u2")
    for wide in (colors, colors * 257):
        data = png(16, 2, size=ids.shape, rows=b"\0" + wide.astype(">u2").tobytes())
        np.testing.assert_array_equal(decode_ids(data, CAMVID), ids)
    with pytest.raises(ImageError, match="16-bit colours"):
        decode_ids(png(16, 2, size=ids.shape, rows=b"\0" + (colors * 256).astype(">u2").tobytes()), CAMVID)


def test_transparent_pixels_of_a_label_are_refused_and_opaque_ones_read():
    rgba = np.dstack([CAMVID.colorize(row(0, 1)), row(255, 255)])
    assert decode_ids(saved(rgba), CAMVID).tolist() == [[0, 1]]
    rgba[0, 1, 3] = 254
    with pytest.raises(ImageError, match="is transparent in 1 pixel, "):
        decode_ids(saved(rgba), CAMVID)


# What is no label


@pytest.mark.parametrize(
    "data",
    [
        saved(noise(), "JPEG"),
        two_pictures()[0],
        saved(noise(), "WEBP"),
        saved(noise(), "TIFF", compression="jpeg"),
        saved(Image.new("F", (4, 4)), "TIFF"),
        saved(Image.new("CMYK", (4, 4)), "TIFF"),
        tiff_of(4, depths=(16, 16, 16)),
        tiff_of(4, white_is_zero=True),
        saved(noise(), "PNG", save_all=True, append_images=[Image.fromarray(noise(seed=1))]),
        saved(noise(), "WEBP", save_all=True, append_images=[Image.fromarray(noise(seed=1))], lossless=True),
        saved(noise(), "TIFF", save_all=True, append_images=[Image.fromarray(noise(seed=1))]),
    ],
    ids=[
        "jpeg",
        "two pictures",
        "webp",
        "jpeg in tiff",
        "floats",
        "cmyk",
        "wide tiff",
        "white is 0",
        "apng",
        "animated webp",
        "pages",
    ],
)
def test_what_is_no_label_is_refused(data):
    with pytest.raises(ImageError, match=r"blurs class ids|of mode|holds 2 images|16-bit colours|0 is white"):
        decode_ids(data, CAMVID)


# Masks


def test_masks_hold_class_ids_whatever_the_ids_of_the_raw_set():
    ids = every_class(CITYSCAPES)
    for data in (CITYSCAPES.encode_mask(ids), saved(ids), saved(CITYSCAPES.colorize(ids))):
        np.testing.assert_array_equal(decode_mask(data, CITYSCAPES, "auto"), ids)
    np.testing.assert_array_equal(decode_mask(saved(row(0, 255)), PLAIN, "auto"), row(0, 255))


def test_masks_that_can_be_read_in_two_ways_are_refused():
    with pytest.raises(LabelError, match="two ways"):
        decode_mask(palette_png(row(0, 1), [CLASSES.colors[3], CLASSES.colors[1]]), CLASSES, "auto")

"""Palettes for labels that no known palette reads: of many classes, of numbered objects, and of blurred masks."""

from __future__ import annotations

import json

import cv2
import numpy as np
import pytest

from pipelines.doctor import command
from tests.drawn.encoded import palette_png, saved
from tests.drawn.ill import draw_set, examine, prepare_as_proposed
from tests.drawn.records import PALETTE
from trainer.formats.labels import Palette, id_table
from trainer.formats.palettes import resolve


def stripes(label: np.ndarray, ids: np.ndarray) -> np.ndarray:
    """A label of stripes, each with a number of its own."""
    return np.repeat(ids, len(label) // len(ids))[:, None].repeat(label.shape[1], 1)


def test_more_than_64_ids_with_areas_are_classes_even_those_that_the_sample_lacks(tmp_path):
    def encode(label: np.ndarray, key: str) -> bytes:
        first = 1 + 12 * (int(key[-2:].strip("a")) + 8 * key.startswith("val"))
        return saved(stripes(label, np.uint8(first + np.arange(8))))

    truth = draw_set(tmp_path / "set", encode, palette=None, splits={"train": 8, "val": 3})
    found = examine(tmp_path / "set", tmp_path / "out")
    assert len(found.report["palette"]["classes"]) == 12 * 10 + 8
    made = prepare_as_proposed(found, tmp_path / "records")
    assert made.keys() == truth.keys() and sorted({*np.unique(made["train/a1"])}) == [*range(12, 20)]


def test_images_in_place_of_labels_are_no_classes(tmp_path):
    noise = lambda label, key: saved(np.random.default_rng(1).integers(0, 250, label.shape, np.uint8))
    draw_set(tmp_path / "set", noise, palette=None)
    found = examine(tmp_path / "set", tmp_path / "out")
    assert found.report["palette"] is None and found.report["prepare"] == ""


def test_black_and_red_masks_are_two_classes_and_no_riders_of_cityscapes(tmp_path):
    red = lambda label, key: saved(np.where(label[..., None] == 1, [255, 0, 0], [0, 0, 0]).astype(np.uint8))
    truth = draw_set(tmp_path / "set", red, palette=None)
    found = examine(tmp_path / "set", tmp_path / "out")
    assert found.kinds.keys() & {"palette", "one-class-set"} == {"palette"}
    made = prepare_as_proposed(found, tmp_path / "records")
    assert all((made[key] == (truth[key] == 1)).all() for key in truth)


def test_colours_that_number_objects_are_said_to_be_no_classes(tmp_path):
    def encode(label: np.ndarray, key: str) -> bytes:
        numbers = stripes(label, np.random.default_rng(list(key.encode())).integers(1, 1 << 22, 8))
        return saved(np.stack([numbers & 255, numbers >> 8 & 255, numbers >> 16], -1).astype(np.uint8))

    draw_set(tmp_path / "set", encode, palette=None, splits={"train": 12})
    found = examine(tmp_path / "set", tmp_path / "out")
    assert found.finding("palette")["cure"].startswith("write labels of class ids: so many colours number objects")


def test_the_cure_of_blurred_masks_leads_to_records(tmp_path):
    draw_set(
        tmp_path / "set",
        lambda label, key: saved(np.uint8(label == 2) * 255, "JPEG", quality=95),
        palette=None,
        suffix=".jpg",
    )
    cure = examine(tmp_path / "set", tmp_path / "out").finding("palette")["cure"]
    (tmp_path / "masks.json").write_text(cure[cure.index("{") : cure.rindex("}") + 1])
    flags = ("--palette", str(tmp_path / "masks.json"), "--mend")
    found = examine(tmp_path / "set", tmp_path / "out", *flags)
    assert len(prepare_as_proposed(found, tmp_path / "records")) == 9


def test_a_proposed_palette_says_that_0_is_ignored_as_an_outline(tmp_path):
    draw_set(tmp_path / "set", lambda label, key: saved(np.uint8([1, 2, 3, *[0] * 253])[label]), palette=None)
    found = examine(tmp_path / "set", tmp_path / "out")
    assert "0" in json.dumps(found.report["palette"]["source_ids"])
    assert any("in which 0 is ignored, since it occurs only along outlines" in one for one in found.report["evidence"])


def test_a_palette_made_of_a_sample_says_that_other_labels_may_hold_more_classes(tmp_path, monkeypatch):
    monkeypatch.setattr(command, "SAMPLED", 32)

    def encode(label: np.ndarray, key: str) -> bytes:
        colors = PALETTE.colorize(label)
        if key == "train/a12":  # one of eight labels of which the palette is not made
            colors[:20, :20] = (9, 9, 200)
        return saved(colors)

    draw_set(tmp_path / "set", encode, palette=None, splits={"train": 40})
    note = examine(tmp_path / "set", tmp_path / "out").finding("palette-of-sample")
    assert (note["grade"], note["count"], note["of"]) == ("note", 8, 40) and "--full" in note["cure"]
    found = examine(tmp_path / "set", tmp_path / "out", "--full")
    assert "palette-of-sample" not in found.kinds
    finding = found.finding("colors-out-of-palette")
    assert "1 colour that the palette does not know, 400 pixels, of which (9, 9, 200) covers areas" in finding["text"]
    assert "smooth" not in finding["text"] + finding["cure"] and "if they are classes" in finding["cure"]
    (tmp_path / "set/labels/train/a1.png").write_bytes(b"")  # --full would not read it either
    note = examine(tmp_path / "set", tmp_path / "out").finding("palette-of-sample")
    assert note["count"] == 8
    assert "palette-of-sample" not in examine(tmp_path / "set", tmp_path / "out", "--full").kinds
    palette = ("--palette", str(tmp_path / "out/palette.json"))
    assert "palette-of-sample" not in examine(tmp_path / "set", tmp_path / "again", *palette).kinds


def smoothed(mask: np.ndarray) -> np.ndarray:
    return cv2.GaussianBlur(mask, (3, 3), 0)


def scaled(mask: np.ndarray) -> np.ndarray:
    large = cv2.resize(mask, None, fx=3, fy=3, interpolation=cv2.INTER_CUBIC)
    return cv2.resize(large, mask.shape[::-1], interpolation=cv2.INTER_AREA)


@pytest.mark.parametrize("soften", [smoothed, scaled])
@pytest.mark.parametrize("palette", [None, Palette("two", ("ground", "thing"), ((40, 160, 60), (200, 40, 40)))])
@pytest.mark.parametrize("mend", [(), ("--mend",)])
def test_masks_of_0_and_255_with_soft_edges_keep_their_foreground_and_ignore_what_is_between(
    soften, palette, mend, tmp_path
):
    truth = draw_set(tmp_path / "set", lambda label, key: saved(soften(np.uint8(label == 2) * 255)), palette=palette)
    found = examine(tmp_path / "set", tmp_path / "out", *mend)
    assert found.kinds == {"masks-0-255": "reject"} and found.status == 1
    assert "blends of the two" in found.finding("masks-0-255")["text"]
    made = prepare_as_proposed(found, tmp_path / "records")
    assert made.keys() == truth.keys()
    for key, label in truth.items():
        known = made[key] != 255
        assert (made[key] == (label == 2))[known].all() and known.mean() > 0.7
        assert (made[key] == 1).sum() > 0.3 * (label == 2).sum()


def test_the_same_masks_in_rgb_are_two_classes_too(tmp_path):
    def encode(label: np.ndarray, key: str) -> bytes:
        mask = smoothed(np.uint8(label == 2) * 255)
        mask[:4, :4] = 128  # as where something thin was smoothed: an area, though a small one
        return saved(np.dstack([mask] * 3))

    truth = draw_set(tmp_path / "set", encode, palette=None)
    found = examine(tmp_path / "set", tmp_path / "out")
    assert [one["color"] for one in found.report["palette"]["classes"]] == [[0, 0, 0], [255, 255, 255]]
    assert found.finding("palette")["cure"].endswith("greys between, where the labels were smoothed, are ignored")
    made = prepare_as_proposed(found, tmp_path / "records")
    for key, label in truth.items():
        known = made[key] != 255
        assert (made[key] == (label == 2))[known].all() and known.mean() > 0.7


@pytest.mark.parametrize("ids", [(0, 1, 255), (0, 100, 255), (0, 200, 255)])
def test_a_thin_class_beside_areas_that_are_ignored_is_no_blend(ids, tmp_path):
    lines = np.arange(64)[:, None] % 16 == 3

    def encode(label: np.ndarray, key: str) -> bytes:
        return saved(np.uint8(ids)[np.where(label == 2, 2, np.where(lines, 1, 0))])

    draw_set(tmp_path / "set", encode, palette=None)
    assert "masks-0-255" not in examine(tmp_path / "set", tmp_path / "out").kinds


MAP = np.uint8([(0, 0, 0), (255, 0, 0), (0, 255, 0)])
"""Colours in another order than that of their numbers."""


@pytest.mark.parametrize("ids", [(0, 1, 2), (0, 4, 9)])
def test_grey_ids_beside_palette_images_mean_the_indices_of_these(ids, tmp_path):
    colormap = np.zeros((256, 3), np.uint8)
    colormap[list(ids)] = MAP

    def encode(label: np.ndarray, key: str) -> bytes:
        classes = np.where(label == 255, 0, label)
        kind = int(key[-1]) % 3
        codes = np.uint8(ids)[classes]
        return saved(MAP[classes]) if kind == 2 else palette_png(codes, colormap) if kind else saved(codes)

    truth = draw_set(tmp_path / "set", encode, palette=None)
    found = examine(tmp_path / "set", tmp_path / "out")
    assert found.kinds == {"palette": "reject"}
    made = prepare_as_proposed(found, tmp_path / "records")
    assert all((made[key] == np.where(label == 255, 0, label)).all() for key, label in truth.items())


@pytest.mark.parametrize("first", [0, 1])
def test_grey_ids_beside_colours_alone_may_be_other_classes_than_their_order(first, tmp_path):
    def encode(label: np.ndarray, key: str) -> bytes:
        classes = np.where(label == 255, 0, label)
        return saved(MAP[classes]) if int(key[-1]) % 2 else saved(np.uint8(classes + first))

    draw_set(tmp_path / "set", encode, palette=None)
    found = examine(tmp_path / "set", tmp_path / "out")
    finding = found.finding("mixed-codings")
    assert found.status == 2 and finding["grade"] == "wrong" and "order of the ids" in finding["cure"]
    assert {path["path"][-5] for path in finding["examples"]} <= {*"02468"}


def test_colours_beside_labels_of_background_alone_in_grey_are_not_mixed(tmp_path):
    def encode(label: np.ndarray, key: str) -> bytes:
        classes = np.where(label == 255, 0, label)
        return saved(np.zeros_like(label)) if key == "train/a1" else saved(MAP[classes])

    draw_set(tmp_path / "set", encode, palette=None)
    assert "mixed-codings" not in examine(tmp_path / "set", tmp_path / "out").kinds


def test_a_blend_of_two_colours_that_happens_to_cover_areas_is_no_class(tmp_path):
    """As where a line of two pixels was smoothed."""
    colors = np.float32([(222, 149, 10), (60, 46, 205), (20, 220, 90)])

    def encode(label: np.ndarray, key: str) -> bytes:
        image = cv2.GaussianBlur(colors[np.where(label == 255, 0, label)], (5, 5), 0)
        image[10:13] = colors[:2].mean(0)
        return saved(np.uint8(image))

    draw_set(tmp_path / "set", encode, palette=None)
    found = examine(tmp_path / "set", tmp_path / "out")
    classes = sorted(one["color"] for one in found.report["palette"]["classes"])
    assert classes == sorted(color.tolist() for color in np.uint8(colors))


@pytest.mark.parametrize("ids", [[0, 1, 2, 3], [0, 2, 5, 9], [0, 1, 2, 255]])
def test_a_palette_of_ids_from_0_comes_with_one_that_ignores_0(tmp_path, ids):
    """MMSegmentation's `reduce_zero_label`, as for ADE20K."""
    splits = {"train": 4, "val": 2}
    truth = draw_set(tmp_path / "set", lambda label, key: saved(stripes(label, np.uint8(ids))), splits, palette=None)
    found = examine(tmp_path / "set", tmp_path / "out")
    assert "take palette-from-1.json in its place, which ignores it" in found.finding("palette")["cure"]
    made = prepare_as_proposed(found, tmp_path / "records")
    assert set(np.unique(made["train/a0"])) == {0, 1, 2, 255 if 255 in ids else 3}
    counted = resolve(str(tmp_path / "out/palette-from-1.json"))
    assert counted.names == tuple(f"class {value}" for value in ids if 0 < value < 255) and len(truth) == 6
    read = id_table(counted)[stripes(np.zeros((64, 1), np.uint8), np.uint8(ids))]
    assert [int(value) for value in read[::16, 0]] == [255, 0, 1, 2 if 255 not in ids else 255]


@pytest.mark.parametrize("count", [255, 256])
def test_more_ids_than_a_palette_has_classes_are_a_finding(count, tmp_path):
    ids = np.kron(np.uint8(np.arange(256).reshape(16, 16) % count), np.ones((4, 4), np.uint8))
    draw_set(tmp_path / "set", lambda label, key: saved(ids), palette=None)
    found = examine(tmp_path / "set", tmp_path / "out")
    assert found.status == 1 and found.report["prepare"] == ""
    assert "there can be at most 254" in found.finding("palette")["cure"]


def test_of_ids_with_gaps_up_to_the_last_those_that_occur_are_the_classes(tmp_path):
    values = np.linspace(0, 254, 72).astype(np.uint8)

    def encode(label: np.ndarray, key: str) -> bytes:
        first = 8 * (int(key[-1]) + 6 * key.startswith("val"))
        ids = stripes(label, values[first : first + 8])
        ids[:24] = ids[0]  # an area, or 0 were an outline
        return saved(ids)

    draw_set(tmp_path / "set", encode, palette=None, splits={"train": 6, "val": 3})
    made = prepare_as_proposed(examine(tmp_path / "set", tmp_path / "out"), tmp_path / "records")
    assert {*np.unique(np.stack([*made.values()])).tolist()} == {*range(72 - 9 * 2)}

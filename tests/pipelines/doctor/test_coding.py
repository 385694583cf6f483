"""How labels are coded: what is found, and that the proposed flags make prepare read what was drawn."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import cv2
import numpy as np
import pytest

from tests.drawn.encoded import optimised, palette_png, saved
from tests.drawn.ill import draw_set, examine, prepare_as_proposed
from tests.drawn.records import PALETTE
from trainer.formats import images
from trainer.formats.labels import Palette
from trainer.formats.palettes import CAMVID, voc_colormap

LISTED = (("ground", "disc", "bar"), voc_colormap(3))
TWO = Palette("two", ("ground", "thing"), ((40, 160, 60), (200, 40, 40)))


def table(values: dict[int, int]) -> Callable[[np.ndarray, str], bytes]:
    """Encodes labels as greys, of which some are other ids than those of the truth."""
    lookup = np.arange(256, dtype=np.uint8)
    lookup[list(values)] = list(values.values())
    return lambda label, key: images.encode_png(lookup[label])


def shuffled(label: np.ndarray, key: str) -> bytes:
    """As an optimiser leaves a palette PNG: the colours used, in another order from file to file."""
    colors = np.array([*PALETTE.colors, PALETTE.ignore_color])
    order = np.random.default_rng(list(key.encode())).permutation(4)
    return palette_png(np.argsort(order)[np.where(label == 255, 3, label)], colors[order])


CASES = {
    "one-based ids": (table({0: 1, 1: 2, 2: 3, 255: 0}), PALETTE, "ids-from-1", "wrong"),
    "one-based ids with 255": (table({0: 1, 1: 2, 2: 3}), PALETTE, "ids-from-1", "wrong"),
    "another void": (table({255: 200}), PALETTE, "void-value", "reject"),
    "void is the next id": (table({255: 3}), PALETTE, "void-value", "reject"),
    "shuffled palettes, unknown colours": (
        shuffled,
        replace(PALETTE, colors=((1, 1, 1), (2, 2, 2), (3, 3, 3)), ignore_color=(9, 9, 9)),
        "shuffled-palettes",
        "wrong",
    ),
    "ids from 1 no palette is known for": (table({0: 1, 1: 2, 2: 3, 255: 0}), None, "palette", "reject"),
    "ids no palette is known for": (table({}), None, "palette", "reject"),
}


def test_grey_labels_of_a_palette_of_greys_are_well_and_read_as_colours(tmp_path):
    palette = replace(PALETTE, colors=((85,) * 3, (170,) * 3, (255,) * 3), ignore_color=(0, 0, 0))
    truth = draw_set(tmp_path / "set", table({0: 85, 1: 170, 2: 255, 255: 0}), palette=palette)
    found = examine(tmp_path / "set", tmp_path / "out")
    assert found.kinds == {} and found.status == 0
    made = prepare_as_proposed(found, tmp_path / "records")
    assert {key: ids.tolist() for key, ids in made.items()} == {key: ids.tolist() for key, ids in truth.items()}


@pytest.mark.parametrize("case", CASES)
def test_the_proposed_flags_read_what_was_drawn(case, tmp_path):
    encode, palette, kind, grade = CASES[case]
    truth = draw_set(tmp_path / "set", encode, palette=palette)
    found = examine(tmp_path / "set", tmp_path / "out")
    assert found.kinds == {kind: grade}
    assert found.status == {"reject": 1, "wrong": 2}[grade]
    assert found.finding(kind)["examples"], "no example"
    made = prepare_as_proposed(found, tmp_path / "records")
    assert made.keys() == truth.keys()
    order = np.arange(256, dtype=np.uint8)
    if kind == "shuffled-palettes":  # colours alone do not tell the order of the classes
        order[:3] = [sorted(PALETTE.colors).index(color) for color in PALETTE.colors]
    for key, label in truth.items():
        np.testing.assert_array_equal(made[key], order[label], key)


def test_labels_that_can_be_read_in_two_ways_are_read_by_colours_that_differ_from_map_to_map(tmp_path):
    def encode(label: np.ndarray, key: str) -> bytes:
        order = np.random.default_rng(list(key.encode())).permutation(3)
        return palette_png(np.argsort(order)[np.where(label == 255, 0, label)], np.array(PALETTE.colors)[order])

    truth = draw_set(tmp_path / "set", encode)
    found = examine(tmp_path / "set", tmp_path / "out")
    assert found.kinds["two-readings"] == "reject" and found.status == 1
    assert "--label-coding colors" in found.report["prepare"]
    made = prepare_as_proposed(found, tmp_path / "records")
    assert all((made[key] == np.where(label == 255, 0, label)).all() for key, label in truth.items())


def with_void_below(label: np.ndarray, key: str) -> bytes:
    """Counted from 1; 0 is what is ignored, an area in every label."""
    return images.encode_png(np.where((label == 255) | (np.arange(64)[:, None] > 48), 0, label + 1).astype(np.uint8))


@pytest.mark.parametrize(
    ("ignored", "status"), [(255, 1), (3, 0)], ids=["the next id is unknown", "the next id is what is ignored"]
)
def test_ids_from_1_whose_void_is_an_area_get_a_palette_of_either_meaning(ignored, status, tmp_path):
    truth = draw_set(tmp_path / "set", with_void_below, palette=replace(PALETTE, ignore_id=ignored))
    found = examine(tmp_path / "set", tmp_path / "out")
    words = [*found.report["evidence"], *(finding["cure"] for finding in found.report["findings"])]
    assert found.status == status and any("--palette palette-from-1.json" in text for text in words), words
    made = prepare_as_proposed(found, tmp_path / "records")
    below = np.arange(64)[:, None] > 48
    for key, label in truth.items():
        codes = np.where(below | (label == 255), 0, label + 1)
        np.testing.assert_array_equal(made[key], np.uint8([0, 1, 2, ignored])[codes])
    counted = f"--palette {tmp_path / 'out/palette-from-1.json'} --output"
    found.report["prepare"] = (
        found.report["prepare"].partition("--")[0] + f"--input {tmp_path / 'set'} {counted} out/records"
    )
    made = prepare_as_proposed(found, tmp_path / "others")
    for key, label in truth.items():
        np.testing.assert_array_equal(made[key], np.where(below, 255, label))


CAMVID_IDS = np.uint8([0, 3, 8, *[11] * 253])


def test_smooth_colours_of_a_built_in_palette_tell_it_and_the_mixed_ones_are_ignored(tmp_path):
    def encode(label: np.ndarray, key: str) -> bytes:
        return saved(cv2.GaussianBlur(CAMVID.colorize(CAMVID_IDS[label]), (3, 3), 0))

    truth = draw_set(tmp_path / "set", encode, palette=None)
    found = examine(tmp_path / "set", tmp_path / "out")
    assert found.kinds == {"anti-aliased": "reject"}
    assert found.report["palette"]["name"] == "camvid"
    made = prepare_as_proposed(found, tmp_path / "records")
    for key, label in truth.items():
        known = made[key] != 11
        assert (made[key] == CAMVID_IDS[label])[known].all() and known.mean() > 0.7


def test_colours_of_which_no_palette_is_known_become_classes(tmp_path):
    truth = draw_set(tmp_path / "set", lambda label, key: saved(PALETTE.colorize(label)), palette=None)
    found = examine(tmp_path / "set", tmp_path / "out")
    assert found.kinds["palette"] == "reject" and found.report["palette"]["ignore_color"] == [*PALETTE.ignore_color]
    order = np.arange(256, dtype=np.uint8)
    order[:3] = [sorted(PALETTE.colors).index(color) for color in PALETTE.colors]
    made = prepare_as_proposed(found, tmp_path / "records")
    assert all((made[key] == order[label]).all() for key, label in truth.items())


def test_lossy_labels_alone_are_mended_where_a_palette_is_known_and_nothing_is_proposed_where_none_is(tmp_path):
    def encode(label: np.ndarray, key: str) -> bytes:
        return saved(PALETTE.colorize(np.where(label == 255, 0, label)), "JPEG", quality=90)

    truth = draw_set(tmp_path / "set", encode, suffix=".jpg")
    made = prepare_as_proposed(examine(tmp_path / "set", tmp_path / "out", "--mend"), tmp_path / "records")
    assert made.keys() == truth.keys()
    for key, label in truth.items():
        known = (made[key] != 255) & (label != 255)
        assert (made[key] == label)[known].mean() > 0.995 and known.mean() > 0.6
    (tmp_path / "set/palette.json").unlink()
    found = examine(tmp_path / "set", tmp_path / "out", "--mend")
    assert found.status == 1 and found.kinds == {"palette": "reject", "lossy-labels": "reject"}
    assert found.report["prepare"] == "" and found.report["mended"] == 0


def test_masks_of_0_and_255_get_a_palette_whose_foreground_is_255(tmp_path):
    truth = draw_set(tmp_path / "set", lambda label, key: images.encode_png(np.uint8(label == 2) * 255), palette=TWO)
    found = examine(tmp_path / "set", tmp_path / "out")
    assert found.kinds["masks-0-255"] == "reject" and found.status == 1
    made = prepare_as_proposed(found, tmp_path / "records")
    assert all((made[key] == (label == 2)).all() for key, label in truth.items())
    assert found.report["palette"]["classes"][1]["name"] == "thing", "the names of the palette are kept"


def test_camvid_counted_from_1_is_known_by_its_layout_and_range(tmp_path):
    y, x = np.mgrid[:64, :64]
    classes = np.minimum(y // 16 * 4 + x // 16, 10)  # all of them side by side

    def encode(label: np.ndarray, key: str) -> bytes:
        return images.encode_png(np.where(label == 255, 12, classes + 1).astype(np.uint8))

    truth = draw_set(tmp_path / "set", encode, palette=None)
    found = examine(tmp_path / "set", tmp_path / "out")
    assert found.kinds["ids-from-1"] == "wrong"
    made = prepare_as_proposed(found, tmp_path / "records")
    assert all((made[key] == np.where(label == 255, 255, classes)).all() for key, label in truth.items())


def test_masks_of_0_and_255_without_a_palette_become_two_classes(tmp_path):
    truth = draw_set(tmp_path / "set", lambda label, key: images.encode_png(np.uint8(label == 2) * 255), palette=None)
    found = examine(tmp_path / "set", tmp_path / "out")
    assert found.kinds == {"masks-0-255": "reject"} and found.status == 1
    made = prepare_as_proposed(found, tmp_path / "records")
    assert all((made[key] == (label == 2)).all() for key, label in truth.items())


@pytest.mark.parametrize(
    "encode",
    [
        lambda label, key: images.encode_png(label),
        lambda label, key: saved(PALETTE.colorize(label)),
        lambda label, key: PALETTE.encode_mask(label),
        lambda label, key: optimised(PALETTE.colorize(label)),
    ],
    ids=["ids", "colours", "palette images", "optimised palette images"],
)
def test_a_set_that_is_well_is_called_healthy_and_prepared_as_it_is(encode, tmp_path):
    draw_set(tmp_path / "set", encode)
    found = examine(tmp_path / "set", tmp_path / "out")
    assert found.status == 0 and set(found.kinds.values()) <= {"note"}, found.report["findings"]
    assert found.report["prepare"] == f"deeplab prepare --input {tmp_path / 'set'} --output out/records"
    assert not (found.output / "palette.json").exists() and not (found.output / "manifest.jsonl").exists()


@pytest.mark.parametrize("is_colored", [True, False])
def test_values_that_the_sets_own_list_of_classes_lacks_are_ignored_and_the_classes_kept(is_colored, tmp_path):
    lines = [f"{name}:{','.join(map(str, color))}::\n" for name, color in zip(*LISTED, strict=True)]
    stray = voc_colormap(4)[3] if is_colored else 3

    def encode(label: np.ndarray, key: str) -> bytes:
        codes = np.array(LISTED[1], np.uint8)[np.where(label == 255, 0, label)] if is_colored else label % 255
        codes[60:62] = stray if key == "train/a1" else codes[60:62]
        return saved(codes)

    draw_set(tmp_path / "set", encode, palette=None)
    (tmp_path / "set/labelmap.txt").write_text("".join(lines))
    found = examine(tmp_path / "set", tmp_path / "out")
    assert found.kinds == {"anti-aliased" if is_colored else "void-value": "reject"} and found.status == 1
    assert any("labelmap.txt lists 3 classes, but the sampled labels also hold" in e for e in found.report["evidence"])
    assert [one["name"] for one in found.report["palette"]["classes"]] == list(LISTED[0])
    assert (prepare_as_proposed(found, tmp_path / "records")["train/a1"][60:62] == 255).all()


def test_masks_of_0_and_255_among_ids_that_are_not_0_and_1_keep_their_foreground(tmp_path):
    masks = ("train/a1", "val/a1")
    truth = draw_set(
        tmp_path / "set", lambda label, key: saved(np.uint8(label == 2) * (255 if key in masks else 7)), palette=None
    )
    found = examine(tmp_path / "set", tmp_path / "out", "--full")
    assert found.kinds == {"palette": "reject", "masks-0-255": "reject"}
    made = prepare_as_proposed(found, tmp_path / "records")
    assert all((made[key] == (truth[key] == 2)).all() for key in truth)


@pytest.mark.parametrize("count", [1, 3])
@pytest.mark.parametrize("has_void", [False, True])
def test_a_few_masks_of_0_and_255_among_ids_keep_their_foreground_or_are_left_out(has_void, count, tmp_path):
    masks = {f"train/a{n}" for n in (1, 5, 7)[:count]}

    def encode(label: np.ndarray, key: str) -> bytes:
        ids = np.uint8(label == 2) * (255 if key in masks else 1)
        if has_void and key == "train/a4":
            ids[label == 255] = 255
        return saved(ids)

    truth = draw_set(tmp_path / "set", encode, splits={"train": 60, "val": 3}, palette=TWO)
    found = examine(tmp_path / "set", tmp_path / "out", "--full")
    assert found.kinds == {"masks-0-255": "reject"} and found.status == 1
    finding = found.finding("masks-0-255")
    assert {example["path"].rpartition("labels/")[2] for example in finding["examples"]} == {f"{m}.png" for m in masks}
    made = prepare_as_proposed(found, tmp_path / "records")
    if has_void:
        assert found.report["left_out"] == count and made.keys() == truth.keys() - masks
    for key in made.keys() & masks:
        assert (made[key] == (truth[key] == 2)).all()
    assert has_void or made.keys() == truth.keys()


def test_masks_of_0_and_255_among_labels_of_the_first_class_alone_are_learnt_from(tmp_path):
    def encode(label: np.ndarray, key: str) -> bytes:
        return saved(np.uint8(label == 2) * (255 if key in ("train/a1", "val/a1") else 0))

    truth = draw_set(tmp_path / "set", encode, splits={"train": 60, "val": 3}, palette=TWO)
    found = examine(tmp_path / "set", tmp_path / "out", "--full")
    assert found.kinds["masks-0-255"] == "reject" and "one-class-set" not in found.kinds
    assert (prepare_as_proposed(found, tmp_path / "records")["train/a1"] == (truth["train/a1"] == 2)).all()

"""What there is to learn, and where labels lie: findings, and that moved labels get back to their places."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from tests.drawn.encoded import optimised, palette_png, saved
from tests.drawn.ill import draw_set, examine, prepare_as_proposed
from tests.drawn.records import PALETTE
from trainer.formats.dataset import load_dataset
from trainer.formats.labels import Palette
from trainer.formats.palettes import voc_colormap

SHIFT = (3, -4)


def test_labels_that_are_all_moved_are_found_and_moved_back(tmp_path):
    truth = draw_set(tmp_path / "set", lambda label, key: saved(np.roll(label, SHIFT, (0, 1))))
    found = examine(tmp_path / "set", tmp_path / "out")
    assert found.report["prepare"] == "", "as they are, they would be learnt wrongly"
    assert found.report["mend"] == f"deeplab doctor {tmp_path / 'set'} --mend --output {tmp_path / 'out'}"
    found = examine(tmp_path / "set", tmp_path / "out", "--mend")
    assert found.kinds == {"misaligned": "wrong"} and found.status == 2
    assert "3 pixels up and 4 pixels right" in found.finding("misaligned")["text"]
    made = prepare_as_proposed(found, tmp_path / "records")
    for key, label in truth.items():
        np.testing.assert_array_equal(made[key][:61, 4:], label[:61, 4:])
        assert (made[key][61:] == 255).all() and (made[key][:, :4] == 255).all()


def test_only_labels_that_fit_at_the_offset_are_counted_as_offset(tmp_path):
    shifts = {"train/a0": (0, 0)}
    draw_set(tmp_path / "set", lambda label, key: saved(np.roll(label, shifts.get(key, SHIFT), (0, 1))))
    finding = examine(tmp_path / "set", tmp_path / "out").finding("misaligned")
    assert (finding["count"], finding["of"], finding["unit"]) == (8, 9, "compared labels")
    assert {example["found"] for example in finding["examples"]} == {"move 3 up, 4 right"}


@pytest.mark.parametrize("shift", [(0, 0), (1, 0)])
def test_labels_offset_by_at_most_a_pixel_are_healthy(shift, tmp_path):
    draw_set(tmp_path / "set", lambda label, key: saved(np.roll(label, shift, (0, 1))))
    assert examine(tmp_path / "set", tmp_path / "out").status == 0


def test_classes_that_cannot_be_learnt_or_hardly(tmp_path):
    def encode(label: np.ndarray, key: str) -> bytes:
        label = np.where(label == 2, 0, label) if key.startswith("train") else label
        if key == "train/a0":
            label = np.zeros_like(label)
        if key == "val/a0":
            label = np.full_like(label, 255)
        ids = np.where((label == 1) & (np.arange(64) % 64 != 30), 0, label)  # a disc is a line in it
        return saved(ids.astype(np.uint8))

    draw_set(tmp_path / "set", encode)
    found = examine(tmp_path / "set", tmp_path / "out")
    assert found.kinds == {
        "absent-from-split": "wrong",
        "one-class": "note",
        "all-ignored": "note",
        "tiny-classes": "note",
    }
    absent = found.finding("absent-from-split")
    assert "split train: bar." in absent["text"] and Path(absent["examples"][0]["path"]).parts[-2] == "val"
    assert "disc (" in found.finding("tiny-classes")["text"]


@pytest.mark.parametrize(("value", "kind"), [(0, "one-class-set"), (255, "all-ignored-set")])
def test_a_set_with_nothing_to_learn_is_cured_by_other_labels_alone(value, kind, tmp_path):
    splits = {"train": 2, "val": 1}
    draw_set(tmp_path / "set", lambda label, key: saved(np.full_like(label, value)), splits=splits)
    found = examine(tmp_path / "set", tmp_path / "out")
    assert found.kinds == {kind: "wrong"} and found.status == 2
    assert found.finding(kind)["cure"].startswith("draw or export the labels again: they hold nothing else")
    assert found.report["prepare"] == ""
    truth = draw_set(tmp_path / "set", splits=splits)
    found = examine(tmp_path / "set", tmp_path / "out")
    made = prepare_as_proposed(found, tmp_path / "records")
    assert found.status == 0 and all((made[key] == label).all() for key, label in truth.items())


def test_a_palette_of_one_class_which_train_refuses_is_no_healthy_set(tmp_path):
    palette = Palette("one", ("field",), ((60, 160, 60),))
    draw_set(tmp_path / "fields", lambda label, key: saved(np.zeros_like(label)), palette=palette)
    found = examine(tmp_path / "fields", tmp_path / "out")
    assert found.kinds == {"one-class-set": "wrong"} and found.report["prepare"] == ""
    assert found.finding("one-class-set")["cure"].startswith("--palette FILE that also has a class for the rest")
    palette = replace(palette, source_ids=((0, 255), (1, 0)))
    truth = draw_set(tmp_path / "rest", lambda label, key: saved(np.uint8(label == 1)), palette=palette)
    found = examine(tmp_path / "rest", tmp_path / "out", "--overwrite")
    assert found.kinds == {"one-class-set": "wrong"}
    made = prepare_as_proposed(found, tmp_path / "records")
    assert all((made[key] == (label == 1)).all() for key, label in truth.items())


def test_validation_labels_that_are_all_ignored_which_train_refuses_are_no_healthy_set(tmp_path):
    draw_set(tmp_path / "set", lambda label, key: saved(np.full_like(label, 255) if key.startswith("val") else label))
    found = examine(tmp_path / "set", tmp_path / "out")
    assert found.kinds == {"absent-from-split": "wrong", "all-ignored": "note"} and found.status == 2
    assert found.finding("absent-from-split")["cure"].startswith("label images of val, or list other images")
    assert found.report["prepare"] == ""


def test_a_split_of_which_every_pair_is_left_out_is_told_since_train_refuses_records_without_it(tmp_path):
    sizes = {"val": (32, 64)}
    draw_set(tmp_path / "set", lambda label, key: saved(np.resize(label, sizes.get(key.split("/")[0], label.shape))))
    found = examine(tmp_path / "set", tmp_path / "out")
    assert found.kinds == {"sizes": "reject", "emptied-split": "wrong"} and found.report["prepare"] == ""
    assert "no pair of split val can be prepared" in found.finding("emptied-split")["text"]


def test_classes_missing_from_the_training_split_are_moved_there(tmp_path):
    truth = draw_set(
        tmp_path / "set",
        lambda label, key: saved(np.where((label == 2) & key.startswith("train"), 0, label).astype(np.uint8)),
    )
    found = examine(tmp_path / "set", tmp_path / "out")
    assert found.kinds == {"absent-from-split": "wrong"}
    made = prepare_as_proposed(found, tmp_path / "records")
    for key, label in truth.items():
        np.testing.assert_array_equal(made[key], np.where((label == 2) & key.startswith("train"), 0, label), key)
    dataset = load_dataset(str(tmp_path / "records"))
    assert all(dataset.pixels(split)[0][2] for split in ("train", "val"))


def test_no_test_image_and_at_most_half_of_the_validation_is_moved_into_the_training(tmp_path):
    """With many classes, that are rare, one image after the other would be moved."""
    palette = Palette("many", tuple(f"c{n}" for n in range(40)), voc_colormap(40))

    def encode(label: np.ndarray, key: str) -> bytes:
        split, index = key.split("/a")
        label = np.where(label == 255, 0, label)
        if split != "train":
            label[:32] = 3 + int(index) + 10 * (split == "test")
        return saved(label.astype(np.uint8))

    draw_set(tmp_path / "set", encode, splits={"train": 6, "val": 7, "test": 7}, palette=palette)
    found = examine(tmp_path / "set", tmp_path / "out")
    prepare_as_proposed(found, tmp_path / "records")
    dataset = load_dataset(str(tmp_path / "records"))
    assert {split: dataset.images(split) for split in dataset.splits} == {"train": 9, "val": 4, "test": 7}


def test_classes_that_are_only_in_the_test_are_not_moved(tmp_path):
    draw_set(
        tmp_path / "set",
        lambda label, key: saved(np.where((label == 2) & (not key.startswith("test")), 0, label).astype(np.uint8)),
        splits={"train": 6, "val": 2, "test": 3},
    )
    found = examine(tmp_path / "set", tmp_path / "out")
    assert found.finding("absent-from-split")["cure"].startswith("more training images that hold them")
    assert "manifest" not in found.report["prepare"]


@pytest.mark.parametrize(("first", "kind"), [(0, "one-class-set"), (255, "all-ignored-set")])
def test_classes_that_a_palette_takes_for_one_are_told_apart_by_one_of_their_values(first, kind, tmp_path):
    palette = replace(PALETTE, source_ids=(*((value, first) for value in range(3)), (255, 255)))
    truth = draw_set(tmp_path / "set", palette=palette, splits={"train": 2, "val": 1})
    found = examine(tmp_path / "set", tmp_path / "out")
    assert found.kinds == {kind: "wrong"} and found.finding(kind)["cure"].startswith("--palette palette.json")
    made = prepare_as_proposed(found, tmp_path / "records")
    assert all((made[key] == label).all() for key, label in truth.items())


def test_colours_that_a_palette_does_not_know_are_classes_and_their_outlines_are_ignored(tmp_path):
    colors = np.zeros((256, 3), np.uint8)
    colors[[0, 1, 2, 255]] = (32, 204, 127), (151, 153, 182), (9, 80, 200), (62, 173, 139)
    truth = draw_set(tmp_path / "set", lambda label, key: saved(colors[label]), palette=None)
    found = examine(tmp_path / "set", tmp_path / "out", "--palette", "voc")
    text = "no colour of the sampled labels is of a class of palette voc: there is nothing to learn"
    assert found.finding("all-ignored-set")["text"] == text
    made = prepare_as_proposed(found, tmp_path / "records")
    assert all(((made[key] == 255) == (label == 255)).all() for key, label in truth.items())


def test_an_unknown_id_without_which_there_is_nothing_to_learn_is_a_class(tmp_path):
    truth = draw_set(tmp_path / "set", lambda label, key: saved(np.uint8(label == 2) * 200))
    found = examine(tmp_path / "set", tmp_path / "out")
    assert found.kinds == {"ids-out-of-range": "reject"} and found.status == 1
    made = prepare_as_proposed(found, tmp_path / "records")
    assert all((made[key] == (label == 2)).all() for key, label in truth.items())


def test_an_example_that_holds_many_classes_names_a_few_of_them(tmp_path):
    names = [f"c{index}" for index in range(120)]
    colors = [(index, 9, 9) for index in range(120)]
    palette = Palette("many", tuple(names), tuple(colors))
    rows = np.uint8(np.arange(64 * 64) // 35).reshape(64, 64)  # of 118 classes, all of them tiny
    draw_set(tmp_path / "set", lambda label, key: saved(rows), palette=palette)
    found = examine(tmp_path / "set", tmp_path / "out")
    details = [example["found"] for finding in found.report["findings"] for example in finding["examples"]]
    assert any(detail.endswith("c7 and 110 more") for detail in details) and max(map(len, details)) < 200


def changed(values: dict[int, int]) -> np.ndarray:
    """A lookup table, uint8 [256], of these values and no others changed."""
    return np.uint8([values.get(value, value) for value in range(256)])


def in_voc_colours(values: dict[int, int], *keys: str) -> Callable[[np.ndarray, str], bytes]:
    """Indices in colours that the palette does not know; those of these keys, or all, have other values."""
    lookup = changed(values)
    return lambda label, key: palette_png(lookup[label] if key in keys or not keys else label, voc_colormap())


def in_greys(values: dict[int, int], shrink: bool = False) -> Callable[[np.ndarray, str], bytes]:
    """Ids in three equal channels, which an optimiser may shrink to indices."""
    lookup = changed(values)
    return lambda label, key: (optimised if shrink else saved)(np.dstack([lookup[label]] * 3))


def with_roof(label: np.ndarray, key: str) -> bytes:
    """Optimised colours, of which one label has one more."""
    rgb = PALETTE.colorize(label)
    rgb[:8] = (7, 99, 201) if key == "train/a1" else rgb[:8]
    return optimised(rgb)


NUMBERS = {
    "an index": (in_voc_colours({255: 9}), {"void-value": "reject"}),
    "an index of one label": (in_voc_colours({255: 9}, "val/a1"), {"void-value": "reject"}),
    "indices from 1": (in_voc_colours({0: 1, 1: 2, 2: 3}), {"ids-from-1": "wrong"}),
    "shrunk greys": (in_greys({255: 9}, shrink=True), {"void-value": "reject"}),
    "greys": (in_greys({}), {"colors-out-of-palette": "reject"}),
    "greys from 1": (in_greys({0: 1, 1: 2, 2: 3}), {"colors-out-of-palette": "reject", "ids-from-1": "wrong"}),
    "shrunk colours": (with_roof, {"colors-out-of-palette": "reject"}),
}


@pytest.mark.parametrize("case", NUMBERS)
def test_numbers_in_the_colours_of_any_tool_are_read_as_numbers_and_no_class_is_ignored_with_them(case, tmp_path):
    encode, kinds = NUMBERS[case]
    truth = draw_set(tmp_path / "set", encode)
    found = examine(tmp_path / "set", tmp_path / "out")
    assert found.kinds == kinds and all(finding["count"] for finding in found.report["findings"])
    made = prepare_as_proposed(found, tmp_path / "records")
    truth["train/a1"][:8] = 255 if encode is with_roof else truth["train/a1"][:8]
    assert {key: ids.tolist() for key, ids in made.items()} == {key: ids.tolist() for key, ids in truth.items()}

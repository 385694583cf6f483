"""Images and labels are paired by name; what has no partner is a reject."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from pipelines.inputs.rawset import scan
from tests.drawn.rawset import reasons_of, splits_of, touch
from trainer.options import InputError


def test_what_has_no_partner_is_a_reject_with_a_reason(tmp_path):
    touch(tmp_path, "images/a.jpg", "images/lonely.jpg", "labels/a.png", "labels/orphan.png")
    raw = scan(str(tmp_path))
    assert list(splits_of(raw)) == ["a"]
    assert reasons_of(raw) == {
        "lonely": "image without a label of that name",
        "orphan": "label without an image of that name",
    }
    assert [reject.stage for reject in raw.rejects] == ["scan", "scan"]
    assert raw.rejects[0].path == str(tmp_path / "images/lonely.jpg")


def test_two_images_or_two_labels_of_one_name_are_rejects(tmp_path):
    touch(tmp_path, "images/a.jpg", "labels/a.png", "images/b.jpg", "images/b.png", "labels/b.png")
    touch(tmp_path, "images/c.jpg", "labels/c.png", "labels/c.tif")
    raw = scan(str(tmp_path))
    assert list(splits_of(raw)) == ["a"]
    assert [(reject.key, Path(reject.path).name) for reject in raw.rejects] == [
        ("b", "b.jpg"),
        ("b", "b.png"),
        ("c", "c.jpg"),
    ]
    assert reasons_of(raw)["b"] == "2 images have the same name: b.jpg, b.png; rename or remove all but one"
    assert reasons_of(raw)["c"] == "2 labels have the image's name: c.png, c.tif; remove all but one"


def test_hidden_and_other_files_are_no_images(tmp_path):
    touch(tmp_path, "images/a.jpg", "labels/a.png", "images/Thumbs.db", "labels/.DS_Store", "images/readme.txt")
    touch(tmp_path, "images/._a.jpg", "images/.cache/z.jpg", "labels/a.json")
    raw = scan(str(tmp_path))
    assert list(splits_of(raw)) == ["a"] and not raw.rejects


def test_images_that_are_passed_over_for_their_names_are_said(tmp_path):
    touch(tmp_path, "images/a.jpg", "labels/a.png", "images/b.gif", "labels/b.npy", "images/._a.jpg", "notes.txt")
    assert scan(str(tmp_path)).summary.startswith("paired: images with labels, left out: 1 .gif, 1 .npy, 1 hidden, 1 ")


def test_unsafe_names_are_rejects(tmp_path):
    touch(tmp_path, "images/a.jpg", "labels/a.png", "images/b\\..\\c.jpg", "labels/b\\..\\c.png")
    assert "has a backslash" in reasons_of(scan(str(tmp_path)))["b\\..\\c"]


def test_size_and_time_of_both_files_are_kept(tmp_path):
    touch(tmp_path, "images/a.jpg", "labels/a.png")
    (tmp_path / "images/a.jpg").write_bytes(b"123")
    before = scan(str(tmp_path)).pairs[0]
    (tmp_path / "labels/a.png").write_bytes(b"4567")
    after = scan(str(tmp_path)).pairs[0]
    assert (before.size, after.size) == (3, 7) and before.modified < after.modified


def test_a_missing_folder_is_an_input_error(tmp_path):
    with pytest.raises(InputError, match=r"nowhere not found; expected a folder"):
        scan(str(tmp_path / "nowhere"))


def test_an_unknown_set_is_told_what_was_expected_and_found(tmp_path):
    touch(tmp_path, "holiday/a.jpg", "notes.txt")
    with pytest.raises(InputError, match=r"expected voc .*; cityscapes .*; found holiday/, notes\.txt"):
        scan(str(tmp_path))
    with pytest.raises(InputError, match=r"expected voc \(JPEGImages \+ SegmentationClass\); found"):
        scan(str(tmp_path), layout="voc")
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="it is empty"):
        scan(str(tmp_path / "empty"))


def test_the_folder_above_a_set_is_told_where_it_is(tmp_path):
    touch(tmp_path, "VOC2012/JPEGImages/a.jpg", "VOC2012/SegmentationClass/a.png")
    with pytest.raises(InputError, match="VOC2012 looks like voc: give that as --input"):
        scan(str(tmp_path))


def test_a_set_without_one_pair_is_an_input_error(tmp_path):
    touch(tmp_path, "images/a.jpg", "labels/a_mask.png")
    with pytest.raises(InputError, match=r"no image has a label; for example .*images/a\.jpg: image without"):
        scan(str(tmp_path))


def test_links_that_lead_nowhere_are_pairs_that_reading_rejects(tmp_path):
    touch(tmp_path, "images/a.jpg", "labels/a.png", "labels/b.png", "images/c.jpg")
    (tmp_path / "images/b.jpg").symlink_to("nowhere.jpg")
    (tmp_path / "labels/c.png").symlink_to("nowhere.png")
    raw = scan(str(tmp_path))
    assert set(splits_of(raw)) == {"a", "b", "c"} and not raw.rejects


def test_a_folder_that_is_reached_twice_counts_twice_and_goes_to_one_split(tmp_path):
    names = [f"film/{number}" for number in range(30)]
    touch(tmp_path, *(f"images/{name}.jpg" for name in names), *(f"labels/{name}.png" for name in names))
    for kind in ("images", "labels"):
        (tmp_path / kind / "again").symlink_to("film")
    raw = scan(str(tmp_path), val_fraction=0.5)
    splits = splits_of(raw)
    assert len(splits) == 60 and set(splits.values()) == {"train", "val"}
    assert all(splits[f"again/{number}"] == splits[f"film/{number}"] for number in range(30))
    assert "images that are links to the files of others: 30, such as film/0, which is again/0" in raw.summary


def test_one_file_in_two_splits_through_links_is_said(tmp_path):
    touch(tmp_path, "images/train/a.jpg", "labels/train/a.png", "images/val/b.jpg", "labels/val/b.png")
    for kind, suffix in (("images", "jpg"), ("labels", "png")):
        (tmp_path / kind / f"val/a.{suffix}").symlink_to(f"../train/a.{suffix}")
    assert "warning: groups that the set's own folders, lists or manifest spread" in scan(str(tmp_path)).summary


def test_files_of_one_size_and_time_are_images_of_their_own(tmp_path):
    for number in range(40):
        for name in (f"images/{number}.jpg", f"labels/{number}.png"):
            touch(tmp_path, name)
            os.utime(tmp_path / name, (0, 0))
    assert "through links" not in scan(str(tmp_path)).summary

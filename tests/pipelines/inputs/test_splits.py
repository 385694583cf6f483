"""Images of one film or one tile, and links to one file, go to one split."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from pipelines.inputs.rawset import scan
from pipelines.inputs.splits import group_of, hash_split
from tests.drawn.prepared import prepare_here, read_records
from tests.drawn.rawset import splits_of, touch, write_pair
from tests.drawn.records import PALETTE, draw_image
from trainer.options import InputError

FILM = r"^(film\d+)_"


def draw_names(root: Path, *names: str) -> str:
    touch(root, *(f"images/{name}.jpg" for name in names), *(f"labels/{name}.png" for name in names))
    return str(root)


def test_the_hash_of_a_group_decides_for_all_its_images(tmp_path: Path) -> None:
    source = draw_names(tmp_path, *(f"film{film}_{frame:03d}" for film in range(20) for frame in range(5)))
    alone = splits_of(scan(source, val_fraction=0.3))
    assert any(len({alone[f"film{film}_{frame:03d}"] for frame in range(5)}) == 2 for film in range(20))
    raw = scan(source, val_fraction=0.3, group_by=FILM)
    assert splits_of(raw) == {key: hash_split(key.partition("_")[0], 0.3) for key in alone}
    assert set(splits_of(raw).values()) == {"train", "val"} and raw.summary.endswith("\n--group-by: 20 groups")


def test_keys_in_which_nothing_is_found_are_groups_of_their_own_and_said(tmp_path: Path) -> None:
    raw = scan(draw_names(tmp_path, "film1_0", "film1_1", "other"), group_by=FILM)
    assert splits_of(raw)["other"] == hash_split("other", 0.1)
    assert "--group-by: 1 groups; keys in which it finds nothing are groups of their own: 1, such as 'other'" in (
        raw.summary
    )


def test_groups_split_across_folders_are_reported(tmp_path: Path) -> None:
    raw = scan(draw_names(tmp_path, "train/film1_0", "val/film1_1", "train/film2_0"), group_by=r"film\d+")
    assert splits_of(raw) == {"train/film1_0": "train", "val/film1_1": "val", "train/film2_0": "train"}
    assert (
        "warning: groups that the set's own folders, lists" in raw.summary
        and "1, such as 'film1' in train and val" in (raw.summary)
    )


def test_images_without_a_split_follow_the_others_of_their_group(tmp_path: Path) -> None:
    names = [f"film{film}_{frame}" for film in range(6) for frame in range(2)]
    draw_names(tmp_path, *names)
    rows = [f"images/{n}.jpg,labels/{n}.png,{'holdout' if n.endswith('_0') else ''}" for n in names]
    (tmp_path / "manifest.csv").write_text("\n".join(["image,label,split", *rows]))
    assert set(splits_of(scan(str(tmp_path), group_by=r"film\d+")).values()) == {"holdout"}


@pytest.mark.parametrize(("group_by", "what"), [(FILM, "group"), ("", "image")])
@pytest.mark.parametrize(
    ("fraction", "empty", "cure"), [(0.0001, "val", "raise"), (0.9999, "train", "lower"), (0, "", "")]
)
def test_a_set_of_which_nothing_fell_into_a_split_says_so(tmp_path, fraction, empty, cure, group_by, what) -> None:
    raw = scan(draw_names(tmp_path, "film2_0", "film2_1"), group_by=group_by, val_fraction=fraction)
    warnings = [line for line in raw.summary.splitlines() if line.startswith("warning: ")]
    assert len(warnings) == bool(empty)
    if empty:
        assert warnings[0].startswith(f"warning: no {what} is in split {empty}, which ")
        assert f"; {cure} --val-fraction" in warnings[0]


def test_a_set_without_validation_images_holds_some_of_its_training_images_out(tmp_path: Path) -> None:
    names = [f"{split}/film{film}_{frame}" for split in ("train", "test") for film in range(20) for frame in range(2)]
    source = draw_names(tmp_path, *names)
    whole = {name: name.partition("/")[0] for name in names}
    by_hash = {name: hash_split(name, 0.2) if split == "train" else split for name, split in whole.items()}
    raw = scan(source, val_fraction=0.2)
    assert splits_of(raw) == by_hash and set(by_hash.values()) == {"train", "val", "test"}
    assert "\nthe set has no split val: a share of 0.2 of train is held out (--val-fraction)" in raw.summary
    films = splits_of(scan(source, val_fraction=0.2, group_by=r"train/film\d+"))
    assert all(films[name] == hash_split(name.rpartition("_")[0], 0.2) for name in names if whole[name] == "train")
    assert {films[name] for name in names if whole[name] == "test"} == {"test"}
    rows = [f"images/{name}.jpg,labels/{name}.png,{whole[name]}" for name in names]
    (tmp_path / "listed.csv").write_text("\n".join(["image,label,split", *rows]))
    assert set(splits_of(scan(str(tmp_path / "listed.csv"), val_fraction=0.2)).values()) == {"train", "test"}
    none = scan(source, val_fraction=0)
    assert splits_of(none) == whole
    assert "lists or manifest name only test and train, and --val-fraction is 0; the column split" in none.summary


def test_a_training_image_that_is_also_a_test_image_is_not_moved_to_test(tmp_path: Path) -> None:
    draw_names(tmp_path, "train/a", "test/b")
    (tmp_path / "images/train/c.jpg").symlink_to(tmp_path / "images/test/b.jpg")
    touch(tmp_path, "labels/train/c.png")
    assert splits_of(scan(str(tmp_path), val_fraction=0.5))["train/c"] in ("train", "val")


def test_a_set_whose_own_splits_leave_one_out_says_so(tmp_path: Path) -> None:
    _, warning = scan(draw_names(tmp_path, "val/a", "test/b")).summary.splitlines()
    assert warning.startswith("warning: no image is in split train, which is learnt from: ")
    assert warning.endswith("name only test and val; the column split of a manifest can name others")


def test_a_label_that_a_manifest_gives_to_several_images_is_said(tmp_path: Path) -> None:
    draw_names(tmp_path, *"abc")
    rows = [f"images/{image}.jpg,labels/{label}.png" for image, label in zip("abc", "acc", strict=True)]
    (tmp_path / "manifest.csv").write_text("\n".join(["image,label", *rows]))
    warnings = [line for line in scan(str(tmp_path)).summary.splitlines() if "share their labels" in line]
    assert len(warnings) == 1 and warnings[0].startswith("warning: 2 images share their labels with others, such as ")
    assert f"images/b and images/c, whose label is {tmp_path}/labels/c.png" in warnings[0]


def test_a_group_is_the_first_that_was_found_or_the_whole_text() -> None:
    assert group_of("film7_x", r"film\d+") == "film7" and group_of("film7_x", r"film(\d+)_(.)") == "7"
    assert group_of("tile_3", r"film(\d+)|tile_(\d)") == "3" and group_of("x", r"film") is None
    assert group_of("x", "y*") is None


@pytest.mark.parametrize(
    ("pattern", "message"),
    [
        ("(film", r"--group-by '\(film' is not a regular expression"),
        ("scene", "matches no key, such as 'film"),
    ],
)
def test_expressions_that_group_nothing_are_refused(tmp_path: Path, pattern: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        scan(draw_names(tmp_path, "film1_0"), group_by=pattern)


def test_prepare_keeps_films_together(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    for film in range(8):
        for frame in range(2):
            write_pair(tmp_path / "set", "", f"film{film}_{frame}.jpg", *draw_image(film, 64, 64))
    (tmp_path / "set/palette.json").write_text(json.dumps(PALETTE.to_json()))
    flags = ["--val-fraction", "0.4", "--group-by", FILM, "--direct_num_workers", "1"]
    assert prepare_here(tmp_path / "set", tmp_path / "out", *flags) == 0
    films = {
        split: {r.key.partition("_")[0] for r in read_records(tmp_path / "out", split)} for split in ("train", "val")
    }
    assert films["train"] and films["val"] and not films["train"] & films["val"]
    assert "--group-by: 8 groups" in capsys.readouterr().out


def test_a_folder_that_is_reached_twice_counts_twice_and_goes_to_one_split(tmp_path):
    names = [f"film/{number}" for number in range(30)]
    touch(tmp_path, *(f"images/{name}.jpg" for name in names), *(f"labels/{name}.png" for name in names))
    for kind in ("images", "labels"):
        (tmp_path / kind / "again").symlink_to("film")
    raw = scan(str(tmp_path), val_fraction=0.5)
    splits = splits_of(raw)
    assert len(splits) == 60 and set(splits.values()) == {"train", "val"}
    assert all(splits[f"again/{number}"] == splits[f"film/{number}"] for number in range(30))
    assert "images that are links to the files of other images: 30, such as film/0, which is again/0" in raw.summary


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

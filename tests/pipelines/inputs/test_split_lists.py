"""Lists of splits in paired sets: which are read, and what becomes of images that they do not name."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest

from pipelines.doctor.pairing import find
from pipelines.inputs.names import spellings
from pipelines.inputs.rawset import scan
from tests.drawn.rawset import reasons_of, splits_of, touch

NAMES = [f"seq{n:02}" for n in range(20)]


def paired(root: Path, **lists: str) -> Path:
    """Twenty pairs, and lists: name of the file, with __ for a slash -> contents."""
    touch(root, *(f"images/{name}.jpg" for name in NAMES), *(f"labels/{name}_L.png" for name in NAMES))
    for name, text in lists.items():
        path = root / f"{name.replace('__', '/')}.txt"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root


def test_a_list_of_the_validation_alone_leaves_the_rest_to_the_training(tmp_path):
    raw = scan(str(paired(tmp_path, valid="\n".join(f"{name}.jpg" for name in NAMES[:6]), codes="sky\nroad")))
    assert splits_of(raw) == {name: "val" if name in NAMES[:6] else "train" for name in NAMES}
    assert raw.summary.startswith("paired: images with labels (labels named *_L like images *), splits by valid.txt, ")


def test_lists_with_a_training_define_the_set(tmp_path):
    raw = scan(str(paired(tmp_path, imageLists__train="\n".join(NAMES[:9]), imageLists__test="\n".join(NAMES[9:15]))))
    assert Counter(splits_of(raw).values()) == {"train": 9, "test": 6} and not raw.rejects
    assert "splits by imageLists/test.txt, imageLists/train.txt (5 in no list)" in raw.summary


@pytest.mark.parametrize(
    ("split", "names"), [("train", ("train", "train2017")), ("val", ("val", "valid", "Validation"))]
)
def test_several_lists_of_one_split_are_used_together_and_named(split, names, tmp_path):
    other = "val" if split == "train" else "train"
    parts = {name: "\n".join(NAMES[n :: len(names) + 1]) for n, name in enumerate(names)}
    raw = scan(str(paired(tmp_path, **parts, **{other: "\n".join(NAMES[len(names) :: len(names) + 1])})))
    assert splits_of(raw) == {n: other if n in NAMES[len(names) :: len(names) + 1] else split for n in NAMES}
    assert all(f"{name}.txt" in raw.summary for name in (*names, other)) and "in no list" not in raw.summary


def test_lists_that_are_not_read_are_named_beside_those_that_are(tmp_path):
    lists = {"a__train": "\n".join(NAMES[:12]), "a__test": "a cat\na dog", "b__val": "\n".join(NAMES[12:])}
    raw = scan(str(paired(tmp_path, **lists)))
    assert "splits by a/train.txt (lists of fewer or other images, not read: a/test.txt, b/val.txt)" in raw.summary
    assert "(8 in no list that is read)" in raw.summary


@pytest.mark.parametrize("with_training", [True, False])
def test_every_entry_of_a_list_is_an_image_or_a_reject_and_repeated_ones_are_noted(with_training, tmp_path):
    touch(tmp_path, "images/bare.jpg", "images/other.jpg")
    lists = {"val": "\n".join(["# one", *NAMES[:18], "gone", "gone.jpg", "bare", NAMES[0], NAMES[0]])}
    if with_training:
        lists["train"] = "\n".join([*NAMES[18:], NAMES[19]])
    raw = scan(str(paired(tmp_path, **lists)))
    assert splits_of(raw) == {name: "val" if name in NAMES[:18] else "train" for name in NAMES}
    bare = "image without a label of that name"
    assert reasons_of(raw) == {
        "gone": "listed in val.txt, but not found among the images",
        **dict.fromkeys(["bare"] if with_training else ["bare", "other"], bare),
    }
    assert ("(1 in no list)" in raw.summary) == with_training
    assert f"(entries that repeat an image of their list: {2 + with_training})" in raw.summary


def test_the_test_of_the_pets_is_not_learnt(tmp_path):
    lines = [f"{name} 12 2 1" for name in NAMES]
    raw = scan(
        str(paired(tmp_path, annotations__trainval="\n".join(lines[:12]), annotations__test="\n".join(lines[12:])))
    )
    assert {name for name, split in splits_of(raw).items() if split == "test"} == {*NAMES[12:]}


def test_of_lists_in_several_folders_those_that_name_most_labelled_images_are_read(tmp_path):
    others = [f"other{n}" for n in range(30)]
    root = paired(
        tmp_path,
        ImageSets__Main__train="\n".join(others + NAMES),
        ImageSets__Segmentation__train="\n".join(NAMES[:15]),
        ImageSets__Segmentation__val="\n".join(NAMES[15:]),
        ImageSets__Small__val="\n".join(NAMES[:3]),
    )
    raw = scan(str(root))
    assert splits_of(raw) == {name: "train" if name in NAMES[:15] else "val" for name in NAMES}


def test_lists_of_other_images_are_noted_and_not_read(tmp_path):
    raw = scan(str(paired(tmp_path, train="a cat\na dog\n", readme="seq00")), val_fraction=0)
    assert "(lists that name other images, not read: train.txt)" in raw.summary
    assert {*splits_of(raw).values()} == {"train"}


def test_folders_of_splits_are_stronger_than_lists(tmp_path):
    touch(tmp_path, *(f"{kind}/{split}/a.png" for kind in ("images", "labels") for split in ("train", "val")))
    (tmp_path / "val.txt").write_text("train/a")
    assert splits_of(scan(str(tmp_path))) == {"train/a": "train", "val/a": "val"}


def test_lists_also_split_the_folders_that_the_user_names(tmp_path):
    touch(tmp_path, *(f"img/{name}.jpg" for name in NAMES), *(f"cls/{name}.png" for name in NAMES))
    (tmp_path / "train.txt").write_text("\n".join(NAMES[:15]))
    (tmp_path / "val.txt").write_text("\n".join(NAMES[15:]))
    raw, _ = find(str(tmp_path), "auto", 0.1, "", "img", "cls")
    assert splits_of(raw) == {name: "train" if name in NAMES[:15] else "val" for name in NAMES}


@pytest.mark.parametrize(
    ("entry", "last"), [("a_1 1 1 1", "a_1"), ("photo 3", "photo 3"), ("a 1 b", "a 1 b"), ("my photo 3", "my photo 3")]
)
def test_numbers_behind_a_name_are_no_part_of_it_where_there_are_several(entry, last):
    assert spellings(entry)[0] == entry and spellings(entry)[-1] == last

"""Which files of a folder are images and labels, and what their folders and lists say."""

from __future__ import annotations

import hashlib

import pytest

from pipelines.inputs.names import cityscapes_key, split_named
from pipelines.inputs.rawset import scan
from pipelines.inputs.splits import hash_split
from tests.drawn.rawset import labels_of, reasons_of, splits_of, touch
from trainer.formats.palettes import CITYSCAPES, CITYSCAPES_TRAINIDS, VOC
from trainer.options import InputError


def test_camvid_folders_give_splits_and_keys(tmp_path):
    for split, names in {"train": "ab", "val": "a"}.items():
        touch(tmp_path, *(f"images/{split}/{n}.jpg" for n in names), *(f"labels/{split}/{n}.png" for n in names))
    raw = scan(str(tmp_path))
    assert raw.layout == "camvid"
    assert splits_of(raw) == {"train/a": "train", "train/b": "train", "val/a": "val"}
    assert raw.summary == "camvid: images/{train,val} with labels/{train,val}, 2 train + 1 val images"
    assert labels_of(raw, tmp_path)["val/a"] == "labels/val/a.png"


def test_segnet_folders_give_the_same_keys(tmp_path):
    touch(tmp_path, "train/a.png", "trainannot/a.png", "val/b.png", "valannot/b.png", "test/c.png", "testannot/c.png")
    raw = scan(str(tmp_path))
    assert raw.layout == "camvid"
    assert splits_of(raw) == {"train/a": "train", "val/b": "val", "test/c": "test"}
    assert labels_of(raw, tmp_path)["test/c"] == "testannot/c.png"


def test_voc_lists_say_what_the_set_is(tmp_path):
    touch(tmp_path, *(f"JPEGImages/{n}.jpg" for n in "abcdef"), *(f"SegmentationClass/{n}.png" for n in "abcf"))
    for name, content in {"train": "a\nb\n", "val": "c\r\nd\n\n", "trainval": "a\nb\nc\nd\nf\nmissing\n"}.items():
        touch(tmp_path, f"ImageSets/Segmentation/{name}.txt")
        (tmp_path / f"ImageSets/Segmentation/{name}.txt").write_text(content)
    touch(tmp_path, "ImageSets/Main/train.txt")
    raw = scan(str(tmp_path))
    assert raw.layout == "voc" and raw.palette_hint is VOC
    assert splits_of(raw) == {"a": "train", "b": "train", "c": "val", "f": hash_split("f", 0.1)}
    assert reasons_of(raw) == {
        "d": "image without a label of that name",
        "missing": "listed in trainval.txt, but not found in JPEGImages",
    }
    assert "(1 in no list)" in raw.summary and "2 rejected" in raw.summary


def test_voc_prefers_augmented_labels_and_trains_on_nothing_it_validates_by(tmp_path):
    touch(tmp_path, "JPEGImages/a.jpg", "JPEGImages/b.jpg", "SegmentationClass/a.png", "SegmentationClass/b.png")
    touch(tmp_path, "SegmentationClassAug/a.png", "ImageSets/Segmentation/x.txt")
    (tmp_path / "ImageSets/Segmentation/trainaug.txt").write_text(
        "/JPEGImages/a.jpg /SegmentationClassAug/a.png\n/JPEGImages/b.jpg /SegmentationClassAug/b.png\n"
    )
    (tmp_path / "ImageSets/Segmentation/val.txt").write_text("b\n")
    raw = scan(str(tmp_path))
    assert splits_of(raw) == {"a": "train", "b": "val"}
    assert labels_of(raw, tmp_path) == {"a": "SegmentationClassAug/a.png", "b": "SegmentationClass/b.png"}


def test_voc_without_lists_takes_every_image(tmp_path):
    touch(tmp_path, "JPEGImages/a.jpg", "JPEGImages/b.jpg", "SegmentationClass/a.png")
    raw = scan(str(tmp_path), val_fraction=0.0)
    assert splits_of(raw) == {"a": "train"} and set(reasons_of(raw)) == {"b"}


def city(split: str, name: str, *codings: str) -> list[str]:
    return [
        f"leftImg8bit/{split}/ulm/{name}_leftImg8bit.png",
        *(f"gtFine/{split}/ulm/{name}_gtFine_{c}.png" for c in (*codings, "color", "instanceIds")),
    ]


def test_cityscapes_pairs_images_with_label_ids(tmp_path):
    touch(tmp_path, *city("train", "ulm_000000_000019", "labelIds"), *city("val", "ulm_000001_000019", "labelIds"))
    raw = scan(str(tmp_path))
    assert raw.layout == "cityscapes" and raw.palette_hint is CITYSCAPES and not raw.rejects
    assert splits_of(raw) == {
        "train/ulm/ulm_000000_000019_leftImg8bit": "train",
        "val/ulm/ulm_000001_000019_leftImg8bit": "val",
    }


def test_cityscapes_prefers_train_ids_where_all_have_them(tmp_path):
    touch(tmp_path, *city("train", "a", "labelIds", "labelTrainIds"), *city("val", "b", "labelIds", "labelTrainIds"))
    raw = scan(str(tmp_path))
    assert raw.palette_hint is CITYSCAPES_TRAINIDS
    assert labels_of(raw, tmp_path)["val/ulm/b_leftImg8bit"] == "gtFine/val/ulm/b_gtFine_labelTrainIds.png"
    (tmp_path / "gtFine/val/ulm/b_gtFine_labelTrainIds.png").unlink()
    assert scan(str(tmp_path)).palette_hint is CITYSCAPES


@pytest.mark.parametrize("folder", ["labels", "masks", "annotations"])
def test_paired_folders_are_paired_by_relative_name(tmp_path, folder):
    touch(tmp_path, "images/x/1.JPG", "images/y/1.jpeg", "images/2.tiff")
    touch(tmp_path, f"{folder}/x/1.png", f"{folder}/y/1.png", f"{folder}/2.PNG")
    raw = scan(str(tmp_path))
    assert raw.layout == "paired" and not raw.rejects
    assert labels_of(raw, tmp_path) == {
        "2": f"{folder}/2.PNG",
        "x/1": f"{folder}/x/1.png",
        "y/1": f"{folder}/y/1.png",
    }


def test_labels_may_be_named_after_their_images_by_a_rule(tmp_path):
    touch(tmp_path, "one/images/a.jpg", "one/images/b.jpg", "one/labels/a_mask.png", "one/labels/z_mask.png")
    touch(tmp_path, "one/labels/b_mask.png")
    raw = scan(str(tmp_path / "one"))
    assert labels_of(raw, tmp_path / "one") == {"a": "labels/a_mask.png", "b": "labels/b_mask.png"}
    assert "images with labels (labels named *_mask like images *)" in raw.summary
    assert [(reject.key, reject.reason) for reject in raw.rejects] == [("z", "label without an image of that name")]
    for folders in (("images/{}", "labels/{}"), ("{}", "{}annot")):
        place = tmp_path / folders[1][-5:]
        for split in ("train", "val"):
            touch(place, f"{folders[0].format(split)}/7_{split}.png", f"{folders[1].format(split)}/7_{split}_L.png")
        raw = scan(str(place))
        assert splits_of(raw) == {"train/7_train": "train", "val/7_val": "val"} and not raw.rejects
        assert "labels named *_L like images *" in raw.summary


def test_the_folders_of_mmsegmentation_are_a_paired_set_with_splits(tmp_path):
    touch(tmp_path, "img_dir/train/a.jpg", "ann_dir/train/a.png", "img_dir/val/b.jpg", "ann_dir/val/b.png")
    raw = scan(str(tmp_path))
    assert raw.layout == "paired" and splits_of(raw) == {"train/a": "train", "val/b": "val"}
    assert labels_of(raw, tmp_path)["val/b"] == "ann_dir/val/b.png"


def test_split_is_a_hash_of_the_key_and_stays_when_images_are_added(tmp_path):
    touch(tmp_path, *(f"images/{i}.jpg" for i in range(200)), *(f"labels/{i}.png" for i in range(200)))
    few = splits_of(scan(str(tmp_path), val_fraction=0.25))
    touch(tmp_path, *(f"images/{i}.jpg" for i in range(200, 400)), *(f"labels/{i}.png" for i in range(200, 400)))
    many = splits_of(scan(str(tmp_path), val_fraction=0.25))
    assert {key: many[key] for key in few} == few
    assert 0.18 < list(many.values()).count("val") / 400 < 0.32
    assert set(splits_of(scan(str(tmp_path), val_fraction=0.0)).values()) == {"train"}
    first = hashlib.md5(b"7").digest()[0] / 256
    assert hash_split("7", first + 1 / 256) == "val" and hash_split("7", first) == "train"


@pytest.mark.parametrize("coding", ["labelTrainIds", "labelIds"])
def test_cityscapes_labels_tell_the_key_of_their_image(coding):
    assert cityscapes_key(f"val/ulm/a_gtFine_{coding}.png") == "val/ulm/a_leftImg8bit"
    assert cityscapes_key("val/ulm/a_gtFine_color.png") is None


def test_folders_of_splits_may_be_written_in_capitals(tmp_path):
    for split, name in {"Train": "a", "VAL": "b"}.items():
        touch(tmp_path / "camvid", f"images/{split}/{name}.jpg", f"labels/{split}/{name}.png")
        touch(tmp_path / "segnet", f"{split}/{name}.png", f"{split}annot/{name}.png")
    for folder in ("camvid", "segnet"):
        raw = scan(str(tmp_path / folder))
        assert raw.layout == "camvid" and splits_of(raw) == {"Train/a": "train", "VAL/b": "val"}


@pytest.mark.parametrize(
    ("train", "val"), [("train2017", "val2017"), ("train_set", "test-set"), ("Training_2014", "valid.split")]
)
def test_folders_of_splits_may_have_a_year_or_the_word_set(tmp_path, train, val):
    for images, labels in (("images", "annotations"), ("images", "labels"), ("img_dir", "ann_dir")):
        folder = tmp_path / labels
        names = [*(f"{train}/{i}" for i in range(20)), *(f"{val}/{i}" for i in range(20))]
        touch(folder, *(f"{images}/{n}.jpg" for n in names), *(f"{labels}/{n}.png" for n in names))
        splits = splits_of(scan(str(folder), val_fraction=0))
        assert {split for name, split in splits.items() if name.startswith(train)} == {"train"}
        assert {split for name, split in splits.items() if name.startswith(val)} == {split_named(val)} != {"train"}


@pytest.mark.parametrize("name", ["trains", "train1", "set", "2017", "latest", "test1234", "validity", "training day"])
def test_a_name_that_only_resembles_a_split_is_none(name):
    assert split_named(name) is None


def test_a_set_of_sets_is_refused_with_a_cure_that_keeps_all_of_them(tmp_path):
    names = [f"{split}/{kind}/0" for split in ("train", "valid", "test") for kind in ("images", "masks")]
    touch(tmp_path, *(f"{name}.png" for name in names))
    with pytest.raises(InputError, match=r"look like paired, each on its own: `deeplab doctor .*` writes a manifest"):
        scan(str(tmp_path))


def test_of_many_sets_in_one_folder_a_few_are_named(tmp_path):
    touch(tmp_path, *(f"drive{n}/{kind}/0.png" for n in range(20) for kind in ("images", "masks")))
    with pytest.raises(InputError, match=r"drive13 and 14 more look like paired, each on its own"):
        scan(str(tmp_path))


def test_folders_of_splits_count_beside_other_folders(tmp_path):
    names = [*(f"train/{i}" for i in range(20)), *(f"val/{i}" for i in range(20)), "extra/0"]
    touch(tmp_path, *(f"images/{n}.jpg" for n in names), *(f"labels/{n}.png" for n in names))
    splits = splits_of(scan(str(tmp_path)))
    assert {splits[name] for name in names if name.startswith("val/")} == {"val"}
    assert {splits[name] for name in names if name.startswith("train/")} == {"train"}


def test_a_folder_with_images_of_trains_is_not_a_split(tmp_path):
    names = [*(f"train/{i}" for i in range(40)), *(f"bus/{i}" for i in range(40))]
    touch(tmp_path, *(f"images/{n}.jpg" for n in names), *(f"labels/{n}.png" for n in names))
    raw = scan(str(tmp_path), val_fraction=0.5)
    assert {pair.split for pair in raw.pairs if pair.key.startswith("train")} == {
        "train",
        "val",
    }


def test_segnet_folders_without_labels_are_said(tmp_path):
    touch(tmp_path, "train/a.png", "trainannot/a.png", "val/b.png", "valannot/b.png", "test/c.png")
    assert "(test left out: no testannot)" in scan(str(tmp_path)).summary


@pytest.mark.parametrize("folder", ["", "train/"])
def test_folders_that_may_hold_labels_too_are_named(folder, tmp_path):
    for kind in ("images", "labels", "masks"):
        touch(tmp_path, f"{kind}/{folder}a.png", f"{kind}/{folder}b.png")
    touch(tmp_path, "annotations/a.xml")
    raw = scan(str(tmp_path))
    assert "(not read, although they may hold labels: masks)" in raw.summary
    assert labels_of(raw, tmp_path) == {f"{folder}{name}": f"labels/{folder}{name}.png" for name in "ab"}

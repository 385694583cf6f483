"""Sets of no known layout, whose folders of images and of labels the user names with --images and --labels."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from pipelines.doctor import folders
from pipelines.doctor.pairing import find
from tests.drawn.encoded import saved
from tests.drawn.ill import examine, prepare_as_proposed, scene
from tests.drawn.rawset import labels_of, splits_of, touch
from tests.pipelines.doctor.test_layouts import write
from trainer.formats.palettes import CITYSCAPES
from trainer.options import InputError

SETS = {
    # name: (--images, --labels, image -> its label; "" for an image of a test without labels), other files
    "kitti": (
        ("*/image_2", "*/semantic"),
        {f"training/image_2/{n}.png": f"training/semantic/{n}.png" for n in range(4)} | {"testing/image_2/0.png": ""},
        ("training/instance/0.png", "training/semantic_rgb/0.png"),
    ),
    "coco": (
        ("*2017", "stuffthingmaps/*2017"),
        {
            f"{split}2017/{n}.jpg": f"stuffthingmaps/{split}2017/{n}.png"
            for n in range(3)
            for split in ("train", "val")
        },
        ("annotations/panoptic_val2017/0.png",),
    ),
    "isic": (
        ("ISIC_Task1-2_*_Input", "ISIC_Task1_*_GroundTruth"),
        {
            f"ISIC_Task1-2_{split}_Input/{n}.jpg": f"ISIC_Task1_{split}_GroundTruth/{n}_segmentation.png"
            for n in range(3)
            for split in ("Training", "Validation")
        },
        ("ISIC_Task2_Training_GroundTruth/0_attribute_globules.png", "ISIC_Task1-2_Training_Input/LICENSE.txt"),
    ),
    "lip": (
        ("images", "parsing"),
        {
            f"images/{s}_images/{n}.jpg": f"parsing/{s}_segmentations/{n}.png"
            for n in range(3)
            for s in ("train", "val")
        },
        ("images/train_id.txt",),
    ),
    "a2d2": (
        ("*/camera", "*/label"),
        {f"2018/camera/front/1_camera_front_{n}.png": f"2018/label/front/1_label_front_{n}.png" for n in range(4)},
        ("2018/lidar/front/1_lidar_front_0.npz",),
    ),
    "deepglobe": (
        ("train", "train/*_mask.png"),
        {f"train/{n}_sat.jpg": f"train/{n}_mask.png" for n in range(4)} | {"test/9_sat.jpg": ""},
        ("metadata.csv",),
    ),
    "roboflow": (
        ("*", "*/*_mask.png"),
        {
            f"{s}/a_jpg.rf.{n}f.jpg": f"{s}/a_jpg.rf.{n}f_mask.png"
            for n in range(3)
            for s in ("train", "valid", "test")
        },
        ("train/_classes.csv",),
    ),
}


@pytest.mark.parametrize("name", SETS)
def test_images_and_labels_are_paired_by_what_stars_stand_for_and_the_path_below(tmp_path, name):
    (images, labels), pairs, others = SETS[name]
    touch(tmp_path, *pairs, *filter(None, pairs.values()), *others)
    raw, findings = find(str(tmp_path), "auto", 0.5, "", images, labels)
    taken = {Path(pair.image).relative_to(tmp_path).as_posix(): pair for pair in raw.pairs}
    assert not findings and not raw.rejects
    assert taken.keys() == {image for image, label in pairs.items() if label}
    assert all(pair.label == f"{tmp_path}/{pairs[image]}" for image, pair in taken.items())
    assert "test" not in splits_of(raw).values() or name == "roboflow"
    if name in ("coco", "isic", "lip", "roboflow"):
        named = {"train": "train", "val": "val", "training": "train", "validation": "val", "valid": "val"}
        for image, pair in taken.items():
            assert pair.split == next((named[word] for word in named if word in image.lower()), "test")


def test_images_of_a_split_without_labels_are_left_out_and_counted(tmp_path):
    (images, labels), pairs, _ = SETS["kitti"]
    touch(tmp_path, *pairs, *filter(None, pairs.values()))
    raw, _ = find(str(tmp_path), "auto", 0.5, "", images, labels)
    assert "left out: 1 image of test, without a label" in raw.summary
    assert "the set has no split val: a share of 0.5 of train is held out (--val-fraction)" in raw.summary


def test_an_image_of_a_labelled_split_without_a_label_is_still_a_reject(tmp_path):
    touch(tmp_path, "a/train/1.png", "a/train/2.png", "b/train/1.png")
    raw, _ = find(str(tmp_path), "auto", 0, "", "a", "b")
    assert [reject.key for reject in raw.rejects] == ["train/2"]


def test_labels_of_cityscapes_tell_their_palette_by_their_names(tmp_path):
    touch(tmp_path, "leftImg8bit/train/ulm/ulm_0_0_leftImg8bit.png")
    for kind in ("color", "instanceIds", "labelIds"):
        touch(tmp_path, f"gtCoarse/train/ulm/ulm_0_0_gtCoarse_{kind}.png")
    raw, _ = find(str(tmp_path), "auto", 0, "", "leftImg8bit", "gtCoarse/*/*/*_labelIds.png")
    assert raw.palette_hint is CITYSCAPES
    assert [*labels_of(raw, tmp_path).values()] == ["gtCoarse/train/ulm/ulm_0_0_gtCoarse_labelIds.png"]


@pytest.mark.parametrize(
    ("images", "labels", "message"),
    [
        ("pics", "masks", "--images pics names no images below .*Images are in image_2 .1., maps .1., semantic .1."),
        ("image_2", "gifs", "--labels gifs names no images below .*not read: 1 .gif; save them as PNG"),
        ("image_2", "maps", "no label of --labels maps is named like an image of --images image_2: .*maps/x.png"),
    ],
)
def test_patterns_that_name_nothing_or_other_names_are_refused(tmp_path, images, labels, message):
    touch(tmp_path, "image_2/a.png", "semantic/a.png", "maps/x.png", "gifs/a.gif")
    with pytest.raises(InputError, match=message):
        find(str(tmp_path), "auto", 0, "", images, labels)


def test_a_set_without_pairs_is_told_what_is_in_it_and_which_flags_pair_it(tmp_path):
    touch(tmp_path, *(f"city/{n}/pics/{n}.png" for n in range(12)), *(f"city/{n}/ids/{n}.png" for n in range(12)))
    with pytest.raises(InputError, match=r"Images are in city/\*/ids \(12\), city/\*/pics \(12\).*--images FOLDER"):
        find(str(tmp_path), "auto", 0, "")


def test_a_set_in_a_folder_below_is_named_without_more_advice(tmp_path):
    touch(tmp_path, "VOCdevkit/VOC2012/JPEGImages/a.jpg", "VOCdevkit/VOC2012/SegmentationClass/a.png")
    with pytest.raises(InputError, match=r"VOC2012 looks like voc: give that as --input$"):
        find(str(tmp_path), "auto", 0, "")


def test_texts_named_like_images_are_called_what_they_are(tmp_path):
    names = [f"{split}/{n}" for split in ("train", "val") for n in range(3)]
    touch(tmp_path, "train.txt", *(f"{part}.jpg" for part in (f"images/{name}" for name in names)))
    touch(tmp_path, *(f"labels/{name}.txt" for name in names))
    with pytest.raises(
        InputError, match=r"6 \.txt named like images may hold polygons, as YOLO's do: docs/sets\.md has a script"
    ) as refusal:
        find(str(tmp_path), "auto", 0, "")
    assert "--images" not in str(refusal.value)


@pytest.mark.parametrize("path", ["train/_annotations.coco.json", "annotations/instances_train2017.json"])
def test_objects_of_coco_are_called_what_they_are(tmp_path, path):
    touch(tmp_path, path, "train/a.jpg", "val/a.jpg")
    with pytest.raises(InputError, match=rf"{path} may hold COCO's objects: docs/sets\.md has a script that draws"):
        find(str(tmp_path), "auto", 0, "")


def test_labels_beside_objects_of_coco_are_still_looked_for(tmp_path):
    """As in COCO-Stuff, whose labels are published apart."""
    touch(tmp_path, "annotations/instances_val2017.json", "val2017/a.jpg", "stuffthingmaps/val2017/a.png")
    with pytest.raises(
        InputError, match=r"COCO's objects: .*\. Images are in stuffthingmaps/val2017 \(1\), .*give both"
    ):
        find(str(tmp_path), "auto", 0, "")


def test_polygons_alone_are_named(tmp_path):
    touch(tmp_path, *(f"{n}.{suffix}" for n in range(3) for suffix in ("jpg", "json")))
    with pytest.raises(InputError, match=r"3 \.json may hold polygons: have the tool that drew them export masks"):
        find(str(tmp_path), "auto", 0, "")


@pytest.mark.parametrize(
    "flags", [["--images", "a"], ["--labels", "a"], ["--images", "a", "--labels", "b", "--layout", "voc"]]
)
def test_flags_that_contradict_each_other_are_refused(tmp_path, flags, capsys):
    from pipelines import cli

    assert cli.main(["doctor", str(tmp_path), *flags]) == 2
    assert "--labels" in capsys.readouterr().err


@pytest.mark.parametrize("form", ["{0}", "./{0}/", "{1}/{0}", "{1}/./{0}/"])
def test_a_folder_may_be_named_by_a_path_too(form, tmp_path):
    for index in range(3):
        image, label = scene(index)
        write(tmp_path / f"set/sat/a{index}.png", saved(image))
        write(tmp_path / f"set/map/a{index}.png", saved(np.where(label == 255, 0, label)))
    flags = ["--images", form.format("sat", tmp_path / "set"), "--labels", form.format("map", tmp_path / "set")]
    assert examine(tmp_path / "set", tmp_path / "out", *flags).report["pairs"] == 3


def test_the_proposed_command_reads_the_named_folders(tmp_path):
    for index in range(8):
        image, label = scene(index)
        split = "train" if index < 6 else "val"
        write(tmp_path / f"set/{split}/sat/a{index}.png", saved(image))
        write(tmp_path / f"set/{split}/map/a{index}.png", saved(np.where(label == 255, 0, label)))
        write(tmp_path / f"set/{split}/map_rgb/a{index}.png", saved(image))
    found = examine(tmp_path / "set", tmp_path / "out", "--images", "*/sat", "--labels", "*/map")
    assert "pairing" not in found.kinds and "manifest.jsonl" in found.report["prepare"]
    assert len(prepare_as_proposed(found, tmp_path / "records")) == 8


def test_many_folders_are_shown_as_patterns():
    paths = [f"leftImg8bit/train/city{n}/x.png" for n in range(20)] + [f"gt/train/city{n}/y.png" for n in range(20)]
    files = [folders.File(path, path, 1, 1) for path in paths]
    assert "gt/train/* (20), leftImg8bit/train/* (20)" in folders.advice(files)


def test_brush_masks_of_label_studio_are_named_with_the_script_that_joins_them(tmp_path):
    touch(tmp_path, "images/a.jpg", *(f"masks/task-1-annotation-2-by-1-tag-{name}-0.png" for name in ("road", "sea")))
    with pytest.raises(
        InputError, match=r"Label Studio's, one for each class of an image: docs/sets\.md has a script"
    ):
        find(str(tmp_path), "auto", 0, "", "", "")

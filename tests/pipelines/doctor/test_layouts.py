"""Layouts: no false alarm on those that are known, and pairs by words of names where none is."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from pipelines.doctor.folders import name_key
from pipelines.doctor.pairing import find
from tests.drawn.encoded import saved
from tests.drawn.ill import Examined, Truth, draw_set, examine, prepare_as_proposed, scene
from trainer.formats.dataset import load_dataset
from trainer.formats.palettes import CITYSCAPES, VOC
from trainer.options import InputError

COUNT = 8


def write(path: Path, data: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)


def voc(folder: Path) -> None:
    lists: dict[str, list[str]] = {"train": [], "val": []}
    for index in range(COUNT):
        image, label = scene(index)
        name = f"2007_{index:06d}"
        write(folder / f"JPEGImages/{name}.jpg", saved(image, "JPEG", quality=90))
        write(folder / f"SegmentationClass/{name}.png", VOC.encode_mask(np.uint8([0, 7, 15, *[255] * 253])[label]))
        lists["val" if index % 4 == 3 else "train"].append(name)
    for split, names in lists.items():
        write(folder / f"ImageSets/Segmentation/{split}.txt", "\n".join(names).encode())


def cityscapes(folder: Path) -> None:
    sources = {target: source for source, target in CITYSCAPES.source_ids if target != 255}
    for index in range(COUNT):
        image, label = scene(index)
        name = f"{'val' if index % 4 == 3 else 'train'}/ulm/ulm_{index:06d}_000019"
        write(folder / f"leftImg8bit/{name}_leftImg8bit.png", saved(image))
        codes = np.uint8([sources[0], sources[13], sources[2], *[1] * 253])[label]
        write(folder / f"gtFine/{name}_gtFine_labelIds.png", saved(codes))


def paired(folder: Path) -> None:
    draw_set(folder / "drawn", splits={"train": 12})
    for kind in ("images", "labels"):
        shutil.copytree(folder / "drawn" / kind / "train", folder / kind)
    shutil.copyfile(folder / "drawn/palette.json", folder / "palette.json")
    shutil.rmtree(folder / "drawn")


@pytest.mark.parametrize("write_set", [voc, cityscapes, paired])
def test_no_false_alarm_on_a_known_layout(write_set, tmp_path):
    write_set(tmp_path / "set")
    found = examine(tmp_path / "set", tmp_path / "out")
    assert found.status == 0 and set(found.kinds) <= {"absent-classes"}, found.report["findings"]


def scattered(folder: Path) -> Truth:
    """Images and labels in folders of other names, whose names end in words of their own."""
    truth = {}
    for index in range(6):
        image, label = scene(index)
        truth[f"x/s{index}"] = label
        write(folder / f"photos/x/s{index}_rgb.jpg", saved(image, "JPEG", quality=95))
        write(folder / f"ground-truth/x/s{index}_mask.png", saved(label))
    return truth


def named(folder: Path, image_name: Callable[[int], str], label_name: Callable[[int], str]) -> Truth:
    """Images and labels of these paths below the folder."""
    truth = {}
    for index in range(6):
        image, label = scene(index)
        truth[f"x/s{index}"] = label
        write(folder / image_name(index), saved(image))
        write(folder / label_name(index), saved(label))
    return truth


def suffixed(folder: Path) -> Truth:
    """The layout of images with labels, but for the names of most labels."""
    return named(folder, "images/s{}.png".format, lambda index: f"labels/s{index}{'_label' if index else ''}.png")


def together(folder: Path) -> Truth:
    """Images and labels in one folder; the names of images end in a word that is not known to describe them."""
    return named(folder, "s{}_sat.png".format, "s{}_mask.png".format)


def wrapped(folder: Path) -> Truth:
    """Images and labels in a folder whose name holds a word for labels."""
    return named(folder, "Data with GT/city/s{}.png".format, "Data with GT/city/s{}_mask.png".format)


@pytest.mark.parametrize(
    ("draw", "kind"), [(scattered, "layout"), (suffixed, "pairing"), (together, "layout"), (wrapped, "layout")]
)
def test_files_that_no_layout_pairs_are_paired_by_a_manifest(draw, kind, tmp_path):
    truth = draw(tmp_path / "set")
    found = examine(tmp_path / "set", tmp_path / "out")
    assert found.status == 1 and found.kinds[kind] == "reject"
    made = prepare_as_proposed(found, tmp_path / "records")
    assert "deeplab doctor" not in found.report["findings"][0]["text"]
    assert {key.split("/")[-1][:2]: label.tolist() for key, label in made.items()} == {
        key.split("/")[1]: label.tolist() for key, label in truth.items()
    }


@pytest.mark.parametrize("folders", [("{}_images", "{}_masks"), ("{}/images", "{}/labels"), ("{}2017", "gt/{}2017")])
def test_a_manifest_of_pairs_keeps_the_splits_that_folders_are_named_after(folders, tmp_path):
    for index in range(12):
        split = "val" if index % 3 == 2 else "train"
        for folder, pixels in zip(folders, scene(index), strict=True):
            write(tmp_path / "set" / folder.format(split) / f"s{index}.png", saved(pixels))
    examine(tmp_path / "set", tmp_path / "out")
    lines = [json.loads(line) for line in (tmp_path / "out/manifest.jsonl").read_text().splitlines()]
    assert {Path(line["image"]).stem: line["split"] for line in lines} == {
        f"s{index}": "val" if index % 3 == 2 else "train" for index in range(12)
    }


@pytest.mark.parametrize(
    ("path", "key"),
    [
        ("images/train/a_1.jpg", ("train/a_1", False)),
        ("labels/train/a_1_mask.png", ("train/a_1", True)),
        ("GT/train/a-1.png", ("train/a_1", True)),
        ("seg/b.png", ("b", True)),
        ("b_image.png", ("b", False)),
        ("mask.png", ("", True)),
    ],
)
def test_words_for_the_kind_of_a_file_are_not_part_of_its_key(path, key):
    assert name_key(Path(path).with_suffix("").as_posix()) == key


def test_entries_of_a_list_without_a_file_are_to_be_corrected(tmp_path):
    draw_set(tmp_path / "set")
    rows = [f"images/{split}/a{n}.png,labels/{split}/a{n}.png,{split}" for split in ("train", "val") for n in range(4)]
    (tmp_path / "set/list.csv").write_text("\n".join(["image,label,split", *rows]))
    palette = str(tmp_path / "set/palette.json")
    found = examine(tmp_path / "set/list.csv", tmp_path / "out", "--palette", palette)
    assert found.kinds == {"names": "reject"} and "correct these entries" in found.finding("names")["cure"]
    assert len(prepare_as_proposed(found, tmp_path / "records")) == 7


def test_images_without_labels_are_left_out_by_the_manifest(tmp_path):
    truth = draw_set(tmp_path / "set")
    (tmp_path / "set/labels/train/a1.png").unlink()
    found = examine(tmp_path / "set", tmp_path / "out")
    assert found.kinds == {"pairing": "reject"}
    assert (found.finding("pairing")["count"], found.finding("pairing")["of"]) == (1, 2 * 8 + 1)
    assert "a1.png" in found.finding("pairing")["examples"][0]["path"]
    made = prepare_as_proposed(found, tmp_path / "records")
    assert made.keys() == truth.keys() - {"train/a1"}


def test_the_classes_that_a_tool_lists_come_with_the_manifest(tmp_path):
    draw_set(tmp_path / "drawn", palette=None, splits={"train": 8})
    for kind, words in (("images", "{}"), ("labels", "{}_mask")):
        for path in sorted((tmp_path / f"drawn/{kind}/train").iterdir()):
            write(tmp_path / f"set/all/{words.format(path.stem)}.png", path.read_bytes())
    write(tmp_path / "set/class_names.txt", b"_background_\ndisc\nbar\n")
    found = examine(tmp_path / "set", tmp_path / "out")
    assert [one["name"] for one in found.report["palette"]["classes"]] == ["background", "disc", "bar"]
    assert "palette" not in found.kinds and len(prepare_as_proposed(found, tmp_path / "records")) == 8


def test_a_set_of_which_the_hash_holds_out_no_image_gets_a_larger_share_that_does(tmp_path):
    draw_set(tmp_path / "drawn", splits={"train": 12})
    for kind in ("images", "labels"):
        (tmp_path / "set").mkdir(exist_ok=True)
        (tmp_path / f"drawn/{kind}/train").rename(tmp_path / f"set/{kind}")
    (tmp_path / "drawn/palette.json").rename(tmp_path / "set/palette.json")
    found = examine(tmp_path / "set", tmp_path / "out", "--val-fraction", "0.01")
    assert found.kinds == {"no-validation": "wrong"} and found.status == 2
    assert found.finding("no-validation")["cure"] in found.report["prepare"]
    assert {"train", "val"} == _splits(found, tmp_path / "records")
    (tmp_path / "set/labels/a3.png").write_bytes(b"")  # now a manifest lists the splits
    found = examine(tmp_path / "set", tmp_path / "out", "--val-fraction", "0.01")
    assert "manifest.jsonl" in found.report["prepare"] and {"train", "val"} == _splits(found, tmp_path / "others")
    assert "no-validation" not in examine(tmp_path / "set", tmp_path / "out", "--val-fraction", "0").kinds


def _splits(found: Examined, records: Path) -> set[str]:
    prepare_as_proposed(found, records)
    return set(load_dataset(str(records)).splits)


@pytest.mark.parametrize("labels", ["manual1/s{}.png", "1st_manual/s{}_manual1.png"])
def test_masks_of_another_kind_are_not_taken_for_labels_in_a_folder_of_an_unknown_name(labels, tmp_path):
    for index in range(6):
        image, label = scene(index)
        write(tmp_path / f"set/images/s{index}_training.png", saved(image))
        write(tmp_path / f"set/mask/s{index}_training_mask.png", saved(np.uint8(label > 0) * 255))
        write(tmp_path / "set" / labels.format(index), saved(label))
    with pytest.raises(InputError, match=r"Images are in .*mask \(6\).*--images FOLDER --labels FOLDER"):
        find(str(tmp_path / "set"), "auto", 0.1, "")


def test_labels_of_two_kinds_in_one_folder_are_not_guessed_between(tmp_path):
    for index in range(6):
        image, label = scene(index)
        write(tmp_path / f"s{index}.jpg", saved(image, "JPEG"))
        write(tmp_path / f"s{index}_label_ground-truth.png", saved(label + 1))
        write(tmp_path / f"s{index}_label_ground-truth_semantic.png", saved(label))
    with pytest.raises(InputError, match=r"All images are in one folder.*--images '\*\.jpg' --labels"):
        find(str(tmp_path), "auto", 0.1, "")


def test_labels_in_another_format_are_not_said_to_be_in_the_folder_of_the_images(tmp_path):
    for index in range(3):
        write(tmp_path / f"images/s_{index}.png", saved(scene(index)[0]))
        write(tmp_path / f"labels/s_{index}.regions.txt", b"0 1 1 0\n")
    with pytest.raises(InputError) as error:
        find(str(tmp_path), "auto", 0.1, "")
    assert "one folder" not in str(error.value)

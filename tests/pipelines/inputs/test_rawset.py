from __future__ import annotations

import hashlib
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pipelines.inputs.rawset import RawSet, detect_palette, hash_split, scan
from tests.drawn.places import DATA
from trainer.formats.palettes import CAMVID, CITYSCAPES, CITYSCAPES_TRAINIDS, VOC, Palette
from trainer.options import InputError

CAMVID_DATA = DATA / "camvid"


def touch(root: Path, *names: str) -> None:
    """Empty files: scanning looks at names alone."""
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()


def write_label(path: Path, label: np.ndarray, colormap: np.ndarray | None = None) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    picture = Image.fromarray(np.asarray(label, np.uint8))
    if colormap is not None:
        picture.putpalette(colormap.tobytes())
    picture.save(path)


def splits(found: RawSet) -> dict[str, str]:
    return {pair.key: pair.split for pair in found.pairs}


def reasons(found: RawSet) -> dict[str, str]:
    return {reject.key: reject.reason for reject in found.rejects}


def labels(found: RawSet, root: Path) -> dict[str, str]:
    return {pair.key: Path(pair.label).relative_to(root).as_posix() for pair in found.pairs}


# Layouts


def test_camvid_folders_give_splits_and_keys(tmp_path):
    for split, names in {"train": "ab", "val": "a"}.items():
        touch(tmp_path, *(f"images/{split}/{n}.jpg" for n in names), *(f"labels/{split}/{n}.png" for n in names))
    found = scan(str(tmp_path))
    assert found.layout == "camvid"
    assert splits(found) == {"train/a": "train", "train/b": "train", "val/a": "val"}
    assert found.saw == "camvid: images/{train,val} with labels/{train,val}, 2 train + 1 val pictures"
    assert labels(found, tmp_path)["val/a"] == "labels/val/a.png"


def test_segnet_folders_give_the_same_keys(tmp_path):
    touch(tmp_path, "train/a.png", "trainannot/a.png", "val/b.png", "valannot/b.png", "test/c.png", "testannot/c.png")
    found = scan(str(tmp_path))
    assert found.layout == "camvid"
    assert splits(found) == {"train/a": "train", "val/b": "val", "test/c": "test"}
    assert labels(found, tmp_path)["test/c"] == "testannot/c.png"


def test_voc_lists_say_what_the_set_is(tmp_path):
    touch(tmp_path, *(f"JPEGImages/{n}.jpg" for n in "abcdef"), *(f"SegmentationClass/{n}.png" for n in "abcf"))
    for name, content in {"train": "a\nb\n", "val": "c\r\nd\n\n", "trainval": "a\nb\nc\nd\nf\nmissing\n"}.items():
        touch(tmp_path, f"ImageSets/Segmentation/{name}.txt")
        (tmp_path / f"ImageSets/Segmentation/{name}.txt").write_text(content)
    touch(tmp_path, "ImageSets/Main/train.txt")
    found = scan(str(tmp_path))
    assert found.layout == "voc" and found.palette_hint is VOC
    assert splits(found) == {"a": "train", "b": "train", "c": "val", "f": hash_split("f", 0.1)}
    assert reasons(found) == {
        "d": "picture without a label of that name",
        "missing": "listed in trainval.txt, but there is no such picture in JPEGImages",
    }
    assert "(1 in no list)" in found.saw and "2 rejected" in found.saw


def test_voc_prefers_augmented_labels_and_trains_on_nothing_it_validates_by(tmp_path):
    touch(tmp_path, "JPEGImages/a.jpg", "JPEGImages/b.jpg", "SegmentationClass/a.png", "SegmentationClass/b.png")
    touch(tmp_path, "SegmentationClassAug/a.png", "ImageSets/Segmentation/x.txt")
    (tmp_path / "ImageSets/Segmentation/trainaug.txt").write_text(
        "/JPEGImages/a.jpg /SegmentationClassAug/a.png\n/JPEGImages/b.jpg /SegmentationClassAug/b.png\n"
    )
    (tmp_path / "ImageSets/Segmentation/val.txt").write_text("b\n")
    found = scan(str(tmp_path))
    assert splits(found) == {"a": "train", "b": "val"}
    assert labels(found, tmp_path) == {"a": "SegmentationClassAug/a.png", "b": "SegmentationClass/b.png"}


def test_voc_without_lists_takes_every_picture(tmp_path):
    touch(tmp_path, "JPEGImages/a.jpg", "JPEGImages/b.jpg", "SegmentationClass/a.png")
    found = scan(str(tmp_path), val_fraction=0.0)
    assert splits(found) == {"a": "train"} and set(reasons(found)) == {"b"}


def city(split: str, name: str, *codings: str) -> list[str]:
    return [
        f"leftImg8bit/{split}/ulm/{name}_leftImg8bit.png",
        *(f"gtFine/{split}/ulm/{name}_gtFine_{c}.png" for c in (*codings, "color", "instanceIds")),
    ]


def test_cityscapes_pairs_images_with_label_ids(tmp_path):
    touch(tmp_path, *city("train", "ulm_000000_000019", "labelIds"), *city("val", "ulm_000001_000019", "labelIds"))
    found = scan(str(tmp_path))
    assert found.layout == "cityscapes" and found.palette_hint is CITYSCAPES and not found.rejects
    assert splits(found) == {
        "train/ulm/ulm_000000_000019_leftImg8bit": "train",
        "val/ulm/ulm_000001_000019_leftImg8bit": "val",
    }


def test_cityscapes_prefers_train_ids_where_all_have_them(tmp_path):
    touch(tmp_path, *city("train", "a", "labelIds", "labelTrainIds"), *city("val", "b", "labelIds", "labelTrainIds"))
    found = scan(str(tmp_path))
    assert found.palette_hint is CITYSCAPES_TRAINIDS
    assert labels(found, tmp_path)["val/ulm/b_leftImg8bit"] == "gtFine/val/ulm/b_gtFine_labelTrainIds.png"
    (tmp_path / "gtFine/val/ulm/b_gtFine_labelTrainIds.png").unlink()
    assert scan(str(tmp_path)).palette_hint is CITYSCAPES


@pytest.mark.parametrize("folder", ["labels", "masks", "annotations"])
def test_paired_folders_are_paired_by_relative_name(tmp_path, folder):
    touch(tmp_path, "images/x/1.JPG", "images/y/1.jpeg", "images/2.tiff")
    touch(tmp_path, f"{folder}/x/1.png", f"{folder}/y/1.png", f"{folder}/2.PNG")
    found = scan(str(tmp_path))
    assert found.layout == "paired" and not found.rejects
    assert labels(found, tmp_path) == {
        "2": f"{folder}/2.PNG",
        "x/1": f"{folder}/x/1.png",
        "y/1": f"{folder}/y/1.png",
    }


def test_split_is_a_hash_of_the_key_and_stays_when_pictures_are_added(tmp_path):
    touch(tmp_path, *(f"images/{i}.jpg" for i in range(200)), *(f"labels/{i}.png" for i in range(200)))
    few = splits(scan(str(tmp_path), val_fraction=0.25))
    touch(tmp_path, *(f"images/{i}.jpg" for i in range(200, 400)), *(f"labels/{i}.png" for i in range(200, 400)))
    many = splits(scan(str(tmp_path), val_fraction=0.25))
    assert {key: many[key] for key in few} == few
    assert 0.18 < list(many.values()).count("val") / 400 < 0.32
    assert set(splits(scan(str(tmp_path), val_fraction=0.0)).values()) == {"train"}
    first = hashlib.md5(b"7").digest()[0] / 256
    assert hash_split("7", first + 1 / 256) == "val" and hash_split("7", first) == "train"


# Pairing


def test_what_has_no_partner_is_a_reject_with_a_reason(tmp_path):
    touch(tmp_path, "images/a.jpg", "images/lonely.jpg", "labels/a.png", "labels/orphan.png")
    found = scan(str(tmp_path))
    assert list(splits(found)) == ["a"]
    assert reasons(found) == {
        "lonely": "picture without a label of that name",
        "orphan": "label without a picture of that name",
    }
    assert [reject.stage for reject in found.rejects] == ["scan", "scan"]
    assert found.rejects[0].path == str(tmp_path / "images/lonely.jpg")


def test_two_pictures_or_two_labels_of_one_name_are_rejects(tmp_path):
    touch(tmp_path, "images/a.jpg", "labels/a.png", "images/b.jpg", "images/b.png", "labels/b.png")
    touch(tmp_path, "images/c.jpg", "labels/c.png", "labels/c.tif")
    found = scan(str(tmp_path))
    assert list(splits(found)) == ["a"]
    assert [(reject.key, Path(reject.path).name) for reject in found.rejects] == [
        ("b", "b.jpg"),
        ("b", "b.png"),
        ("c", "c.jpg"),
    ]
    assert reasons(found)["b"] == "2 pictures have the same name: b.jpg, b.png; rename or remove all but one"
    assert reasons(found)["c"] == "2 labels have the picture's name: c.png, c.tif; remove all but one"


def test_hidden_and_other_files_are_no_pictures(tmp_path):
    touch(tmp_path, "images/a.jpg", "labels/a.png", "images/Thumbs.db", "labels/.DS_Store", "images/readme.txt")
    touch(tmp_path, "images/._a.jpg", "images/.cache/z.jpg", "labels/a.json")
    found = scan(str(tmp_path))
    assert list(splits(found)) == ["a"] and not found.rejects


def test_unsafe_names_are_rejects(tmp_path):
    touch(tmp_path, "images/a.jpg", "labels/a.png", "images/b\\..\\c.jpg", "labels/b\\..\\c.png")
    assert "would leave the output folder" in reasons(scan(str(tmp_path)))["b\\..\\c"]


def test_size_and_time_of_both_files_are_kept(tmp_path):
    touch(tmp_path, "images/a.jpg", "labels/a.png")
    (tmp_path / "images/a.jpg").write_bytes(b"123")
    before = scan(str(tmp_path)).pairs[0]
    (tmp_path / "labels/a.png").write_bytes(b"4567")
    after = scan(str(tmp_path)).pairs[0]
    assert (before.size, after.size) == (3, 7) and before.modified < after.modified


# Manifests


def test_csv_manifest_is_relative_to_its_folder(tmp_path):
    touch(tmp_path, "set/pics/a.jpg", "set/l/a.png", "else/b.jpg", "else/b_label.png")
    manifest = tmp_path / "set/list.csv"
    manifest.write_text(
        f"image,label,split\npics/a.jpg,l/a.png,validation\n../else/b.jpg,{tmp_path}/else/b_label.png,\n"
    )
    found = scan(str(manifest), val_fraction=0.0)
    outside = str(tmp_path / "else/b").lstrip("/")
    assert found.layout == "manifest" and not found.rejects
    assert splits(found) == {"pics/a": "val", outside: "train"}
    assert {pair.label for pair in found.pairs} == {str(tmp_path / "set/l/a.png"), str(tmp_path / "else/b_label.png")}


def test_a_folder_with_a_jsonl_manifest_is_recognised(tmp_path, monkeypatch):
    touch(tmp_path, "a.jpg", "a.png")
    (tmp_path / "manifest.jsonl").write_text('{"image": "a.jpg", "label": "a.png", "split": "odd-one"}\n\n')
    assert splits(scan(str(tmp_path))) == {"a": "odd-one"}
    monkeypatch.chdir(tmp_path)
    assert splits(scan("manifest.jsonl")) == {"a": "odd-one"} == splits(scan("."))


def test_rows_that_cannot_be_used_are_rejects_naming_the_line(tmp_path):
    touch(tmp_path, "a.jpg", "a.png", "b.jpg", "c.jpg", "c.png", "c.webp")
    manifest = tmp_path / "m.csv"
    manifest.write_text(
        "image, label, split\na.jpg,a.png,train\na.jpg,a.png,val\nb.jpg,,\ngone.jpg,a.png,\n"
        "b.jpg,gone.png,\nc.jpg,c.png,../up\nc.webp\n"
    )
    found = scan(str(manifest))
    assert splits(found) == {"a": "train"}
    texts = [reject.reason.removeprefix(f"{manifest} ") for reject in found.rejects]
    assert sorted(texts) == [
        "line 3: listed already in line 2",
        'line 4: expected an image and a label, got {"image": "b.jpg", "label": "", "split": ""}',
        f"line 5: there is no file {tmp_path}/gone.jpg",
        f"line 6: there is no file {tmp_path}/gone.png",
        "line 7: a split is one word, got '../up'",
        'line 8: expected an image and a label, got {"image": "c.webp", "label": null, "split": null}',
    ]


def test_pictures_of_one_name_in_a_manifest_are_rejects(tmp_path):
    touch(tmp_path, "a.jpg", "a.png", "a.webp", "l.png", "b.jpg")
    rows = [{"image": i, "label": "l.png"} for i in ("a.jpg", "a.webp", "b.jpg")]
    (tmp_path / "m.jsonl").write_text("\n".join([*map(json.dumps, rows), "{broken", "[1]"]))
    found = scan(str(tmp_path / "m.jsonl"))
    assert list(splits(found)) == ["b"]
    assert [reject.key for reject in found.rejects] == ["", "", "a", "a"]


# What cannot be used


def test_a_missing_folder_is_an_input_error(tmp_path):
    with pytest.raises(InputError, match=r"there is no .*nowhere; expected a folder"):
        scan(str(tmp_path / "nowhere"))


def test_an_unknown_set_is_told_what_was_looked_for_and_seen(tmp_path):
    touch(tmp_path, "holiday/a.jpg", "notes.txt")
    with pytest.raises(InputError, match=r"looked for voc .*; cityscapes .*; saw holiday/, notes\.txt"):
        scan(str(tmp_path))
    with pytest.raises(InputError, match=r"looked for voc \(JPEGImages \+ SegmentationClass\); saw"):
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
    with pytest.raises(InputError, match=r"not one picture has a label; for example .*images/a\.jpg: picture without"):
        scan(str(tmp_path))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"layout": "coco"}, "layout must be one of auto, manifest, voc, cityscapes, camvid, paired, got 'coco'"),
        ({"val_fraction": 1.0}, "val_fraction must be at least 0 and less than 1, got 1.0"),
    ],
)
def test_options_are_checked(tmp_path, arguments, message):
    with pytest.raises(InputError, match=message):
        scan(str(tmp_path), **arguments)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("m.csv", b"file,mask\na,b\n", "expected the header image,label"),
        ("m.csv", b"", "expected the header image,label"),
        ("m.csv", b"image,label\n\xff\xfe,b\n", "is not UTF-8 text"),
        ("m.txt", b"image,label\n", r"expected a folder, or a manifest named \*.csv"),
        ("m.csv", b"image,label\n", "not one picture has a label"),
    ],
)
def test_unusable_manifests_are_input_errors(tmp_path, name, content, message):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(InputError, match=message):
        scan(str(tmp_path / name))


# Palettes


def labelled(root: Path, *arrays: np.ndarray, folders=("images", "labels"), colormap=None) -> RawSet:
    for index, array in enumerate(arrays):
        touch(root, f"{folders[0]}/{index}.jpg")
        write_label(root / f"{folders[1]}/{index}.png", array, colormap)
    return scan(str(root))


def test_palette_file_in_the_root_wins(tmp_path):
    mine = Palette("mine", ("a", "b"), ((1, 1, 1), (2, 2, 2)))
    touch(tmp_path, "JPEGImages/a.jpg", "SegmentationClass/a.png")
    (tmp_path / "palette.json").write_text(json.dumps(mine.to_json()))
    found, saw = detect_palette(scan(str(tmp_path)))
    assert found == mine and saw.startswith("palette mine of 2 classes, from ")
    assert detect_palette(scan(str(tmp_path)), "camvid")[0] is CAMVID


def test_layout_implies_the_palette(tmp_path):
    touch(tmp_path, "JPEGImages/a.jpg", "SegmentationClass/a.png")
    assert detect_palette(scan(str(tmp_path))) == (VOC, "palette voc, as is usual for voc sets")


def test_camvid_ids_are_recognised_and_unreadable_labels_passed_over(tmp_path):
    folders = ("images/train", "labels/train")
    labelled(tmp_path, [[0, 1, 2]], [[3, 5, 11]], folders=folders)
    touch(tmp_path, "images/train/z.jpg", "labels/train/z.png")
    found, saw = detect_palette(scan(str(tmp_path)))
    assert found is CAMVID
    assert saw == "palette camvid: 2 sampled labels hold ids 0-3, 5, 11"


@pytest.mark.parametrize("palette", [VOC, CAMVID, CITYSCAPES], ids=lambda palette: palette.name)
def test_colours_known_to_one_palette_tell_it(tmp_path, palette):
    ids = np.uint8([[*range(palette.num_classes), palette.ignore_id]])
    found, saw = detect_palette(labelled(tmp_path, palette.colorize(ids)))
    assert found is palette and f"{palette.num_classes + 1} colours" in saw


@pytest.mark.parametrize("palette", [VOC, CAMVID, CITYSCAPES_TRAINIDS], ids=lambda palette: palette.name)
def test_the_colour_map_inside_palette_pngs_tells_the_palette(tmp_path, palette):
    ids = np.uint8([[0, 1, palette.ignore_id]])
    assert detect_palette(labelled(tmp_path, ids, colormap=palette.colormap()))[0] is palette


@pytest.mark.parametrize(
    ("label", "seen"),
    [
        ([[0, 1, 2, 7]], "1 sampled label holds ids 0-2, 7"),
        ([[[0, 0, 0], [128, 0, 0]]], r"label holds 2 colours \(0, 0, 0\), \(128, 0, 0\)"),  # VOC's as well as CamVid's
        ([[[1, 2, 3], [128, 0, 0]]], r"2 colours \(1, 2, 3\), \(128, 0, 0\)"),
    ],
)
def test_labels_that_tell_nothing_ask_for_a_palette(tmp_path, label, seen):
    with pytest.raises(InputError, match=rf"cannot tell the palette; .*{seen}.* Pass --palette camvid, voc"):
        detect_palette(labelled(tmp_path, np.uint8(label)))


def test_labels_that_cannot_be_read_ask_for_a_palette(tmp_path):
    touch(tmp_path, "images/a.jpg", "labels/a.png")
    with pytest.raises(InputError, match="not one of the sampled labels could be read"):
        detect_palette(scan(str(tmp_path)))


@pytest.mark.skipif(not CAMVID_DATA.is_dir(), reason="the CamVid pictures are not beside the project")
def test_real_camvid_is_recognised():
    found = scan(str(CAMVID_DATA))
    assert found.saw == "camvid: images/{train,val} with labels/{train,val}, 367 train + 101 val pictures"
    assert not found.rejects and detect_palette(found)[0] is CAMVID

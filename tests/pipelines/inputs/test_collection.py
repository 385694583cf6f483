"""The images of folders, globs and lists, and the names of their masks."""

from __future__ import annotations

import json

import pytest

from pipelines.inputs.collection import SourceImage, find
from tests.drawn.rawset import touch
from trainer import storage
from trainer.options import InputError


def names(source, output="") -> list[str]:
    return [image.name for image in find(str(source), str(output)).images]


def test_masks_are_named_by_the_path_without_suffix(tmp_path):
    touch(tmp_path, "a.jpg", "a.png", "b.tar.jpg", "sub/c.JPG", ".hidden.jpg", "masks/a.png", "readme.md")
    listing = find(str(tmp_path), str(tmp_path / "masks"))
    assert [image.name for image in listing.images] == ["a.jpg", "a.png", "b.tar", "sub/c"]
    assert listing.notes == (
        "files left out because they lie in the output folder: 1",
        "files that are not read as images, skipped: 1 hidden, 1 other",
    )


@pytest.mark.parametrize(
    ("image", "label"), [("_sat.jpg", "_mask.png"), (".jpg", "_GT.png"), (".png", "-labelIds.png")]
)
def test_a_folder_with_labels_among_its_images_is_refused(tmp_path, image, label):
    touch(tmp_path, *(f"train/{name}{ending}" for name in "abc" for ending in (image, label)))
    with pytest.raises(InputError, match=f"half of the 6 images .* such as train/a{label}, .* a pattern"):
        find(str(tmp_path))
    assert names(f"{tmp_path}/**/*{image}") or label.endswith("png")
    assert len(names(f"{tmp_path}/**")) == 6


def test_a_folder_of_labels_is_named_before_their_names(tmp_path):
    touch(tmp_path, "images/a.jpg", "labels/a_mask.png")
    with pytest.raises(InputError, match=r"labels has the labels of the images in .*images"):
        find(str(tmp_path))


def test_images_that_are_named_like_labels_are_images_where_there_are_no_others(tmp_path):
    touch(tmp_path, "a_mask.jpg", "b_mask.jpg", "c_unmasked.jpg")
    assert names(tmp_path) == ["a_mask", "b_mask", "c_unmasked"]


def test_files_in_hidden_folders_are_no_images_unless_a_pattern_names_them(tmp_path):
    touch(tmp_path, "a.jpg", ".ipynb_checkpoints/a-checkpoint.jpg", "b/.cache/c.jpg", "d.HEIC", "e.heic", "f.dcm", "g")
    listing = find(str(tmp_path))
    assert [image.name for image in listing.images] == ["a"]
    assert listing.notes == ("files that are not read as images, skipped: 1 .dcm, 2 .heic, 2 hidden, 1 other",)
    assert names(f"{tmp_path}/b/.cache/*") == ["c"] and names(f"{tmp_path}/b/.*/*") == [".cache/c"]


@pytest.mark.parametrize(
    ("images", "labels"),
    [
        ("images", "labels"),
        ("images/train", "masks/train"),
        ("training/images", "training/annotations"),
        ("VOC2012/JPEGImages", "VOC2012/SegmentationClass"),
        ("leftImg8bit/val/bonn", "gtFine/val/bonn"),
        ("val", "valannot"),
        ("img_dir/train", "ann_dir/train"),
    ],
)
def test_the_labels_of_a_raw_set_are_not_taken_for_images(tmp_path, images, labels):
    touch(tmp_path, f"{images}/a.png", f"{labels}/a.png")
    with pytest.raises(InputError, match="has the labels of the images in") as caught:
        find(str(tmp_path))
    assert str(tmp_path / images).startswith(str(caught.value).split(" as --input")[0].split("; give ")[1])
    assert names(tmp_path / images) == ["a"]
    assert names(f"{tmp_path}/**") == sorted([f"{images}/a", f"{labels}/a"])


@pytest.mark.parametrize("other", ["labels/a.txt", "masks.png", "b/labels/a.png", "trainannot/a.png", "annot/a.png"])
def test_folders_without_the_labels_of_a_raw_set_are_segmented_whole(tmp_path, other):
    touch(tmp_path, "images/a.png", other)
    assert "images/a" in names(tmp_path)


def test_the_identity_of_a_local_image_is_not_known_yet(tmp_path):
    (tmp_path / "a.jpg").write_bytes(b"123")
    assert tuple(find(str(tmp_path)).images) == (SourceImage(str(tmp_path / "a.jpg"), "a", identity=""),)


def test_globs_give_their_images_one_by_one_and_each_once(tmp_path, monkeypatch):
    touch(tmp_path, "b/a.jpg", "b/c/a.jpg", "a.jpg", "notes.txt")
    monkeypatch.setattr(storage, "glob", None)  # which would hold them all
    listing = find(f"{tmp_path}/**/**")
    assert [image.name for image in listing.images] == ["a", "b/a", "b/c/a"]
    assert listing.notes == ("files that are not read as images, skipped: 1 other",)


def test_a_single_image_and_a_glob(tmp_path):
    touch(tmp_path, "x/a.jpg", "x/y/b.png", "x/y/c.txt", "d.png")
    assert names(tmp_path / "x/a.jpg") == ["a"]
    assert names(f"{tmp_path}/x/**/*") == ["a", "y/b"]
    assert names(f"{tmp_path}/?/*/b.*") == ["x/y/b"]


def test_names_from_a_list_cannot_leave_the_output(tmp_path):
    touch(tmp_path, "x/a.jpg", "y/a.jpg", "lists/l.txt")
    source = tmp_path / "lists/l.txt"
    source.write_text(f"# images\n../x/a.jpg\n{tmp_path}/y/../y/a.jpg\n\n")
    images = [*find(str(source)).images]
    assert [image.name for image in images] == ["x/a", "y/a"]
    assert [image.path for image in images] == [str(tmp_path / "x/a.jpg"), str(tmp_path / "y/a.jpg")]
    source.write_text("../x/back\\slash.jpg\n../y/a.jpg\n")
    listing = find(str(source))
    assert [image.name for image in listing.images] == ["y/a"]
    assert "has a backslash" in listing.unusable[0][1]


def test_masks_have_no_place_among_overlays(tmp_path):
    touch(tmp_path, "overlays/x.png", "a.png")
    listing = find(str(tmp_path))
    assert [image.name for image in listing.images] == ["a"]
    reason = "its mask would lie in overlays/, which is reserved; rename the image's folder"
    assert listing.unusable == ((str(tmp_path / "overlays/x.png"), reason),)


def test_lists_take_files_whatever_their_suffix_and_once(tmp_path):
    touch(tmp_path, "x/a", "x/b.jpg")
    source = tmp_path / "l.jsonl"
    rows = [{"image": path} for path in ("x/a", "x/b.jpg", "x/a", "x/gone.jpg")]
    source.write_text("\n".join(map(json.dumps, rows)))
    assert names(source) == ["a", "b", "gone"]


def test_only_suffixes_of_images_are_cut_from_names_in_lists(tmp_path):
    entries = ["b.2024", "cam_1.5m_0001", "cam_1.6m_0001", "d.JPG", "e.dat", "f.png.dat", "g_gtFine_labelIds.png"]
    (tmp_path / "l.txt").write_text("\n".join(f"x/{entry}" for entry in entries))
    expected = ["b.2024", "cam_1.5m_0001", "cam_1.6m_0001", "d", "e.dat", "f.png.dat", "g_gtFine_labelIds"]
    assert names(tmp_path / "l.txt") == expected
    touch(tmp_path, "x/cam_1.5m_0001")
    assert names(tmp_path / "x/cam_1.5m_0001") == ["cam_1.5m_0001"]


def test_lists_of_objects_in_the_cloud(tmp_path):
    source = tmp_path / "l.csv"
    source.write_text("image,label\ngs://bucket/set/x/a.jpg,l\ngs://bucket/set/b.jpg,l\n")
    assert [(image.path, image.name) for image in find(str(source)).images] == [
        ("gs://bucket/set/b.jpg", "b"),
        ("gs://bucket/set/x/a.jpg", "x/a"),
    ]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("l.csv", "picture\na.png\n", "expected a column 'image'"),
        (
            "l.csv",
            "image,label\na.png,b.png\n,c.png\n",
            r"line 3: expected an image, got \{'image': '', 'label': 'c.png'\}",
        ),
        ("l.jsonl", "{oops\n", "line 1: is not JSON: .*; correct or remove the line"),
        ("l.jsonl", '{"image": 3}\n', r"line 1: expected an image, got \{'image': 3\}"),
        ("l.txt", "a.png\ngs://bucket/b.png\n", "lists local files and gs:// objects; expected one kind"),
        ("l.txt", "# nothing\n", r"no images in .*l.txt \(list\); .* found no files at all"),
    ],
)
def test_unusable_lists_are_input_errors(tmp_path, name, content, message):
    (tmp_path / name).write_text(content)
    with pytest.raises(InputError, match=message):
        find(str(tmp_path / name))


def test_missing_empty_and_equal_folders_are_input_errors(tmp_path):
    with pytest.raises(InputError, match="nowhere does not exist; expected a folder, a glob, an image or a list"):
        find(str(tmp_path / "nowhere"))
    touch(tmp_path, "notes.md")
    with pytest.raises(InputError, match=r"no images in .* found others, such as notes\.md"):
        find(str(tmp_path))
    with pytest.raises(InputError, match="the same folder"):
        find(str(tmp_path), str(tmp_path))


def test_a_folder_in_a_list_as_gsutil_prints_it_is_named_as_such(tmp_path):
    (tmp_path / "l.txt").write_text("gs://b/set/\ngs://b/set/a.jpg\n")
    listing = find(str(tmp_path / "l.txt"))
    assert [image.name for image in listing.images] == ["a"]
    ((path, reason),) = listing.unusable
    assert path == "gs://b/set/" and "ends with a slash and names a folder" in reason

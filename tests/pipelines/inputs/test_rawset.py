"""What is found in the folder of a raw set, and how a folder that is none is refused."""

from __future__ import annotations

import pytest

from pipelines.inputs.rawset import scan
from tests.drawn.held import held
from tests.drawn.rawset import reasons_of, splits_of, touch, write_rawset
from trainer import storage
from trainer.options import InputError
from trainer.storage import File


def test_hidden_and_other_files_are_no_images(tmp_path):
    touch(tmp_path, "images/a.jpg", "labels/a.png", "images/Thumbs.db", "labels/.DS_Store", "images/readme.txt")
    touch(tmp_path, "images/._a.jpg", "images/.cache/z.jpg", "labels/a.json")
    raw = scan(str(tmp_path))
    assert list(splits_of(raw)) == ["a"] and not raw.rejects


def test_images_that_are_passed_over_for_their_names_are_said(tmp_path):
    touch(tmp_path, "images/a.jpg", "labels/a.png", "images/b.gif", "labels/b.npy", "images/._a.jpg", "notes.txt")
    assert scan(str(tmp_path)).summary.startswith("paired: images with labels, left out: 1 .gif, 1 .npy, 1 hidden, 1 ")


def test_a_partner_in_a_format_that_is_not_read_is_named_with_its_cure(tmp_path):
    touch(tmp_path, "images/a.jpg", "labels/a.png", "images/b.gif", "labels/b.png", "images/c.jpg", "labels/c.GIF")
    touch(tmp_path, "labels/d.png", "labels/d.gif", "labels/e.png")
    cure = "files are not read: save it as PNG, or as JPEG if it is no label"
    assert reasons_of(scan(str(tmp_path))) == {
        "b": f"label without an image of that name; there is b.gif, but .gif {cure}",
        "c": f"image without a label of that name; there is c.GIF, but .GIF {cure}",
        "d": "label without an image of that name",
        "e": "label without an image of that name",
    }


@pytest.mark.parametrize(("image", "label"), [("a.jpg", "a.gif"), ("a.gif", "a.png")])
def test_a_set_without_pairs_for_its_formats_names_them(tmp_path, image, label):
    touch(tmp_path, f"images/{image}", f"labels/{label}")
    with pytest.raises(
        InputError, match=r"Files of these formats are not read: 1 \.gif; save them as PNG; `deeplab d"
    ):
        scan(str(tmp_path))


def test_objects_whose_names_have_dots_for_folders_are_pairs_or_rejects_but_never_hidden(monkeypatch):
    names = ("a", "../b", "x/../c", "./d", "x/./e", "x/e", "x/.f/g", "x//h", "x//i", "x/i")
    relative = [name for stem in names for name in (f"images/{stem}.jpg", f"labels/{stem}.png")]
    monkeypatch.setattr(storage, "exists", lambda path: path == "gs://bucket/set/elsewhere")
    monkeypatch.setattr(storage, "is_dir", lambda path: True)
    monkeypatch.setattr(storage, "walk", lambda root: [File(f"{root}/{name}", name, 1, 1) for name in relative])
    raw = scan("gs://bucket/set")
    assert [(pair.key, pair.image) for pair in raw.pairs] == [
        ("a", "gs://bucket/set/images/a.jpg"),
        ("d", "gs://bucket/set/images/./d.jpg"),
        ("x/h", "gs://bucket/set/images/x//h.jpg"),
    ]
    reasons = {reject.path.removeprefix("gs://bucket/set/images/"): reject.reason for reject in raw.rejects}
    assert sorted(reasons) == ["../b.jpg", "x/../c.jpg", "x/./e.jpg", "x//i.jpg", "x/e.jpg", "x/i.jpg"]
    assert "would leave the output folder" in reasons["../b.jpg"] and "would leave" in reasons["x/../c.jpg"]
    both = "gs://bucket/set/images/x/./e.jpg, gs://bucket/set/images/x/e.jpg"
    assert reasons["x/e.jpg"] == f"2 images have the same name: {both}; rename or remove all but one"
    assert "2 images have the same name: gs://bucket/set/images/x//i.jpg, gs" in reasons["x/i.jpg"]
    assert "left out: 2 hidden" in raw.summary


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


@pytest.mark.parametrize("above", ["", "VOCdevkit/", "download/VOCdevkit/"])
def test_the_folder_above_a_set_is_told_where_it_is(above, tmp_path):
    touch(tmp_path, f"{above}VOC2012/JPEGImages/a.jpg", f"{above}VOC2012/SegmentationClass/a.png")
    with pytest.raises(InputError, match="VOC2012 looks like voc: give that as --input"):
        scan(str(tmp_path))


def test_a_set_without_one_pair_is_an_input_error(tmp_path):
    touch(tmp_path, "images/a.jpg", "labels/b_mask.png")
    with pytest.raises(InputError, match=r"no image has a label; for example .*images/a\.jpg: image without") as error:
        scan(str(tmp_path))
    assert str(error.value).endswith(f"; `deeplab doctor {tmp_path}` looks for pairs of other names")


def test_images_in_no_known_layout_are_sent_to_the_doctor(tmp_path):
    touch(tmp_path, "a_sat.jpg", "a_mask.png")
    with pytest.raises(InputError, match=r"not a raw set of a known layout.*`deeplab doctor .*` looks for pairs"):
        scan(str(tmp_path))


def test_a_set_that_another_command_is_just_writing_is_warned_of(tmp_path):
    source = write_rawset(tmp_path / "set", {"train": 2, "val": 2})
    before = scan(str(source)).summary
    with held(source, "records export"):
        *same, said = scan(str(source)).summary.splitlines()
    assert "\n".join(same) == before
    assert said.startswith(f"warning: {source} is being written by `deeplab records export` of ")
    assert (
        "images may be missing here that it has yet to write; run this command again once that one has ended" in said
    )
    assert scan(str(source)).summary == before, "its writer was killed"


@pytest.mark.parametrize("names", [[], ["palette.json"], ["images/train/a.png"]])
def test_a_set_of_which_another_command_has_just_begun_to_write_is_refused_with_that_command(names, tmp_path):
    touch(tmp_path, *names)
    with (
        held(tmp_path, "records export"),
        pytest.raises(
            InputError, match=r"`deeplab records export` of .*, and is not a raw set .* yet; run this command"
        ),
    ):
        scan(str(tmp_path))
    with pytest.raises(InputError, match="not a raw set of a known layout; expected"):
        scan(str(tmp_path))


def test_a_set_of_files_that_are_not_read_is_told_their_kinds(tmp_path):
    touch(tmp_path, "images/a.gif", "images/b.gif", "labels/a.npy", "labels/b.npy", "README")
    with pytest.raises(
        InputError, match=r"None of the files is an image: expected \.jpg, .*, found 2 \.gif, 2 \.npy$"
    ):
        scan(str(tmp_path))

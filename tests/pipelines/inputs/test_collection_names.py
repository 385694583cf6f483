"""Images whose names or folders are unlike others: each gets a mask, or a reason why it cannot have one."""

from __future__ import annotations

import json
import os

import pytest

from pipelines.inputs.collection import find
from tests.drawn.rawset import touch
from trainer import storage
from trainer.options import InputError


def names(source, output="") -> list[str]:
    return [image.name for image in find(str(source), str(output)).images]


def reasons(source, output="") -> dict[str, str]:
    """Path below `source` -> why there is no mask."""
    return {os.path.relpath(path, source): reason for path, reason in find(str(source), str(output)).unusable}


@pytest.mark.parametrize("name", ["set [2024]", "IMG[1].jpg", "a*b.jpg", "a?.jpg", "[ab].txt.jpg"])
def test_an_existing_path_is_not_a_glob_pattern(tmp_path, bucket, name):
    for root in (str(tmp_path), f"{bucket}/{tmp_path.name}-{len(name)}"):
        path = f"{root}/{name}" if name.endswith(".jpg") else f"{root}/{name}/a.jpg"
        storage.write(path, b"1")
        storage.write(f"{root}/IMG1.jpg", b"1")
        assert [image.path for image in find(f"{root}/{name}").images] == [path]
        storage.write(f"{root}/l.txt", f"{path}\n".encode())
        assert [image.path for image in find(f"{root}/l.txt").images] == [path]
        storage.write(f"{root}/{name}/lists[1].txt" if path.endswith("/a.jpg") else f"{root}/l[1].txt", path.encode())
        relative = f"{root}/{name}/lists[1].txt" if path.endswith("/a.jpg") else f"{root}/l[1].txt"
        assert [image.path for image in find(relative).images] == [path]


def test_a_pattern_below_a_folder_that_exists_is_one(tmp_path):
    touch(tmp_path, "set [2024]/a.jpg", "set [2024]/x/b.jpg", "set 2/c.jpg")
    assert names(f"{tmp_path}/set [2024]/**/*.jpg") == ["a", "x/b"]


def test_globs_in_the_cloud_have_the_top_folder_and_know_their_contents(bucket, tmp_path):
    root = f"{bucket}/{tmp_path.name}"
    for name in ("a.jpg", "x/b.jpg", "x/y/c.jpg"):
        storage.write(f"{root}/{name}", b"123456789")
    images = [*find(f"{root}/**/*.jpg").images]
    assert [(image.name, image.identity) for image in images] == [
        (name, "e3069283-9") for name in ("a", "x/b", "x/y/c")
    ]
    assert names(f"{root}/*/*.jpg") == ["x/b"]


ODD = [
    "a\nb",
    "a\u2028b",
    "a\u2029b",
    "a\x85b",
    "a\x0bb",
    "a\x0cb",
    "a\x1cb",
    "'q' \"q\"",
    "100%",
    "a#b",
    " a ",
    "猫",
    "é",
]


def test_images_of_any_name_have_masks(tmp_path):
    touch(tmp_path, *(f"{name}.jpg" for name in ODD))
    assert names(tmp_path) == sorted(ODD)
    assert names(tmp_path, "gs://bucket/out") == sorted(set(ODD) - {"a\nb"})
    assert reasons(tmp_path, "gs://bucket/out") == {
        "a\nb.jpg": "Cloud Storage does not allow line breaks in names; rename the image"
    }


def test_a_name_that_is_not_utf8_or_holds_a_backslash_is_a_reject(tmp_path):
    touch(tmp_path, "a.jpg", "b\udcff.jpg", "c\\d.jpg")
    listing = find(str(tmp_path))
    assert [image.name for image in listing.images] == ["a"]
    first, second = (reason for _, reason in listing.unusable)
    assert first.startswith("its name is not UTF-8: 'b\\udcff'") and "has a backslash" in second


def test_a_mask_whose_name_would_be_too_long_is_a_reject(tmp_path):
    fits, too_long = "n" * 251, "m" * 251
    touch(tmp_path / "in", f"{fits}.jpg", f"{too_long}.jpg", f"{too_long}.bmp")
    assert names(tmp_path / "in", tmp_path / "out") == [fits]
    expected = "the name of its mask would be too long; shorten the image's name"
    assert set(reasons(tmp_path / "in", tmp_path / "out").values()) == {expected}
    assert names(tmp_path / "in", "gs://bucket/" + "f" * 600) == [f"{too_long}.bmp", f"{too_long}.jpg", fits]
    assert len(reasons(tmp_path / "in", "gs://bucket/" + "f" * 800)) == 3


@pytest.mark.parametrize("folds", [True, False])
def test_names_that_differ_in_case_alone_need_an_output_that_tells_them_apart(tmp_path, monkeypatch, folds):
    monkeypatch.setattr(storage, "folds_case", lambda folder: folds)
    touch(tmp_path, "A.jpg", "a.jpg", "x/b.png", "X/b.png", "é.jpg", "e\u0301.jpg", "ü.jpg")
    if not folds:
        assert len(names(tmp_path)) == 7
        return
    assert names(tmp_path) == ["A", "X/b", "e\u0301", "ü"]
    assert reasons(tmp_path)["a.jpg"] == (
        f"its mask would overwrite that of {tmp_path}/A.jpg, since upper and lower case are the same in the output "
        "folder; rename one"
    )
    assert list(reasons(tmp_path)) == ["a.jpg", "x/b.png", "é.jpg"]


@pytest.mark.parametrize("folds", [True, False])
def test_reserved_folders_are_so_in_any_case_where_case_does_not_matter(tmp_path, monkeypatch, folds):
    monkeypatch.setattr(storage, "folds_case", lambda folder: folds)
    touch(tmp_path, "Overlays/a.jpg", "confidence/b.jpg", "c.jpg")
    assert names(tmp_path) == (["c"] if folds else ["Overlays/a", "c"])


def test_case_is_looked_at_only_where_it_matters(tmp_path, monkeypatch):
    monkeypatch.setattr(storage, "folds_case", lambda folder: pytest.fail("the output was looked at"))
    touch(tmp_path, "a.jpg", "a.png", "b.jpg")
    assert names(tmp_path) == ["a.jpg", "a.png", "b"]


def test_images_whose_suffixes_alone_differ_never_share_a_mask(tmp_path):
    touch(tmp_path, "a.jpg", "a.png", "a.jpg.jpg", "a.JPG")
    listing = find(str(tmp_path))
    assert [image.name for image in listing.images] == ["a.JPG", "a.jpg", "a.png"]
    assert [os.path.basename(path) for path, _ in listing.unusable] == ["a.jpg.jpg"]


def test_a_mask_cannot_be_called_like_a_folder_of_masks(tmp_path):
    touch(tmp_path, "a.jpg", "a.png/b.jpg", "c.png/d.jpg")
    assert names(tmp_path) == ["a.png/b", "c.png/d"]
    assert "like a folder of other masks" in reasons(tmp_path)["a.jpg"]
    assert names(tmp_path, "gs://bucket/out") == ["a", "a.png/b", "c.png/d"]


def test_objects_whose_names_come_to_one_path_never_share_a_mask(monkeypatch):
    monkeypatch.setattr(storage, "exists", lambda path: False)
    relative = ["x//a.jpg", "x/a.jpg", "x/./b.jpg", "x/b.jpg", "x/../c.jpg", "/d.jpg"]
    monkeypatch.setattr(storage, "is_dir", lambda path: True)
    monkeypatch.setattr(
        storage, "walk", lambda root: [storage.File(f"{root}/{name}", name, 1, 1) for name in relative]
    )
    listing = find("gs://bucket/set")
    assert [image.name for image in listing.images] == ["x/a", "x/b"]
    assert len(listing.unusable) == 4


def test_unreadable_entries_are_images_by_their_suffix_and_are_reported_otherwise(tmp_path):
    touch(tmp_path, "a.jpg", "notes.md", "empty")
    (tmp_path / "gone.jpg").symlink_to(tmp_path / "nowhere.jpg")
    (tmp_path / "part2").symlink_to("/not/mounted/part2")
    os.mkfifo(tmp_path / "fifo.png")
    os.mkfifo(tmp_path / "fifo")
    listing = find(str(tmp_path))
    assert [image.name for image in listing.images] == ["a", "fifo", "gone"]
    assert listing.notes == (
        "broken links, FIFOs and the like, skipped: 2, such as fifo",
        "files that are not read as images, skipped: 2 other",
    )


def test_a_folder_that_may_not_be_read_is_named(tmp_path, monkeypatch):
    touch(tmp_path, "a.jpg", "private/b.jpg")
    scandir = os.scandir
    refused = PermissionError(13, "Permission denied", f"{tmp_path}/private")

    def refuses(path):
        if "private" in str(path):
            raise refused
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refuses)
    for source in (tmp_path, f"{tmp_path}/**/*.jpg"):
        with pytest.raises(InputError, match="private cannot be read: Permission denied; fix that or leave it out"):
            find(str(source))


def test_a_list_says_what_it_names_twice(tmp_path):
    touch(tmp_path, "x/a.jpg", "x/b.jpg")
    (tmp_path / "l.txt").write_text("x/a.jpg\nx/./a.jpg\nx/b.jpg\nx/y/../a.jpg\n")
    listing = find(str(tmp_path / "l.txt"))
    assert [image.name for image in listing.images] == ["a", "b"]
    assert listing.notes == (f"entries of {tmp_path}/l.txt that repeat an image: 2",)


def test_entries_of_a_list_that_cannot_be_images_are_left_to_be_rejected(tmp_path):
    touch(tmp_path, "a.jpg", "folder/x")
    rows = [{"image": name} for name in ("a.jpg", "folder", "gone.jpg", "\udcff.jpg", "*.jpg")]
    (tmp_path / "l.jsonl").write_text("\n".join(map(json.dumps, rows)))
    listing = find(str(tmp_path / "l.jsonl"))
    assert [image.name for image in listing.images] == ["*", "a", "folder", "gone"]
    assert len(listing.unusable) == 1

"""Images and labels are paired by name; what has no partner is a reject."""

from __future__ import annotations

from pathlib import Path

from pipelines.inputs.rawset import scan
from tests.drawn.rawset import reasons_of, splits_of, touch


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


def test_links_that_lead_nowhere_are_pairs_that_reading_rejects(tmp_path):
    touch(tmp_path, "images/a.jpg", "labels/a.png", "labels/b.png", "images/c.jpg")
    (tmp_path / "images/b.jpg").symlink_to("nowhere.jpg")
    (tmp_path / "labels/c.png").symlink_to("nowhere.png")
    raw = scan(str(tmp_path))
    assert set(splits_of(raw)) == {"a", "b", "c"} and not raw.rejects

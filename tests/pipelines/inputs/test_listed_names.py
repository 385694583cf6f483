"""Names of images with dots, accents, blanks and suffixes in them, as files, labels and entries of lists."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import pytest

from pipelines.inputs import rows
from pipelines.inputs.names import name_of, spellings
from pipelines.inputs.rawset import RawSet, scan
from tests.drawn.rawset import reasons_of, splits_of, touch
from trainer.options import InputError

DOTTED = ("cam_1.5m_0001", "cam_2.5m_0001", "street_jpg.rf.8d3f", "v1.2", "a.png", "ends.")


def draw_voc(root: Path, names: Iterable[str], lists: dict[str, bytes | str]) -> RawSet:
    for name in names:
        touch(root, f"JPEGImages/{name}.jpg", f"SegmentationClass/{name}.png")
    for name, content in lists.items():
        touch(root, f"ImageSets/Segmentation/{name}")
        data = content if isinstance(content, bytes) else content.encode("utf-8", "surrogateescape")
        (root / f"ImageSets/Segmentation/{name}").write_bytes(data)
    return scan(str(root), val_fraction=0)


def test_only_suffixes_of_images_are_cut_from_names() -> None:
    assert [name_of(name) for name in DOTTED] == [
        "cam_1.5m_0001",
        "cam_2.5m_0001",
        "street_jpg.rf.8d3f",
        "v1.2",
        "a",
        "ends.",
    ]
    assert name_of("a.png.jpg") == "a.png" and name_of("x.JPG") == "x" and name_of("a.b/c") == "a.b/c"
    assert name_of("v1.2/x.tiff") == "v1.2/x" and name_of(".png") == ".png"


def test_every_dotted_name_of_a_list_is_an_image(tmp_path: Path) -> None:
    raw = draw_voc(tmp_path, DOTTED, {"train.txt": "\n".join(DOTTED)})
    assert splits_of(raw) == dict.fromkeys(sorted(DOTTED), "train") and not raw.rejects


@pytest.mark.parametrize(
    "entries",
    [
        "v1.2.jpg\nb c.jpg",
        "  v1.2\t\r\nb c \r\n\r\n",
        "\ufeffv1.2\nb c\n",
        "v1.2 1\nb c -1\n",
        "/JPEGImages/v1.2.jpg /SegmentationClassAug/v1.2.png\nJPEGImages/b c.jpg\n",
        "VOC2012/JPEGImages/v1.2.jpg\n./b c\n",
        "# train\nv1.2\nb c\nb c\n",
        "some/folder/v1.2\nJPEGImages\\b c.jpg\n",
    ],
)
def test_entries_may_have_suffixes_folders_columns_and_blanks(tmp_path: Path, entries: str) -> None:
    raw = draw_voc(tmp_path, ("v1.2", "v1", "b c", "b"), {"train.txt": entries, "val.txt": "v1\nb\n"})
    assert splits_of(raw) == {"b": "val", "b c": "train", "v1": "val", "v1.2": "train"} and not raw.rejects


def test_an_entry_in_a_folder_is_no_image_of_another_folder(tmp_path: Path) -> None:
    raw = draw_voc(tmp_path, ("0001", "ulm/0001"), {"train.txt": "ulm/0001\nbonn/0001\n"})
    assert list(splits_of(raw)) == ["ulm/0001"] and list(reasons_of(raw)) == ["bonn/0001"]


def test_lists_that_do_not_fit_in_memory_name_the_same_images(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    names = [*(f"{folder}/{number:02d}" for folder in ("bonn", "ulm") for number in range(9)), "Mu\u0308nchen", "x.1"]
    lists = {"val.txt": "\n".join([*names[4:8], "gone"]), "train.txt": "\n".join([*names[:-2][::-1], "M\u00fcnchen"])}
    raw = draw_voc(tmp_path, names, lists)
    monkeypatch.setattr(rows, "HELD", 4)
    monkeypatch.setattr(rows, "BLOCK", 2)
    spilled = scan(str(tmp_path))
    assert [*spilled.pairs] == [*raw.pairs] and len(raw.pairs) == 19 and splits_of(raw)["bonn/05"] == "val"
    assert (spilled.rejects, spilled.summary) == (raw.rejects, raw.summary) and "(1 in no list)" in raw.summary


def test_entries_that_name_no_image_are_rejects_each_once(tmp_path: Path) -> None:
    lists = {
        "train.txt": "v1.2\nv1.3\nv1.3.jpg\nv1 1\n",
        "trainval.txt": "v1.2\nv1.3\n/JPEGImages/gone.jpg /x/gone.png\n",
    }
    raw = draw_voc(tmp_path, ["v1.2"], lists)
    assert splits_of(raw) == {"v1.2": "train"}
    assert reasons_of(raw) == {
        "gone": "listed in trainval.txt, but not found in JPEGImages",
        "v1": "listed in train.txt, but not found in JPEGImages",
        "v1.3": "listed in train.txt, but not found in JPEGImages",
    }


def test_an_image_in_lists_of_two_splits_is_said_and_never_trained_on(tmp_path: Path) -> None:
    raw = draw_voc(tmp_path, "abc", {"train.txt": "a\nb\n", "val.txt": "b\n", "trainval.txt": "a\nb\nc\n"})
    assert splits_of(raw)["a"] == "train" and splits_of(raw)["b"] == "val"
    assert "(in lists of several splits, and used in the first of val.txt, train.txt, trainval.txt: 1)" in raw.summary


def test_entries_that_repeat_an_image_of_their_list_are_noted(tmp_path: Path) -> None:
    raw = draw_voc(tmp_path, "abc", {"train.txt": "a\nb\na.jpg\na\n", "trainval.txt": "a\nc\n"})
    assert len(raw.pairs) == 3 and "(entries that repeat an image of their list: 2)" in raw.summary


def test_unread_lists_are_reported(tmp_path: Path) -> None:
    raw = draw_voc(tmp_path, "ab", {"my-train.txt": "a\n", "mini.val.txt": "b\n"})
    assert len(raw.pairs) == 2 and "(lists of other names, not read: mini.val.txt, my-train.txt)" in raw.summary


def test_lists_that_cannot_be_read_are_input_errors(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"train\.txt is UTF-16 text; save it as UTF-8"):
        draw_voc(tmp_path, "a", {"train.txt": "a\n".encode("utf-16")})
    list_file = tmp_path / "ImageSets/Segmentation/train.txt"
    list_file.unlink()
    list_file.symlink_to("nowhere")
    with pytest.raises(InputError, match=r"train\.txt cannot be read"):
        scan(str(tmp_path))


def test_names_that_are_not_utf_8_are_rejects_in_lists_too(tmp_path: Path) -> None:
    raw = draw_voc(tmp_path, ("M\udcfcll", "b"), {"train.txt": "M\udcfcll\nb\n"})
    assert list(splits_of(raw)) == ["b"] and "not UTF-8" in reasons_of(raw)["M\udcfcll"]


def test_separators_of_lines_other_than_newlines_are_part_of_names(tmp_path: Path) -> None:
    names = ("a\u2028b", "c\u0085d", "e\x0cf", "g\xa0h")
    assert set(splits_of(draw_voc(tmp_path, names, {"train.txt": "\n".join(names)}))) == set(names)


def test_accents_that_another_system_wrote_pair_up(tmp_path: Path) -> None:
    touch(
        tmp_path,
        "images/Mu\u0308nchen.jpg",
        "labels/M\u00fcnchen.png",
        "images/K\u00f6ln.jpg",
        "labels/Ko\u0308ln.png",
    )
    raw = scan(str(tmp_path))
    assert {pair.key: Path(pair.label).name for pair in raw.pairs} == {
        "Mu\u0308nchen": "M\u00fcnchen.png",
        "K\u00f6ln": "Ko\u0308ln.png",
    }
    assert not raw.rejects


def test_accents_decide_where_both_ways_of_writing_them_are_there(tmp_path: Path) -> None:
    both = ("u\u0308", "\u00fc")
    touch(tmp_path, *(f"images/{name}.jpg" for name in both), f"labels/{both[1]}.png", "images/o\u0308.jpg")
    touch(tmp_path, "images/\u00f6.jpg", "labels/o\u0308.png")
    raw = scan(str(tmp_path))
    assert {pair.key: Path(pair.label).stem for pair in raw.pairs} == {"\u00fc": "\u00fc", "o\u0308": "o\u0308"}
    assert set(reasons_of(raw)) == {"u\u0308", "\u00f6"}


def test_lists_and_manifests_may_write_accents_as_another_system_does(tmp_path: Path) -> None:
    raw = draw_voc(tmp_path / "voc", ["Mu\u0308nchen", "b"], {"val.txt": "M\u00fcnchen\n", "train.txt": "b\n"})
    assert splits_of(raw) == {"Mu\u0308nchen": "val", "b": "train"}
    touch(tmp_path / "m", "i/Mu\u0308nchen.jpg", "l/M\u00fcnchen.png")
    (tmp_path / "m/manifest.csv").write_text("image,label\ni/M\u00fcnchen.jpg,l/Mu\u0308nchen.png\n")
    (pair,) = scan(str(tmp_path / "m")).pairs
    assert pair.key == "i/M\u00fcnchen" and pair.image == str(tmp_path / "m/i/Mu\u0308nchen.jpg")


def test_images_and_labels_that_differ_in_suffix_or_case_alone_are_rejects(tmp_path: Path) -> None:
    touch(tmp_path, "images/a.jpg", "images/a.JPG", "labels/a.png", "images/b.jpg", "labels/b.png", "labels/b.PNG")
    touch(tmp_path, "images/c.jpg", "images/C.jpg", "labels/c.png", "labels/C.png")
    raw = scan(str(tmp_path))
    assert set(splits_of(raw)) == {"C", "c"} and set(reasons_of(raw)) == {"a", "b"}


@pytest.mark.parametrize(
    ("entry", "expected"),
    [
        ("cam_1.5m_0001", ("cam_1.5m_0001",)),
        ("x.jpg", ("x.jpg", "x")),
        ("my image", ("my image",)),
        ("x 0", ("x 0", "x")),
        ("/i/x.jpg /l/x.png", ("/i/x.jpg /l/x.png", "/i/x.jpg /l/x", "/i/x.jpg", "/i/x")),
    ],
)
def test_a_line_of_a_list_has_these_spellings(entry: str, expected: tuple[str, ...]) -> None:
    assert spellings(entry) == expected

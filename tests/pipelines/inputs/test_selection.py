"""Which files bear the names of the images in a split of records, or in a list."""

from __future__ import annotations

import dataclasses
import itertools
from pathlib import Path

import pytest

from pipelines.inputs import hits, rows, selection
from pipelines.inputs.options import SelectionOptions
from tests.drawn.rawset import touch
from tests.drawn.records import record, write_records
from trainer.options import InputError


def records(folder: Path, val: dict[str, str], train: dict[str, str] | None = None) -> str:
    """Records of images by key, with their files' names in the set."""
    splits = {}
    for split, named in (("val", val), ("train", train or {})):
        parts = [dataclasses.replace(record(0), key=key, filename=filename) for key, filename in named.items()]
        splits |= {split: [parts]} if parts else {}
    write_records(folder / "records", splits)
    return str(folder / "records")


@dataclasses.dataclass(frozen=True)
class Chosen:
    paths: set[str]
    missing: tuple[tuple[str, str], ...]
    note: str


def choose(some: selection.Selection, paths: list[str]) -> Chosen:
    choice = some.choose(paths)
    return Chosen(set(itertools.compress(paths, choice.taken)), choice.missing, choice.note)


def chosen(root: Path, choice: Chosen) -> list[str]:
    return sorted(Path(path).relative_to(root).as_posix() for path in choice.paths)


def files(root: Path, below: str = "") -> list[str]:
    return sorted(str(path) for path in (root / below).rglob("*") if path.is_file())


@pytest.fixture
def camvid(tmp_path: Path) -> Path:
    """A set in whose splits images have the same names, and its records."""
    for split in ("train", "val"):
        touch(tmp_path / "set", *(f"images/{split}/{n}.png" for n in "ab"), *(f"labels/{split}/{n}.png" for n in "ab"))
    val = {f"val/{n}": f"images/val/{n}.png" for n in "ab"}
    records(tmp_path, val, {f"train/{n}": f"images/train/{n}.png" for n in "ab"})
    return tmp_path


@pytest.mark.parametrize("below", ["", "images", "images/val"])
def test_images_of_a_split_are_found_from_the_set_its_images_and_one_split(camvid: Path, below: str) -> None:
    choice = choose(selection.load(str(camvid / "records"), "", ""), files(camvid / "set", below))
    assert chosen(camvid / "set", choice) == ["images/val/a.png", "images/val/b.png"] and not choice.missing
    assert choice.note.startswith("selection: 2 of ") and "split val of " in choice.note


@pytest.mark.parametrize("below", ["labels", "labels/val"])
def test_labels_of_a_split_are_found_by_the_keys(camvid: Path, below: str) -> None:
    choice = choose(selection.load(str(camvid / "records"), "val", ""), files(camvid / "set", below))
    assert chosen(camvid / "set", choice) == ["labels/val/a.png", "labels/val/b.png"] and not choice.missing


def test_images_of_another_split_never_pass_for_those_of_the_split(camvid: Path) -> None:
    with pytest.raises(InputError, match=r"no file has the name of one of the 2 images of split val of .*: the first"):
        choose(selection.load(str(camvid / "records"), "val", ""), files(camvid / "set", "labels/train"))


def test_a_link_to_the_folder_of_a_split_is_that_folder(camvid: Path) -> None:
    (camvid / "shortcut").symlink_to(camvid / "set/labels/val")
    choice = choose(selection.load(str(camvid / "records"), "val", ""), [str(camvid / "shortcut/a.png")])
    assert choice.paths == {str(camvid / "shortcut/a.png")} and [name for name, _ in choice.missing] == ["val/b"]


def test_relative_paths_bear_the_names_of_the_folder_they_are_in(
    camvid: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(camvid / "set/labels/val")
    some = selection.load(str(camvid / "records"), "val", "")
    assert choose(some, ["a.png", "./b.png"]).paths == {"a.png", "./b.png"}
    monkeypatch.chdir(camvid / "set/labels/train")
    with pytest.raises(InputError, match="no file has the name"):
        choose(some, ["a.png", "./b.png"])


def test_segnets_folders_of_labels_are_those_of_the_splits(tmp_path: Path) -> None:
    touch(tmp_path / "set", *(f"{folder}/a.png" for folder in ("train", "trainannot", "val", "valannot")))
    some = selection.load(records(tmp_path, {"val/a": "val/a.png"}, {"train/a": "train/a.png"}), "val", "")
    assert chosen(tmp_path / "set", choose(some, files(tmp_path / "set"))) == ["val/a.png"]
    assert chosen(tmp_path / "set", choose(some, files(tmp_path / "set", "valannot"))) == ["valannot/a.png"]
    with pytest.raises(InputError, match="no file has the name"):
        choose(some, files(tmp_path / "set", "trainannot"))


def test_sets_without_splits_are_selected_by_what_the_hash_decided(tmp_path: Path) -> None:
    touch(tmp_path / "set", *(f"labels/{city}/{n}.png" for city in ("bonn", "ulm") for n in "01"))
    val = {"bonn/0": "images/bonn/0.jpg", "ulm/1": "images/ulm/1.jpg"}
    some = selection.load(records(tmp_path, val), "val", "")
    assert chosen(tmp_path / "set/labels", choose(some, files(tmp_path / "set/labels"))) == ["bonn/0.png", "ulm/1.png"]
    assert chosen(tmp_path / "set/labels", choose(some, files(tmp_path / "set/labels/ulm"))) == ["ulm/1.png"]


def test_cityscapes_labels_bear_the_names_of_their_images(tmp_path: Path) -> None:
    key = "val/ulm/ulm_1_leftImg8bit"
    some = selection.load(records(tmp_path, {key: f"leftImg8bit/{key}.png"}), "val", "")
    labels = [f"/set/gtFine/{split}/ulm/ulm_1_gtFine_labelIds.png" for split in ("train", "val")]
    assert choose(some, labels).paths == {labels[1]}


def test_labels_of_a_manifest_need_not_share_the_images_folder(tmp_path: Path) -> None:
    some = selection.load(records(tmp_path, {"pics/a": "pics/a.jpg", "pics/sub/b": "pics/sub/b.jpg"}), "val", "")
    assert choose(some, ["/set/l/a.png", "/set/l/sub/b.png", "/set/l/c.png"]).paths == {
        "/set/l/a.png",
        "/set/l/sub/b.png",
    }


def test_a_name_that_ends_another_is_not_that_other(tmp_path: Path) -> None:
    some = selection.load(records(tmp_path, {"a": "a.jpg", "b": "b.jpg"}), "val", "")
    choice = choose(some, ["/labels/a.png", "/labels/b.png", "/labels/extra/a.png", "/labels/xa.png"])
    assert choice.paths == {"/labels/a.png", "/labels/b.png"} and not choice.missing


def test_of_nested_folders_the_outer_one_holds_the_names(tmp_path: Path) -> None:
    some = selection.load(records(tmp_path, {"a": "a.jpg"}), "val", "")
    assert choose(some, ["/labels/old/a.png", "/labels/a.png"]).paths == {"/labels/a.png"}
    with pytest.raises(InputError, match="files in several folders"):
        choose(some, ["/labels/old/a.png", "/labels/new/a.png"])


def test_an_image_is_not_replaced_by_one_of_its_name_in_another_folder(tmp_path: Path) -> None:
    some = selection.load(records(tmp_path, {n: f"{n}.jpg" for n in "abc"}), "val", "")
    choice = choose(some, ["/labels/a.png", "/labels/b.png", "/labels/extra/c.png"])
    assert choice.paths == {"/labels/a.png", "/labels/b.png"}
    assert [name for name, _ in choice.missing] == ["c"]
    assert choice.missing[0][1].endswith("no file of that name; /labels/extra/c.png lies in another folder")


def test_files_in_two_folders_that_bear_the_names_alike_are_refused(tmp_path: Path) -> None:
    (tmp_path / "val.txt").write_text("a\nb\n")
    some = selection.load("", "", str(tmp_path / "val.txt"))
    with pytest.raises(
        InputError, match=r"JPEGImages/a\.jpg as well as .*SegmentationClass/a\.png; give one of these folders"
    ):
        choose(
            some,
            ["/voc/JPEGImages/a.jpg", "/voc/JPEGImages/b.jpg", *(f"/voc/SegmentationClass/{n}.png" for n in "ab")],
        )


@pytest.mark.parametrize(
    "content",
    [
        "a.b\nx.jpg\n",
        "\ufeffa.b  \r\n\r\n# a comment\r\nx.jpg\r\na.b\r\n",
        "a.b 1\nx -1\n",
        "a.b.jpg\nx.jpg\n",
        "images/a.b.jpg\nimages/x\n",
        "./images/a.b\n./images/x.jpg\n",
        "/images/a.b.jpg /labels/a.b.png\n/images/x.jpg /labels/x.png\n",
        "../set/images/a.b.jpg\n../set/images/x.jpg\n",
        "images\\a.b.jpg\nimages\\x.jpg\n",
    ],
)
def test_lists_hold_names_or_paths_with_suffix_or_without(tmp_path: Path, content: str) -> None:
    touch(tmp_path / "set", "images/a.b.jpg", "images/x.jpg", "images/a.jpg", "images/b.jpg", "lists/val.txt")
    (tmp_path / "set/lists/val.txt").write_text(content)
    some = selection.load("", "", str(tmp_path / "set/lists/val.txt"))
    if ".." in content:
        (tmp_path / "set/lists/val.txt").rename(tmp_path / "set/val.txt")
        some = selection.load("", "", str(tmp_path / "set/val.txt"))
    choice = choose(some, files(tmp_path / "set/images"))
    assert chosen(tmp_path / "set/images", choice) == ["a.b.jpg", "x.jpg"] and not choice.missing


@pytest.mark.parametrize("again", ["./images/a.jpg", "images\\a.jpg", "images/a", "a.jpg", "a", "{set}/images/a.jpg"])
def test_an_image_that_a_list_names_in_two_ways_is_one_image(tmp_path: Path, again: str) -> None:
    touch(tmp_path / "set", "images/a.jpg", "images/b.jpg")
    (tmp_path / "list.txt").write_text(f"images/a.jpg\nimages/b.jpg\n{again.format(set=tmp_path / 'set')}\n")
    choice = choose(selection.load("", "", str(tmp_path / "list.txt")), files(tmp_path / "set"))
    assert chosen(tmp_path / "set", choice) == ["images/a.jpg", "images/b.jpg"]
    assert choice.missing == () and "2 of 2 files" in choice.note
    assert ("1 of its 3 entries name an image again" in choice.note) == (
        again not in ("./images/a.jpg", "images\\a.jpg")
    )


def test_images_that_a_list_names_from_other_folders_are_missing_not_repeated(tmp_path: Path) -> None:
    touch(tmp_path, *(f"set/images/{name}.jpg" for name in "abc"))
    (tmp_path / "list.txt").write_text("set/images/a.jpg\nimages/b.jpg\nc\n")
    choice = choose(selection.load("", "", str(tmp_path / "list.txt")), files(tmp_path / "set"))
    assert chosen(tmp_path / "set", choice) == ["images/a.jpg"]
    assert [(name, "lies in another folder" in reason) for name, reason in choice.missing] == [
        ("images/b.jpg", True),
        ("c", True),
    ]


def test_a_record_without_a_file_is_missing_although_a_longer_name_ends_like_its_own(tmp_path: Path) -> None:
    touch(tmp_path / "set", "val/a.jpg", "b.jpg")
    some = selection.load(records(tmp_path, {"a": "a.jpg", "val/a": "val/a.jpg", "b": "b.jpg"}), "", "")
    choice = choose(some, files(tmp_path / "set"))
    assert chosen(tmp_path / "set", choice) == ["b.jpg", "val/a.jpg"] and [name for name, _ in choice.missing] == ["a"]


def test_a_list_with_a_column_split_is_selected_by_it(tmp_path: Path) -> None:
    (tmp_path / "manifest.csv").write_text("image,label,split\na.jpg,a.png,train\nb.jpg,b.png,validation\n")
    paths = [str(tmp_path / name) for name in ("a.jpg", "b.jpg")]
    assert choose(selection.load("", "val", str(tmp_path / "manifest.csv")), paths).paths == {paths[1]}
    every = choose(selection.load("", "", str(tmp_path / "manifest.csv")), paths)
    assert every.paths == set(paths) and "(of splits train and val; --split takes one)" in every.note
    with pytest.raises(InputError, match="names no image of split test; its splits: train, val"):
        selection.load("", "test", str(tmp_path / "manifest.csv"))


def test_images_that_no_file_or_more_than_one_bears_are_said_with_the_reason(tmp_path: Path) -> None:
    (tmp_path / "val.txt").write_text("a\nb\ngone\n")
    some = selection.load("", "", str(tmp_path / "val.txt"))
    choice = choose(some, ["/i/a.jpg", "/i/b.jpg", "/i/b.png", "/i/c.jpg"])
    assert choice.paths == {"/i/a.jpg"}
    (b, two), (gone, none) = choice.missing
    assert (b, gone) == ("b", "gone") and "may mean b.jpg and b.png" in two and "no file of that name" in none
    assert "1 of its 3 images have no file, such as gone" in choice.note
    assert "1 of its 3 images fit several files and are left out, such as b: list" in choice.note


def test_a_selection_of_which_every_image_fits_several_files_is_refused(tmp_path: Path) -> None:
    (tmp_path / "val.txt").write_text("b\n")
    with pytest.raises(InputError, match=r"val\.txt selects no file: b: .* may mean b\.jpg and b\.png; keep one"):
        choose(selection.load("", "", str(tmp_path / "val.txt")), ["/i/a.jpg", "/i/b.jpg", "/i/b.png"])


def test_a_selection_that_does_not_fit_in_memory_takes_the_same_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = [f"{folder}/{number}" for folder in ("ulm", "bonn") for number in range(9)]
    paths = [f"/set/{name}.jpg" for name in names] + ["/set/bonn/3.png", "/set/old/bonn/9.jpg", "/set/Mu\u0308/1.jpg"]
    (tmp_path / "val.txt").write_text("\n".join([*names[4:14], "M\u00fc/1", "bonn/9", names[4], "gone"]))
    expected = choose(selection.load("", "", str(tmp_path / "val.txt")), paths)
    for module, name, value in ((rows, "HELD", 4), (rows, "BLOCK", 2), (hits, "BLOCK", 5)):
        monkeypatch.setattr(module, name, value)
    assert choose(selection.load("", "", str(tmp_path / "val.txt")), paths) == expected
    assert len(expected.paths) == 10 and [name for name, _ in expected.missing] == ["bonn/3", "bonn/9", "gone"]


def test_accents_that_another_system_wrote_are_the_same(tmp_path: Path) -> None:
    (tmp_path / "val.txt").write_text("M\u00fcnchen\nKo\u0308ln\n")
    paths = ["/i/Mu\u0308nchen.jpg", "/i/K\u00f6ln.jpg", "/i/Munchen.jpg"]
    assert choose(selection.load("", "", str(tmp_path / "val.txt")), paths).paths == set(paths[:2])


def test_copies_are_no_images_of_their_own(tmp_path: Path) -> None:
    one = record(0)
    write_records(tmp_path / "r", {"val": [[one, dataclasses.replace(one, copy=1)]]}, copies=1)
    assert selection.load(str(tmp_path / "r"), "val", "").names[0] == ("000",)


def test_without_the_flags_there_is_no_selection() -> None:
    assert selection.load("", "", "") is None


def test_what_cannot_be_a_selection_is_an_input_error(tmp_path: Path) -> None:
    folder = records(tmp_path, {"a": "a.jpg"})
    with pytest.raises(InputError, match="has no split 'test'; it has val"):
        selection.load(folder, "test", "")
    with pytest.raises(InputError, match="holds no records"):
        selection.load(str(tmp_path), "val", "")
    shard = next(Path(folder).glob("*.tfrecord"))
    shard.write_bytes(shard.read_bytes()[:-9])
    with pytest.raises(InputError, match=r"the shard ends after .*records verify"):
        selection.load(folder, "val", "")
    shard.unlink()
    with pytest.raises(InputError, match="is missing in"):
        selection.load(folder, "val", "")
    for name, content, message in (
        ("e.txt", "\n# no name\n", "names no image"),
        ("l.lst", "a\n", r"expected a \.txt, \.csv or \.jsonl"),
        ("b.jsonl", "{}\n", "line 1: expected an image"),
    ):
        (tmp_path / name).write_text(content)
        with pytest.raises(InputError, match=message):
            selection.load("", "", str(tmp_path / name))
    with pytest.raises(InputError, match="cannot be read"):
        selection.load("", "", str(tmp_path / "nowhere.txt"))


@pytest.mark.parametrize(
    ("flags", "message"),
    [({"records": "r", "list": "l"}, "got both: r and l"), ({"split": "val"}, "--split val needs the records")],
)
def test_flags_that_do_not_go_together_are_refused(flags: dict[str, str], message: str) -> None:
    with pytest.raises(InputError, match=message):
        SelectionOptions(**flags)

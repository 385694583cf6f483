"""How labels and masks are paired by their names, and cut into chunks."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from pipelines.evaluate.plan import Plan, compared_names, pair
from pipelines.inputs.layouts import name_of
from trainer.formats.labels import Palette
from trainer.formats.palettes import resolve
from trainer.options import InputError

PALETTE = Palette(name="two", names=("left", "right"), colors=((200, 0, 0), (0, 200, 0)))


def files(folder: Path, *names: str) -> str:
    """Empty files of these names in a folder: names are all that is looked at."""
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    return str(folder)


def test_keys_are_paths_without_suffix() -> None:
    assert name_of("a.b/c") == "a.b/c" and name_of("a.b/c.d.png") == "a.b/c.d"
    assert name_of("ulm/ulm_1_gtFine_labelIds.png") == "ulm/ulm_1_leftImg8bit"
    assert name_of("ulm/ulm_1_gtFine_labelTrainIds.png") == "ulm/ulm_1_leftImg8bit"


def test_folders_are_called_by_as_little_of_their_paths_as_tells_them_apart() -> None:
    assert compared_names(("out/masks/", "out/crf")) == ["masks", "crf"]
    assert compared_names(("a/masks", "b/masks")) == ["a/masks", "b/masks"]


def test_labels_are_those_with_a_mask_in_every_folder_and_the_others_are_rejected(tmp_path: Path) -> None:
    labels = files(tmp_path / "labels", "b.png", "a.bmp", "sub/c.png", "one.png", "none.tif", ".hidden.png", "x.txt")
    first = files(tmp_path / "first", "a.png", "b.png", "sub/c.png", "one.png", "more.png", "overlays/a.png")
    second = files(tmp_path / "second", "a.png", "b.png", "sub/c.png", ".cache/one.png")
    plan = pair(labels, [first, second], PALETTE)
    assert plan.labels == ("a.bmp", "b.png", "sub/c.png")
    assert [(reject.key, reject.path, reject.stage, reject.reason) for reject in plan.rejects] == [
        ("none", f"{labels}/none.tif", "evaluate", f"no mask none.png in {first}, {second}"),
        ("one", f"{labels}/one.png", "evaluate", f"no mask one.png in {second}"),
    ]
    assert plan.total == 5
    assert plan.without_label == {first: 1, second: 0}


@pytest.mark.parametrize(("labels", "size"), [(8, 1), (100, 3), (64 * 32, 64), (10_000, 64)])
def test_chunks_hold_every_label_once_with_the_number_of_their_first(labels: int, size: int) -> None:
    names = tuple(f"é {number}.png" for number in range(labels))
    chunks = [json.loads(line) for line in Plan(names, (), {}).chunks().splitlines()]
    assert [name for chunk in chunks for name in chunk["labels"]] == list(names)
    assert [chunk["first"] for chunk in chunks] == list(range(0, labels, size))


def test_two_labels_of_one_key_are_refused(tmp_path: Path) -> None:
    labels, masks = files(tmp_path / "labels", "a.png", "a.bmp"), files(tmp_path / "masks", "a.png")
    with pytest.raises(InputError, match=r"a\.bmp and a\.png differ in their suffix alone; keep one"):
        pair(labels, [masks], PALETTE)


def test_the_palette_decides_which_coding_of_cityscapes_is_read(tmp_path: Path) -> None:
    names = [f"ulm/ulm_1_gtFine_{coding}.png" for coding in ("color", "labelIds", "labelTrainIds")]
    labels, masks = files(tmp_path / "labels", *names), files(tmp_path / "masks", "ulm/ulm_1_leftImg8bit.png")
    assert pair(labels, [masks], resolve("cityscapes")).labels == (names[1],)
    assert pair(labels, [masks], resolve("cityscapes-trainids")).labels == (names[2],)
    (tmp_path / "labels" / names[2]).unlink()
    with pytest.raises(InputError, match=r"no file ends in _gtFine_labelTrainIds\.png, which palette cityscapes"):
        pair(labels, [masks], resolve("cityscapes-trainids"))


def test_labels_without_any_mask_are_refused(tmp_path: Path) -> None:
    labels, masks = files(tmp_path / "labels", "b.png", "a.png"), files(tmp_path / "masks", "z.png", "y.png")
    with pytest.raises(InputError, match=r"the first label is a\.png, the first mask y\.png"):
        pair(labels, [masks], PALETTE)
